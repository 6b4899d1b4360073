//! Limits that producers set for their own records, below the platform's: the log is told of them, and the history is trimmed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use motience_cluster::{Event, Lease};
use motience_log::{self as log, Bound, Log, Retention};
use motience_proto::model::{Cursor, LogKey, Offset, ProducerId, Role, UserId};
use motience_relay as relay;
use motience_runtime::{causes, clock::Clock};
use motience_store::{self as store, OwnRetention, Page, Store};
use serde_json::json;
use tracing::{info, warn};

use crate::{Backend, acts::account_object};

/// Name of the lease of the node that trims the history.
pub(crate) const LEASE: &str = "history_trim";
/// Pause between two rounds.
const EVERY: Duration = Duration::from_secs(300);

/// How much is kept of a producer's records.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Limits that the producer itself has set.
    pub own: OwnRetention,
    /// Bounds of its log.
    pub log: Retention,
    /// How long records stay in the history; `None`: for ever.
    pub history: Option<Duration>,
    /// The bound that removes the oldest record of the log first, and when; `None`: the log has none.
    pub first: Option<(Bound, Duration)>,
}

impl Backend {
    /// How much is kept of a producer's records, and what removes the oldest of them first.
    pub async fn kept(&self, key: LogKey) -> Result<Kept, relay::Error> {
        let log = self.relay.log();
        let own = self.store.retention(key.producer).await.map_err(Arc::new)?;
        let outline = log.outline(key).await?;
        let before = Cursor { log_epoch: outline.bounds.log_epoch(), offset: Offset(outline.bounds.first.0.saturating_sub(1)) };
        let first = outline.backlog(before).cut.map(|cut| (cut.bound, cut.left));
        Ok(Kept { own, log: log.retentions().of(key.producer), history: shorter(own.history_age, self.history_retention), first })
    }

    /// Sets what a producer wants kept, on every node, and records the act.
    pub async fn set_retention(&self, producer: ProducerId, own: OwnRetention, by: UserId) -> Result<(), store::Error> {
        self.store.set_retention(producer, &own).await?;
        if let Err(e) = load(&self.store, self.relay.log()).await {
            warn!(error = %e, "what producers want kept cannot be read; trying again");
        }
        // Nodes read again what the store says.
        self.broadcast(Event::Restored).await;
        let seconds = |age: Option<Duration>| age.map(|age| age.as_secs());
        let detail =
            json!({"log_age_seconds": seconds(own.log_age), "log_bytes": own.log_bytes, "history_age_seconds": seconds(own.history_age)});
        self.record("producer.retention", Some(by), account_object(producer.user()), producer.user(), detail).await;
        Ok(())
    }
}

fn shorter(own: Option<Duration>, platform: Option<Duration>) -> Option<Duration> {
    match (own, platform) {
        (Some(own), Some(platform)) => Some(own.min(platform)),
        (own, platform) => own.or(platform),
    }
}

/// Tells the log what producers want kept.
pub(crate) async fn load(store: &Store, log: &Log) -> Result<(), store::Error> {
    let own = store.retentions().await?.into_iter().map(|(producer, own)| {
        let bytes = own.log_bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        (producer, log::OwnRetention { age: own.log_age, bytes })
    });
    log.retentions().set(own.collect());
    Ok(())
}

/// Removes from the history what is too old.
pub(crate) struct Trimmer {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) platform: Option<Duration>,
}

impl Trimmer {
    /// Trims for as long as it is polled, on the node that has the lease.
    pub(crate) async fn run(self, mut lease: Lease) {
        loop {
            lease.acquired().await;
            while lease.is_held().await {
                match self.round().await {
                    Ok(0) => {}
                    Ok(rows) => info!(rows, "rows of the history that were too old were removed"),
                    Err(e) => warn!(error = causes(&e), "the history cannot be trimmed; trying again"),
                }
                tokio::time::sleep(EVERY).await;
            }
        }
    }

    /// Removes what is too old of all producers, a piece at a time, so that others have their turn.
    pub(crate) async fn round(&self) -> Result<u64, store::Error> {
        let own: HashMap<ProducerId, OwnRetention> = self.store.retentions().await?.into_iter().collect();
        if self.platform.is_none() && own.values().all(|own| own.history_age.is_none()) {
            return Ok(0);
        }
        let (mut page, mut gone) = (Page::default(), 0);
        loop {
            let producers = self.store.users(Role::Producer, page).await?;
            for producer in producers.iter().map(|user| user.id.producer()) {
                let own = own.get(&producer).and_then(|own| own.history_age);
                let Some(before) = shorter(own, self.platform).and_then(|age| self.clock.now().checked_sub(age.try_into().ok()?)) else {
                    continue;
                };
                loop {
                    let rows = self.store.trim_history(producer, before).await?;
                    gone += rows;
                    if rows == 0 {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            match producers.last() {
                Some(last) if producers.len() == page.limit as usize => page.after = last.id.0,
                _ => return Ok(gone),
            }
        }
    }
}
