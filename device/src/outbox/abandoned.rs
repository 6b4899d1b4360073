//! Abandoned sequence numbers: assigned, but never to be sent. The server is told until it acknowledges them, so that they
//! leave no hole in what it has seen.

use motience_proto::model::RangeSet;

use super::memory::Memory;

/// Ranges reported at once: a quarter of those that the protocol and the server's dedup window let be apart.
const MAX_REPORTED: usize = 1024;
/// More ranges than this are joined across numbers that are acknowledged anyway.
const MAX_RANGES: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Abandoned {
    all: RangeSet,
    /// Numbers reported on the present connection and not acknowledged.
    reported: RangeSet,
    /// Whether the file does not say the same.
    changed: bool,
}

impl Abandoned {
    pub(super) fn new(all: RangeSet) -> Self {
        Self { all, ..Self::default() }
    }

    pub(super) fn add(&mut self, seq: u64, items: &Memory) {
        self.changed |= self.all.insert(seq);
        if self.all.ranges() > MAX_RANGES {
            self.join(items);
        }
    }

    pub(super) fn acked(&mut self, ranges: &RangeSet) {
        if self.all.is_empty() {
            return;
        }
        let left = difference(&self.all, ranges);
        self.changed |= left != self.all;
        self.all = left;
        self.reported = difference(&self.reported, ranges);
    }

    pub(super) fn rewind(&mut self) {
        self.reported = RangeSet::new();
    }

    /// Numbers to report now. None while a report is unacknowledged, so that a flood of drops costs few frames.
    pub(super) fn report(&mut self) -> Option<RangeSet> {
        if self.all.is_empty() || !self.reported.is_empty() {
            return None;
        }
        for range in self.all.iter().take(MAX_REPORTED) {
            self.reported.insert_range(range);
        }
        Some(self.reported.clone())
    }

    pub(super) fn all(&self) -> &RangeSet {
        &self.all
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed
    }

    pub(super) fn set_changed(&mut self, changed: bool) {
        self.changed = changed;
    }

    /// Replaces all numbers.
    pub(super) fn replace(&mut self, all: RangeSet, items: &Memory) {
        *self = Self { all, reported: RangeSet::new(), changed: true };
        if self.all.ranges() > MAX_RANGES {
            self.join(items);
        }
    }

    /// Numbers between two ranges that are not in the outbox are acknowledged: saying that they will not come is no lie.
    fn join(&mut self, items: &Memory) {
        let mut joined = RangeSet::new();
        let mut last: Option<u64> = None;
        for range in self.all.iter() {
            let start = match last {
                Some(end) if items.first_in(&(end + 1..=*range.start() - 1)).is_none() => end,
                _ => *range.start(),
            };
            joined.insert_range(start..=*range.end());
            last = Some(*range.end());
        }
        self.all = joined;
    }
}

/// The numbers of `set` that are not in `other`.
pub(crate) fn difference(set: &RangeSet, other: &RangeSet) -> RangeSet {
    let mut left = RangeSet::new();
    let mut cuts = other.iter().peekable();
    for range in set.iter() {
        let (mut start, end) = range.into_inner();
        let mut whole = false;
        while let Some(cut) = cuts.peek() {
            if *cut.start() > end {
                break;
            }
            if *cut.end() >= start {
                if *cut.start() > start {
                    left.insert_range(start..=*cut.start() - 1);
                }
                whole = *cut.end() >= end;
                if whole {
                    // This cut may reach into the next range, too.
                    break;
                }
                start = *cut.end() + 1;
            }
            cuts.next();
        }
        if !whole {
            left.insert_range(start..=end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_reported_again_only_on_a_new_connection() {
        let mut abandoned = Abandoned::default();
        let items = Memory::default();
        assert_eq!(abandoned.report(), None);
        abandoned.add(3, &items);
        assert_eq!(abandoned.report().unwrap().to_string(), "3");
        abandoned.add(4, &items);
        assert_eq!(abandoned.report(), None);
        abandoned.acked(&[3].into_iter().collect());
        assert_eq!(abandoned.report().unwrap().to_string(), "4");
        abandoned.rewind();
        assert_eq!(abandoned.report().unwrap().to_string(), "4");
        abandoned.acked(&[4].into_iter().collect());
        assert!(abandoned.report().is_none() && abandoned.all().is_empty());
    }

    #[test]
    fn many_ranges_are_joined() {
        let mut abandoned = Abandoned::default();
        let items = Memory::default();
        for n in 0..3 * MAX_RANGES as u64 {
            abandoned.add(2 * n + 1, &items);
        }
        assert!(abandoned.all().ranges() <= MAX_RANGES + 1);
    }

    proptest! {
        #[test]
        fn a_difference_of_sets(a in proptest::collection::vec(1_u64..60, 0..60), b in proptest::collection::vec(1_u64..60, 0..60)) {
            let left = difference(&a.iter().copied().collect(), &b.iter().copied().collect());
            let (a, b): (BTreeSet<u64>, BTreeSet<u64>) = (a.into_iter().collect(), b.into_iter().collect());
            prop_assert_eq!(left.iter().flatten().collect::<Vec<_>>(), a.difference(&b).copied().collect::<Vec<_>>());
        }
    }
}
