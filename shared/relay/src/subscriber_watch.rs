//! A producer's subscriptions as they change, for those of its connections that want to hear of them.
//!
//! Events say whose subscription to look at; what is told is what the store says by then. So changes that follow each other fast may be told as
//! one. After a break, and where more changed at once than is remembered, the store is asked what has changed since. An end by the clock has no
//! event: the watch knows when the next one comes.

use std::{
    collections::{BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use motience_proto::model::{ConsumerId, ProducerId, Subscription};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::{sync::Notify, time::sleep};
use tracing::warn;

use super::{Error, Relay};

/// Changed subscriptions that are remembered until somebody looks.
const MOST: usize = 1024;
/// How often the time of day is compared with the next end.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause before a database that is away is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// The clocks of nodes differ, and a change is written a moment after its time was taken. A change that is told twice does no harm.
const OVERLAP: Duration = Duration::from_secs(5);

/// Changes that a watch has not looked at.
#[derive(Debug, Default)]
pub(super) struct Changed {
    of: Mutex<Pending>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    consumers: BTreeSet<ConsumerId>,
    /// There may be more.
    missed: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.consumers.is_empty() && !self.missed
    }

    fn add(&mut self, consumer: ConsumerId) {
        if self.consumers.len() < MOST {
            self.consumers.insert(consumer);
        } else {
            self.missed = true;
        }
    }

    fn append(&mut self, other: Self) {
        self.missed |= other.missed;
        other.consumers.into_iter().for_each(|consumer| self.add(consumer));
    }
}

impl Changed {
    pub(super) fn note(&self, consumer: ConsumerId) {
        self.of.lock().add(consumer);
        self.notify.notify_one();
    }

    pub(super) fn note_break(&self) {
        self.of.lock().missed = true;
        self.notify.notify_one();
    }
}

/// The subscriptions to one producer, as they change from now on.
pub struct SubscriberWatch {
    relay: Relay,
    producer: ProducerId,
    changed: Arc<Changed>,
    /// Taken from `changed`, and not looked at yet.
    pending: Pending,
    told: VecDeque<Subscription>,
    /// All before this was told.
    looked: OffsetDateTime,
    next_end: NextEnd,
}

/// When the next subscription ends by itself.
#[derive(Clone, Copy, Debug)]
enum NextEnd {
    /// Nobody has asked yet, or the last one has come.
    Unknown,
    /// Not before this, where there is one at all.
    At(Option<OffsetDateTime>),
}

impl SubscriberWatch {
    pub(super) fn new(relay: Relay, producer: ProducerId) -> Self {
        let changed = relay.0.subscription_cache.watch_subscribers(producer);
        let looked = relay.0.clock.now();
        Self { relay, producer, changed, pending: Pending::default(), told: VecDeque::new(), looked, next_end: NextEnd::Unknown }
    }

    /// The next subscription that has changed, as it stands. Cancel-safe.
    pub async fn next(&mut self) -> Subscription {
        loop {
            if let Some(subscription) = self.told.pop_front() {
                return subscription;
            }
            self.pending.append(std::mem::take(&mut *self.changed.of.lock()));
            if self.pending.is_empty() && !self.is_end_due() {
                self.something().await;
                continue;
            }
            if let Err(e) = self.look().await {
                warn!(producer = %self.producer, error = %e, "subscribers cannot be read; trying again");
                sleep(RETRY_AFTER).await;
            }
        }
    }

    /// Returns when there may be something to look at.
    async fn something(&self) {
        match self.next_end {
            NextEnd::At(None) => self.changed.notify.notified().await,
            _ => {
                let _ = tokio::time::timeout(LOOK_EVERY, self.changed.notify.notified()).await;
            }
        }
    }

    fn is_end_due(&self) -> bool {
        match self.next_end {
            NextEnd::Unknown => true,
            NextEnd::At(end) => end.is_some_and(|end| end <= self.relay.0.clock.now()),
        }
    }

    /// Reads what is pending. Waits first, so that a cancelled call loses nothing.
    async fn look(&mut self) -> Result<(), Error> {
        let (store, now) = (&self.relay.0.store, self.relay.0.clock.now());
        let (mut changed, mut next_end) = (Vec::new(), self.next_end);
        if self.pending.missed || self.is_end_due() {
            let since = self.pending.missed.then(|| self.looked - OVERLAP);
            changed = store.subscribers_since(self.producer, since, self.looked, now).await.map_err(Error::store)?;
            next_end = NextEnd::At(store.followers(self.producer, now).await.map_err(Error::store)?.until);
        }
        for &consumer in &self.pending.consumers {
            let found = store.subscription_between(consumer, self.producer, now).await.map_err(Error::store)?;
            if let Some(found) = found
                && changed.iter().all(|other: &Subscription| other.id != found.id)
            {
                changed.push(found);
            }
        }
        if let NextEnd::At(end) = &mut next_end {
            let ends = changed.iter().filter_map(|changed| changed.expires_at).filter(|&end| end > now);
            *end = ends.chain(*end).min();
        }
        self.pending = Pending::default();
        self.told.extend(changed);
        self.looked = now;
        self.next_end = next_end;
        Ok(())
    }
}

impl fmt::Debug for SubscriberWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriberWatch").field("producer", &self.producer).finish_non_exhaustive()
    }
}
