//! Backlogs of durable consumers: what each has yet to confirm, how old that is, and how long retention leaves it.
//!
//! One node looks at all named cursors every quarter of a minute, and keeps the few that matter most. A look reads no record but the oldest of
//! each of those few.

use std::{collections::HashMap, sync::Arc, time::Duration};

use motience_cluster::Lease;
use motience_log::{Backlog, Log, Outline};
use motience_proto::model::{ConsumerId, CursorName, ProducerId};
use motience_relay::Error;
use motience_runtime::{
    clock::Clock,
    telemetry::{RANKED, Row, rank},
};
use motience_store::{AfterCursor, LogIds, MAX_PAGE, NamedCursor, Store};
use tokio::time::sleep;
use tracing::debug;

/// Name of the lease of the node that looks.
pub(crate) const LEASE: &str = "backlogs";
/// How often that is.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Logs whose outlines are kept during a look: consumers follow the same producers.
const OUTLINES: usize = 1000;

/// Named cursors compared with their logs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backlogs {
    store: Store,
    logs: LogIds,
    log: Log,
    clock: Clock,
}

/// The records of one producer that a durable consumer has yet to confirm.
#[derive(Clone, Debug)]
pub struct DurableBacklog {
    /// The consumer.
    pub consumer: ConsumerId,
    /// Its name for the cursor.
    pub name: CursorName,
    /// The producer.
    pub producer: ProducerId,
    /// How much it is, and when retention cuts it.
    pub backlog: Backlog,
    /// Age of the oldest unconfirmed record; `None`: there is none, or nobody knows.
    pub waiting: Option<Duration>,
}

/// The durable consumers that matter most.
#[derive(Clone, Debug, Default)]
pub struct Worst {
    /// Those with the most unconfirmed records.
    pub furthest: Vec<DurableBacklog>,
    /// Those whose unconfirmed records retention removes first.
    pub first_cut: Vec<DurableBacklog>,
    /// How many cursors were compared.
    pub cursors: u64,
}

impl Backlogs {
    pub(crate) fn new(store: Store, logs: LogIds, log: Log, clock: Clock) -> Self {
        Self { store, logs, log, clock }
    }

    /// The records that have yet to be confirmed at one cursor.
    pub async fn of(&self, consumer: ConsumerId, cursor: &NamedCursor) -> Result<DurableBacklog, Error> {
        let backlog = self.outline(cursor.producer).await?.backlog(cursor.cursor);
        let (name, producer) = (cursor.name.clone(), cursor.producer);
        Ok(self.with_age(DurableBacklog { consumer, name, producer, backlog, waiting: None }).await)
    }

    /// The worst of all cursors, at most `most` in each list.
    pub async fn worst(&self, most: usize) -> Result<Worst, Error> {
        let (mut worst, mut after) = (Worst::default(), None::<AfterCursor>);
        let mut outlines: HashMap<ProducerId, Outline> = HashMap::new();
        loop {
            let page = self.store.all_cursors(after.as_ref(), MAX_PAGE).await.map_err(Arc::new)?;
            for (consumer, NamedCursor { name, producer, cursor, .. }) in &page {
                if !outlines.contains_key(producer) {
                    if outlines.len() >= OUTLINES {
                        outlines.clear();
                    }
                    outlines.insert(*producer, self.outline(*producer).await?);
                }
                let Some(outline) = outlines.get(producer) else { continue };
                let backlog = outline.backlog(*cursor);
                worst.add(DurableBacklog { consumer: *consumer, name: name.clone(), producer: *producer, backlog, waiting: None });
                tokio::task::consume_budget().await;
            }
            worst.shorten(most);
            let full = page.len() >= MAX_PAGE as usize;
            let Some((consumer, last)) = page.into_iter().last().filter(|_| full) else { break };
            after = Some((consumer, last.name, last.producer));
        }
        for list in [&mut worst.furthest, &mut worst.first_cut] {
            for one in list {
                *one = self.with_age(one.clone()).await;
            }
        }
        Ok(worst)
    }

    async fn outline(&self, producer: ProducerId) -> Result<Outline, Error> {
        Ok(self.log.outline(self.logs.of(producer).await?).await?)
    }

    /// Looks when the oldest unconfirmed record came.
    async fn with_age(&self, one: DurableBacklog) -> DurableBacklog {
        if one.backlog.records == 0 {
            return one;
        }
        let Ok(key) = self.logs.of(one.producer).await else { return one };
        let received = match self.log.read(key, one.backlog.after, 1).await {
            Ok(fetch) => fetch.batches.first().and_then(|batch| batch.received),
            Err(_) => None,
        };
        let waiting = received.map(|at| Duration::try_from(self.clock.now() - at).unwrap_or_default());
        DurableBacklog { waiting, ..one }
    }

    /// Measures for the metrics, while this node has the lease.
    pub(crate) async fn run(self, mut lease: Lease) {
        loop {
            lease.acquired().await;
            while lease.is_held().await {
                match self.worst(RANKED).await {
                    Ok(worst) => worst.tell(),
                    Err(e) => debug!(error = %e, "durable consumers cannot be compared with their logs; trying again"),
                }
                sleep(LOOK_EVERY).await;
            }
            // Another node tells them now.
            Worst::default().tell();
        }
    }
}

impl Worst {
    fn add(&mut self, one: DurableBacklog) {
        self.cursors += 1;
        if one.backlog.cut.is_some() {
            self.furthest.push(one.clone());
            self.first_cut.push(one);
        }
    }

    fn shorten(&mut self, most: usize) {
        self.furthest.sort_by_key(|one| std::cmp::Reverse(one.backlog.records));
        self.furthest.truncate(most);
        self.first_cut.sort_by_key(|one| one.backlog.cut.map(|cut| cut.left));
        self.first_cut.truncate(most);
    }

    fn tell(&self) {
        let row = |one: &DurableBacklog, value: f64| -> Row {
            (vec![one.consumer.to_string(), one.name.to_string(), one.producer.to_string()], value)
        };
        rank("motience_durable_lag_records", self.furthest.iter().map(|one| row(one, one.backlog.records as f64)).collect());
        let aged = self.furthest.iter().filter_map(|one| Some(row(one, one.waiting?.as_secs_f64())));
        rank("motience_durable_lag_seconds", aged.collect());
        let cuts = self.first_cut.iter().filter_map(|one| {
            let cut = one.backlog.cut?;
            let (mut labels, left) = row(one, cut.left.as_secs_f64());
            labels.push(cut.bound.as_str().to_owned());
            Some((labels, left))
        });
        rank("motience_durable_cut_seconds", cuts.collect());
        metrics::gauge!("motience_durable_cursors").set(self.cursors as f64);
    }
}
