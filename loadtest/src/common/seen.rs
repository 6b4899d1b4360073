//! Records as consumers saw them: once, never, or more than once, and how late.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use hdrhistogram::Histogram;
use motience_proto::model::RangeSet;
use parking_lot::Mutex;

use super::payload::Mark;

/// Highest latency recorded, in microseconds: ten minutes.
const MAX_LATENCY: u64 = 600_000_000;

/// One consumer's view; merged at the end.
#[derive(Debug)]
pub(crate) struct Seen {
    records: HashMap<u32, RangeSet>,
    pub(crate) doubled: u64,
    pub(crate) latency: Histogram<u64>,
}

impl Seen {
    pub(crate) fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("constant bounds are valid");
        Self { records: HashMap::new(), doubled: 0, latency }
    }

    pub(crate) fn record(&mut self, mark: Mark, now: u64) {
        if self.records.entry(mark.device).or_default().insert(mark.number) {
            let micros = now.saturating_sub(mark.due) / 1000;
            self.latency.saturating_record(micros.max(1));
        } else {
            self.doubled += 1;
        }
    }

    pub(crate) fn has(&self, mark: Mark) -> bool {
        self.records.get(&mark.device).is_some_and(|numbers| numbers.contains(mark.number))
    }

    /// How many of the records `1..=sent` of a device were not seen.
    pub(crate) fn missing(&self, device: u32, sent: u64) -> u64 {
        let seen: u64 =
            self.records.get(&device).map_or(0, |set| set.iter().map(|r| r.end().min(&sent).saturating_sub(*r.start()) + 1).sum());
        sent.saturating_sub(seen)
    }
}

/// Counters that the progress bar reads while the test runs.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) acknowledged: AtomicU64,
    pub(crate) delivered: AtomicU64,
    failures: Mutex<Vec<String>>,
}

impl Live {
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Something went wrong that the result must not hide; the first few are kept.
    pub(crate) fn fail(&self, what: String) {
        let mut failures = self.failures.lock();
        if failures.len() < 20 {
            failures.push(what);
        }
    }

    pub(crate) fn failures(&self) -> Vec<String> {
        self.failures.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_doubled_are_told_apart() {
        let mut seen = Seen::new();
        for number in [1, 2, 2, 4] {
            seen.record(Mark { device: 3, number, due: 0 }, 5_000_000);
        }
        assert_eq!(seen.doubled, 1);
        assert_eq!(seen.missing(3, 5), 2);
        assert_eq!(seen.missing(9, 5), 5);
        assert_eq!(seen.latency.len(), 3);
        assert!((4_990..=5_010).contains(&seen.latency.max()));
    }
}
