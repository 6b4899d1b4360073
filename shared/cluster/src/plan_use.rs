//! How much of their plans organisations use: looked at where it is counted, and reported to every node.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use time::OffsetDateTime;

use crate::{
    Event, PlanUseReport,
    window::{LOOK_EVERY, Window},
};

/// A report counts until so many looks later; what is not in use is not reported.
const REPORT_LIVES: u32 = 4;
/// Organisations in one event.
const REPORTS_AT_ONCE: usize = 200;

/// The plans' use on this node and, from their reports, on the others.
#[derive(Debug)]
pub struct PlanUse {
    node: String,
    here: Mutex<HashMap<String, Here>>,
    elsewhere: Mutex<HashMap<(String, String), (OffsetDateTime, PlanUseReport)>>,
}

/// Counts of one organisation on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanCounts {
    /// Connections that are open, without those of devices.
    pub connections: u64,
    /// Counted since the node knows the plan, by the name of the limit.
    pub totals: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct Here {
    connections: u64,
    rates: BTreeMap<&'static str, (u64, Window)>,
}

/// How much of its plan an organisation uses, on all nodes together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanUsed {
    /// Connections that are open, without those of devices.
    pub connections: u64,
    /// A second, over the last ten seconds, by the name of the limit; limits that are not in use are left out.
    pub rates: BTreeMap<String, f64>,
}

impl PlanUse {
    pub(crate) fn new(node: String) -> Self {
        Self { node, here: Mutex::default(), elsewhere: Mutex::default() }
    }

    /// Takes a look at this node's counts; returns the reports that are due. Looks are [`LOOK_EVERY`] apart.
    pub fn look(&self, counts: &HashMap<String, PlanCounts>) -> Vec<Event> {
        let mut here = self.here.lock();
        here.retain(|organisation, _| counts.contains_key(organisation));
        for (organisation, PlanCounts { connections, totals }) in counts {
            let one = here.entry(organisation.clone()).or_default();
            one.connections = *connections;
            for (&limit, &total) in totals {
                let (last, window) = one.rates.entry(limit).or_default();
                if total < *last {
                    // Buckets that nobody used were forgotten, and count anew.
                    *window = Window::default();
                }
                *last = total;
                window.look(total);
            }
        }
        let reports: Vec<_> = here.iter().filter_map(|(organisation, one)| one.report(organisation)).collect();
        reports.chunks(REPORTS_AT_ONCE).map(|some| Event::PlansUsed { node: self.node.clone(), used: some.to_vec() }).collect()
    }

    /// Takes the reports of the node called `node`.
    pub(crate) fn apply(&self, node: &str, used: &[PlanUseReport], now: OffsetDateTime) {
        if node == self.node {
            return;
        }
        let mut elsewhere = self.elsewhere.lock();
        elsewhere.retain(|_, (at, _)| now - *at < LOOK_EVERY * REPORT_LIVES);
        for report in used {
            elsewhere.insert((node.to_owned(), report.organisation.clone()), (now, report.clone()));
        }
    }

    pub(crate) fn of(&self, organisation: &str, now: OffsetDateTime) -> PlanUsed {
        let here = self.here.lock().get(organisation).and_then(|one| one.report(organisation));
        let mut elsewhere = self.elsewhere.lock();
        elsewhere.retain(|_, (at, _)| now - *at < LOOK_EVERY * REPORT_LIVES);
        let others = elsewhere.iter().filter(|((_, of), _)| of == organisation).map(|(_, (_, report))| report.clone());
        let mut used = PlanUsed::default();
        for report in here.into_iter().chain(others) {
            used.connections += report.connections;
            for (limit, millirate) in report.millirates {
                *used.rates.entry(limit).or_default() += millirate as f64 / 1000.0;
            }
        }
        used
    }
}

impl Here {
    /// `None`: nothing is in use.
    fn report(&self, organisation: &str) -> Option<PlanUseReport> {
        let rates = self.rates.iter().map(|(&limit, (_, window))| (limit.to_owned(), window.millirate()));
        let millirates: BTreeMap<_, _> = rates.filter(|(_, millirate)| *millirate > 0).collect();
        let in_use = self.connections > 0 || !millirates.is_empty();
        in_use.then(|| PlanUseReport { organisation: organisation.to_owned(), connections: self.connections, millirates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(connections: u64, bytes: u64) -> HashMap<String, PlanCounts> {
        [("acme".to_owned(), PlanCounts { connections, totals: [("bytes_per_second", bytes)].into() })].into()
    }

    fn rate(used: &PlanUsed) -> Option<f64> {
        used.rates.get("bytes_per_second").copied()
    }

    #[test]
    fn all_nodes_together_use_a_plan_and_what_is_old_is_not_counted() {
        let (one, two) = (PlanUse::new("one".into()), PlanUse::new("two".into()));
        let start = OffsetDateTime::UNIX_EPOCH;
        let Some(Event::PlansUsed { node, used }) = two.look(&counts(2, 500)).pop() else { panic!("it is reported") };
        one.apply(&node, &used, start);
        one.look(&counts(1, 1000));
        let used = one.of("acme", start);
        assert_eq!((used.connections, rate(&used)), (3, Some(150.0)), "1500 bytes within ten seconds");
        assert_eq!(one.of("other", start), PlanUsed::default());
        let used = one.of("acme", start + LOOK_EVERY * REPORT_LIVES);
        assert_eq!((used.connections, rate(&used)), (1, Some(100.0)));
    }

    #[test]
    fn counts_that_begin_anew_are_no_rate_and_rest_is_not_reported() {
        let one = PlanUse::new("one".into());
        one.look(&counts(0, 1_000_000));
        assert_eq!(one.look(&counts(0, 100)).len(), 1);
        assert_eq!(rate(&one.of("acme", OffsetDateTime::UNIX_EPOCH)), Some(10.0));
        for _ in 0..6 {
            one.look(&counts(0, 100));
        }
        assert_eq!(one.look(&counts(0, 100)), []);
        assert_eq!(one.look(&HashMap::new()), []);
    }
}
