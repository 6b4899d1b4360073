//! Subscription cache: subscriber counts, and a change signal for each consumer with open readers. The store is the truth; events of the
//! cluster bus say when to read it again, and a short lifetime bounds how long a lost event can matter.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use moka::future::Cache;
use motience_cluster::Event;
use motience_proto::model::{ConsumerId, ProducerId};
use motience_store::Store;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Error;

/// How long a subscriber count is believed without an event.
const COUNT_LIFETIME: Duration = Duration::from_secs(30);
/// Producers whose count is kept.
const COUNTS: u64 = 100_000;

/// The subscription cache.
pub struct SubscriptionCache {
    counts: Cache<ProducerId, u64>,
    watchers: Mutex<HashMap<ConsumerId, Vec<Weak<ChangeSignal>>>>,
}

impl SubscriptionCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self { counts: Cache::builder().max_capacity(COUNTS).time_to_live(COUNT_LIFETIME).build(), watchers: Mutex::default() }
    }

    /// Applies an event of the bus.
    pub fn apply(&self, event: &Event) {
        let (Event::Subscribed { consumer, producer } | Event::Unsubscribed { consumer, producer }) = event else { return };
        // Runs in the log's thread, where nothing can be awaited; a running query may put the old count back, for its lifetime at most.
        let counts = self.counts.clone();
        let producer = *producer;
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { counts.invalidate(&producer).await });
        } else {
            counts.invalidate_all();
        }
        let watchers = self.watchers.lock();
        watchers.get(consumer).into_iter().flatten().filter_map(Weak::upgrade).for_each(|signal| signal.raise());
    }

    /// Events may have been lost: everyone looks again.
    pub fn mark_stale(&self) {
        self.counts.invalidate_all();
        let watchers = self.watchers.lock();
        watchers.values().flatten().filter_map(Weak::upgrade).for_each(|signal| signal.raise());
    }

    /// Watches this consumer's subscriptions from now on.
    pub(super) fn watch(self: &Arc<Self>, consumer: ConsumerId) -> Watch {
        let signal = Arc::new(ChangeSignal::default());
        let mut watchers = self.watchers.lock();
        watchers.entry(consumer).or_default().push(Arc::downgrade(&signal));
        Watch { subscription_cache: Arc::clone(self), consumer, signal, seen: AtomicU64::new(0) }
    }

    pub(super) async fn subscriber_count(&self, store: &Store, producer: ProducerId) -> Result<u64, Error> {
        self.counts.try_get_with(producer, store.follower_count(producer)).await.map_err(Error::Store)
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

    /// To be read before the store is.
    pub fn version(&self) -> u64 {
        self.signal.version.load(Ordering::Acquire)
    }

    /// The store was looked at since this version, and what it says was followed.
    pub fn looked(&self, version: u64) {
        self.seen.store(version, Ordering::Release);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
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
        f.debug_struct("Routes").finish_non_exhaustive()
    }
}
