//! Producer sessions: which connection of a device may append (fence), and which of its records the log has (dedup window).

use std::{any::Any, fmt, sync::Arc, time::Duration};

use motience_proto::model::{DeviceId, Fence, LogEpoch, LogKey, ProducerEpoch, RangeSet};

use crate::{Error, Log, each};

/// How long a device is remembered after its last write.
pub(crate) const DEVICE_MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a sender that nobody comes back as is remembered after its last write.
const EPHEMERAL_MEMORY: Duration = Duration::from_secs(600);
/// Bytes that a session counts beside its name and its dedup window.
pub const SESSION_BYTES: usize = 64;
/// Bytes that one range of a dedup window counts.
pub const RANGE_BYTES: usize = 16;

/// Name of a sender within its producer: a device, or one connection of a client that has no outbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionName {
    text: Arc<str>,
    ephemeral: bool,
}

impl SessionName {
    /// A device, which comes back under this name after a break.
    pub fn device(id: &DeviceId) -> Self {
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
    pub(crate) fn stored(text: &str) -> Self {
        Self { text: text.into(), ephemeral: false }
    }

    /// Id of the device that has this name, if it is a device's.
    pub fn device_id(&self) -> Option<&str> {
        if self.ephemeral { None } else { self.text.strip_prefix("d:") }
    }

    /// Whether nobody comes back under this name: it need not outlive the process.
    pub fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    /// How long the log remembers this sender after its last write.
    pub fn memory(&self) -> Duration {
        if self.ephemeral { EPHEMERAL_MEMORY } else { DEVICE_MEMORY }
    }
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A connection that asks for the right to append.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Session that the connection belongs to.
    pub name: SessionName,
    /// Incarnation of the sender's outbox.
    pub producer_epoch: ProducerEpoch,
    /// Random number of this connection, which no other has.
    pub owner: u64,
}

/// State of a session after its connection has opened it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// Epoch of the log in which the fence was raised, and holds.
    pub log_epoch: LogEpoch,
    /// Fence that this connection's appends carry.
    pub fence: Fence,
    /// Dedup window: numbers of the sender's producer epoch that are in the log (its seen-set).
    pub seen: RangeSet,
    /// Keeps the session from being evicted for as long as a clone of it lives.
    pub held: Hold,
}

/// See [`SessionState::held`]. All are equal.
#[derive(Clone, Default)]
pub struct Hold(#[expect(dead_code, reason = "it matters when it is dropped")] Option<Arc<dyn Any + Send + Sync>>);

impl Hold {
    /// Drops `guard` with the last clone.
    pub(crate) fn of(guard: impl Any + Send + Sync) -> Self {
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

/// Producer sessions of an engine.
pub trait Sessions: Send + Sync {
    /// Raises the fence of a sender and reads its dedup window, which is as durable then as an acknowledgement.
    ///
    /// `reopened` names the epoch in which the connection has raised its fence before. The answer is `Fenced` if another connection has
    /// come since, `Stale` if that cannot be told. A raised fence makes sure that an earlier append of unknown outcome, should it still
    /// arrive, appends nothing; so the call may be repeated, whatever became of the last attempt.
    fn open(&self, key: LogKey, sender: &Sender, reopened: Option<LogEpoch>) -> impl Future<Output = Result<SessionState, Error>> + Send;
}

impl Log {
    /// Opens a session for a new connection: see [`Sessions::open`].
    pub async fn open(&self, key: LogKey, sender: &Sender) -> Result<SessionState, Error> {
        each!(self, log => log.open(key, sender, None).await)
    }

    /// Opens a session again for the connection that raised its fence in `log_epoch`, after a write of unknown outcome: see
    /// [`Sessions::open`].
    pub async fn reopen(&self, key: LogKey, sender: &Sender, log_epoch: LogEpoch) -> Result<SessionState, Error> {
        each!(self, log => log.open(key, sender, Some(log_epoch)).await)
    }
}
