//! A set of numbers kept as inclusive ranges: what a log has seen of a device, what an acknowledgement covers.

use std::{fmt, ops::RangeInclusive, str::FromStr};

/// Disjoint, non-adjacent, rising ranges of `u64`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RangeSet(Vec<(u64, u64)>);

/// The text is no range set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a range set is written like 1-5,7,9-12, rising")]
pub struct InvalidRanges;

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one number. Returns whether it was new.
    pub fn insert(&mut self, n: u64) -> bool {
        // Numbers mostly come in order: look at the last range first.
        match self.0.last_mut() {
            Some(last) if last.1 < n => {
                if last.1 + 1 == n {
                    last.1 = n;
                } else {
                    self.0.push((n, n));
                }
                return true;
            }
            None => {
                self.0.push((n, n));
                return true;
            }
            Some(_) => {}
        }
        let at = self.0.partition_point(|r| r.1 < n);
        if self.0[at].0 <= n {
            return false;
        }
        let joins_next = self.0[at].0 == n + 1;
        let joins_last = at > 0 && self.0[at - 1].1 + 1 == n;
        match (joins_last, joins_next) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = n,
            (false, true) => self.0[at].0 = n,
            (false, false) => self.0.insert(at, (n, n)),
        }
        true
    }

    /// Adds every number of `range`.
    pub fn insert_range(&mut self, range: RangeInclusive<u64>) {
        let (mut start, mut end) = range.into_inner();
        if start > end {
            return;
        }
        let first = self.0.partition_point(|r| r.1.saturating_add(1) < start);
        let last = self.0.partition_point(|r| r.0 <= end.saturating_add(1));
        if first < last {
            start = start.min(self.0[first].0);
            end = end.max(self.0[last - 1].1);
        }
        self.0.splice(first..last, [(start, end)]);
    }

    /// Whether one of the ranges overlaps `range` or is next to it, so that adding it makes no range more.
    pub fn touches(&self, range: &RangeInclusive<u64>) -> bool {
        let at = self.0.partition_point(|r| r.1.saturating_add(1) < *range.start());
        self.0.get(at).is_some_and(|r| r.0 <= range.end().saturating_add(1))
    }

    /// Whether `n` is in the set.
    pub fn contains(&self, n: u64) -> bool {
        let at = self.0.partition_point(|r| r.1 < n);
        self.0.get(at).is_some_and(|r| r.0 <= n)
    }

    /// The ranges, rising.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RangeInclusive<u64>> {
        self.0.iter().map(|&(start, end)| start..=end)
    }

    /// How many ranges, which is what the set costs.
    pub fn ranges(&self) -> usize {
        self.0.len()
    }

    /// How many numbers are in it.
    pub fn numbers(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, (start, end)| sum.saturating_add((end - start).saturating_add(1)))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The largest number.
    pub fn max(&self) -> Option<u64> {
        self.0.last().map(|r| r.1)
    }

    /// The largest `n` such that `1..=n` is all in the set; 0 where 1 is not.
    pub fn prefix(&self) -> u64 {
        self.0.first().filter(|r| r.0 <= 1).map_or(0, |r| r.1)
    }
}

impl FromIterator<u64> for RangeSet {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut set = Self::new();
        for n in numbers {
            set.insert(n);
        }
        set
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, &(start, end)) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            if start == end { write!(f, "{start}")? } else { write!(f, "{start}-{end}")? }
        }
        Ok(())
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl FromStr for RangeSet {
    type Err = InvalidRanges;

    fn from_str(text: &str) -> Result<Self, InvalidRanges> {
        let mut set = Self::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (start, end) = part.split_once('-').unwrap_or((part, part));
            let number = |s: &str| s.parse::<u64>().map_err(|_| InvalidRanges);
            let (start, end) = (number(start)?, number(end)?);
            if start > end || set.max().is_some_and(|max| start <= max) {
                return Err(InvalidRanges);
            }
            set.insert_range(start..=end);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_counted() {
        assert_eq!(["", "7", "1-5,7,9-12"].map(|text| text.parse::<RangeSet>().unwrap().numbers()), [0, 1, 10]);
        let mut all = RangeSet::new();
        all.insert_range(0..=u64::MAX);
        assert_eq!(all.numbers(), u64::MAX, "as many as can be told");
    }

    #[test]
    fn neighbours_merge() {
        let set: RangeSet = [5, 1, 3, 2, 7, 6].into_iter().collect();
        assert_eq!(set.to_string(), "1-3,5-7");
        assert_eq!(set.prefix(), 3);
        assert_eq!("1-3,5-7".parse::<RangeSet>().unwrap(), set);
        assert_eq!("3-1".parse::<RangeSet>(), Err(InvalidRanges));
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(1_u64..200, 0..200), spans in proptest::collection::vec((1_u64..200, 0_u64..9), 0..20)) {
            let mut model = BTreeSet::new();
            let mut set = RangeSet::new();
            for n in numbers {
                prop_assert_eq!(set.insert(n), model.insert(n));
            }
            for (start, length) in spans {
                let (touches, before) = (set.touches(&(start..=start + length)), set.ranges());
                set.insert_range(start..=start + length);
                model.extend(start..=start + length);
                prop_assert_eq!(touches, set.ranges() <= before);
            }
            prop_assert!((0..220).all(|n| set.contains(n) == model.contains(&n)));
            prop_assert_eq!(set.iter().flatten().collect::<Vec<_>>(), model.into_iter().collect::<Vec<_>>());
            let ranges: Vec<_> = set.iter().collect();
            prop_assert!(ranges.windows(2).all(|w| w[0].end() + 1 < *w[1].start()));
            prop_assert_eq!(set.to_string().parse::<RangeSet>().unwrap(), set);
        }
    }
}
