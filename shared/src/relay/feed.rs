//! What a consumer receives: the records of every producer it is subscribed to, as its subscriptions change.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tracing::warn;

use super::{Delivery, Durable, Error, ReadFrom, Relay, Subscriber, routes::Watch};
use crate::model::{ConsumerId, Cursor, CursorName, ProducerId};

/// Pause before a database that is away is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A [`Subscriber`] that keeps to its consumer's subscriptions. The right to each producer is checked when its follow
/// begins and whenever the subscriptions change, never for each record.
pub struct Feed {
    consumer: ConsumerId,
    relay: Relay,
    subscriber: Subscriber,
    durable: Option<(CursorName, Durable)>,
    changes: Watch,
    /// A change was noticed and not yet followed; survives a cancelled [`Feed::next`].
    stale: bool,
}

/// What happens on a feed.
#[derive(Debug)]
pub enum FeedEvent {
    /// Something to deliver.
    Delivery(Delivery),
    /// A producer is followed from now on.
    Joined(ProducerId),
    /// A producer is followed no longer.
    Left(ProducerId),
}

impl Feed {
    pub(super) async fn open(relay: Relay, consumer: ConsumerId, durable: Option<CursorName>) -> Result<Self, Error> {
        // Watching begins before the first look, so that no change falls between.
        let changes = relay.watch_subscriptions(consumer);
        let subscriber = relay.subscriber();
        let durable = durable.map(|name| (name, relay.durable(consumer)));
        let mut feed = Self { consumer, relay, subscriber, durable, changes, stale: false };
        feed.refresh().await?;
        Ok(feed)
    }

    /// Goes on from where `places` say. Producers that the consumer is not subscribed to are left out, and returned.
    pub async fn resume(&mut self, places: &HashMap<ProducerId, ReadFrom>) -> Result<Vec<ProducerId>, Error> {
        let allowed: HashSet<ProducerId> = self.allowed().await?;
        let mut refused = Vec::new();
        for (&producer, &place) in places {
            if allowed.contains(&producer) {
                self.subscriber.unfollow(producer);
                self.subscriber.follow(producer, place).await?;
            } else {
                refused.push(producer);
            }
        }
        Ok(refused)
    }

    /// The next thing that happens. Cancel-safe.
    pub async fn next(&mut self) -> FeedEvent {
        loop {
            if self.stale {
                match self.refresh().await {
                    Ok(Some(event)) => return event,
                    Ok(None) => self.stale = false,
                    Err(e) => {
                        warn!(consumer = %self.consumer, error = %e, "subscriptions cannot be read; trying again");
                        tokio::time::sleep(RETRY_AFTER).await;
                    }
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.changes.changed() => self.stale = true,
                () = due(self.durable.as_ref()) => if let Some((_, durable)) = &mut self.durable { durable.flush().await },
                delivery = self.subscriber.next() => return FeedEvent::Delivery(delivery),
            }
        }
    }

    /// Moves the durable cursor; `false` where this feed has none. A producer that is followed no longer has no cursor to
    /// be moved.
    pub fn confirm(&mut self, producer: ProducerId, cursor: Cursor) -> bool {
        let Some((name, durable)) = &mut self.durable else { return false };
        if self.subscriber.cursor(producer).is_some() {
            durable.confirm(name, producer, cursor);
        }
        true
    }

    /// Writes what was confirmed, when the connection ends.
    pub async fn finish(&mut self) {
        if let Some((_, durable)) = &mut self.durable {
            durable.finish().await;
        }
    }

    /// What can be delivered from memory without waiting.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.subscriber.try_next()
    }

    /// Whom it follows.
    pub fn followed(&self) -> impl Iterator<Item = ProducerId> {
        self.subscriber.followed()
    }

    async fn allowed(&self) -> Result<HashSet<ProducerId>, Error> {
        let follows = self.relay.0.store.follows(self.consumer).await.map_err(Error::store)?;
        Ok(follows.into_iter().collect())
    }

    /// Makes one step towards what the store says; `None` where nothing is left to do.
    async fn refresh(&mut self) -> Result<Option<FeedEvent>, Error> {
        let allowed = self.allowed().await?;
        let followed: HashSet<ProducerId> = self.subscriber.followed().collect();
        let mut first = None;
        for &producer in followed.difference(&allowed) {
            self.subscriber.unfollow(producer);
            first = Some(FeedEvent::Left(producer));
        }
        for &producer in allowed.difference(&followed) {
            let from = match &self.durable {
                Some((name, durable)) => durable.place(name, producer, ReadFrom::Live).await?,
                None => ReadFrom::Live,
            };
            self.subscriber.follow(producer, from).await?;
            first = Some(FeedEvent::Joined(producer));
        }
        Ok(first)
    }
}

async fn due(durable: Option<&(CursorName, Durable)>) {
    match durable {
        Some((_, durable)) => durable.due().await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}
