//! Whom a consumer may follow, for a connection whose follows run beside each other: one look at the store for all of them
//! after each change. Between word of a change and that look nothing is handed over, so no record that was published after a
//! subscription ended leaves by it. A database that is away is waited for, and ends nothing.

use std::{convert::Infallible, fmt, time::Duration};

use motience_auth::Standing;
use motience_log as log;
use motience_proto::model::{ConsumerId, CursorName, ProducerId};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{Error, Follows, ReadFrom, Relay, Subscriber, subscription_cache::Watch};

/// Pause before a dependency that is away is asked again.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The subscriptions of one consumer, as they change.
pub struct Rights {
    relay: Relay,
    consumer: ConsumerId,
    changes: Watch,
    /// Tells follows that wait for one of each look.
    looks: watch::Sender<()>,
}

impl Rights {
    pub(super) fn new(relay: Relay, consumer: ConsumerId) -> Self {
        let changes = relay.watch_subscriptions(consumer);
        Self { relay, consumer, changes, looks: watch::Sender::new(()) }
    }

    /// A reader of this producer's log from `from` on, or from where the durable cursor `name` stands; `None` where the consumer is
    /// not subscribed to it. Asks again while the database or the log is away.
    pub async fn open(&self, producer: ProducerId, from: ReadFrom, name: Option<&CursorName>) -> Result<Option<Subscriber>, Error> {
        loop {
            match self.attempt(producer, from, name).await {
                Err(e @ (Error::Store(_) | Error::Log(log::Error::Unavailable(_)))) => {
                    warn!(consumer = %self.consumer, %producer, error = %e, "a follow cannot begin yet; trying again");
                    sleep(RETRY_AFTER).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn attempt(&self, producer: ProducerId, from: ReadFrom, name: Option<&CursorName>) -> Result<Option<Subscriber>, Error> {
        if !self.relay.0.store.is_following(self.consumer, producer).await.map_err(Error::store)? {
            return Ok(None);
        }
        let from = match name {
            Some(name) => self.relay.durable(self.consumer).place(name, producer, from).await?,
            None => from,
        };
        let mut subscriber = self.relay.subscriber();
        subscriber.follow(producer, from).await?;
        Ok(Some(subscriber))
    }

    /// Ends the follows that the consumer loses its right to, for as long as it is polled.
    pub async fn keep(&self, follows: &Follows) -> Infallible {
        loop {
            self.changes.changed().await;
            let (version, entered) = (self.changes.version(), follows.entered());
            match self.relay.0.store.follows(self.consumer).await {
                Ok(allowed) => {
                    follows.keep(&allowed.into_iter().collect(), entered);
                    self.changes.looked(version);
                    self.looks.send_replace(());
                }
                Err(e) => {
                    warn!(consumer = %self.consumer, error = %e, "subscriptions cannot be read; trying again");
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Whether there was word of a change that nobody has looked into.
    pub fn is_stale(&self) -> bool {
        self.changes.is_pending()
    }

    /// Whether a follow that ends with `stop` may hand over what it has, for a connection that lives by `standing`. Between word of a
    /// change and a look at it nobody knows, and nothing is handed over.
    pub async fn may_write(&self, stop: &CancellationToken, standing: &Standing) -> bool {
        if self.is_stale() {
            stop.run_until_cancelled(self.settled()).await;
        }
        !stop.is_cancelled() && !standing.is_over()
    }

    /// Returns once every change there was word of has been acted on. Cancel-safe.
    async fn settled(&self) {
        let mut looks = self.looks.subscribe();
        while self.is_stale() {
            // Cannot fail: the sender is in `self`.
            let _ = looks.changed().await;
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rights").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}
