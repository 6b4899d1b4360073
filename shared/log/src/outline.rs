//! Outline of a log: its bounds and the ends of its segments, from which follows how much a reader has yet to read and how long retention leaves it.

use std::time::Duration;

use motience_proto::model::{Cursor, LogEpoch, Offset};
use time::OffsetDateTime;

use crate::{Epochs, Retention, retention::Segment};

/// Time over which the growth of a log is measured.
const RATE_OVER: time::Duration = time::Duration::minutes(10);

/// First and last offset of a producer's log, and its epochs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Epochs of the log, the present one last.
    pub epochs: Epochs,
    /// Oldest offset kept; the one after `last` where nothing is.
    pub first: Offset,
    /// Last offset given out; 0 before the first.
    pub last: Offset,
}

impl Bounds {
    /// Present epoch of the log.
    pub fn log_epoch(&self) -> LogEpoch {
        self.epochs.present()
    }
}

/// An engine's knowledge of a log that it has not read.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Its bounds.
    pub bounds: Bounds,
    /// Ends of its segments, the oldest first.
    pub(crate) segments: Vec<Segment>,
    /// Bytes of messages from the log's beginning on.
    pub(crate) total: u64,
    /// Bytes of those that were removed.
    pub(crate) gone: u64,
    /// When the last record was written.
    pub(crate) end: OffsetDateTime,
    /// The moment of all this.
    pub(crate) now: OffsetDateTime,
    pub(crate) keep: Retention,
}

/// The part of a log that a reader has yet to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The position after which it goes on, in the present epoch of the log.
    pub after: Offset,
    /// Unread records that the log has.
    pub records: u64,
    /// Unread records that retention has removed already.
    pub removed: u64,
    /// When and why retention will remove the first of the unread records; `None`: nothing is unread.
    pub cut: Option<Cut>,
}

/// The next time that retention removes unread records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Time until then, if the log goes on to grow as in the last ten minutes.
    pub left: Duration,
    /// The bound that is reached first.
    pub bound: Bound,
}

/// A bound of retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// [`Retention::age`].
    Age,
    /// [`Retention::bytes`].
    Bytes,
}

impl Bound {
    /// The bound's name in labels and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Bytes => "bytes",
        }
    }
}

impl Outline {
    /// The part that a reader at `cursor` has yet to read.
    pub fn backlog(&self, cursor: Cursor) -> Backlog {
        let Bounds { epochs, first, last } = &self.bounds;
        let after = epochs.resume(cursor, *last).offset;
        let (next, oldest) = (after.next(), after.next().max(*first));
        let records = (last.0 + 1).saturating_sub(oldest.0);
        let cut = (records > 0).then(|| self.cut(oldest));
        Backlog { after, records, removed: oldest.0 - next.0, cut }
    }

    /// When and why retention will remove the oldest record; `None`: there is none.
    pub fn first_cut(&self) -> Option<Cut> {
        let Bounds { first, last, .. } = self.bounds;
        (first <= last).then(|| self.cut(first))
    }

    /// Bytes of the records that the log keeps.
    pub fn bytes(&self) -> u64 {
        self.total.saturating_sub(self.gone)
    }

    /// The bound of bytes that leaves no more than `most`: a segment goes once what is behind it fills the bound, so a bound of `most` itself leaves up
    /// to a segment more.
    pub fn bound_within(&self, most: u64) -> u64 {
        let behind = |segment: &Segment| self.total.saturating_sub(segment.total);
        if self.bytes() <= most { most } else { self.segments.iter().map(behind).find(|bytes| *bytes <= most).unwrap_or(most) }
    }

    /// When the segment that holds this record is removed.
    fn cut(&self, oldest: Offset) -> Cut {
        let place = self.segments.partition_point(|segment| segment.last < oldest);
        let (total, at) = self.segments.get(place).map_or((self.total, self.end), |segment| (segment.total, segment.at));
        let by_age = Duration::try_from(at + self.keep.age - self.now).unwrap_or_default();
        let room = (self.keep.bytes as u64).saturating_sub(self.total - total) as f64;
        let by_bytes = Duration::try_from_secs_f64(room / self.rate()).unwrap_or(Duration::MAX);
        if by_bytes < by_age { Cut { left: by_bytes, bound: Bound::Bytes } } else { Cut { left: by_age, bound: Bound::Age } }
    }

    /// Bytes a second by which the log has grown lately; 0 where it has no whole segment.
    fn rate(&self) -> f64 {
        let since = self.now - RATE_OVER;
        let Some(begun) = self.segments.iter().rev().find(|segment| segment.at <= since).or(self.segments.first()) else { return 0.0 };
        (self.total - begun.total) as f64 / (self.now - begun.at).as_seconds_f64().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second)
    }

    /// Records of 100 bytes, one a second, in segments of ten; the first `removed` of them are gone.
    fn outline(records: u64, removed: u64) -> Outline {
        let segments = (removed / 10 + 1..=records / 10).map(|n| Segment { last: Offset(n * 10), total: n * 1000, at: at(n as i64 * 10) });
        Outline {
            bounds: Bounds { epochs: Epochs::first(LogEpoch(1)), first: Offset(removed + 1), last: Offset(records) },
            segments: segments.collect(),
            total: records * 100,
            gone: removed * 100,
            end: at(records as i64),
            now: at(records as i64),
            keep: Retention { age: Duration::from_secs(600), bytes: 20_000, ..Retention::default() },
        }
    }

    fn cursor(offset: u64) -> Cursor {
        Cursor { log_epoch: LogEpoch(1), offset: Offset(offset) }
    }

    #[test]
    fn a_bound_leaves_no_more_than_wanted() {
        let log = outline(105, 20);
        assert_eq!(log.bytes(), 8500);
        assert_eq!([9000, 8500, 8499, 7500, 7499, 500].map(|most| log.bound_within(most)), [9000, 8500, 7500, 7500, 6500, 500]);
        assert_eq!(log.bound_within(400), 400, "the open segment stays");
    }

    #[test]
    fn the_nearer_bound_is_told_with_the_time_to_it() {
        let log = outline(105, 0);
        assert_eq!(log.backlog(cursor(105)), Backlog { after: Offset(105), ..Backlog::default() }, "nothing is unread");
        // Record 5 goes with the segment that ends at 1,000 bytes and at second 10: 9,500 bytes follow it, 100 come each second.
        let backlog = log.backlog(cursor(4));
        assert_eq!((backlog.records, backlog.removed), (101, 0));
        assert_eq!(backlog.cut, Some(Cut { left: Duration::from_secs(105), bound: Bound::Bytes }));
        // Nothing comes any more: age is what is left.
        let idle = Outline { now: at(100_000), ..log.clone() };
        assert_eq!(idle.backlog(cursor(4)).cut, Some(Cut { left: Duration::ZERO, bound: Bound::Age }));
        let old = Outline { keep: Retention { bytes: 1 << 30, ..log.keep }, ..log.clone() };
        assert_eq!(old.backlog(cursor(4)).cut, Some(Cut { left: Duration::from_secs(505), bound: Bound::Age }));
        // The open segment ends with the last record.
        assert_eq!(old.backlog(cursor(104)).cut, Some(Cut { left: Duration::from_secs(600), bound: Bound::Age }));
    }

    #[test]
    fn what_was_removed_unread_is_counted_apart() {
        let log = outline(100, 40);
        let backlog = log.backlog(cursor(10));
        assert_eq!((backlog.records, backlog.removed), (60, 30));
        assert_eq!(log.backlog(cursor(40)).removed, 0);
        let gone = outline(100, 100);
        assert_eq!(gone.backlog(cursor(90)), Backlog { after: Offset(90), records: 0, removed: 10, cut: None });
        // A cursor of an epoch that nobody knows begins where all epochs agree: before everything.
        let stranger = Cursor { log_epoch: LogEpoch(9), offset: Offset(70) };
        assert_eq!(log.backlog(stranger).records, 60);
        assert_eq!(outline(0, 0).backlog(Cursor::default()), Backlog::default());
    }
}
