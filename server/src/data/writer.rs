//! The history writer (PERSIST=true): one more durable consumer of the log, which follows every producer and keeps what it reads.
//!
//! The writer gathers a batch, and reads on only after the batch is committed together with its cursor in each log. An unreachable database
//! therefore delays it, costs no memory, and loses nothing that the log still holds. After an interruption this or another writer continues at
//! the stored cursor, with each record kept once. One node of a cluster writes at a time (see [`Lease`]); that two believe they do is
//! harmless, because a batch is kept only where the history stands where its reader began.
//!
//! When an embedded node stops, it goes on until nothing more comes in: the log may end with its process. In a cluster another node
//! goes on.

mod pending;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use motience_backend::{Backend, Kind};
use motience_cluster::Lease;
use motience_log::Batch;
use motience_proto::model::{Cursor, DeviceId, Offset, ProducerId, Role, record::Parts};
use motience_relay::{self as relay, Delivery, GapCause, Notice, StartPosition, Subscriber};
use motience_runtime::backoff::Backoff;
use motience_store::{HistoryRow, MAX_PAGE, Page};
use time::OffsetDateTime;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::pending::Pending;
use crate::http::Services;

/// Name of the lease of the node that writes.
const LEASE: &str = "history";
/// How often new producers are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nothing must have come in before a node that stops counts its log as read.
const QUIET: Duration = Duration::from_secs(1);
/// Longest time for which a batch is gathered: many producers that send little then share a transaction.
const GATHER: Duration = Duration::from_millis(100);
/// How long wake-ups gather before the log is read: the writer takes nothing from published batches, and reads the log itself.
const READ_EVERY: Duration = Duration::from_millis(50);
/// First pause before an unreachable database is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Keeps records until `stop`, and those of an embedded node that still come in while its ingresses close.
pub async fn history_writer(services: Arc<Services>, stop: CancellationToken) {
    let mut lease = lease_of(&services.backend);
    loop {
        // An embedded node's log is finished even where the stop comes at once.
        if stop.run_until_cancelled(lease.acquired()).await.is_none() && !lease.is_uncontended() {
            break;
        }
        info!("keeping history");
        let mut writer = Writer::new(Arc::clone(&services));
        // Cutting `run` short loses nothing: what it has read is in `pending` until it is committed, and whether a commit that was cut
        // short took place shows in the stored place.
        if stop.run_until_cancelled(writer.run(&mut lease)).await.is_none() {
            if lease.is_uncontended() {
                writer.finish().await;
            }
            break;
        }
        info!("another node keeps history now");
    }
    lease.release().await;
}

/// The writer's lease. An embedded node needs none, because no other node can write its history.
fn lease_of(backend: &Backend) -> Lease {
    let clock = backend.clock.clone();
    match backend.kind {
        Kind::Embedded => Lease::uncontended(LEASE, clock),
        Kind::Cluster => Lease::new(LEASE, &backend.node, backend.store.clone(), clock),
    }
}

struct Writer {
    services: Arc<Services>,
    subscriber: Subscriber,
    /// The producers it follows, and how far the history of each has come as far as it knows.
    kept: HashMap<ProducerId, Option<Cursor>>,
    /// Producers to follow at the next look.
    to_follow: BTreeSet<ProducerId>,
    /// The last producer found.
    newest: i64,
    pending: Pending,
    /// When the oldest record of the last transaction came.
    kept_from: Option<OffsetDateTime>,
}

impl Writer {
    fn new(services: Arc<Services>) -> Self {
        let subscriber = services.backend.relay.subscriber().uncounted().from_log(READ_EVERY);
        Self {
            services,
            subscriber,
            kept: HashMap::new(),
            to_follow: BTreeSet::new(),
            newest: 0,
            pending: Pending::default(),
            kept_from: None,
        }
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
                    self.measure();
                }
                delivery = self.subscriber.next() => {
                    self.gather_from(delivery).await;
                    self.keep().await;
                }
            }
        }
    }

    async fn finish(&mut self) {
        self.look().await;
        self.keep().await;
        while let Ok(delivery) = timeout(QUIET, self.subscriber.next()).await {
            self.take(delivery);
            while !self.pending.is_full()
                && let Some(delivery) = self.subscriber.try_next()
            {
                self.take(delivery);
            }
            self.keep().await;
        }
    }

    /// Follows producers that it does not follow yet; a failure is tried again at the next look.
    async fn look(&mut self) {
        if let Err(e) = self.follow_new_producers().await {
            warn!(error = %e, "not every producer can be followed for the history; trying again");
        }
    }

    /// Who has registered since the last look, and who sends: of two accounts that are made at once the later one may be seen first,
    /// and the other is then behind `newest`.
    async fn follow_new_producers(&mut self) -> Result<(), relay::Error> {
        let live = self.services.backend.reports.live_streams().into_iter().map(|live| live.producer);
        self.to_follow.extend(live.filter(|producer| !self.kept.contains_key(producer)));
        while let Some(&producer) = self.to_follow.first() {
            let cursor = self.services.backend.store.history_cursor(producer).await.map_err(Arc::new)?;
            self.follow(producer, cursor).await?;
            self.to_follow.remove(&producer);
        }
        loop {
            let page = Page { after: self.newest, limit: MAX_PAGE };
            let store = &self.services.backend.store;
            let found = store.users(Role::Producer, page).await.map_err(Arc::new)?;
            let (Some(first), Some(last)) = (found.first(), found.last()) else { return Ok(()) };
            let cursors = store.history_cursors(first.id.producer(), last.id.producer()).await.map_err(Arc::new)?;
            let cursors: HashMap<ProducerId, Cursor> = cursors.into_iter().collect();
            for producer in found.iter().map(|user| user.id.producer()) {
                self.follow(producer, cursors.get(&producer).copied()).await?;
                self.newest = producer.0;
            }
            if found.len() < MAX_PAGE as usize {
                return Ok(());
            }
        }
    }

    /// Follows a producer from where its history stands.
    async fn follow(&mut self, producer: ProducerId, cursor: Option<Cursor>) -> Result<(), relay::Error> {
        if !self.kept.contains_key(&producer) {
            self.subscriber.follow(producer, cursor.map_or(StartPosition::Earliest, StartPosition::After)).await?;
            self.kept.insert(producer, cursor);
        }
        Ok(())
    }

    /// Gathers a delivery and what comes in after it, until there is enough or it has lasted long enough.
    async fn gather_from(&mut self, delivery: Delivery) {
        self.take(delivery);
        let until = Instant::now() + GATHER;
        while !self.pending.is_full()
            && let Ok(delivery) = timeout_at(until, self.subscriber.next()).await
        {
            self.take(delivery);
        }
    }

    fn take(&mut self, delivery: Delivery) {
        let producer = delivery.producer();
        // The subscriber gives nothing of a producer that it does not follow.
        let (Some(&expected), Some(key)) = (self.kept.get(&producer), self.subscriber.log_key(producer)) else { return };
        match delivery {
            Delivery::Batch { batch, after } => {
                let cursor = Cursor { log_epoch: batch.log_epoch, offset: batch.last() };
                let rows = self.rows(&batch, after);
                self.pending.add(key, expected, cursor, rows);
            }
            Delivery::Notice(Notice::Gap { from, to, cause, .. }) => {
                if cause != GapCause::Erased {
                    warn!(%producer, %from, %to, ?cause, "these records were gone before the history writer read them: they are not in the history");
                    metrics::counter!("motience_history_missed_total").increment(to.0 - from.0 + 1);
                }
                if let Some(at) = self.subscriber.cursor(producer) {
                    self.pending.add(key, expected, Cursor { offset: to, ..at }, Vec::new());
                }
            }
            Delivery::Notice(Notice::Reset { cursor, .. }) => {
                info!(%producer, %cursor, "the log began a new epoch");
                self.pending.add(key, expected, cursor, Vec::new());
            }
        }
    }

    fn rows(&self, batch: &Batch, after: Offset) -> Vec<HistoryRow> {
        let received_at = batch.received.unwrap_or_else(|| self.services.backend.clock.now());
        let mut rows = Vec::with_capacity(batch.len());
        for (offset, record_id, message) in batch.after(after) {
            // Checked when it came in; what cannot be taken apart now was damaged in the log.
            let parts = Parts::of(message).and_then(|parts| Ok((parts.time()?, parts)));
            let row = parts.ok().and_then(|(timestamp, parts)| {
                let device = DeviceId::new(&parts.device_id).ok()?;
                let place = Cursor { log_epoch: batch.log_epoch, offset };
                Some(HistoryRow { place, record_id, device, timestamp, received_at, extra: parts.others(), data: parts.data.to_owned() })
            });
            match row {
                Some(row) => rows.push(row),
                None => warn!(producer = %batch.producer, %offset, "a damaged entry is not kept"),
            }
        }
        rows
    }

    /// Tries until what was gathered is committed, or is found to be kept already.
    async fn keep(&mut self) {
        let (begun, mut backoff) = (Instant::now(), Backoff::new(FIRST_PAUSE, MAX_PAUSE));
        while !self.pending.is_empty() {
            match self.services.backend.store.keep_history(self.pending.batches()).await {
                Ok(kept) => {
                    metrics::counter!("motience_history_rows_total").increment(kept.rows);
                    metrics::counter!("motience_history_batches_total").increment(1);
                    metrics::gauge!("motience_history_waiting_seconds").set(0.0);
                    self.settle(&kept.moved);
                }
                Err(e) => {
                    metrics::gauge!("motience_history_waiting_seconds").set(begun.elapsed().as_secs_f64());
                    warn!(error = %e, rows = self.pending.rows(), "history cannot be written; trying again");
                    sleep(backoff.pause()).await;
                }
            }
        }
        // Where the history stood elsewhere, go on from there now, not a second later.
        if !self.to_follow.is_empty() {
            self.look().await;
        }
    }

    /// Says how far the history is behind the logs.
    fn measure(&self) {
        let behind = self.kept.iter().map(|(&producer, kept)| {
            let end = self.subscriber.end(producer).unwrap_or_default();
            match kept {
                Some(kept) if kept.log_epoch == end.log_epoch => end.offset.0.saturating_sub(kept.offset.0),
                _ => self.subscriber.cursor(producer).map_or(0, |read| end.offset.0.saturating_sub(read.offset.0)),
            }
        });
        let records: u64 = behind.sum();
        let age = self.kept_from.filter(|_| records > 0).map_or(0.0, |at| (self.services.backend.clock.now() - at).as_seconds_f64());
        metrics::gauge!("motience_history_lag_records").set(records as f64);
        metrics::gauge!("motience_history_lag_seconds").set(age.max(0.0));
    }

    fn settle(&mut self, moved: &[ProducerId]) {
        self.kept_from = self.pending.oldest().or(self.kept_from);
        for batch in self.pending.take() {
            if moved.contains(&batch.producer) {
                debug!(producer = %batch.producer, "the history has gone on from where it was expected; following again from there");
                metrics::counter!("motience_history_moved_total").increment(1);
                self.subscriber.unfollow(batch.producer);
                self.kept.remove(&batch.producer);
                self.to_follow.insert(batch.producer);
            } else {
                self.kept.insert(batch.producer, Some(batch.cursor));
            }
        }
    }
}
