//! What the lanes of a device hand to its control stream: which records are on their way to the log, and which are refused.

use motience_proto::{model::RangeSet, wire::Refused};
use motience_relay::{Pending, Submitted, Ticket};
use motience_session::CloseReason;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc};

/// What the lanes hand to the control stream.
pub(super) struct Outcomes {
    pending: Mutex<Pending>,
    pub(super) added: Notify,
    refused: mpsc::Sender<Refused>,
}

impl Outcomes {
    /// None yet; records that are refused go to `refused`.
    pub(super) fn new(refused: mpsc::Sender<Refused>) -> Self {
        Self { pending: Mutex::default(), added: Notify::new(), refused }
    }

    /// A group is on its way to the log.
    pub(super) async fn submitted(&self, submitted: Submitted) -> Result<(), CloseReason> {
        self.pending().add(submitted.ticket, submitted.numbers);
        self.added.notify_one();
        for refused in submitted.refused {
            self.refused.send(refused).await.map_err(|_| CloseReason::gone("the control stream has ended"))?;
        }
        Ok(())
    }

    /// Everything that is in the log by now.
    pub(super) fn take(&self, up_to: Ticket) -> RangeSet {
        self.pending().take(up_to)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock()
    }
}
