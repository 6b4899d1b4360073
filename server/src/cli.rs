//! The command line of `motience-server`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::Roles;

/// The Motience server. Settings come from the environment and from `.env`; see `.env.example`.
#[derive(Debug, Parser)]
#[command(name = "motience-server", version)]
pub struct Cli {
    /// What this node does: any of ap, sm, dsm, ingest, wss. All of it unless told otherwise (also ROLES).
    #[arg(long, global = true)]
    pub roles: Option<Roles>,
    /// Check the configuration, say what is wrong with it, and exit: 0 good, 78 bad.
    #[arg(long)]
    pub check_config: bool,
    /// Once everything listens, write the addresses to this file as JSON.
    #[arg(long, global = true)]
    pub ready_file: Option<PathBuf>,
    /// What to do; to serve unless told otherwise.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else the binary does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until told to stop.
    Serve,
    /// Show the whole platform at work: a device streams this machine's metrics, a consumer prints them.
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
    },
    /// Ask a running server whether it is ready: exit code 0 or 1.
    Healthcheck {
        /// The address of its operations listener.
        #[arg(long, default_value = "127.0.0.1:9090", env = "HEALTHCHECK_ADDRESS")]
        address: String,
        /// How long to wait for the answer, in seconds.
        #[arg(long, default_value_t = 3)]
        limit: u64,
    },
}
