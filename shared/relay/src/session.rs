//! A sender's session on this node: what its publisher and the log's writer share.

use motience_log::{self as log, Sender, SessionState};
use motience_proto::model::LogKey;
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

/// The appender's part of a sender's session.
pub(super) struct Session {
    pub(super) key: LogKey,
    pub(super) sender: Sender,
    /// As the log has it, so far as it has answered.
    pub(super) state: Mutex<SessionState>,
    pub(super) committed: watch::Sender<Committed>,
    /// Cancelled when a newer connection of the same device came to this node.
    pub(super) superseded: CancellationToken,
}
