//! What a reader receives: as a rule the records of every producer it is subscribed to, as its subscriptions change.
//!
//! In: deliveries of one subscriber.
//! Out: deliveries that the reader may see.
//! Next: `gateway-ws/src/consumer.rs`, and every other egress.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use motience_proto::model::{ConsumerId, Cursor, CursorName, ProducerId};
use tracing::warn;

use super::{Delivery, Durable, Error, ReadFrom, Relay, Subscriber, rights::RETRY_AFTER, subscription_cache::Watch};

/// A [`Subscriber`] that keeps to its reader's rights: as a rule its subscriptions. The right to each producer is checked when
/// its follow begins and whenever the subscriptions change, never for each record.
pub struct Feed {
    right: Right,
    relay: Relay,
    subscriber: Subscriber,
    durable: Option<(CursorName, Durable)>,
    /// A change that was followed and not yet told; survives a cancelled call.
    news: Option<FeedEvent>,
}

/// What a feed lives by.
enum Right {
    /// A consumer's subscriptions, as they change; only those of its choice, where it made one.
    Subscriptions { consumer: ConsumerId, changes: Watch, chosen: Option<HashSet<ProducerId>> },
    /// A right to these that does not change.
    Granted(HashSet<ProducerId>),
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
        let durable = durable.map(|name| (name, relay.durable(consumer)));
        // Watching begins before the first look, so that no change falls between.
        let right = Right::Subscriptions { consumer, changes: relay.watch_subscriptions(consumer), chosen: None };
        Self::begin(relay, right, durable).await
    }

    pub(super) async fn open_chosen(relay: Relay, consumer: ConsumerId, chosen: HashSet<ProducerId>) -> Result<Self, Error> {
        let right = Right::Subscriptions { consumer, changes: relay.watch_subscriptions(consumer), chosen: Some(chosen) };
        Self::begin(relay, right, None).await
    }

    pub(super) async fn open_granted(relay: Relay, producers: HashSet<ProducerId>) -> Result<Self, Error> {
        Self::begin(relay, Right::Granted(producers), None).await
    }

    async fn begin(relay: Relay, right: Right, durable: Option<(CursorName, Durable)>) -> Result<Self, Error> {
        let subscriber = relay.subscriber();
        let mut feed = Self { right, relay, subscriber, durable, news: None };
        feed.refresh().await?;
        feed.news = None;
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
            if let Some(event) = self.settle().await {
                return event;
            }
            tokio::select! {
                biased;
                () = self.right.changed() => {}
                () = due(self.durable.as_ref()) => if let Some((_, durable)) = &mut self.durable { durable.flush().await },
                delivery = self.subscriber.next() => return FeedEvent::Delivery(delivery),
            }
        }
    }

    /// A change of whom it follows, if there was word of one: for a reader that has yet to write what it was given. Cancel-safe.
    pub async fn settle(&mut self) -> Option<FeedEvent> {
        while self.right.is_stale() {
            if let Some(event) = self.look().await {
                return Some(event);
            }
        }
        None
    }

    /// The next change of whom it follows: for a reader that is held up writing what it was given. Cancel-safe.
    pub async fn changed(&mut self) -> FeedEvent {
        loop {
            if let Some(event) = self.settle().await {
                return event;
            }
            self.right.changed().await;
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

    /// What can be delivered from memory without waiting; nothing once there is word that its rights may have changed.
    pub fn try_next(&mut self) -> Option<Delivery> {
        if self.right.is_stale() { None } else { self.subscriber.try_next() }
    }

    /// Whom it follows.
    pub fn followed(&self) -> impl Iterator<Item = ProducerId> {
        self.subscriber.followed()
    }

    /// How far a producer's log has been read: right after its follow began, where that is.
    pub fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        self.subscriber.cursor(producer)
    }

    /// Chosen producers that it does not follow, for want of a subscription.
    pub fn lacks(&self) -> Vec<ProducerId> {
        let Right::Subscriptions { chosen: Some(chosen), .. } = &self.right else { return Vec::new() };
        let mut lacking: Vec<_> = chosen.iter().copied().filter(|&producer| self.subscriber.cursor(producer).is_none()).collect();
        lacking.sort();
        lacking
    }

    async fn allowed(&self) -> Result<HashSet<ProducerId>, Error> {
        match &self.right {
            Right::Granted(producers) => Ok(producers.clone()),
            Right::Subscriptions { consumer, chosen, .. } => {
                let follows = self.relay.0.store.follows(*consumer).await.map_err(Error::store)?;
                let wanted = |producer: &ProducerId| chosen.as_ref().is_none_or(|chosen| chosen.contains(producer));
                Ok(follows.into_iter().filter(wanted).collect())
            }
        }
    }

    /// Follows a change that was noticed: `None` once there is nothing left of it, and where the database is away.
    async fn look(&mut self) -> Option<FeedEvent> {
        let version = self.right.version();
        let outcome = if self.news.is_some() { Ok(()) } else { self.refresh().await };
        // There may be more; what was told is acted on first.
        if let Some(event) = self.news.take() {
            return Some(event);
        }
        match outcome {
            Ok(()) => self.right.looked(version),
            Err(e) => {
                warn!(reader = ?self.right, error = %e, "subscriptions cannot be read; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
        None
    }

    /// Follows what the store says, and leaves in `news` that there was a difference.
    async fn refresh(&mut self) -> Result<(), Error> {
        let allowed = self.allowed().await?;
        let followed: HashSet<ProducerId> = self.subscriber.followed().collect();
        self.relay.0.logs.prepare(allowed.difference(&followed).copied()).await?;
        for &producer in followed.difference(&allowed) {
            self.subscriber.unfollow(producer);
            self.news = Some(FeedEvent::Left(producer));
        }
        for &producer in allowed.difference(&followed) {
            let from = match &self.durable {
                Some((name, durable)) => durable.place(name, producer, ReadFrom::Live).await?,
                None => ReadFrom::Live,
            };
            self.subscriber.follow(producer, from).await?;
            self.news = Some(FeedEvent::Joined(producer));
        }
        Ok(())
    }
}

impl Right {
    /// Returns when it may have changed. Cancel-safe.
    async fn changed(&self) {
        match self {
            Self::Subscriptions { changes, .. } => changes.changed().await,
            Self::Granted(_) => std::future::pending().await,
        }
    }

    /// Whether there is word of a change that was not followed yet.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Subscriptions { changes, .. } if changes.is_pending())
    }

    fn version(&self) -> u64 {
        match self {
            Self::Subscriptions { changes, .. } => changes.version(),
            Self::Granted(_) => 0,
        }
    }

    fn looked(&self, version: u64) {
        if let Self::Subscriptions { changes, .. } = self {
            changes.looked(version);
        }
    }
}

async fn due(durable: Option<&(CursorName, Durable)>) {
    match durable {
        Some((_, durable)) => durable.due().await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscriptions { consumer, .. } => write!(f, "consumer {consumer}"),
            Self::Granted(_) => f.write_str("granted"),
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("right", &self.right).finish_non_exhaustive()
    }
}
