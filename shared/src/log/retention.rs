//! How much of a producer's log is kept, and marks by which it is trimmed without looking at every entry.

use std::{collections::VecDeque, time::Duration};

use time::OffsetDateTime;

use super::Retention;
use crate::model::Offset;

/// Parts into which the kept log is divided: it is trimmed by whole parts.
const PARTS: u32 = 64;

/// The end of a part.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Its last offset.
    last: Offset,
    /// Bytes of messages from the log's beginning up to there.
    total: u64,
    /// When it was written.
    at: OffsetDateTime,
}

/// Marks of one log, oldest first.
#[derive(Debug, Default)]
pub(super) struct Marks {
    marks: VecDeque<Mark>,
    total: u64,
    /// Bytes and time at the last mark.
    marked: u64,
    since: Option<OffsetDateTime>,
    /// When the last of what was removed was written.
    gone_at: Option<OffsetDateTime>,
}

impl Marks {
    /// Counts a batch that ends with `last`.
    pub(super) fn add(&mut self, last: Offset, bytes: usize, at: OffsetDateTime, keep: &Retention) {
        self.total += bytes as u64;
        let since = *self.since.get_or_insert(at);
        if self.total - self.marked >= (keep.bytes as u64 / u64::from(PARTS)).max(1) || at - since >= part(keep.age) {
            self.marks.push_back(Mark { last, total: self.total, at });
            self.marked = self.total;
            self.since = None;
        }
    }

    /// When the last of what was removed was written; `None`: nothing was.
    pub(super) fn gone_at(&self) -> Option<OffsetDateTime> {
        self.gone_at
    }

    /// Takes over what [`Marks::gone_at`] said of this log in an earlier process.
    pub(super) fn recall_gone(&mut self, gone_at: Option<OffsetDateTime>) {
        self.gone_at = gone_at;
    }

    /// The last offset to be removed now, if any is.
    pub(super) fn trim(&mut self, now: OffsetDateTime, keep: &Retention) -> Option<Offset> {
        let mut gone = None;
        while let Some(oldest) = self.marks.front() {
            // What lies after the oldest mark is enough to fill the room, or the part is too old.
            let full = self.total - oldest.total >= keep.bytes as u64;
            if !full && now - oldest.at <= keep.age {
                break;
            }
            gone = Some(oldest.last);
            self.gone_at = self.gone_at.max(Some(oldest.at));
            self.marks.pop_front();
        }
        gone
    }
}

fn part(age: Duration) -> time::Duration {
    time::Duration::try_from(age / PARTS).unwrap_or(time::Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second)
    }

    #[test]
    fn as_much_as_fits_is_kept_and_hardly_more() {
        let keep = Retention { age: Duration::from_secs(1000), bytes: 6400, ..Retention::default() };
        let (mut marks, mut gone) = (Marks::default(), 0);
        for n in 1..=1000 {
            marks.add(Offset(n), 50, at(0), &keep);
            gone = marks.trim(at(0), &keep).map_or(gone, |offset| offset.0);
            let kept = (n - gone) * 50;
            assert!(kept >= (n * 50).min(6400) && kept <= 6400 + 200, "{n}: {kept}");
        }
    }

    #[test]
    fn what_is_too_old_goes_part_by_part() {
        let keep = Retention { age: Duration::from_secs(640), bytes: 1 << 20, ..Retention::default() };
        let mut marks = Marks::default();
        for n in 1..=100 {
            marks.add(Offset(n), 10, at(n as i64), &keep);
        }
        assert_eq!(marks.trim(at(640), &keep), None);
        let gone = marks.trim(at(700), &keep).unwrap().0;
        assert!((45..=59).contains(&gone), "{gone}");
    }

    #[test]
    fn a_lone_large_record_is_kept() {
        let keep = Retention { age: Duration::from_secs(1000), bytes: 100, ..Retention::default() };
        let mut marks = Marks::default();
        marks.add(Offset(1), 5000, at(0), &keep);
        assert_eq!(marks.trim(at(0), &keep), None);
        marks.add(Offset(2), 5000, at(0), &keep);
        assert_eq!(marks.trim(at(0), &keep), Some(Offset(1)));
    }
}
