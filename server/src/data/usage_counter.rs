//! Counts records as they are taken in (COUNT_USAGE): one more durable reader of the log, which follows every producer.
//!
//! The counts of a batch and the place up to which each log is counted are written in one transaction, so that each record is counted once, however
//! often this is interrupted, and whichever node counts. One node of a cluster counts at a time (see [`Lease`]); that two believe they do is
//! harmless. Where the log began another epoch, records behind the last offset that both share count again if they came again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use motience_backend::Kind;
use motience_cluster::Lease;
use motience_proto::model::{Cursor, ProducerId, Role, record};
use motience_relay::{self as relay, Delivery, Notice, StartPosition, Subscriber};
use motience_runtime::backoff::Backoff;
use motience_store::{MAX_PAGE, Page, TakenIn};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::http::Services;

/// Name of the lease of the node that counts.
const LEASE: &str = "usage";
/// How often new producers are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long wake-ups gather before the log is read.
const READ_EVERY: Duration = Duration::from_millis(250);
/// How long nothing must have come in before a node that stops counts its log as read.
const QUIET: Duration = Duration::from_millis(500);
/// Records of one transaction, about.
const RECORDS: u64 = 50_000;
const HOUR: i64 = 3600;
/// First pause before an unreachable database is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Counts until `stop`, and what of an embedded node still comes in while its ingresses close.
pub async fn usage_counter(services: Arc<Services>, stop: CancellationToken) {
    let backend = &services.backend;
    let mut lease = match backend.kind {
        Kind::Embedded => Lease::uncontended(LEASE, backend.clock.clone()),
        Kind::Cluster => Lease::new(LEASE, &backend.node, backend.store.clone(), backend.clock.clone()),
    };
    loop {
        if stop.run_until_cancelled(lease.acquired()).await.is_none() && !lease.is_uncontended() {
            break;
        }
        info!("counting usage");
        let mut counter = Counter::new(Arc::clone(&services));
        if stop.run_until_cancelled(counter.run(&mut lease)).await.is_none() {
            if lease.is_uncontended() {
                counter.finish().await;
            }
            break;
        }
        info!("another node counts usage now");
    }
    lease.release().await;
}

struct Counter {
    services: Arc<Services>,
    subscriber: Subscriber,
    /// The producers it follows, and how far each is counted as far as it knows.
    counted: HashMap<ProducerId, Option<Cursor>>,
    /// Producers to follow at the next look.
    to_follow: BTreeSet<ProducerId>,
    /// The last producer found.
    newest: i64,
    pending: HashMap<ProducerId, TakenIn>,
    records: u64,
}

impl Counter {
    fn new(services: Arc<Services>) -> Self {
        let subscriber = services.backend.relay.subscriber().uncounted().from_log(READ_EVERY);
        let (counted, to_follow, pending) = Default::default();
        Self { services, subscriber, counted, to_follow, newest: 0, pending, records: 0 }
    }

    /// Returns when another node has taken over.
    async fn run(&mut self, lease: &mut Lease) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    if !lease.is_held().await {
                        return;
                    }
                    self.look().await;
                }
                delivery = self.subscriber.next() => {
                    self.take_all(&delivery);
                    self.count().await;
                }
            }
        }
    }

    async fn finish(&mut self) {
        self.look().await;
        self.count().await;
        while let Ok(delivery) = timeout(QUIET, self.subscriber.next()).await {
            self.take_all(&delivery);
            self.count().await;
        }
    }

    /// Follows producers that it does not follow yet; a failure is tried again at the next look.
    async fn look(&mut self) {
        if let Err(e) = self.follow_new_producers().await {
            warn!(error = %e, "not every producer can be followed to count its usage; trying again");
        }
    }

    async fn follow_new_producers(&mut self) -> Result<(), relay::Error> {
        let live = self.services.backend.reports.live_streams().into_iter().map(|live| live.producer);
        self.to_follow.extend(live.filter(|producer| !self.counted.contains_key(producer)));
        while let Some(&producer) = self.to_follow.first() {
            self.follow(producer).await?;
            self.to_follow.remove(&producer);
        }
        loop {
            let page = Page { after: self.newest, limit: MAX_PAGE };
            let found = self.services.backend.store.users(Role::Producer, page).await.map_err(Arc::new)?;
            for producer in found.iter().map(|user| user.id.producer()) {
                self.follow(producer).await?;
                self.newest = producer.0;
            }
            if found.len() < MAX_PAGE as usize {
                return Ok(());
            }
        }
    }

    /// Follows a producer from where it is counted.
    async fn follow(&mut self, producer: ProducerId) -> Result<(), relay::Error> {
        if !self.counted.contains_key(&producer) {
            let key = self.services.backend.relay.log_of(producer).await?;
            let cursor = self.services.backend.store.usage_cursor(key).await.map_err(Arc::new)?;
            self.subscriber.follow(producer, cursor.map_or(StartPosition::Earliest, StartPosition::After)).await?;
            self.counted.insert(producer, cursor);
        }
        Ok(())
    }

    /// Takes a delivery and those that are there behind it, until there is enough.
    fn take_all(&mut self, first: &Delivery) {
        self.take(first);
        while self.records < RECORDS
            && let Some(delivery) = self.subscriber.try_next()
        {
            self.take(&delivery);
        }
    }

    fn take(&mut self, delivery: &Delivery) {
        let producer = delivery.producer();
        let (Some(&expected), Some(key)) = (self.counted.get(&producer), self.subscriber.log_key(producer)) else { return };
        let now = self.services.backend.clock.now();
        let pending = self.pending.entry(producer).or_insert_with(|| {
            let cursor = expected.unwrap_or_default();
            TakenIn { key, expected, cursor, counts: Default::default() }
        });
        match delivery {
            Delivery::Batch { batch, after } => {
                let at = batch.received.unwrap_or(now).unix_timestamp();
                let hour = at - at.rem_euclid(HOUR);
                for (_, _, message) in batch.after(*after) {
                    // Records are checked as they come in; a damaged one is counted for no device.
                    let device = record::device_of(message).map(|device| device.to_string()).unwrap_or_default();
                    let count = pending.counts.entry((hour, device)).or_default();
                    count.0 += 1;
                    count.1 += message.len() as u64;
                    self.records += 1;
                }
                pending.cursor = Cursor { log_epoch: batch.log_epoch, offset: batch.last() };
            }
            Delivery::Notice(Notice::Gap { from, to, .. }) => {
                warn!(%producer, %from, %to, "retention removed these records before they were counted");
                metrics::counter!("motience_usage_missed_total").increment(to.0 - from.0 + 1);
                if let Some(at) = self.subscriber.cursor(producer) {
                    pending.cursor = Cursor { offset: *to, ..at };
                }
            }
            Delivery::Notice(Notice::Reset { cursor, .. }) => pending.cursor = *cursor,
        }
    }

    /// Tries until what was taken is written down, or is found to be counted already.
    async fn count(&mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        let batches: Vec<TakenIn> = std::mem::take(&mut self.pending).into_values().collect();
        self.records = 0;
        while !batches.is_empty() {
            match self.services.backend.store.count_taken_in(&batches).await {
                Ok(moved) => {
                    for batch in &batches {
                        let producer = batch.key.producer;
                        if moved.contains(&producer) {
                            debug!(%producer, "somebody else has counted on; following again from there");
                            self.subscriber.unfollow(producer);
                            self.counted.remove(&producer);
                            self.to_follow.insert(producer);
                        } else {
                            self.counted.insert(producer, Some(batch.cursor));
                        }
                    }
                    break;
                }
                Err(e) => {
                    warn!(error = %e, "usage cannot be written; trying again");
                    sleep(backoff.pause()).await;
                }
            }
        }
    }
}
