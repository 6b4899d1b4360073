//! Counts records as they are taken in (COUNT_USAGE): one more durable reader of the logs.
//!
//! The counts of a batch and the place up to which each log is counted are written in one transaction, so that each record is counted once, however
//! often this is interrupted, and whichever node counts. Where the log began another epoch, records behind the last offset that both share count
//! again if they came again.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use motience_proto::model::{Cursor, GapCause, ProducerId, record};
use motience_relay::{Delivery, Notice};
use motience_runtime::backoff::Backoff;
use motience_store::TakenIn;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::reader::{Places, Reader, Work, read_all};
use crate::http::Services;

/// How long wake-ups gather before the log is read.
const READ_EVERY: Duration = Duration::from_millis(250);
/// Records of one transaction, about.
const RECORDS: u64 = 50_000;
const HOUR: i64 = 3600;
/// First pause before an unreachable database is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Counts until `stop`, and what of an embedded node still comes in while its ingresses close.
pub async fn usage_counter(services: Arc<Services>, stop: CancellationToken) {
    read_all::<Counter>(services, stop).await;
}

struct Counter {
    services: Arc<Services>,
    reader: Reader,
    pending: HashMap<ProducerId, TakenIn>,
    records: u64,
}

impl Work for Counter {
    const PLACES: Places = Places::Usage;

    fn new(services: Arc<Services>) -> Self {
        Self { reader: Reader::new(&services, Self::PLACES, READ_EVERY), services, pending: HashMap::new(), records: 0 }
    }

    fn reader(&mut self) -> &mut Reader {
        &mut self.reader
    }

    async fn take_in(&mut self, delivery: Delivery) {
        self.take(&delivery);
        while self.records < RECORDS
            && let Some(delivery) = self.reader.try_next()
        {
            self.take(&delivery);
        }
        self.settle().await;
    }

    /// Tries until what was taken is written down, or is found to be counted already.
    async fn settle(&mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        while !self.pending.is_empty() {
            match self.services.backend.store.count_taken_in(self.pending.values()).await {
                Ok(moved) => {
                    self.records = 0;
                    for (producer, batch) in self.pending.drain() {
                        if moved.contains(&producer) {
                            self.reader.moved(producer);
                        } else {
                            self.reader.came(producer, batch.cursor);
                        }
                    }
                }
                Err(e) => {
                    warn!(error = %e, "usage cannot be written; trying again");
                    sleep(backoff.pause()).await;
                }
            }
        }
        self.reader.follow_moved().await;
    }
}

impl Counter {
    fn take(&mut self, delivery: &Delivery) {
        let producer = delivery.producer();
        let Some((key, expected)) = self.reader.expected(producer) else { return };
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
            Delivery::Notice(Notice::Gap { from, to, cause, .. }) => {
                if *cause != GapCause::Erased {
                    warn!(%producer, %from, %to, ?cause, "these records were gone before they were counted");
                    metrics::counter!("motience_usage_missed_total").increment(to.0 - from.0 + 1);
                }
                if let Some(at) = self.reader.cursor(producer) {
                    pending.cursor = Cursor { offset: *to, ..at };
                }
            }
            Delivery::Notice(Notice::Reset { cursor, .. }) => pending.cursor = *cursor,
        }
    }
}
