//! The rights of one consumer, as they change, for a connection with a pipeline for each follow: one look at the store for all of them after
//! each change. A database that is away is asked again, and ends nothing.

use std::{convert::Infallible, fmt, time::Duration};

use motience_proto::model::{ConsumerId, Status};
use tokio::{sync::watch, time::sleep};
use tracing::warn;

use super::{
    active::Active,
    allowance::{Allowed, state},
};
use crate::{Relay, subscription_cache::Watch};

/// Pause before a dependency that is away is asked again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The rights of one consumer, as they change, for a connection that has a pipeline for each follow.
pub(super) struct Rights {
    relay: Relay,
    consumer: ConsumerId,
    changes: Watch,
    /// Tells follows that wait for one of each look.
    looks: watch::Sender<()>,
}

impl Rights {
    pub(super) fn new(relay: Relay, consumer: ConsumerId) -> Self {
        let changes = relay.watch_subscriptions(consumer);
        // A right may end by itself before there is any other change.
        changes.raise();
        Self { relay, consumer, changes, looks: watch::Sender::new(()) }
    }

    /// Ends the follows that the consumer loses its right to, and tells the others their scopes, for as long as it is polled.
    pub(super) async fn keep(&self, active: &Active) -> Infallible {
        loop {
            self.changes.changed().await;
            let (version, entered) = (self.changes.version(), active.entered());
            match Allowed::look(&self.relay, self.consumer, |producer| active.contains(producer), |producer| active.scope(producer)).await {
                Ok(allowed) => {
                    let ended = active.keep(&allowed.of, entered);
                    self.changes.looked(version, allowed.first_end);
                    self.looks.send_replace(());
                    for producer in ended {
                        let state = state(&self.relay, self.consumer, producer).await;
                        active.tell(producer, reason(state));
                    }
                }
                Err(e) => {
                    warn!(consumer = %self.consumer, error = %e, "subscriptions cannot be read; trying again");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Whether there was a notice of a change that was not checked yet.
    pub(super) fn is_stale(&self) -> bool {
        self.changes.is_pending()
    }

    /// Returns once every noticed change has been acted on. Cancel-safe.
    pub(super) async fn settled(&self) {
        let mut looks = self.looks.subscribe();
        while self.is_stale() {
            // Cannot fail: the sender is in `self`.
            let _ = looks.changed().await;
        }
    }
}

/// The code that tells a consumer why a follow has ended.
fn reason(state: Status) -> &'static str {
    match state {
        Status::Revoked => "revoked",
        Status::Expired => "expired",
        _ => "unsubscribed",
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consumer {}", self.consumer)
    }
}
