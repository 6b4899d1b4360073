//! The history writer (PERSIST=true): one more consumer of the log, which follows every producer and keeps what it reads.
//!
//! It goes on only after a batch is committed, so a database that is away delays it and loses nothing that the log still
//! holds. Rows are unique by (producer, log epoch, offset): reading a log again, after a restart or on a second node,
//! keeps each record once.

use std::{sync::Arc, time::Duration};

use motience_shared::{
    log::Batch,
    model::{DeviceId, Offset, Role, record::Parts},
    relay::{Delivery, ReadFrom, Subscriber},
    store::{HistoryRow, MAX_PAGE, Page},
};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::http::Services;

/// How often new producers are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Rows of one transaction, about.
const ROWS: usize = 1000;
/// First pause before a database that is away is tried again; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Keeps records until `stop`.
pub async fn history_writer(services: Arc<Services>, stop: CancellationToken) {
    info!("keeping history");
    let mut writer = Writer { subscriber: services.backend.relay.subscriber(), services, newest: 0, rows: Vec::new() };
    stop.run_until_cancelled(writer.run()).await;
}

struct Writer {
    services: Arc<Services>,
    subscriber: Subscriber,
    /// The last producer found.
    newest: i64,
    rows: Vec<HistoryRow>,
}

impl Writer {
    async fn run(&mut self) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => self.follow_new_producers().await,
                delivery = self.subscriber.next() => {
                    self.take(delivery);
                    while self.rows.len() < ROWS && let Some(delivery) = self.subscriber.try_next() {
                        self.take(delivery);
                    }
                    self.keep().await;
                }
            }
        }
    }

    async fn follow_new_producers(&mut self) {
        loop {
            let page = Page { after: self.newest, limit: MAX_PAGE };
            let producers = match self.services.backend.store.users(Role::Producer, page).await {
                Ok(producers) => producers,
                Err(e) => return warn!(error = %e, "producers cannot be listed; trying again"),
            };
            let last = producers.len() < MAX_PAGE as usize;
            for producer in producers {
                if let Err(e) = self.subscriber.follow(producer.id.producer(), ReadFrom::Earliest).await {
                    return warn!(producer = %producer.id, error = %e, "a producer cannot be followed; trying again");
                }
                self.newest = producer.id.0;
            }
            if last {
                return;
            }
        }
    }

    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Batch { batch, after } => self.take_batch(&batch, after),
            Delivery::Gap { producer, from, to } => {
                warn!(%producer, %from, %to, "retention passed the history writer: these records are not kept");
                metrics::counter!("motience_history_missed_total").increment(to.0 - from.0 + 1);
            }
            Delivery::Reset { producer, epoch, .. } => info!(%producer, %epoch, "the log began a new life"),
        }
    }

    fn take_batch(&mut self, batch: &Batch, after: Offset) {
        let received_at = self.services.backend.clock.now();
        for (offset, message) in batch.after(after) {
            // Checked when it came in; what cannot be taken apart now was damaged in the log.
            let parts = Parts::of(message).and_then(|parts| Ok((parts.time()?, parts)));
            let row = parts.ok().and_then(|(timestamp, parts)| {
                let device = DeviceId::new(&parts.device_id).ok()?;
                let data = parts.data.to_owned();
                Some(HistoryRow { producer: batch.producer, epoch: batch.epoch, offset, device, timestamp, received_at, data })
            });
            match row {
                Some(row) => self.rows.push(row),
                None => warn!(producer = %batch.producer, %offset, "a damaged entry is not kept"),
            }
        }
    }

    /// Tries until the rows are committed.
    async fn keep(&mut self) {
        let mut pause = FIRST_PAUSE;
        while !self.rows.is_empty() {
            match self.services.backend.store.append_history(&self.rows).await {
                Ok(()) => {
                    metrics::counter!("motience_history_rows_total").increment(self.rows.len() as u64);
                    self.rows.clear();
                }
                Err(e) => {
                    warn!(error = %e, rows = self.rows.len(), "history cannot be written; trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }
}
