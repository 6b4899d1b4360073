//! The history writer (PERSIST=true): one more durable reader of the logs, which keeps what it reads.
//!
//! The writer gathers a batch, and reads on only after the batch is committed together with its cursor in each log. An unreachable database
//! therefore delays it, costs no memory, and loses nothing that the log still holds. Each record is kept once.

mod pending;
#[cfg(test)]
pub(super) mod tests;

use std::{sync::Arc, time::Duration};

use motience_log::Batch;
use motience_proto::model::{Cursor, DeviceId, GapCause, Offset, ProducerId, record::Parts};
use motience_relay::{Delivery, Notice};
use motience_runtime::backoff::Backoff;
use motience_store::HistoryRow;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::pending::Pending;
use super::reader::{Places, Reader, Work, read_all};
use crate::http::Services;

/// Longest time for which a batch is gathered: many producers that send little then share a transaction.
const GATHER: Duration = Duration::from_millis(100);
/// How long wake-ups gather before the log is read: the writer takes nothing from published batches, and reads the log itself.
const READ_EVERY: Duration = Duration::from_millis(50);
/// First pause before an unreachable database is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Keeps records until `stop`, and those of an embedded node that still come in while its ingresses close.
pub async fn history_writer(services: Arc<Services>, stop: CancellationToken) {
    read_all::<Writer>(services, stop).await;
}

struct Writer {
    services: Arc<Services>,
    reader: Reader,
    pending: Pending,
    /// When the oldest record of the last transaction came.
    kept_from: Option<OffsetDateTime>,
}

impl Work for Writer {
    const PLACES: Places = Places::History;

    fn new(services: Arc<Services>) -> Self {
        Self { reader: Reader::new(&services, Self::PLACES, READ_EVERY), services, pending: Pending::default(), kept_from: None }
    }

    fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    async fn take_in(&mut self, delivery: Delivery) {
        self.gather_from(delivery).await;
        self.settle().await;
    }

    /// Tries until what was gathered is committed, or is found to be kept already.
    async fn settle(&mut self) {
        let (begun, mut backoff) = (Instant::now(), Backoff::new(FIRST_PAUSE, MAX_PAUSE));
        while !self.pending.is_empty() {
            match self.services.backend.store.keep_history(self.pending.batches()).await {
                Ok(kept) => {
                    metrics::counter!("motience_history_rows_total").increment(kept.rows);
                    metrics::counter!("motience_history_batches_total").increment(1);
                    metrics::gauge!("motience_history_waiting_seconds").set(0.0);
                    self.kept(&kept.moved);
                }
                Err(e) => {
                    metrics::gauge!("motience_history_waiting_seconds").set(begun.elapsed().as_secs_f64());
                    warn!(error = %e, rows = self.pending.rows(), "history cannot be written; trying again");
                    sleep(backoff.pause()).await;
                }
            }
        }
        self.reader.follow_moved().await;
    }

    /// Says how far the history is behind the logs.
    fn measure(&self) {
        let records = self.reader.behind();
        let age = self.kept_from.filter(|_| records > 0).map_or(0.0, |at| (self.services.backend.clock.now() - at).as_seconds_f64());
        metrics::gauge!("motience_history_lag_records").set(records as f64);
        metrics::gauge!("motience_history_lag_seconds").set(age.max(0.0));
    }
}

impl Writer {
    /// Gathers a delivery and what comes in after it, until there is enough or it has lasted long enough.
    async fn gather_from(&mut self, delivery: Delivery) {
        self.take(delivery);
        let until = Instant::now() + GATHER;
        while !self.pending.is_full()
            && let Ok(delivery) = timeout_at(until, self.reader.next()).await
        {
            self.take(delivery);
        }
    }

    fn take(&mut self, delivery: Delivery) {
        let producer = delivery.producer();
        // The reader gives nothing of a producer that it does not follow.
        let Some((key, expected)) = self.reader.expected(producer) else { return };
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
                if let Some(at) = self.reader.cursor(producer) {
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

    fn kept(&mut self, moved: &[ProducerId]) {
        self.kept_from = self.pending.oldest().or(self.kept_from);
        for batch in self.pending.take() {
            if moved.contains(&batch.producer) {
                metrics::counter!("motience_history_moved_total").increment(1);
                self.reader.moved(batch.producer);
            } else {
                self.reader.came(batch.producer, batch.cursor);
            }
        }
    }
}
