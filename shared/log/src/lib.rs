//! The log: per producer, append-only, offsets from 1 without holes. The one truth between producers and consumers.
//!
//! Two engines behind one enum: [`embedded`] (this process, with or without a file) and [`redis`] (any number of nodes).
//! Both do the same atomic step for each section of an append: compare the fence, leave out what a client's own id names
//! a second time, append, keep the device's new seen-set beside the entries, publish to live followers. What is published
//! is a hint; what can be read is the truth.
//!
//! Invariants: offsets of a producer are contiguous within a life of its log; a section is appended whole or not at all;
//! a fence that is not the newest, or was raised in an earlier life, appends nothing. Publishing never waits for
//! durability; the answer to an append, and to an open, does: what they say is in the log is as durable as
//! [`Log::durability`] says.

mod batch;
pub mod embedded;
mod epochs;
mod event;
pub mod redis;
mod report;
mod retention;

use std::{any::Any, fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use time::OffsetDateTime;

pub use batch::{Batch, Entry};
pub use epochs::{Epochs, MAX_EPOCHS};
pub use event::Event;
use motience_proto::model::{Fence, LogEpoch, LogKey, Offset, ProducerEpoch, RangeSet, Seq, UserId};
use motience_settings::env::{self, Env};
pub use report::{Connections, DeviceReport, NodeReport, StreamReport, Transport};

/// How long a device is remembered after its last write.
const DEVICE_MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Bytes that a session counts beside its name and its dedup window.
pub const SESSION_BYTES: usize = 64;
/// Bytes that one range of a dedup window counts.
pub const RANGE_BYTES: usize = 16;

/// How much of each producer's log is kept, and how much of its senders.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Oldest record kept. `LOG_RETENTION`, 24 hours.
    pub age: Duration,
    /// Bytes of messages kept for one producer. `LOG_RETENTION_BYTES`, 16 MiB.
    pub bytes: usize,
    /// The part of an embedded log, in percent, that may be removed at once because of its age where the machine's clock has jumped: what
    /// is more waits for an operator (`motience-server log confirm`). `LOG_RETENTION_AT_ONCE`, 50; 100 asks for nothing.
    pub at_once: u8,
    /// Device sessions kept for one producer; of more, the longest idle are forgotten, never one that is connected.
    /// `LOG_MAX_SESSIONS`, 20,000: twice `MAX_DEVICES_PER_ACCOUNT`.
    pub sessions: usize,
    /// Bytes that these sessions take with their dedup windows ([`SessionName::bytes`]). `LOG_MAX_DEDUP_BYTES`, 4 MiB.
    pub windows: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(24 * 3600), bytes: 16 << 20, at_once: 50, sessions: 20_000, windows: 4 << 20 }
    }
}

impl Retention {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let default = Self::default();
        let retention = Self {
            age: env.duration("LOG_RETENTION", default.age)?,
            bytes: env.bytes("LOG_RETENTION_BYTES", default.bytes)?,
            at_once: env.parse("LOG_RETENTION_AT_ONCE", default.at_once)?,
            sessions: env.parse("LOG_MAX_SESSIONS", default.sessions)?,
            windows: env.bytes("LOG_MAX_DEDUP_BYTES", default.windows)?,
        };
        if retention.at_once > 100 {
            return Err(env::Error::invalid("LOG_RETENTION_AT_ONCE", "is a part in percent: 0 to 100"));
        }
        if retention.sessions == 0 {
            return Err(env::Error::invalid("LOG_MAX_SESSIONS", "must be at least 1"));
        }
        Ok(retention)
    }
}

/// Why the log did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A newer connection of the same device holds the fence.
    #[error("a newer connection of this device took over")]
    Fenced,
    /// The log began a new life, and the fence was raised in an earlier one: open again.
    #[error("the log began a new epoch")]
    Stale,
    /// The log cannot be reached; whether the last write took place is not known.
    #[error("the log is unavailable: {0}")]
    Unavailable(String),
    /// The log answered with something that makes no sense.
    #[error("the log is damaged: {0}")]
    Damaged(String),
}

/// Names a sender within its producer: a device, or one connection of a client that has no outbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionName {
    text: Arc<str>,
    /// Whether nobody will come back under this name.
    ephemeral: bool,
}

impl SessionName {
    /// A device, which comes back under the same name after a break.
    pub fn device(id: &motience_proto::model::DeviceId) -> Self {
        Self { text: format!("d:{id}").into(), ephemeral: false }
    }

    /// A connection or request whose name is never used again.
    pub fn ephemeral() -> Self {
        Self { text: format!("p:{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)).into(), ephemeral: true }
    }

    /// Bytes that a session of this name counts with a dedup window of so many ranges.
    pub fn bytes(&self, ranges: usize) -> usize {
        SESSION_BYTES + self.text.len() + RANGE_BYTES * ranges
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// A name that the log has kept.
    fn stored(text: &str) -> Self {
        Self { text: text.into(), ephemeral: false }
    }

    /// The device that it is the name of, where it is one.
    pub fn device_id(&self) -> Option<&str> {
        if self.ephemeral { None } else { self.text.strip_prefix("d:") }
    }

    /// Whether nobody will come back under this name: there is no need to keep it beyond the process.
    pub fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    /// How long the log remembers this sender after its last write.
    pub fn memory(&self) -> Duration {
        if self.ephemeral { Duration::from_secs(600) } else { DEVICE_MEMORY }
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A connection that wants to write.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Who sends.
    pub name: SessionName,
    /// The life of its outbox.
    pub epoch: ProducerEpoch,
    /// This connection: random, so that no other is taken for it.
    pub owner: u64,
}

/// What the log knows of a sender when its connection begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// The life of the log in which the fence was raised, and holds.
    pub log_epoch: LogEpoch,
    /// The fence that this connection's writes carry.
    pub fence: Fence,
    /// Records of the same epoch that are already in the log.
    pub seen: RangeSet,
    /// To be kept while the connection or its writes live: as long as anybody has it, the session is not evicted.
    pub held: Hold,
}

/// See [`Opened::held`]. All are alike.
#[derive(Clone, Default)]
pub struct Hold(#[expect(dead_code, reason = "it matters when it is dropped")] Option<Arc<dyn Any + Send + Sync>>);

impl Hold {
    /// Drops `guard` when nobody has it any more.
    fn of(guard: impl Any + Send + Sync) -> Self {
        Self(Some(Arc::new(guard)))
    }
}

impl PartialEq for Hold {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Hold {}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// One sender's part of an append: all of it is written, or none.
#[derive(Clone, Debug)]
pub struct AppendBatch {
    /// Who sends.
    pub name: SessionName,
    /// The life of the log in which its connection's fence was raised.
    pub log_epoch: LogEpoch,
    /// The fence of its connection.
    pub fence: Fence,
    /// The life of its outbox.
    pub epoch: ProducerEpoch,
    /// What the log will have seen of it once this is written.
    pub seen: RangeSet,
    /// Its records, in order.
    pub records: Vec<AppendRecord>,
}

/// A record to be appended.
#[derive(Clone, Debug)]
pub struct AppendRecord {
    /// Its number within the sender's epoch.
    pub seq: Seq,
    /// A client's own name for it: within [`Retention::age`], a second record of that name is left out.
    pub id: Option<Arc<str>>,
    /// What consumers receive.
    pub message: Bytes,
}

/// Where a producer's log begins and ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The lives of the log; its present one is the last.
    pub epochs: Epochs,
    /// The oldest offset that is kept; the one after `last` where nothing is.
    pub first: Offset,
    /// The last offset given out; 0 before the first.
    pub last: Offset,
}

impl Bounds {
    /// The present life.
    pub fn epoch(&self) -> LogEpoch {
        self.epochs.present()
    }
}

/// What a read found.
#[derive(Clone, Debug, Default)]
pub struct Fetch {
    /// The life in which it was read: another than the reader's means that the reader must find its place first.
    pub epoch: LogEpoch,
    /// Batches in order, the first of them holding the first wanted offset or a later one that retention still has.
    pub batches: Vec<Arc<Batch>>,
    /// The first and the last of offsets before these batches that the log's file no longer gives because it is damaged.
    pub damaged: Option<(Offset, Offset)>,
}

/// What the log tells the node it runs on, in the log's own thread: handlers must be quick and must not wait.
#[derive(Clone, Debug)]
pub enum Signal {
    /// Newly appended, in order for each producer as far as the engine knows.
    Batch(Arc<Batch>),
    /// Word from some node.
    Event(Event),
    /// Signals may have been lost: look at the truth.
    Interrupted,
}

/// Takes the signals.
pub type Sink = Arc<dyn Fn(Signal) + Send + Sync>;

/// Either engine. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Log {
    /// This process's memory.
    Embedded(embedded::Log),
    /// Redis.
    Redis(redis::Log),
}

macro_rules! each {
    ($log:expr, $inner:ident => $call:expr) => {
        match $log {
            Log::Embedded($inner) => $call,
            Log::Redis($inner) => $call,
        }
    };
}

impl Log {
    /// Raises the fence of a sender and reads what the log has seen of its epoch.
    pub async fn open(&self, key: LogKey, sender: &Sender) -> Result<SessionState, Error> {
        each!(self, log => log.open(key, sender, None).await)
    }

    /// The same for the connection that holds the fence raised in `life`, after a write of unknown outcome: `Fenced` where
    /// another has come since, `Stale` where that cannot be told. May be repeated, whatever became of the last attempt.
    ///
    /// Raising the fence makes sure that the lost write, should it still arrive, appends nothing.
    pub async fn reopen(&self, key: LogKey, sender: &Sender, log_epoch: LogEpoch) -> Result<SessionState, Error> {
        each!(self, log => log.open(key, sender, Some(log_epoch)).await)
    }

    /// Appends the sections in order. One outcome for each: done, `Fenced`, or `Stale`.
    ///
    /// An error as a whole says nothing of what was written; it may even be read already.
    pub async fn append(&self, key: LogKey, batches: &[AppendBatch]) -> Result<Vec<Result<(), Error>>, Error> {
        each!(self, log => log.append(key, batches).await)
    }

    /// Where the log ends.
    pub async fn bounds(&self, key: LogKey) -> Result<Bounds, Error> {
        each!(self, log => log.bounds(key).await)
    }

    /// Reads from the offset after `after`, up to about `bytes` of messages. Nothing where there is nothing.
    pub async fn read(&self, key: LogKey, after: Offset, bytes: usize) -> Result<Fetch, Error> {
        each!(self, log => log.read(key, after, bytes).await)
    }

    /// The offset before the first record logged at `time` or later; it may lie somewhat further back.
    pub async fn offset_for_time(&self, key: LogKey, time: OffsetDateTime) -> Result<Offset, Error> {
        each!(self, log => log.offset_for_time(key, time).await)
    }

    /// Whether retention may have removed what was written at `time` or later: what [`Log::before`] gives is then not where it began.
    pub async fn has_lost(&self, key: LogKey, time: OffsetDateTime) -> Result<bool, Error> {
        let (offset_for_time, bounds) = (self.offset_for_time(key, time).await?, self.bounds(key).await?);
        if bounds.first <= Offset(1) || offset_for_time.next() > bounds.first {
            return Ok(false);
        }
        let removed = each!(self, log => log.removed_at(key).await)?;
        Ok(removed.is_some_and(|removed| removed >= time) || time < each!(self, log => log.oldest()))
    }

    /// Has this producer's batches signalled from now on. Returns when that is in force.
    pub async fn follow(&self, key: LogKey) -> Result<(), Error> {
        each!(self, log => log.follow(key).await)
    }

    /// Ends [`Log::follow`].
    pub fn unfollow(&self, key: LogKey) {
        each!(self, log => log.unfollow(key));
    }

    /// Tells every node, this one included.
    pub async fn broadcast(&self, event: &Event) -> Result<(), Error> {
        each!(self, log => log.broadcast(event).await)
    }

    /// The highest number of an account that was ever noted here; 0 where none was. Kept with the log, and not with the accounts: after
    /// the database was restored from a backup it still tells which numbers were given out.
    pub async fn highest_account(&self) -> Result<UserId, Error> {
        each!(self, log => log.highest_account().await)
    }

    /// Notes that the number of this account was given out.
    pub async fn note_account(&self, user: UserId) -> Result<(), Error> {
        each!(self, log => log.note_account(user).await)
    }

    /// Whether the log answers.
    pub async fn ping(&self) -> Result<(), Error> {
        each!(self, log => log.ping().await)
    }

    /// Whether it refused the last write for want of room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Embedded(_) => false,
            Self::Redis(log) => log.is_full(),
        }
    }

    /// Damaged parts of the log's file that readers have come to since the process began: they were told, and went on behind them.
    pub fn damaged(&self) -> u64 {
        match self {
            Self::Embedded(log) => log.damaged(),
            Self::Redis(_) => 0,
        }
    }

    /// Logs of which much would go at once because of its age, and is kept until an operator has confirmed the clock.
    pub fn held(&self) -> u64 {
        match self {
            Self::Embedded(log) => log.held(),
            Self::Redis(_) => 0,
        }
    }

    /// Whether other nodes meet here too.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Redis(_))
    }

    /// What an acknowledgement means: `memory`, `file`, `redis` or `redis+N` (see docs/delivery.md).
    pub fn durability(&self) -> String {
        each!(self, log => log.durability())
    }

    /// Ends the log's own tasks.
    pub async fn close(&self) {
        each!(self, log => log.close().await);
    }
}
