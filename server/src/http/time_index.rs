//! The device times in logs: the earliest and the latest of each span of a log that was read. A reader that asks for other times continues behind
//! the span, so that nothing of it is read or parsed again.
//!
//! An entry never changes within one epoch of the log, so a span is valid for as long as its entries are kept. Where no span is known, the log is
//! read.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use motience_proto::model::{LogEpoch, Offset, ProducerId};
use motience_store::HistoryQuery;
use parking_lot::{Mutex, MutexGuard};
use time::OffsetDateTime;

/// Logs whose spans are kept.
const MAX_LOGS: usize = 2000;
/// Parts of one log that are indexed; the earliest, which retention removes first, make room.
const MAX_SPANS: usize = 512;
/// Bytes up to which parts that touch are made one: so many are looked through where the times asked for may be in there.
const PART: usize = 256 << 10;

/// Marks of the logs that were read.
#[derive(Debug, Default)]
pub(crate) struct TimeIndex {
    logs: Mutex<HashMap<(ProducerId, LogEpoch), Vec<Span>>>,
    scanned: AtomicU64,
}

/// A part of a log, read through.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    after: Offset,
    last: Offset,
    bytes: usize,
    /// Earliest and latest; `None`: no entry of it has a time.
    times: Option<(OffsetDateTime, OffsetDateTime)>,
}

impl Span {
    /// Nothing yet, behind this offset.
    pub(crate) fn begin(after: Offset) -> Self {
        Self { after, last: after, bytes: 0, times: None }
    }

    /// Adds the next entry.
    pub(crate) fn add(&mut self, offset: Offset, bytes: usize, time: Option<OffsetDateTime>) {
        self.last = offset;
        self.bytes += bytes;
        if let Some(time) = time {
            self.times = Some(self.times.map_or((time, time), |(first, last)| (first.min(time), last.max(time))));
        }
    }

    /// Takes the part right behind it in, if both are small.
    fn join(&mut self, next: &Self) -> bool {
        let joins = self.last == next.after && self.bytes + next.bytes <= PART;
        if joins {
            self.last = next.last;
            self.bytes += next.bytes;
            self.times = match (self.times, next.times) {
                (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
                (one, other) => one.or(other),
            };
        }
        joins
    }
}

impl TimeIndex {
    /// Where a reader at `at` goes on: behind all that is known to hold nothing of the devices' times asked for.
    pub(crate) fn skip(&self, log: (ProducerId, LogEpoch), query: &HistoryQuery, mut at: Offset) -> Offset {
        if query.by_device
            && let Some(spans) = self.logs().get(&log)
        {
            let first = spans.partition_point(|span| span.last <= at);
            for span in &spans[first..] {
                if span.after > at || span.times.is_some_and(|times| query.overlaps(times)) {
                    break;
                }
                at = span.last;
            }
        }
        at
    }

    /// Remembers a part that was read through.
    pub(crate) fn keep(&self, log: (ProducerId, LogEpoch), part: Span) {
        self.scanned.fetch_add(part.bytes as u64, Ordering::Relaxed);
        metrics::counter!("motience_history_scanned_bytes_total").increment(part.bytes as u64);
        if part.last == part.after {
            return;
        }
        let mut logs = self.logs();
        if logs.len() >= MAX_LOGS && !logs.contains_key(&log) {
            // Which one goes is left to chance: what is asked for again is soon known again.
            if let Some(key) = logs.keys().next().copied() {
                logs.remove(&key);
            }
        }
        let spans = logs.entry(log).or_default();
        let at = spans.partition_point(|span| span.last <= part.after);
        // Another reader may have indexed some of it meanwhile.
        if spans.get(at).is_some_and(|next| next.after < part.last) {
            return;
        }
        let joins = at > 0 && spans[at - 1].join(&part);
        if !joins {
            spans.insert(at, part);
            if spans.len() > MAX_SPANS {
                spans.remove(0);
            }
        }
    }

    /// Bytes of entries that were looked at so far.
    #[cfg(test)]
    pub(crate) fn scanned(&self) -> u64 {
        self.scanned.load(Ordering::Relaxed)
    }

    fn logs(&self) -> MutexGuard<'_, HashMap<(ProducerId, LogEpoch), Vec<Span>>> {
        self.logs.lock()
    }
}

#[cfg(test)]
mod tests {
    use time::{Duration, macros::datetime};

    use super::*;

    const LOG: (ProducerId, LogEpoch) = (ProducerId(1), LogEpoch(1));
    const START: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

    fn part(after: u64, last: u64, bytes: usize, seconds: impl Iterator<Item = i64>) -> Span {
        let mut span = Span::begin(Offset(after));
        let each = bytes / usize::try_from(last - after).unwrap();
        for (offset, second) in (after + 1..=last).zip(seconds) {
            span.add(Offset(offset), each, Some(START + Duration::seconds(second)));
        }
        span
    }

    fn query(from: i64, to: i64) -> HistoryQuery {
        let at = |seconds| Some(START + Duration::seconds(seconds));
        HistoryQuery { from: at(from), to: at(to), by_device: true, ..HistoryQuery::default() }
    }

    #[test]
    fn parts_that_hold_nothing_of_a_time_are_passed_over() {
        let spans = TimeIndex::default();
        spans.keep(LOG, part(0, 10, PART, 0..));
        spans.keep(LOG, part(10, 20, PART, 10..));
        // The part between was never read.
        spans.keep(LOG, part(30, 40, PART, 30..));
        let at = |from, to, after| spans.skip(LOG, &query(from, to), Offset(after)).0;
        assert_eq!(at(100, 200, 0), 20, "as far as is known without a gap");
        assert_eq!(at(100, 200, 5), 20);
        assert_eq!(at(100, 200, 25), 25);
        assert_eq!(at(100, 200, 30), 40);
        assert_eq!(at(9, 9, 0), 0, "it may be in there");
        assert_eq!(at(10, 10, 0), 10);
        assert_eq!(at(10, 10, 15), 15);
        assert_eq!(spans.skip((ProducerId(1), LogEpoch(2)), &query(100, 200), Offset(0)).0, 0, "another epoch");
        assert_eq!(spans.skip(LOG, &HistoryQuery { by_device: true, ..HistoryQuery::default() }, Offset(0)).0, 0, "all times");
        let received = HistoryQuery { by_device: false, ..query(100, 200) };
        assert_eq!(spans.skip(LOG, &received, Offset(0)).0, 0, "nothing is indexed of when records came");
    }

    #[test]
    fn small_parts_become_one_and_all_are_bounded() {
        let spans = TimeIndex::default();
        for offset in 0..1000 {
            spans.keep(LOG, part(offset, offset + 1, 100, std::iter::once(1)));
            spans.keep(LOG, part(offset, offset + 1, 100, std::iter::once(1)));
        }
        assert_eq!(spans.logs()[&LOG].len(), 1);
        assert_eq!(spans.skip(LOG, &query(5, 6), Offset(0)).0, 1000);
        for offset in 1000..3000 {
            spans.keep(LOG, part(offset, offset + 1, PART, std::iter::once(1)));
        }
        assert_eq!(spans.logs()[&LOG].len(), MAX_SPANS);
        for log in 0..3 * MAX_LOGS as i64 {
            spans.keep((ProducerId(log), LogEpoch(1)), part(0, 1, 10, std::iter::once(1)));
        }
        assert_eq!(spans.logs().len(), MAX_LOGS);
    }
}
