//! Pressure of retention: of the logs that grow, which bound removes the oldest records first, age or bytes, and when.
//!
//! Age is what the platform promises. Where bytes come first, a log keeps less than that, and somebody should know before it does.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use motience_cluster::{Reports, StreamStats};
use motience_log::{Bound, Log};
use motience_proto::model::ProducerId;
use motience_relay::Error;
use motience_runtime::telemetry::{RANKED, rank};
use motience_store::LogIds;
use parking_lot::Mutex;
use tokio::time::sleep;
use tracing::debug;

/// How often logs are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Most logs that are looked at: those that grow fastest.
const MOST: usize = 100;

/// Looks at logs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pressure {
    logs: LogIds,
    log: Log,
    reports: Reports,
    last: Arc<Mutex<Vec<Pressed>>>,
}

/// A log and its next cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressed {
    /// The log's producer.
    pub producer: ProducerId,
    /// The bound that is reached first.
    pub bound: Bound,
    /// Time until then, if the log goes on to grow as in the last ten minutes.
    pub left: Duration,
}

impl Pressure {
    pub(crate) fn new(logs: LogIds, log: Log, reports: Reports) -> Self {
        Self { logs, log, reports, last: Arc::default() }
    }

    /// Looks at the logs that grow fastest, on whichever node, for the metrics too: those that lose records by their bytes come first, and of these the one that does so soonest.
    pub async fn look(&self) -> Result<Vec<Pressed>, Error> {
        self.of(self.reports.live_streams(&self.log).await).await
    }

    async fn of(&self, mut streams: Vec<StreamStats>) -> Result<Vec<Pressed>, Error> {
        streams.retain(|stream| stream.rate > 0.0);
        streams.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        let mut found = Vec::new();
        for producer in streams.into_iter().take(MOST).map(|stream| stream.producer) {
            let outline = self.log.outline(self.logs.of(producer).await?).await?;
            found.extend(outline.first_cut().map(|cut| Pressed { producer, bound: cut.bound, left: cut.left }));
        }
        found.sort_by_key(|one| (Reverse(one.bound == Bound::Bytes), one.left));
        found.truncate(RANKED);
        let row = |one: &Pressed| (vec![one.producer.to_string(), one.bound.as_str().to_owned()], one.left.as_secs_f64());
        rank("motience_retention_cut_seconds", found.iter().map(row).collect());
        self.last.lock().clone_from(&found);
        Ok(found)
    }

    /// The log that loses records by its bytes soonest, as of the last look; `None`: none does before they are too old.
    pub fn first_by_bytes(&self) -> Option<Pressed> {
        self.last.lock().first().copied().filter(|one| one.bound == Bound::Bytes)
    }

    /// Looks again and again, for as long as it is polled.
    pub(crate) async fn run(self) {
        loop {
            if let Err(e) = self.of(self.reports.own_streams()).await {
                debug!(error = %e, "logs cannot be compared with their bounds; trying again");
            }
            sleep(LOOK_EVERY).await;
        }
    }
}
