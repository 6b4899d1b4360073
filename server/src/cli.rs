//! The command line of `motience-server`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use motience_proto::model::Role;

use crate::config::Roles;

/// The Motience server. Settings come from the environment and from `.env`; see `.env.example`.
#[derive(Debug, Parser)]
#[command(name = "motience-server", version)]
pub struct Cli {
    /// How it serves.
    #[command(flatten)]
    pub node: Node,
    /// Check the configuration, say everything that is wrong with it, and exit: 0 good, 78 bad. Opens the certificate's files, and tries
    /// the database and Redis.
    #[arg(long)]
    pub check_config: bool,
    /// With --check-config: leave the database and Redis alone.
    #[arg(long, requires = "check_config")]
    pub offline: bool,
    /// What to do; to serve unless told otherwise.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How a node serves.
#[derive(Debug, Default, Args)]
pub struct Node {
    /// What this node does: any of ap, sm, dsm, ingest, wss. All of it unless told otherwise (also ROLES).
    #[arg(long)]
    pub roles: Option<Roles>,
    /// Once everything listens, write the addresses to this file as JSON.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
}

/// What else the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop; the same as no command at all.
    Serve {
        /// How it serves.
        #[command(flatten)]
        node: Node,
    },
    /// Show the whole platform at work: a device streams this machine's metrics, a consumer prints them.
    #[cfg(feature = "demo")]
    Demo {
        /// End after so many seconds, with exit code 0 only if records arrived.
        #[arg(long)]
        seconds: Option<u64>,
        /// Where the demo keeps its files; a folder that is removed at the end unless named.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Take any free ports instead of the documented ones.
        #[arg(long)]
        any_ports: bool,
        /// Once everything listens, write the addresses to this file as JSON.
        #[arg(long)]
        ready_file: Option<PathBuf>,
    },
    /// Make operators, and close or open accounts. Works on the configured database, also while servers run on it.
    ///
    /// Exit codes: 0 done; 1 the database or a file failed; 2 the command line is wrong; 3 refused (the name is taken, there is no
    /// such account, the name or the password is not good enough); 78 the settings are wrong.
    Admin {
        /// What to do.
        #[command(subcommand)]
        action: Action,
    },
    /// Look through the log of an embedded node, repair it, or let retention go on. The log is in DATA_DIR.
    ///
    /// Exit codes: 0 nothing is damaged (any more); 1 the file cannot be opened, or `check` has found damage; 78 the settings are wrong.
    Log {
        /// What to do.
        #[command(subcommand)]
        action: LogAction,
    },
    /// Print a document of the interfaces, as JSON, and open nothing: OpenAPI 3.1 of ap, sm or dsm, or AsyncAPI 3 of the streams.
    Openapi {
        /// Which of them.
        document: Document,
    },
    /// Ask a running server whether it is ready: exit code 0 or 1.
    Healthcheck {
        /// The address of its operations listener (also HEALTHCHECK_ADDRESS). Unless given, that of OPERATIONS_ADDRESS and
        /// OPERATIONS_PORT.
        #[arg(long)]
        address: Option<String>,
        /// How long to wait for the answer, in seconds.
        #[arg(long, default_value_t = 3)]
        limit: u64,
    },
}

/// What `log` does.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum LogAction {
    /// Read every record, compare the checksums, and say what is damaged. Changes nothing; a server may run.
    Check,
    /// Write what can be read into a new file, and put the damaged one aside. The server must be stopped.
    Repair,
    /// Say that this machine's clock is right: records that are too old by it may go, however many (LOG_RETENTION_AT_ONCE). A server may run.
    Confirm,
}

/// What `admin` does.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Make an account with the role admin, which registration never gives.
    Create {
        /// Its name.
        #[arg(long)]
        username: String,
        /// Where its password stands, on the first line. Without it: asked for on a terminal, read from standard input elsewhere.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// List accounts: id, role, name, and when they were revoked.
    List {
        /// Of this role only: producer, consumer or admin.
        #[arg(long)]
        role: Option<Role>,
        /// With this in their names.
        #[arg(long, default_value = "")]
        query: String,
    },
    /// Close an account: its tokens and live connections end, and nobody can log in to it. With Redis at once, else within 30 seconds.
    Revoke {
        /// Its name.
        #[arg(long)]
        username: String,
    },
    /// Open a closed account again for new logins.
    Restore {
        /// Its name.
        #[arg(long)]
        username: String,
    },
}

/// A document of the interfaces.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Document {
    /// Accounts.
    Ap,
    /// Subscriptions.
    Sm,
    /// Data.
    Dsm,
    /// Everything that streams.
    Asyncapi,
}
