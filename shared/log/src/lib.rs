//! The record log: for each producer one append-only sequence of records, offsets from 1 without holes. Consumers see what the log has,
//! and nothing else.
//!
//! In: appends with their fences.
//! Out: the batch as the log has it, to the answer and as a signal to each node.
//! Next: `shared/backend/src/lib.rs`: the function that `sink` makes takes the signals.
//!
//! The contract has three parts, and each is a trait that an engine implements:
//!
//! | trait | operations | subject |
//! |---|---|---|
//! | [`Records`] | append, fetch, bounds, outline, offset for time, watch | batches of records, offsets, retention |
//! | [`Sessions`] | open | who may append: fence and dedup window of each sender |
//! | [`Bus`] | broadcast | short messages from one node to all; `motience_cluster` says what they tell |
//!
//! Invariants. Offsets of a producer are contiguous within one epoch of its log. A batch is appended whole or not at all, in one atomic
//! step that compares the fence, leaves out records whose client id is known, appends, keeps the dedup window and signals the batch.
//! A fence that is not the newest, or was raised in an earlier epoch, appends nothing. A signal is a hint; what can be fetched is the
//! truth. Signals never wait for durability; answers to an append and to an open do, as [`Log::durability`] says.
//!
//! # Adding an engine
//!
//! 1. Make a module beside [`embedded`] and [`redis`] with a `Log` that is cheap to clone, and give it a [`Sink`] for its signals.
//! 2. Implement [`Records`]. A service without server-side steps (Kafka, NATS) checks the fence in a transaction of its own.
//!    Begin a new [epoch](Epochs) whenever the tail may have been lost: readers then resume at the last offset that both epochs share.
//! 3. Implement [`Sessions`]: raise the fence, return the dedup window, and remember it for [`SessionName::memory`] after the last append.
//!    [`Sessions`] and [`Records`] must change together: a dedup window that is older than the log lets a record in twice.
//! 4. Implement [`Bus`]. An engine of one process hands each message to its own sink.
//! 5. Implement [`Engine`]: health, durability, the highest account number, names that are taken once, shutdown.
//! 6. Add a variant to [`Log`] and one line to the macro `each!`. Say in [`Log::is_shared`] whether other nodes meet there: the relay then
//!    compares log bounds every second, because signals between processes may be lost.
//! 7. Open it in `motience_backend::Backend::open`, with its settings in a `Config::from_env` and their lines in `.env.example`.
//! 8. Add the engine to the macro `stories!` of `shared/backend/tests/relay.rs` and to `durability.rs` beside it. Both tell every engine
//!    the same stories; an engine that passes them keeps the promise of `docs/delivery.md`. Then run `loadtest check`.

mod batch;
mod bus;
pub mod embedded;
mod epochs;
mod outline;
mod records;
pub mod redis;
mod retention;
mod sessions;
mod varint;

pub use batch::{Batch, Entry, Piece};
pub use bus::{Bus, Signal, Sink, Topic};
pub use epochs::{Epochs, MAX_EPOCHS};
pub use outline::{Backlog, Bound, Bounds, Cut, Outline};
pub use records::{AppendBatch, AppendRecord, Fetch, Records};
pub use retention::{OwnRetention, Retention, Retentions, most_for_each};
pub use sessions::{Hold, RANGE_BYTES, SESSION_BYTES, Sender, SessionName, SessionState, Sessions};

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use motience_proto::model::{LogKey, UserId};

/// Why the log did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A newer connection of the same device holds the fence.
    #[error("a newer connection of this device took over")]
    Fenced,
    /// The log entered a new epoch, and the fence was raised in an earlier one: open again.
    #[error("the log began a new epoch")]
    Stale,
    /// The log cannot be reached; whether the last write took place is not known.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// A newer release has written the log in a form that this one cannot read.
    #[error("the log cannot be used: {0}")]
    Newer(String),
    /// The log answered with something that makes no sense.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// A whole engine: the three parts of the contract, and what a node asks of the service itself.
pub trait Engine: Records + Sessions + Bus {
    /// Succeeds if an append would be accepted now.
    fn ping(&self) -> impl Future<Output = Result<(), Error>> + Send;

    /// Meaning of an acknowledgement: `memory`, `file`, `redis` or `redis+N` (see docs/delivery.md).
    fn durability(&self) -> String;

    /// Highest account number ever noted here; 0 where none was. The log keeps it apart from the accounts, so that it still tells which
    /// numbers were given out after the database was restored from a backup.
    fn highest_account(&self) -> impl Future<Output = Result<UserId, Error>> + Send;

    /// Notes that the number of this account was given out.
    fn note_account(&self, user: UserId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes a name that nobody has taken within `ttl`, on whatever node; `false`: somebody has.
    fn take_once(&self, name: &str, ttl: Duration) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Ends the engine's own tasks, after what they hold is written.
    fn close(&self) -> impl Future<Output = ()> + Send;
}

/// The log of a node, in one of the engines. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Log {
    /// In this process: memory, or a file.
    Embedded(embedded::Log),
    /// In Redis, where any number of nodes meet.
    Redis(redis::Log),
}

/// Calls the engine that a log is in.
macro_rules! each {
    ($log:expr, $inner:ident => $call:expr) => {
        match $log {
            crate::Log::Embedded($inner) => $call,
            crate::Log::Redis($inner) => $call,
        }
    };
}
pub(crate) use each;

impl Log {
    /// See [`Engine::highest_account`].
    pub async fn highest_account(&self) -> Result<UserId, Error> {
        each!(self, log => log.highest_account().await)
    }

    /// See [`Engine::note_account`].
    pub async fn note_account(&self, user: UserId) -> Result<(), Error> {
        each!(self, log => log.note_account(user).await)
    }

    /// See [`Engine::take_once`].
    pub async fn take_once(&self, name: &str, ttl: Duration) -> Result<bool, Error> {
        each!(self, log => log.take_once(name, ttl).await)
    }

    /// Leases a slice of a bucket that nodes share, into which `rate` parts come a second: of the parts wanted those that are granted, and the
    /// sum of all that was ever granted. `None`: no other node shares it.
    pub async fn lease_slice(&self, bucket: &str, want: u64, rate: u64) -> Result<Option<(u64, u64)>, Error> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Redis(log) => log.lease_slice(bucket, want, rate).await.map(Some),
        }
    }

    /// Writes what this node reports of a log's devices, each under a name, for the other nodes to read: what is not repeated is gone within the hour.
    /// Nothing where nobody else meets.
    pub async fn note_reports(&self, key: LogKey, reports: &[(String, Vec<u8>)]) -> Result<(), Error> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Redis(log) => log.note_reports(key, reports).await,
        }
    }

    /// Reports of all nodes about a log's devices, by name.
    pub async fn reports(&self, key: LogKey) -> Result<HashMap<String, Bytes>, Error> {
        match self {
            Self::Embedded(_) => Ok(HashMap::new()),
            Self::Redis(log) => log.reports(key).await,
        }
    }

    /// Logs about which there may be such reports.
    pub async fn reported(&self) -> Result<Vec<LogKey>, Error> {
        match self {
            Self::Embedded(_) => Ok(Vec::new()),
            Self::Redis(log) => log.reported().await,
        }
    }

    /// Writes what this node reports of itself, for the other nodes to read, in the place of what it wrote before: gone after `keep`.
    pub async fn note_node(&self, node: &str, report: &[u8], keep: Duration) -> Result<(), Error> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Redis(log) => log.note_node(node, report, keep).await,
        }
    }

    /// The last such report of the node of this name.
    pub async fn node_report(&self, node: &str) -> Result<Option<Bytes>, Error> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Redis(log) => log.node_report(node).await,
        }
    }

    /// See [`Engine::ping`].
    pub async fn ping(&self) -> Result<(), Error> {
        each!(self, log => log.ping().await)
    }

    /// Whether the engine refused the last write for want of room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Embedded(log) => log.is_full(),
            Self::Redis(log) => log.is_full(),
        }
    }

    /// How long the engine has been unable to remove what retention no longer keeps; `None`: it gets on.
    pub fn stalled_for(&self) -> Option<Duration> {
        match self {
            Self::Embedded(log) => log.stalled_for(),
            Self::Redis(log) => log.stalled_for(),
        }
    }

    /// How long nothing has come by the connection that brings what other nodes publish; `None`: there is no such connection. Each node hears
    /// its own reports, so that silence is a fault.
    pub fn silent_for(&self) -> Option<Duration> {
        match self {
            Self::Embedded(_) => None,
            Self::Redis(log) => Some(log.silent_for()),
        }
    }

    /// Damaged parts of the log's file that readers came to since the process began: they were told, and went on behind them.
    pub fn damaged(&self) -> u64 {
        match self {
            Self::Embedded(log) => log.damaged(),
            Self::Redis(_) => 0,
        }
    }

    /// Logs that keep more than retention asks for, because their age depends on a clock that an operator has yet to confirm.
    pub fn held(&self) -> u64 {
        match self {
            Self::Embedded(log) => log.held(),
            Self::Redis(_) => 0,
        }
    }

    /// How much is kept of each producer's log.
    pub fn retentions(&self) -> &Retentions {
        match self {
            Self::Embedded(log) => log.retentions(),
            Self::Redis(log) => log.retentions(),
        }
    }

    /// Whether other nodes meet here too, so that signals between them may be lost.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// Tells apart the servers that keep logs: where one does not answer, others may.
    pub fn server_of(&self, key: LogKey) -> usize {
        match self {
            Self::Embedded(_) => 0,
            Self::Redis(log) => log.server_of(key),
        }
    }

    /// See [`Engine::durability`].
    pub fn durability(&self) -> String {
        each!(self, log => log.durability())
    }

    /// See [`Engine::close`].
    pub async fn close(&self) {
        each!(self, log => log.close().await);
    }
}
