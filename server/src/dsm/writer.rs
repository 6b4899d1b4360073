//! The history writer (PERSIST=true): one more consumer of the log, which follows every producer and keeps what it reads.
//!
//! It goes on only after a batch is committed, so a database that is away delays it and loses nothing that the log still
//! holds. Rows are unique by (producer, log epoch, offset): reading a log again, after a restart or on a second node,
//! keeps each record once. When the node stops, it goes on until nothing more comes in: the log of an embedded node ends
//! with its process.

use std::{sync::Arc, time::Duration};

use motience_shared::{
    log::Batch,
    model::{DeviceId, Offset, Role, record::Parts},
    relay::{Delivery, ReadFrom, Subscriber},
    store::{HistoryRow, MAX_PAGE, Page},
};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::http::Services;

/// How often new producers are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long nothing must have come in before a node that stops counts its log as read.
const QUIET: Duration = Duration::from_secs(1);
/// Rows of one transaction, about.
const ROWS: usize = 1000;
/// First pause before a database that is away is tried again; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Keeps records until `stop`, and then what still comes in while the entrances close.
pub async fn history_writer(services: Arc<Services>, stop: CancellationToken) {
    info!("keeping history");
    let mut writer = Writer::new(services);
    // Cutting `run` short loses nothing: what it has read is in `rows` until it is committed.
    stop.run_until_cancelled(writer.run()).await;
    writer.finish().await;
}

struct Writer {
    services: Arc<Services>,
    subscriber: Subscriber,
    /// The last producer found.
    newest: i64,
    rows: Vec<HistoryRow>,
}

impl Writer {
    fn new(services: Arc<Services>) -> Self {
        Self { subscriber: services.backend.relay.subscriber(), services, newest: 0, rows: Vec::new() }
    }

    async fn run(&mut self) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => self.follow_new_producers().await,
                delivery = self.subscriber.next() => self.keep_from(delivery).await,
            }
        }
    }

    async fn finish(&mut self) {
        self.follow_new_producers().await;
        self.keep().await;
        while let Ok(delivery) = timeout(QUIET, self.subscriber.next()).await {
            self.keep_from(delivery).await;
        }
    }

    /// Keeps a delivery and what else is there already.
    async fn keep_from(&mut self, delivery: Delivery) {
        self.take(delivery);
        while self.rows.len() < ROWS
            && let Some(delivery) = self.subscriber.try_next()
        {
            self.take(delivery);
        }
        self.keep().await;
    }

    /// Follows who has registered since the last look, and who sends: of two accounts that are made at once the later
    /// one may be seen first, and the other is then behind `newest`.
    async fn follow_new_producers(&mut self) {
        for live in self.services.backend.relay.streams() {
            if let Err(e) = self.subscriber.follow(live.producer, ReadFrom::Earliest).await {
                return warn!(producer = %live.producer, error = %e, "a producer cannot be followed; trying again");
            }
        }
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

#[cfg(test)]
mod tests {
    use motience_shared::{model::ProducerId, store::HistoryQuery};
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::http::tests::{Platform, platform};

    /// Longest wait for what a test waits for.
    const LIMIT: Duration = Duration::from_secs(20);

    async fn producer(platform: &Platform, name: &str) -> ProducerId {
        platform.account(Role::Producer, name).await.0.id.producer()
    }

    async fn send(platform: &Platform, producer: ProducerId, records: u64) {
        let publisher = platform.services.backend.relay.passing_publisher(producer).await.unwrap();
        for n in 0..records {
            let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": n}).to_string();
            let ticket = publisher.submit(record.into()).await.unwrap();
            publisher.committed(ticket).await.unwrap();
        }
    }

    async fn kept(platform: &Platform, producer: ProducerId) -> usize {
        platform.services.backend.store.history(producer, &HistoryQuery::default()).await.unwrap().len()
    }

    async fn wait_for(platform: &Platform, producer: ProducerId, records: usize) {
        let deadline = Instant::now() + LIMIT;
        while kept(platform, producer).await < records {
            assert!(Instant::now() < deadline, "the history is not written in time");
            sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test]
    async fn what_comes_in_while_the_node_stops_is_kept() {
        let platform = platform(&[]).await;
        let (known, new) = (producer(&platform, "known").await, producer(&platform, "new").await);
        let stop = CancellationToken::new();
        let writing = tokio::spawn(history_writer(Arc::clone(&platform.services), stop.clone()));
        send(&platform, known, 1).await;
        wait_for(&platform, known, 1).await;
        stop.cancel();
        send(&platform, known, 50).await;
        send(&platform, new, 50).await;
        timeout(LIMIT, writing).await.expect("it ends by itself").unwrap();
        assert_eq!((kept(&platform, known).await, kept(&platform, new).await), (51, 50));
    }

    #[tokio::test]
    async fn a_producer_behind_the_newest_one_is_followed_once_it_sends() {
        let platform = platform(&[]).await;
        let late = producer(&platform, "late").await;
        let mut writer = Writer::new(Arc::clone(&platform.services));
        writer.newest = late.0 + 1;
        send(&platform, late, 3).await;
        writer.follow_new_producers().await;
        writer.finish().await;
        assert_eq!(kept(&platform, late).await, 3);
        // Read again from the beginning, as after a restart or on a second node: each record is there once.
        let mut again = Writer::new(Arc::clone(&platform.services));
        again.finish().await;
        assert_eq!(kept(&platform, late).await, 3);
    }
}
