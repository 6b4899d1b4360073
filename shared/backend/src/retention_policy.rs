//! Which bounds hold for the records of a producer: those of the platform, those that the producer has chosen within what the operator allows, and
//! those of its plans. The earliest removes a record.

use std::{sync::Arc, time::Duration};

use motience_limits::quota::{Holder, Quotas};
use motience_log::Retention;
use motience_proto::model::{PlanLimits, ProducerId};
use motience_settings::env::{Size, settings};
use motience_store::OwnRetention;

use crate::kept_together::Together;

settings! {
    /// How much producers may choose to keep.
    #[derive(Clone, Copy, Debug)]
    pub struct Choice {
        /// Shortest time for which a producer may choose to keep its records.
        RETENTION_LEAST = "1m" => least: Duration, "1m"..="365d";
        /// Longest time for which a producer may choose to keep its log. LOG_RETENTION unless given.
        LOG_RETENTION_MOST, example "7d" => log_age: Option<Duration>;
        /// Most bytes of its log that a producer may choose to keep. LOG_RETENTION_BYTES unless given.
        LOG_RETENTION_MOST_BYTES, example "1GiB" => log_bytes: Option<Size<usize>>;
        /// Longest time for which a producer may choose to keep its history. HISTORY_RETENTION unless given.
        HISTORY_RETENTION_MOST, example "1000d" => history_age: Option<Duration>;
    }
}

/// The bounds of the records of one producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long records stay in the log.
    pub log_age: Duration,
    /// Bytes of records in the log.
    pub log_bytes: usize,
    /// How long records stay in the history; `None`: for ever.
    pub history_age: Option<Duration>,
    /// Rows of the history; `None`: any number.
    pub history_rows: Option<u64>,
}

/// Bounds of all producers of an organisation together; `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TotalBounds {
    /// Bytes of records in their logs.
    pub log_bytes: Option<u64>,
    /// Rows of the history.
    pub history_rows: Option<u64>,
}

/// How bounds are found. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(crate) choice: Choice,
    /// The platform's bounds of logs.
    pub(crate) log: Retention,
    /// The platform's age of rows in the history.
    pub(crate) history: Option<Duration>,
    pub(crate) quotas: Quotas,
    /// The part of each producer in what its organisation keeps.
    pub(crate) together: Together,
    /// The turn to read all of this again.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
}

impl Policy {
    /// How much producers may choose to keep.
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// The bounds of a producer that has chosen these.
    pub fn of(&self, producer: ProducerId, own: &OwnRetention) -> Bounds {
        let plans = self.quotas.plans(producer.user());
        let bounds = self.bounds(own, plans.iter().map(|(_, plan)| plan));
        let part = self.together.log_bytes(producer).map_or(usize::MAX, |part| usize::try_from(part).unwrap_or(usize::MAX));
        Bounds { log_bytes: bounds.log_bytes.min(part), ..bounds }
    }

    /// Bounds of all producers of a producer's organisation together.
    pub(crate) fn total(&self, producer: ProducerId) -> TotalBounds {
        let plans = self.quotas.plans(producer.user());
        let plan = plans.iter().find(|(holder, _)| matches!(holder, Holder::Organisation(_))).map(|(_, plan)| *plan).unwrap_or_default();
        TotalBounds { log_bytes: plan.total_log_bytes, history_rows: plan.total_history_rows }
    }

    /// The bounds under these plans.
    pub(crate) fn bounds<'p>(&self, own: &OwnRetention, plans: impl Iterator<Item = &'p PlanLimits> + Clone) -> Bounds {
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let most_bytes = self.choice.log_bytes.map_or(0, |most| most.0).max(self.log.bytes);
        let log_bytes = own.log_bytes.map_or(self.log.bytes, |own| bytes(own).min(most_bytes));
        let most_age = self.choice.log_age.unwrap_or_default().max(self.log.age);
        Bounds {
            log_age: own.log_age.map_or(self.log.age, |own| own.max(self.choice.least).min(most_age)),
            log_bytes: plans
                .clone()
                .flat_map(|plan| [plan.log_bytes, plan.total_log_bytes])
                .flatten()
                .map(bytes)
                .fold(log_bytes, usize::min),
            history_age: self.history_age(own.history_age),
            history_rows: plans.flat_map(|plan| [plan.history_rows, plan.total_history_rows]).flatten().min(),
        }
    }

    /// How long rows stay in the history, where a producer has chosen so.
    pub(crate) fn history_age(&self, own: Option<Duration>) -> Option<Duration> {
        let Some(own) = own.map(|own| own.max(self.choice.least)) else { return self.history };
        let most = self.history.map(|platform| platform.max(self.choice.history_age.unwrap_or_default()));
        Some(most.map_or(own, |most| own.min(most)))
    }
}

#[cfg(test)]
mod tests {
    use motience_limits::quota::{Assigned, Assignments};

    use super::*;

    const PRODUCER: ProducerId = ProducerId(1);

    fn policy(choice: Choice) -> Policy {
        let log = Retention { age: Duration::from_secs(100), bytes: 1000, ..Retention::default() };
        Policy {
            choice,
            log,
            history: Some(Duration::from_secs(1000)),
            quotas: Quotas::default(),
            together: Together::default(),
            turn: Arc::default(),
        }
    }

    fn own(age: u64, bytes: u64) -> OwnRetention {
        let age = Some(Duration::from_secs(age));
        OwnRetention { log_age: age, log_bytes: Some(bytes), history_age: age, ..OwnRetention::default() }
    }

    fn found(policy: &Policy, own: &OwnRetention) -> (u64, usize, Option<u64>, Option<u64>) {
        let Bounds { log_age, log_bytes, history_age, history_rows } = policy.of(PRODUCER, own);
        (log_age.as_secs(), log_bytes, history_age.map(|age| age.as_secs()), history_rows)
    }

    #[test]
    fn a_producer_chooses_less_and_more_only_where_the_operator_lets_it() {
        let choice = Choice { least: Duration::from_secs(10), ..Choice::default() };
        let strict = policy(choice);
        assert_eq!(found(&strict, &OwnRetention::default()), (100, 1000, Some(1000), None));
        assert_eq!(found(&strict, &own(50, 500)), (50, 500, Some(50), None));
        assert_eq!(found(&strict, &own(1, 2000)), (10, 1000, Some(10), None));
        assert_eq!(found(&strict, &own(5000, 2000)), (100, 1000, Some(1000), None));
        let most = Some(Duration::from_secs(3000));
        let lax = policy(Choice { log_age: most, log_bytes: Some(Size(1500)), history_age: most, ..choice });
        assert_eq!(found(&lax, &OwnRetention::default()), (100, 1000, Some(1000), None));
        assert_eq!(found(&lax, &own(5000, 2000)), (3000, 1500, Some(3000), None));
        let endless = Policy { history: None, ..strict };
        assert_eq!(endless.history_age(None), None);
        assert_eq!(endless.history_age(Some(Duration::from_secs(50))), Some(Duration::from_secs(50)));
    }

    #[test]
    fn the_smallest_plan_holds_whatever_was_chosen() {
        let policy = policy(Choice { log_bytes: Some(Size(4000)), ..Choice::default() });
        let plan = |log_bytes, history_rows| PlanLimits { log_bytes, history_rows, ..PlanLimits::default() };
        let organisation = Some(("o".into(), plan(Some(700), Some(5))));
        let assigned = Assigned { own: Some(plan(Some(800), None)), organisation };
        policy.quotas.assign(Assignments { accounts: [(PRODUCER.user(), assigned)].into(), default: None });
        assert_eq!(found(&policy, &OwnRetention::default()), (100, 700, Some(1000), Some(5)));
        assert_eq!(found(&policy, &own(100, 3000)).1, 700);
        assert_eq!(found(&policy, &own(100, 30)).1, 30);
    }
}
