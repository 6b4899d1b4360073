//! Where a follow is: pure, so that "every record once, or a gap" can be tested.
//!
//! Entries come on a stream of their own, gaps on the control stream, so that either may overtake the other. A gap is
//! held until the entries before it are there.

use std::collections::VecDeque;

use bytes::Bytes;
use motience_shared::{
    model::{LogEpoch, Offset, ProducerId},
    wire::From as Start,
};

use super::Delivery;

/// Gaps held; more than one at a time would take a server that trims faster than it sends.
const MAX_GAPS: usize = 16;

/// The place of one follow.
#[derive(Debug)]
pub(super) struct Cursor {
    producer: ProducerId,
    start: Start,
    /// The last offset delivered, or known to be gone.
    last: Option<u64>,
    log_epoch: Option<LogEpoch>,
    gaps: VecDeque<(u64, u64)>,
}

impl Cursor {
    pub(super) fn new(producer: ProducerId, start: Start) -> Self {
        let last = match start {
            Start::After(offset) => Some(offset.0),
            Start::Earliest => Some(0),
            Start::Live => None,
        };
        Self { producer, start, last, log_epoch: None, gaps: VecDeque::new() }
    }

    /// Where to begin at the next connection.
    pub(super) fn resume(&self) -> Start {
        match self.last {
            Some(0) => Start::Earliest,
            Some(last) => Start::After(Offset(last)),
            None => self.start,
        }
    }

    /// The connection was lost: gaps that wait for entries are told again by the next.
    pub(super) fn disconnected(&mut self) {
        self.gaps.clear();
    }

    /// A feed began.
    pub(super) fn feed(&mut self, log_epoch: LogEpoch, out: &mut VecDeque<Delivery>) {
        let before = self.log_epoch.replace(log_epoch);
        if before.is_some_and(|before| before != log_epoch) {
            self.last = None;
            self.gaps.clear();
            out.push_back(Delivery::Reset { producer: self.producer, log_epoch });
        }
    }

    /// An entry came.
    pub(super) fn entry(&mut self, offset: Offset, message: Bytes, out: &mut VecDeque<Delivery>) {
        while self.gaps.front().is_some_and(|gap| gap.1 < offset.0) {
            let Some(gap) = self.gaps.pop_front() else { break };
            self.pass(gap, out);
        }
        if self.last.is_some_and(|last| offset.0 <= last) {
            return;
        }
        self.last = Some(offset.0);
        out.push_back(Delivery::Record { producer: self.producer, offset, message });
        self.release(out);
    }

    /// Word of a gap came.
    pub(super) fn gap(&mut self, from: Offset, to: Offset, out: &mut VecDeque<Delivery>) {
        if from > to {
            return;
        }
        if self.gaps.len() == MAX_GAPS {
            let Some(gap) = self.gaps.pop_front() else { return };
            out.push_back(self.notice(gap));
        }
        self.gaps.push_back((from.0, to.0));
        self.release(out);
    }

    /// Delivers gaps that nothing is expected before.
    fn release(&mut self, out: &mut VecDeque<Delivery>) {
        while let Some(&gap) = self.gaps.front() {
            if self.last.is_none_or(|last| last + 1 < gap.0) {
                break;
            }
            self.gaps.pop_front();
            self.pass(gap, out);
        }
    }

    fn pass(&mut self, gap: (u64, u64), out: &mut VecDeque<Delivery>) {
        out.push_back(self.notice(gap));
        self.last = Some(self.last.map_or(gap.1, |last| last.max(gap.1)));
    }

    fn notice(&self, (from, to): (u64, u64)) -> Delivery {
        Delivery::Gap { producer: self.producer, from: Offset(from), to: Offset(to) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: ProducerId = ProducerId(1);

    fn offsets(out: &VecDeque<Delivery>) -> Vec<(u64, u64)> {
        out.iter()
            .map(|delivery| match delivery {
                Delivery::Record { offset, .. } => (offset.0, offset.0),
                Delivery::Gap { from, to, .. } => (from.0, to.0),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn doubles_are_removed_and_the_place_is_kept() {
        let (mut cursor, mut out) = (Cursor::new(WHO, Start::Live), VecDeque::new());
        assert_eq!(cursor.resume(), Start::Live);
        for offset in [5, 6, 6, 5, 7] {
            cursor.entry(Offset(offset), Bytes::new(), &mut out);
        }
        assert_eq!(offsets(&out), [(5, 5), (6, 6), (7, 7)]);
        assert_eq!(cursor.resume(), Start::After(Offset(7)));
    }

    #[test]
    fn a_gap_waits_for_what_is_before_it_and_overtakes_nothing() {
        for gap_first in [true, false] {
            for start in [Start::After(Offset(2)), Start::Live] {
                let (mut cursor, mut out) = (Cursor::new(WHO, start), VecDeque::new());
                let gap = |cursor: &mut Cursor, out: &mut VecDeque<_>| cursor.gap(Offset(4), Offset(6), out);
                if gap_first {
                    gap(&mut cursor, &mut out);
                    assert!(out.is_empty());
                }
                cursor.entry(Offset(3), Bytes::new(), &mut out);
                if !gap_first {
                    gap(&mut cursor, &mut out);
                }
                cursor.entry(Offset(7), Bytes::new(), &mut out);
                assert_eq!(offsets(&out), [(3, 3), (4, 6), (7, 7)], "{gap_first} {start:?}");
            }
        }
    }

    #[test]
    fn a_gap_at_the_start_is_told_at_once_and_passed_at_the_resume() {
        let (mut cursor, mut out) = (Cursor::new(WHO, Start::Earliest), VecDeque::new());
        cursor.gap(Offset(1), Offset(9), &mut out);
        assert_eq!(offsets(&out), [(1, 9)]);
        assert_eq!(cursor.resume(), Start::After(Offset(9)));
    }

    #[test]
    fn a_new_life_of_the_log_starts_over() {
        let (mut cursor, mut out) = (Cursor::new(WHO, Start::Live), VecDeque::new());
        cursor.feed(LogEpoch(1), &mut out);
        cursor.entry(Offset(50), Bytes::new(), &mut out);
        cursor.feed(LogEpoch(1), &mut out);
        cursor.feed(LogEpoch(2), &mut out);
        cursor.entry(Offset(1), Bytes::new(), &mut out);
        assert_eq!(out[1], Delivery::Reset { producer: WHO, log_epoch: LogEpoch(2) });
        assert_eq!(out.len(), 3);
    }
}
