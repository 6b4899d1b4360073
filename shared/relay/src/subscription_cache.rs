//! Subscription cache: subscriber counts, and a change signal for each consumer with open readers. The store is the truth; events of the
//! cluster bus say when to read it again, and a short lifetime bounds how long a lost event can matter. A right that ends by itself has no
//! event: each watch says when the next of its consumer's rights ends, and is signalled then.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use motience_cluster::Event;
use motience_proto::model::{ConsumerId, ProducerId};
use motience_runtime::clock::{Clock, millis};
use motience_store::{Followers, Store};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::{sync::Notify, time::sleep};

use super::{Error, subscriber_watch::Changed};

/// How long a subscriber count is believed without an event.
const COUNT_LIFETIME: Duration = Duration::from_secs(30);
/// Counts that are kept.
const COUNTS: u64 = 100_000;
/// Producers share this many versions: a change of one has the counts of a few others read again.
const VERSIONS: usize = 1024;
/// How often the time of day is compared with the ends of rights, while there are any: it may be set.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Watches that look again at once where events may have been lost, and the pause before others do.
const LOOKS_AT_ONCE: usize = 50;
const LOOKS_PAUSE: Duration = Duration::from_millis(50);
/// The end of a right that does not end by itself.
const NEVER: i64 = i64::MAX;

/// The subscription cache.
pub struct SubscriptionCache {
    /// Each under the version that its producer had before the store was read: a count that was read while something changed is never
    /// asked for again.
    counts: Cache<(ProducerId, u64), Followers>,
    versions: Vec<AtomicU64>,
    watchers: Mutex<HashMap<ConsumerId, Vec<Weak<ChangeSignal>>>>,
    /// Connections of producers that want to hear of their subscribers.
    producers: Mutex<HashMap<ProducerId, Vec<Weak<Changed>>>>,
    /// When the next right of each watch ends, in milliseconds since 1970, and the watch's number.
    ends: Mutex<BTreeMap<(i64, u64), Weak<ChangeSignal>>>,
    /// An end was noted where there was none.
    noted: Notify,
    /// Events may have been lost.
    stale: Notify,
    next_watch: AtomicU64,
}

impl SubscriptionCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self {
            counts: Cache::builder().max_capacity(COUNTS).time_to_live(COUNT_LIFETIME).build(),
            versions: (0..VERSIONS).map(|_| AtomicU64::new(0)).collect(),
            watchers: Mutex::default(),
            producers: Mutex::default(),
            ends: Mutex::default(),
            noted: Notify::new(),
            stale: Notify::new(),
            next_watch: AtomicU64::new(0),
        }
    }

    /// Applies an event of the bus.
    pub fn apply(&self, event: &Event) {
        let (Event::Subscribed { consumer, producer } | Event::Unsubscribed { consumer, producer }) = event else { return };
        self.version_of(*producer).fetch_add(1, Ordering::AcqRel);
        let producers = self.producers.lock();
        producers.get(producer).into_iter().flatten().filter_map(Weak::upgrade).for_each(|changed| changed.note(*consumer));
        drop(producers);
        let watchers = self.watchers.lock();
        watchers.get(consumer).into_iter().flatten().filter_map(Weak::upgrade).for_each(|signal| signal.raise());
    }

    /// Events may have been lost: everyone looks again, a thousand in a second.
    pub fn mark_stale(&self) {
        for version in &self.versions {
            version.fetch_add(1, Ordering::AcqRel);
        }
        let producers = self.producers.lock();
        producers.values().flatten().filter_map(Weak::upgrade).for_each(|changed| changed.note_break());
        drop(producers);
        self.stale.notify_one();
    }

    /// Has every watch look again after events may have been lost, some at a time, for as long as it is polled: each of them reads the
    /// database, which has others to serve.
    pub(super) async fn keep_fresh(&self) {
        loop {
            self.stale.notified().await;
            let signals: Vec<Weak<ChangeSignal>> = self.watchers.lock().values().flatten().cloned().collect();
            for some in signals.chunks(LOOKS_AT_ONCE) {
                some.iter().filter_map(Weak::upgrade).for_each(|signal| signal.raise());
                if some.len() == LOOKS_AT_ONCE {
                    sleep(LOOKS_PAUSE).await;
                }
            }
        }
    }

    /// Watches this consumer's subscriptions from now on.
    pub(super) fn watch(self: &Arc<Self>, consumer: ConsumerId) -> Watch {
        let signal = Arc::new(ChangeSignal::default());
        let mut watchers = self.watchers.lock();
        watchers.entry(consumer).or_default().push(Arc::downgrade(&signal));
        let number = self.next_watch.fetch_add(1, Ordering::Relaxed);
        Watch { subscription_cache: Arc::clone(self), consumer, signal, seen: AtomicU64::new(0), number, end: AtomicI64::new(NEVER) }
    }

    pub(super) async fn subscriber_count(&self, store: &Store, producer: ProducerId, now: OffsetDateTime) -> Result<u64, Error> {
        let key = (producer, self.version_of(producer).load(Ordering::Acquire));
        if self.counts.get(&key).await.is_some_and(|followers| followers.until.is_some_and(|end| end <= now)) {
            self.counts.invalidate(&key).await;
        }
        let followers = self.counts.try_get_with(key, store.followers(producer, now)).await.map_err(Error::Store)?;
        Ok(followers.count)
    }

    /// Notes the changes of a producer's subscriptions from now on, for as long as somebody holds what is returned.
    pub(super) fn watch_subscribers(&self, producer: ProducerId) -> Arc<Changed> {
        let changed = Arc::default();
        let mut producers = self.producers.lock();
        // Those that are gone go with the next that comes.
        producers.retain(|_, watching| {
            watching.retain(|other| other.strong_count() > 0);
            !watching.is_empty()
        });
        producers.entry(producer).or_default().push(Arc::downgrade(&changed));
        changed
    }

    fn version_of(&self, producer: ProducerId) -> &AtomicU64 {
        &self.versions[producer.0.unsigned_abs() as usize % VERSIONS]
    }

    /// Signals each watch when a right of its consumer ends, for as long as it is polled.
    pub(super) async fn keep_time(&self, clock: &Clock) {
        loop {
            if self.ends.lock().is_empty() {
                self.noted.notified().await;
            } else {
                sleep(LOOK_EVERY).await;
            }
            let now = millis(clock.now());
            let over = {
                let mut ends = self.ends.lock();
                let later = ends.split_off(&(now + 1, 0));
                std::mem::replace(&mut *ends, later)
            };
            over.values().filter_map(Weak::upgrade).for_each(|signal| signal.raise());
        }
    }
}

/// Change signal of one watch.
#[derive(Debug, Default)]
struct ChangeSignal {
    /// How many there were.
    version: AtomicU64,
    notify: Notify,
}

impl ChangeSignal {
    fn raise(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
        self.notify.notify_one();
    }
}

/// Tells when a consumer's subscriptions may have changed. Whoever is told reads the store, and says which version of the
/// signal it had read before: a change in between is told again.
pub struct Watch {
    subscription_cache: Arc<SubscriptionCache>,
    consumer: ConsumerId,
    signal: Arc<ChangeSignal>,
    /// The version up to which the store was looked at.
    seen: AtomicU64,
    number: u64,
    /// The end that it is noted under.
    end: AtomicI64,
}

impl Watch {
    /// Returns when there is a change that was not looked at. For one task at a time. Cancel-safe.
    pub async fn changed(&self) {
        while !self.is_pending() {
            self.signal.notify.notified().await;
        }
    }

    /// Says if there is a change that was not looked at.
    pub fn is_pending(&self) -> bool {
        self.version() != self.seen.load(Ordering::Acquire)
    }

    /// Has the store looked at, though nothing has changed.
    pub(super) fn raise(&self) {
        self.signal.raise();
    }

    /// To be read before the store is.
    pub fn version(&self) -> u64 {
        self.signal.version.load(Ordering::Acquire)
    }

    /// The store was looked at since this version, and what it says was followed. The next of the rights that it told of ends at `end`.
    pub fn looked(&self, version: u64, end: Option<OffsetDateTime>) {
        self.note(end.map_or(NEVER, millis));
        self.seen.store(version, Ordering::Release);
    }

    /// Has itself signalled at this time, and at no other.
    fn note(&self, end: i64) {
        let before = self.end.swap(end, Ordering::AcqRel);
        if before == NEVER && end == NEVER {
            return;
        }
        let mut ends = self.subscription_cache.ends.lock();
        ends.remove(&(before, self.number));
        if end != NEVER {
            ends.insert((end, self.number), Arc::downgrade(&self.signal));
            self.subscription_cache.noted.notify_one();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.note(NEVER);
        let mut watchers = self.subscription_cache.watchers.lock();
        if let Some(mine) = watchers.get_mut(&self.consumer) {
            mine.retain(|w| w.as_ptr() != Arc::as_ptr(&self.signal));
            if mine.is_empty() {
                watchers.remove(&self.consumer);
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}

impl Default for SubscriptionCache {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SubscriptionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubscriptionCache").finish_non_exhaustive()
    }
}
