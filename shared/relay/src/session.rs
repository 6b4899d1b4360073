//! A sender's session on this node: what its publisher and the log's writer share.

use motience_log::{self as log, Hold, Sender};
use motience_proto::model::{Fence, LogEpoch, LogKey, RangeSet};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A sender's place in the order of its own submissions: what was submitted up to it is in the log once
/// [`super::Publisher::committed`] returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How far a sender's submissions have come.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Everything up to this ticket is in the log.
    pub up_to: Ticket,
    /// Why nothing more will be.
    pub error: Option<log::Error>,
}

/// What the appender needs of a sender.
pub(super) struct Session {
    pub(super) key: LogKey,
    pub(super) sender: Sender,
    pub(super) state: Mutex<SessionState>,
    pub(super) committed: watch::Sender<Committed>,
    /// Cancelled when a newer connection of the same device came to this node.
    pub(super) superseded: CancellationToken,
}

pub(super) struct SessionState {
    pub(super) log_epoch: LogEpoch,
    pub(super) fence: Fence,
    /// What is in the log.
    pub(super) logged: RangeSet,
    /// Keeps the log from evicting the session.
    pub(super) held: Hold,
}
