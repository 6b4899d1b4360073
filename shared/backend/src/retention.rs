//! Limits that producers set for their own records, below the platform's: the log is told of them, and the history is trimmed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use motience_cluster::{Event, Lease};
use motience_log::{self as log, Bound, Log};
use motience_proto::model::{LogKey, ProducerId, Role, UserId};
use motience_relay as relay;
use motience_runtime::{causes, clock::Clock};
use motience_store::{self as store, Division, OwnRetention, Page, Store, Width};
use serde_json::json;
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::{
    Backend,
    acts::account_object,
    history_bounds::{OtherBounds, in_pieces},
    kept_together, quotas,
};

pub use crate::retention_policy::{Bounds, Choice, Policy, TotalBounds};

/// Name of the lease of the node that trims the history.
pub(crate) const LEASE: &str = "history_trim";
/// Pause between two rounds.
const EVERY: Duration = Duration::from_secs(300);
/// Pause before a history that could not be divided is read through again.
const LOOK_AGAIN: time::Duration = time::Duration::days(1);

/// How much is kept of a producer's records.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Limits that the producer itself has set.
    pub own: OwnRetention,
    /// The bounds that hold.
    pub bounds: Bounds,
    /// The bound that removes the oldest record of the log first, and when; `None`: the log has none.
    pub first: Option<(Bound, Duration)>,
    /// Likewise the oldest row of the history; `None`: there is none, or it stays for ever.
    pub history: Option<(HistoryBound, Duration)>,
    /// The bounds of all producers of its organisation together.
    pub total: TotalBounds,
}

/// A bound of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryBound {
    /// How old a row is.
    Age,
    /// How many rows there are.
    Rows,
}

impl HistoryBound {
    /// The bound's name in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Rows => "rows",
        }
    }
}

impl Backend {
    /// How much is kept of a producer's records, and what removes the oldest of them first.
    pub async fn kept(&self, key: LogKey) -> Result<Kept, relay::Error> {
        let log = self.relay.log();
        let own = self.store.retention(key.producer).await.map_err(Arc::new)?;
        let outline = log.outline(key).await?;
        let first = outline.first_cut().map(|cut| (cut.bound, cut.left));
        let bounds = self.retention_policy.of(key.producer, &own);
        let history = self.history_cut(key.producer, &bounds).await.map_err(Arc::new)?;
        Ok(Kept { own, bounds, first, history, total: self.retention_policy.total(key.producer) })
    }

    /// How much producers may choose to keep.
    pub fn retention_choice(&self) -> &Choice {
        self.retention_policy.choice()
    }

    /// The bound that removes the oldest row of the history first, if rows come as they did so far.
    async fn history_cut(&self, producer: ProducerId, bounds: &Bounds) -> Result<Option<(HistoryBound, Duration)>, store::Error> {
        let now = self.clock.now();
        let (count, oldest) = match (bounds.history_rows, bounds.history_age) {
            (Some(_), _) => self.store.history_size(producer).await?,
            (None, Some(_)) => (0, self.store.history_begin(producer).await?),
            (None, None) => return Ok(None),
        };
        let Some(kept_for) = oldest.map(|oldest| Duration::try_from(now - oldest).unwrap_or_default()) else { return Ok(None) };
        let by_age = bounds.history_age.map(|age| (HistoryBound::Age, age.saturating_sub(kept_for)));
        let by_rows = bounds.history_rows.map(|most| {
            let rate = count as f64 / kept_for.as_secs_f64().max(1.0);
            let left = Duration::try_from_secs_f64(most.saturating_sub(count) as f64 / rate);
            (HistoryBound::Rows, left.unwrap_or(Duration::MAX))
        });
        Ok(by_age.into_iter().chain(by_rows).min_by_key(|(_, left)| *left))
    }

    /// Sets what a producer wants kept, on every node, and records the act.
    pub async fn set_retention(&self, producer: ProducerId, own: OwnRetention, by: UserId) -> Result<(), store::Error> {
        self.store.set_retention(producer, &own).await?;
        reload(&self.store, &self.retention_policy, self.relay.log()).await;
        // Nodes read again what the store says.
        self.broadcast(Event::Restored).await;
        let seconds = |age: Option<Duration>| age.map(|age| age.as_secs());
        let classes: Vec<_> = own.classes.iter().map(|one| json!([one.label, one.value, one.history_age.as_secs()])).collect();
        let detail = json!({
            "log_age_seconds": seconds(own.log_age), "log_bytes": own.log_bytes, "history_age_seconds": seconds(own.history_age), "classes": classes,
        });
        self.record("producer.retention", Some(by), account_object(producer.user()), producer.user(), detail).await;
        Ok(())
    }
}

/// Reads plans and what producers want kept again, or else what was read before goes on.
pub(crate) async fn reload(store: &Store, policy: &Policy, log: &Log) {
    // One after the other: what was read before a change must not be set after it.
    let turn = policy.turn.lock().await;
    if let Err(e) = quotas::load(store, &policy.quotas).await {
        warn!(error = %e, "plans cannot be read; trying again");
    }
    // Plans bound what is kept.
    let logs = load(store, policy, log).await;
    drop(turn);
    match logs {
        Ok(logs) => kept_together::trim(log, logs).await,
        Err(e) => warn!(error = %e, "what producers want kept cannot be read; trying again"),
    }
}

/// Tells the log the bounds of producers that have chosen some, or have a plan. Gives the logs that are bounded together, and what they keep.
pub(crate) async fn load(store: &Store, policy: &Policy, log: &Log) -> Result<Vec<(LogKey, u64)>, store::Error> {
    let logs = policy.together.look(store, log, &policy.quotas).await?;
    let told = |bounds: Bounds| log::OwnRetention { age: Some(bounds.log_age), bytes: Some(bounds.log_bytes) };
    let (assigned, default) = policy.quotas.assigned();
    let mut each: HashMap<ProducerId, _> = HashMap::new();
    for user in assigned {
        each.insert(user.producer(), told(policy.of(user.producer(), &OwnRetention::default())));
    }
    for (producer, own) in store.retentions().await? {
        each.insert(producer, told(policy.of(producer, &own)));
    }
    log.retentions().set(each, told(policy.bounds(&OwnRetention::default(), default.iter())));
    Ok(logs)
}

/// Keeps the history in partitions, and removes from it what is too old.
pub(crate) struct Trimmer {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) policy: Policy,
}

/// Removed in one round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) partitions: u64,
    pub(crate) rows: u64,
}

impl Trimmer {
    /// Trims for as long as it is polled, on the node that has the lease.
    pub(crate) async fn run(self, mut lease: Lease) {
        let mut look = Look::Now;
        let mut others = OtherBounds::new(self.store.clone(), self.clock.clone(), self.policy.clone());
        loop {
            lease.acquired().await;
            while lease.is_held().await {
                match self.round(&mut look).await {
                    Ok(Removed { rows: 0, .. }) => {}
                    Ok(removed) => info!(rows = removed.rows, "rows of the history that were too old were removed"),
                    Err(e) => warn!(error = causes(&e), "the history cannot be trimmed; trying again"),
                }
                if let Err(e) = others.round().await {
                    warn!(
                        error = causes(&e),
                        "rows of the history beyond a plan, or of a class of devices, cannot be removed; trying again"
                    );
                }
                tokio::time::sleep(EVERY).await;
            }
        }
    }

    /// Makes the partitions for what comes next, drops those of which nobody keeps anything, and removes other rows that are too old, a piece at a
    /// time, so that others have their turn.
    pub(crate) async fn round(&self, look: &mut Look) -> Result<Removed, store::Error> {
        let (now, width) = (self.clock.now(), Width::of(self.policy.history));
        let divided = look.is_due(now) && self.divide(now, width, look).await;
        let own: HashMap<ProducerId, OwnRetention> = self.store.retentions().await?.into_iter().collect();
        let mut removed = Removed::default();
        if self.policy.history.is_none() && own.values().all(|own| own.history_age.is_none()) {
            return Ok(removed);
        }
        let own_age = |producer| own.get(&producer).and_then(|own| own.history_age);
        let before = |producer| self.policy.history_age(own_age(producer)).and_then(|age| now.checked_sub(age.try_into().ok()?));
        if divided {
            removed.partitions = self.store.drop_history(now, before).await?;
            removed.rows += in_pieces(|| self.store.trim_undivided(before)).await?;
        }
        // Rows of the platform's own age go with their partition, unless somebody keeps that for longer.
        let platform = self.policy.history;
        let longer = |own: &OwnRetention| platform.is_some_and(|age| self.policy.history_age(own.history_age) > Some(age));
        let by_rows = !divided || platform.is_some_and(|age| !width.is_small_for(age)) || own.values().any(longer);
        let mut page = Page::default();
        loop {
            let producers = self.store.users(Role::Producer, page).await?;
            for producer in producers.iter().map(|user| user.id.producer()) {
                let has_own = own_age(producer).is_some_and(|own| platform.is_none_or(|platform| own < platform));
                let Some(before) = before(producer).filter(|_| by_rows || has_own) else { continue };
                removed.rows += in_pieces(|| self.store.trim_history(producer, before)).await?;
            }
            if !page.turn(producers.len(), producers.last().map(|last| last.id.0)) {
                return Ok(removed);
            }
        }
    }

    /// Whether the history has partitions.
    async fn divide(&self, now: OffsetDateTime, width: Width, look: &mut Look) -> bool {
        match self.store.divide_history(now, width).await {
            Ok(division) => {
                *look = if division == Division::Waits { Look::After(now + LOOK_AGAIN) } else { Look::Now };
                division == Division::Spans
            }
            Err(e) => {
                warn!(error = causes(&e), "the partitions of the history cannot be made; trying again");
                false
            }
        }
    }
}

/// When the history is looked at whether it can be divided: that reads all of it.
pub(crate) enum Look {
    Now,
    After(OffsetDateTime),
}

impl Look {
    fn is_due(&self, now: OffsetDateTime) -> bool {
        match self {
            Self::Now => true,
            Self::After(at) => now >= *at,
        }
    }
}

#[cfg(test)]
mod tests;
