//! The command line of `motience-server`.

use std::{path::PathBuf, sync::LazyLock};

use clap::{Args, Parser, Subcommand, ValueEnum};
use motience_proto::model::{MemberRole, PlanLimits, Role, Status};

use crate::config::Roles;

/// Features of the program, and whether it was built with them.
pub(crate) const FEATURES: [(&str, bool); 2] = [("demo", cfg!(feature = "demo")), ("mutation", cfg!(feature = "mutation"))];

static VERSION: LazyLock<String> = LazyLock::new(|| motience_settings::version(&FEATURES));

/// The Motience server. Settings come from the environment and from `.env`; `motience-server settings` lists them with their defaults.
#[derive(Debug, Parser)]
#[command(name = "motience-server", version = VERSION.as_str())]
pub struct Cli {
    /// How the node serves.
    #[command(flatten)]
    pub node: Node,
    /// Check the settings, report everything that is wrong, and exit: 0 good, 78 bad. Also opens the certificate files and connects to
    /// the database and Redis.
    #[arg(long)]
    pub check_config: bool,
    /// With --check-config: do not connect to the database and Redis.
    #[arg(long, requires = "check_config")]
    pub offline: bool,
    /// The command. Default: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How a node serves.
#[derive(Debug, Default, Args)]
pub struct Node {
    /// Roles of this node: any of ap, sm, dsm, ingest, wss. Default: all (also ROLES).
    #[arg(long)]
    pub roles: Option<Roles>,
    /// Write the addresses to this file, as JSON, once all ports listen.
    #[arg(long)]
    pub ready_file: Option<PathBuf>,
}

/// The commands of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve until stopped. Default without a command.
    Serve {
        /// How it serves.
        #[command(flatten)]
        node: Node,
    },
    /// Show the whole platform: a device streams this machine's metrics, and a consumer prints them.
    #[cfg(feature = "demo")]
    Demo {
        /// Stop after this many seconds, with exit code 0 only if records arrived.
        #[arg(long)]
        seconds: Option<u64>,
        /// Folder for the demo's files. Default: a temporary folder, removed at the end.
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Use any free ports instead of the documented ones.
        #[arg(long)]
        any_ports: bool,
        /// Write the addresses to this file, as JSON, once all ports listen.
        #[arg(long)]
        ready_file: Option<PathBuf>,
    },
    /// Create operators, and revoke or restore accounts. Works on the configured database, also while servers use it.
    ///
    /// Exit codes: 0 done; 1 the database or a file failed; 2 the command line is wrong; 3 refused (the name is taken, there is no
    /// such account, the name or the password is not good enough); 78 the settings are wrong.
    Admin {
        /// The command for accounts.
        #[command(subcommand)]
        action: Action,
    },
    /// Set plans, and say who has them: how much accounts and organisations may send, ask and keep. Works on the configured database, also while
    /// servers use it.
    ///
    /// Exit codes: as of `admin`.
    Plan {
        /// The command for plans.
        #[command(subcommand)]
        action: PlanAction,
    },
    /// Make and end organisations, and say who is a member and which accounts are theirs. Works on the configured database, also while servers
    /// use it.
    ///
    /// Exit codes: as of `admin`.
    Org {
        /// The command for organisations.
        #[command(subcommand)]
        action: OrgAction,
    },
    /// List devices, and revoke, quarantine or restore one. Works on the configured database, also while servers use it.
    ///
    /// Exit codes: as of `admin`.
    Device {
        /// The command for devices.
        #[command(subcommand)]
        action: DeviceAction,
    },
    /// Copy accounts, records and the secret of an embedded node to a folder, also while the server runs: everything acknowledged before is in it.
    ///
    /// Exit codes: 0 done; 1 a file failed, or what is copied is damaged; 78 the settings are wrong.
    Backup {
        /// The folder of the backup: a new one, or an empty one.
        #[arg(long)]
        to: PathBuf,
    },
    /// Put a backup into the empty DATA_DIR of a node that is stopped, after its checksums and versions have been checked.
    ///
    /// Exit codes: 0 done; 1 the backup is not whole, the folder is not empty or in use, or a file failed; 78 the settings are wrong.
    Restore {
        /// The folder of the backup.
        #[arg(long)]
        from: PathBuf,
    },
    /// List subscriptions, and approve, deny or revoke them in place of their producers. Works on the configured database, also while servers
    /// use it: with live connections, effective within a second.
    ///
    /// Exit codes: as of `admin`.
    Subscriptions {
        /// The command for subscriptions.
        #[command(subcommand)]
        action: SubscriptionAction,
    },
    /// List or revoke keys of programs. Works on the configured database, also while servers use it. Exit codes as of `admin`.
    Key {
        /// The command for keys.
        #[command(subcommand)]
        action: KeyAction,
    },
    /// Erase records of a producer for good: of a device, of a span of time or offsets, or what these have in common. Works on the configured
    /// database, also while servers use it, which erase them within a minute. Exit codes as of `admin`.
    Erase(ToErase),
    /// Export the audit log, or look through it for lines that were changed or removed. Works on the configured database, also while servers use it.
    ///
    /// Exit codes: 0 done, and every line is as it was written; 1 a line is not, or the database or a file failed; 78 the settings are wrong.
    Audit {
        /// The command for the audit log.
        #[command(subcommand)]
        action: AuditAction,
    },
    /// Make and list the keys of JWT_KEYS, which sign tokens. Servers that run read them within half a minute.
    ///
    /// Exit codes: 0 done; 1 a file failed; 3 refused (a key waits for its time); 78 the settings are wrong.
    TokenKeys {
        /// The command for the keys.
        #[command(subcommand)]
        action: TokenKeysAction,
    },
    /// Check or repair the log of an embedded node in DATA_DIR, or confirm the clock for retention.
    ///
    /// Exit codes: 0 nothing is damaged (any more); 1 the file cannot be opened, or `check` has found damage; 78 the settings are wrong.
    Log {
        /// The command for the log.
        #[command(subcommand)]
        action: LogAction,
    },
    /// List every setting of the server and the gateway with its default, as a file that can be copied to `.env`.
    Settings,
    /// Print an API document as JSON and exit: OpenAPI 3.1 of ap, sm or dsm, or AsyncAPI 3 of the streams.
    Openapi {
        /// The document to print.
        document: Document,
    },
    /// Drain a running server on this machine: it is no longer ready, takes no new sessions, and asks those it has to leave. Stop it afterwards.
    ///
    /// Exit codes: 0 no session is left; 1 some are, or the node cannot be asked.
    Drain {
        /// Address of the operations port (also HEALTHCHECK_ADDRESS). Default: from OPERATIONS_ADDRESS and OPERATIONS_PORT.
        #[arg(long)]
        address: Option<String>,
        /// Seconds to wait until the last session has left.
        #[arg(long, default_value_t = 600)]
        limit: u64,
    },
    /// Ask a running server whether it is ready: exit code 0 or 1.
    Healthcheck {
        /// Address of the operations port (also HEALTHCHECK_ADDRESS). Default: from OPERATIONS_ADDRESS and OPERATIONS_PORT.
        #[arg(long)]
        address: Option<String>,
        /// Seconds to wait for the answer.
        #[arg(long, default_value_t = 3)]
        limit: u64,
    },
}

/// Records that are to be erased: those for which everything holds that is given.
#[derive(Debug, Args)]
#[group(required = true, multiple = true, args = ["device", "from", "to", "first", "last"])]
pub struct ToErase {
    /// The producer's name.
    #[arg(long)]
    pub producer: String,
    /// Records of this device.
    #[arg(long)]
    pub device: Option<String>,
    /// Records that came at this time or later, such as 2030-01-01T00:00:00Z.
    #[arg(long)]
    pub from: Option<String>,
    /// Records that came at this time or earlier.
    #[arg(long)]
    pub to: Option<String>,
    /// Records with this offset or a later one.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub first: Option<u64>,
    /// Records with this offset or an earlier one.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub last: Option<u64>,
}

/// The commands of `audit`.
#[derive(Debug, Subcommand)]
pub enum AuditAction {
    /// Print every line as JSON, the oldest first, and the head of the chain behind them. Keep the head where nobody who can write the
    /// database can write.
    Export,
    /// Follow the chain, and name the first line that was changed or removed.
    Verify {
        /// Verify an export, and not the database.
        #[arg(long)]
        file: Option<PathBuf>,
        /// Head that `export` or `verify` told earlier, as LINES:HASH: the chain must have passed it. May be repeated.
        #[arg(long = "head", value_name = "LINES:HASH")]
        heads: Vec<String>,
    },
}

/// The commands of `token-keys`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum TokenKeysAction {
    /// List the files, with the time from which each signs.
    List,
    /// Make a key that takes over in a while, and remove those whose tokens have all ended. Nobody's session ends by it.
    Rotate {
        /// Minutes until it signs: every node needs the file by then.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=525_600))]
        after: u64,
        /// Kind of key.
        #[arg(long, value_enum, default_value_t = TokenAlgorithm::Ed25519)]
        algorithm: TokenAlgorithm,
    },
}

/// A kind of key for tokens.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TokenAlgorithm {
    /// EdDSA.
    Ed25519,
    /// ES256.
    P256,
}

/// The commands of `log`.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum LogAction {
    /// Read every record, compare checksums, and report damage. Changes nothing; the server may run.
    Check,
    /// Copy what can be read to a new file, and keep the damaged one beside it. The server must be stopped.
    Repair,
    /// Confirm that this machine's clock is right: retention may remove all records that are too old, however many (LOG_RETENTION_AT_ONCE).
    /// The server may run.
    Confirm,
}

/// The commands of `subscriptions`.
#[derive(Debug, Subcommand)]
pub enum SubscriptionAction {
    /// List subscriptions: id, state, consumer, producer, and the end where there is one.
    List {
        /// Only this producer's.
        #[arg(long)]
        producer: Option<String>,
        /// Only those in this state: requested, invited, active, denied, revoked, expired or inactive. Default: those that stand.
        #[arg(long)]
        status: Option<Status>,
    },
    /// Approve a request, or change the limits of what was approved. The terms take the place of all that were there.
    Approve {
        /// The subscription's id.
        id: i64,
        /// Time at which it ends by itself, such as 2030-01-01T00:00:00Z. Default: never.
        #[arg(long)]
        until: Option<String>,
        /// File with the agreement that limits it, as JSON. Default: no limits.
        #[arg(long)]
        scope: Option<PathBuf>,
    },
    /// Deny a request.
    Deny {
        /// The subscription's id.
        id: i64,
    },
    /// Revoke a subscription: its consumer receives nothing any more, and cannot subscribe again until it is approved.
    Revoke {
        /// The subscription's id.
        id: i64,
    },
}

/// The commands of `admin`.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Create an account with the role admin, which registration never gives.
    Create {
        /// The account's name.
        #[arg(long)]
        username: String,
        /// File whose first line is the password. Default: prompt on a terminal, otherwise read standard input.
        #[arg(long)]
        password_file: Option<PathBuf>,
    },
    /// List accounts: id, role, name, and time of revocation.
    List {
        /// Only this role: producer, consumer or admin.
        #[arg(long)]
        role: Option<Role>,
        /// Only names that contain this text.
        #[arg(long, default_value = "")]
        query: String,
    },
    /// Revoke an account: its tokens and live connections end, and logins are refused. At once with Redis, otherwise within 30 seconds.
    Revoke {
        /// The account's name.
        #[arg(long)]
        username: String,
    },
    /// Set who may see a producer and subscribe to it.
    Visibility {
        /// The producer's name.
        #[arg(long)]
        username: String,
        /// Visibility: open, listed or private. Default: as PRODUCER_VISIBILITY says.
        #[arg(long, value_parser = ["open", "listed", "private", "default"])]
        set: Option<String>,
    },
    /// Restore a revoked account: new logins work again.
    Restore {
        /// The account's name.
        #[arg(long)]
        username: String,
    },
    /// Print a token that sets a new password for an account: good once and for an hour (POST /account/reset).
    ResetPassword {
        /// The account's name.
        #[arg(long)]
        username: String,
    },
    /// Print an invitation to register, for REGISTRATION=invite.
    Invite {
        /// Role of its accounts, producer or consumer. Default: the guest's choice.
        #[arg(long, value_parser = guest)]
        role: Option<Role>,
        /// Accounts that it makes.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        uses: i64,
        /// Days for which it is good.
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=365))]
        days: u64,
    },
}

/// The commands of `org`.
#[derive(Debug, Subcommand)]
pub enum OrgAction {
    /// List organisations: id, name, plan.
    List,
    /// Show members and accounts of an organisation.
    Show {
        /// The organisation's name.
        name: String,
    },
    /// Make an organisation. Its owner's account is its first one.
    Create {
        /// The organisation's name.
        name: String,
        /// Name of the account that owns it.
        #[arg(long)]
        owner: String,
    },
    /// End an organisation. Its accounts stay.
    Remove {
        /// The organisation's name.
        name: String,
    },
    /// Make an account a member, give a member another role, or end a membership.
    Member {
        /// The organisation's name.
        name: String,
        /// The account's name.
        #[arg(long)]
        username: String,
        /// Role: owner, manager or reader. Default: it is no member any more.
        #[arg(long)]
        role: Option<MemberRole>,
    },
    /// Have an organisation own an account.
    Own {
        /// The organisation's name.
        name: String,
        /// The account's name.
        #[arg(long)]
        username: String,
    },
    /// Let an account go.
    Release {
        /// The organisation's name.
        name: String,
        /// The account's name.
        #[arg(long)]
        username: String,
    },
}

/// The commands of `plan`.
#[derive(Debug, Subcommand)]
pub enum PlanAction {
    /// List plans: name, and limits as JSON.
    List,
    /// Make a plan, or set all limits of one that is there. The plan called `default` holds for every account without one.
    Set {
        /// The plan's name.
        name: String,
        /// Its limits.
        #[command(flatten)]
        limits: LimitOptions,
    },
    /// Remove a plan: whoever has it has none from then on.
    Remove {
        /// The plan's name.
        name: String,
    },
    /// Give an account or an organisation a plan.
    Give {
        /// The plan's name.
        name: String,
        /// Who gets it.
        #[command(flatten)]
        to: PlanHolder,
    },
    /// Take the plan of an account or an organisation away.
    Take {
        /// Who has it.
        #[command(flatten)]
        from: PlanHolder,
    },
}

/// Somebody who has a plan.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PlanHolder {
    /// The account's name.
    #[arg(long)]
    pub username: Option<String>,
    /// The organisation's name.
    #[arg(long)]
    pub organisation: Option<String>,
}

/// The limits of a plan. A limit that is not named is none.
#[derive(Debug, Args)]
pub struct LimitOptions {
    /// Records taken in, a second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    records_per_second: Option<u64>,
    /// Bytes of records taken in, a second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    bytes_per_second: Option<u64>,
    /// Records given out, a second: beyond it an account receives no faster.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    records_out_per_second: Option<u64>,
    /// Bytes of records given out, a second.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    bytes_out_per_second: Option<u64>,
    /// Requests to ap, sm and dsm, a second; POST /data is none of them.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    requests_per_second: Option<u64>,
    /// Devices connected at once, on each node; whatever this says, no more than MAX_DEVICES_PER_ACCOUNT of one account.
    #[arg(long)]
    devices: Option<u64>,
    /// Other connections at once, on each node; likewise MAX_CONNECTIONS_PER_ACCOUNT.
    #[arg(long)]
    connections: Option<u64>,
    /// Subscriptions of a consumer that are in force or asked for.
    #[arg(long)]
    follows: Option<u64>,
    /// Bytes of records that the log of each producer keeps.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    log_bytes: Option<u64>,
    /// Rows that each producer has in the history.
    #[arg(long)]
    history_rows: Option<u64>,
    /// Bytes of records that the logs of all producers keep together.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    total_log_bytes: Option<u64>,
    /// Rows that all producers have in the history together.
    #[arg(long)]
    total_history_rows: Option<u64>,
}

impl From<LimitOptions> for PlanLimits {
    fn from(options: LimitOptions) -> Self {
        let LimitOptions {
            records_per_second,
            bytes_per_second,
            records_out_per_second,
            bytes_out_per_second,
            requests_per_second,
            devices,
            connections,
            follows,
            log_bytes,
            history_rows,
            total_log_bytes,
            total_history_rows,
        } = options;
        Self {
            records_per_second,
            bytes_per_second,
            records_out_per_second,
            bytes_out_per_second,
            requests_per_second,
            devices,
            connections,
            follows,
            log_bytes,
            history_rows,
            total_log_bytes,
            total_history_rows,
        }
    }
}

/// A role that an invitation can give.
fn guest(text: &str) -> Result<Role, String> {
    match text.parse() {
        Ok(role @ (Role::Producer | Role::Consumer)) => Ok(role),
        _ => Err("must be producer or consumer".to_owned()),
    }
}

/// The commands of `key`.
#[derive(Debug, Subcommand)]
pub enum KeyAction {
    /// List keys: id, account, name, scopes, end, last use.
    List {
        /// Only keys of this account.
        #[arg(long)]
        username: Option<String>,
    },
    /// Revoke a key: its live connections end. At once with Redis, otherwise within 30 seconds.
    Revoke {
        /// The key's id, as `list` shows it.
        #[arg(long)]
        id: String,
    },
}

/// The commands of `device`.
#[derive(Debug, Subcommand)]
pub enum DeviceAction {
    /// List a producer's devices: state, name, kind of key, end of the certificate, labels.
    List {
        /// The producer's name.
        #[arg(long)]
        producer: String,
    },
    /// Revoke a device: its connections end, its keys are dead, and records that name it are refused. At once with Redis, otherwise within
    /// 30 seconds.
    Revoke(OneDevice),
    /// Put a device in quarantine: its records are taken in and withheld from consumers.
    Quarantine(OneDevice),
    /// Restore a device. One that was revoked enrols anew.
    Restore(OneDevice),
    /// Change a device's labels. Nothing else changes: it goes on by its key.
    Label {
        /// The device.
        #[command(flatten)]
        one: OneDevice,
        /// A label and its text, such as `site=roof`; may be repeated. An empty text removes the label.
        #[arg(long = "label", value_name = "NAME=TEXT", value_parser = label)]
        labels: Vec<(String, String)>,
    },
}

/// One device of a producer.
#[derive(Debug, Args)]
pub struct OneDevice {
    /// The producer's name.
    #[arg(long)]
    pub producer: String,
    /// The device's name.
    #[arg(long)]
    pub device: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, text) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("a label is written like site=roof")?;
    Ok((name.to_owned(), text.to_owned()))
}

/// An API document.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Document {
    /// Accounts.
    Ap,
    /// Subscriptions.
    Sm,
    /// Data.
    Dsm,
    /// Streams, WebSocket and WebTransport messages, motience/1 frames.
    Asyncapi,
}
