//! The newest entries of one producer, kept ready for all who follow it on this node.

use std::{collections::VecDeque, sync::Arc};

use motience_log::{Batch, Bounds};
use motience_proto::model::{Cursor, Offset};

use super::parts::cut;

/// Consecutive batches, bounded by bytes.
///
/// Invariant: the batches are consecutive and the last ends at the end of the log as it is known. A hole empties the ring, so that a cursor before
/// it finds nothing here and reads the log.
#[derive(Debug)]
pub(super) struct Ring {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    limit: usize,
    /// Longest part, in bytes: longer batches are cut, once for all who read them.
    part: usize,
    /// Bounds of the log as far as they are known; `None` before the log has been asked.
    bounds: Option<Bounds>,
    /// End of the last batch that came while the log was first asked: the answer may be older.
    early: Option<Cursor>,
}

/// Outcome of reading the ring at a cursor.
#[derive(Debug)]
pub(super) enum ReadOutcome {
    /// Nothing after it yet.
    Nothing,
    /// These, the first of them holding the next offset.
    Batches(Vec<Arc<Batch>>),
    /// There is more than the ring holds: read the log.
    Older,
    /// The cursor is past the end that this node knows of. Its record was read from the log or on another node, and the signal is still
    /// on its way; or no log ever gave it out. The log tells which.
    Beyond,
    /// The log has entered another epoch: go on after this cursor.
    Reset(Cursor),
}

/// Outcome of pushing a signalled batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PushOutcome {
    /// Known already.
    Known,
    /// The next, or one after a hole.
    Appended,
    /// Batch of an epoch not in our history, or with other records than known at its offsets: ask the log for its bounds.
    UnknownEpoch,
}

impl Ring {
    pub(super) fn new(limit: usize, part: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, limit, part, bounds: None, early: None }
    }

    /// Takes a published batch.
    pub(super) fn push(&mut self, batch: &Arc<Batch>) -> PushOutcome {
        let Some(bounds) = self.bounds.as_mut() else {
            self.early = Some(Cursor { log_epoch: batch.log_epoch, offset: batch.last() });
            return PushOutcome::UnknownEpoch;
        };
        if batch.log_epoch != bounds.log_epoch() {
            return PushOutcome::UnknownEpoch;
        }
        if batch.last() <= bounds.last {
            let agrees = agree(&self.batches, batch);
            if !agrees {
                // One of the two is not what the log has: readers that have not passed it read the log.
                self.forget();
            }
            return if agrees { PushOutcome::Known } else { PushOutcome::UnknownEpoch };
        }
        if batch.first != bounds.last.next() {
            self.batches.clear();
            self.bytes = 0;
        }
        bounds.last = batch.last();
        self.bytes += batch.bytes();
        self.batches.extend(cut(batch, Offset(0), self.part, usize::MAX));
        while self.bytes > self.limit && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
        PushOutcome::Appended
    }

    /// Learns where the log really ends. Returns whether that was news. `heard` is where the ring ended when the log was asked: an
    /// end before that, in the same epoch, means that a batch was signalled which the log does not have.
    pub(super) fn advance(&mut self, mut bounds: Bounds, heard: Cursor) -> bool {
        if let Some(early) = self.early.take().filter(|early| early.log_epoch == bounds.log_epoch()) {
            bounds.last = bounds.last.max(early.offset);
        }
        let false_end = bounds.log_epoch() == heard.log_epoch && bounds.last < heard.offset;
        // Asked for before the newest batch was heard, it may be behind.
        let news = false_end || self.bounds.as_ref().is_none_or(|known| bounds.epochs != known.epochs || bounds.last > known.last);
        if news {
            self.forget();
            self.bounds = Some(bounds);
        }
        news
    }

    /// Lets go of all batches: whoever has not passed them reads the log.
    pub(super) fn forget(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }

    /// End of the log as it is known.
    pub(super) fn end(&self) -> Cursor {
        self.bounds.as_ref().map_or_else(Cursor::default, |bounds| Cursor { log_epoch: bounds.log_epoch(), offset: bounds.last })
    }

    /// Batches after `cursor`, up to about `bytes`.
    pub(super) fn read(&self, cursor: Cursor, bytes: usize) -> ReadOutcome {
        let Some(bounds) = &self.bounds else { return ReadOutcome::Nothing };
        if cursor.log_epoch != bounds.log_epoch() {
            return ReadOutcome::Reset(bounds.epochs.resume(cursor, bounds.last));
        }
        if cursor.offset > bounds.last {
            return ReadOutcome::Beyond;
        }
        if cursor.offset == bounds.last {
            return ReadOutcome::Nothing;
        }
        match self.batches.front() {
            Some(front) if front.first <= cursor.offset.next() => {}
            _ => return ReadOutcome::Older,
        }
        let start = first_after(&self.batches, cursor.offset);
        let mut taken = 0;
        let within = |batch: &&Arc<Batch>| {
            let more = taken < bytes;
            taken += batch.bytes();
            more
        };
        ReadOutcome::Batches(self.batches.range(start..).take_while(within).cloned().collect())
    }
}

/// The index of the first batch that goes beyond `offset`. Nearly every reader is near the end, so the search begins there, with steps that
/// double.
fn first_after(batches: &VecDeque<Arc<Batch>>, offset: Offset) -> usize {
    let (mut end, mut step) = (batches.len(), 1);
    while let Some(at) = end.checked_sub(step)
        && batches[at].last() > offset
    {
        (end, step) = (at, step * 2);
    }
    let mut begin = end.saturating_sub(step);
    while begin < end {
        let middle = begin.midpoint(end);
        if batches[middle].last() > offset {
            end = middle;
        } else {
            begin = middle + 1;
        }
    }
    begin
}

/// Whether a batch has the records that are known at its offsets, as far as they are.
fn agree(known: &VecDeque<Arc<Batch>>, batch: &Batch) -> bool {
    let start = known.partition_point(|one| one.last() < batch.first);
    let there = known.range(start..).flat_map(|one| one.after(Offset(batch.first.0.saturating_sub(1))));
    let told = batch.after(Offset(0));
    // Both go on without holes, so they are compared from the later beginning of the two.
    let mut there = there.peekable();
    let Some(&(first, ..)) = there.peek() else { return true };
    told.skip_while(|(offset, ..)| *offset < first).zip(there).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use motience_log::Entry;
    use motience_proto::model::{LogEpoch, LogKey, ProducerEpoch, ProducerId, RecordId, Seq};

    fn batch(epoch: u64, first: u64, count: u64) -> Arc<Batch> {
        let entry =
            |n| Entry { record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(n) }, message: Bytes::from_static(b"0123456789") };
        Arc::new(Batch::new(
            LogKey::numbered(ProducerId(1)),
            LogEpoch(epoch),
            Offset(first),
            (0..count).map(|n| entry(first + n)).collect(),
        ))
    }

    fn bounds(epochs: &str, last: u64) -> Bounds {
        Bounds { epochs: epochs.parse().unwrap(), first: Offset(1), last: Offset(last) }
    }

    fn ring(limit: usize) -> Ring {
        let mut ring = Ring::new(limit, 1 << 20);
        assert!(ring.advance(bounds("1:0", 0), Cursor::default()));
        ring
    }

    fn at(epoch: u64, offset: u64) -> Cursor {
        Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
    }

    fn seen(found: &ReadOutcome) -> Option<(u64, u64)> {
        match found {
            ReadOutcome::Batches(batches) => Some((batches[0].first.0, batches[batches.len() - 1].last().0)),
            _ => None,
        }
    }

    #[test]
    fn a_reader_anywhere_finds_its_place() {
        for count in 0..40 {
            let batches: VecDeque<_> = (0..count).map(|n| batch(1, 1 + 3 * n, 3)).collect();
            for offset in 0..=3 * count {
                let expected = batches.iter().position(|batch| batch.last() > Offset(offset)).unwrap_or(batches.len());
                assert_eq!(first_after(&batches, Offset(offset)), expected, "{count} batches, offset {offset}");
            }
        }
    }

    #[test]
    fn it_keeps_the_newest_and_sends_older_cursors_to_the_log() {
        let mut ring = ring(40);
        for first in [1, 3, 5, 7] {
            assert_eq!(ring.push(&batch(1, first, 2)), PushOutcome::Appended);
        }
        assert_eq!(ring.push(&batch(1, 7, 2)), PushOutcome::Known, "a repeated message is no news");
        assert!(matches!(ring.read(at(1, 8), 1000), ReadOutcome::Nothing));
        assert_eq!(seen(&ring.read(at(1, 4), 1000)), Some((5, 8)));
        assert_eq!(seen(&ring.read(at(1, 4), 1)), Some((5, 6)), "at least one batch, whatever the budget");
        assert!(matches!(ring.read(at(1, 3), 1000), ReadOutcome::Older));
    }

    #[test]
    fn a_long_batch_is_cut_so_that_a_reader_keeps_little_of_it() {
        let mut ring = Ring::new(1000, 30);
        ring.advance(bounds("1:0", 0), Cursor::default());
        assert_eq!(ring.push(&batch(1, 1, 20)), PushOutcome::Appended);
        let ReadOutcome::Batches(read) = ring.read(at(1, 4), 30) else { panic!("it is there") };
        assert_eq!(read.iter().map(|part| (part.first.0, part.last().0)).collect::<Vec<_>>(), [(4, 6)]);
        let ReadOutcome::Batches(read) = ring.read(at(1, 6), 31) else { panic!("it is there") };
        assert_eq!(read.iter().map(|part| part.first.0).collect::<Vec<_>>(), [7, 10]);
        assert_eq!(ring.end(), at(1, 20));
    }

    #[test]
    fn a_hole_empties_it() {
        let mut ring = ring(1000);
        ring.push(&batch(1, 1, 2));
        ring.push(&batch(1, 5, 1));
        assert!(matches!(ring.read(at(1, 2), 1000), ReadOutcome::Older));
        assert_eq!(seen(&ring.read(at(1, 4), 1000)), Some((5, 5)));
        assert!(ring.advance(bounds("1:0", 9), Cursor::default()), "a lost last message shows in the head");
        assert!(!ring.advance(bounds("1:0", 8), Cursor::default()), "an answer that was overtaken is no news");
        assert!(matches!(ring.read(at(1, 5), 1000), ReadOutcome::Older));
    }

    #[test]
    fn a_batch_that_comes_before_the_answer_of_the_log_is_not_forgotten() {
        let mut ring = Ring::new(1000, 1 << 20);
        assert_eq!(ring.push(&batch(1, 1, 4)), PushOutcome::UnknownEpoch, "the log is being asked");
        assert!(ring.advance(bounds("1:0", 2), Cursor::default()), "an answer from before the batch");
        assert_eq!(ring.end(), at(1, 4));
        assert!(matches!(ring.read(at(1, 2), 1000), ReadOutcome::Older), "the log has the rest");
        // Of another epoch it says nothing.
        let mut ring = Ring::new(1000, 1 << 20);
        ring.push(&batch(2, 1, 4));
        ring.advance(bounds("1:0", 2), Cursor::default());
        assert_eq!(ring.end(), at(1, 2));
    }

    #[test]
    fn the_log_is_right_where_it_disagrees_with_what_was_heard() {
        let mut ring = ring(1000);
        ring.push(&batch(1, 1, 9));
        assert!(!ring.advance(bounds("1:0", 5), at(1, 5)), "the rest came in while the log was asked");
        assert!(ring.advance(bounds("1:0", 5), at(1, 9)), "the log ends before what was heard by then");
        assert!(matches!(ring.read(at(1, 9), 1000), ReadOutcome::Beyond));
        assert!(matches!(ring.read(at(1, 2), 1000), ReadOutcome::Older));

        ring.push(&batch(1, 6, 3));
        ring.push(&batch(1, 9, 2));
        assert_eq!(ring.push(&batch(1, 4, 6)), PushOutcome::Known, "known, and as it was told");
        let other =
            Entry { record_id: RecordId { producer_epoch: ProducerEpoch(2), seq: Seq(1) }, message: Bytes::from_static(b"another") };
        let false_one = Arc::new(Batch::new(LogKey::numbered(ProducerId(1)), LogEpoch(1), Offset(8), vec![other]));
        assert_eq!(ring.push(&false_one), PushOutcome::UnknownEpoch, "the log is asked");
        assert!(matches!(ring.read(at(1, 7), 1000), ReadOutcome::Older));
        assert_eq!(ring.end(), at(1, 10));
    }

    #[test]
    fn another_life_is_asked_for_and_sends_cursors_back_to_what_is_shared() {
        let mut ring = ring(1000);
        ring.push(&batch(1, 1, 9));
        assert_eq!(ring.push(&batch(2, 4, 1)), PushOutcome::UnknownEpoch);
        assert_eq!(seen(&ring.read(at(1, 4), 1000)), Some((1, 9)), "until it is known where it began");
        assert!(ring.advance(bounds("1:0,2:3", 4), Cursor::default()));
        assert!(matches!(ring.read(at(1, 9), 1000), ReadOutcome::Reset(cursor) if cursor == at(2, 3)));
        assert!(matches!(ring.read(at(1, 2), 1000), ReadOutcome::Reset(cursor) if cursor == at(2, 2)));
        assert!(matches!(ring.read(at(2, 4), 1000), ReadOutcome::Nothing));
        // A wiped log knows nothing of its past.
        assert!(ring.advance(bounds("3:0", 0), Cursor::default()));
        assert!(matches!(ring.read(at(2, 4), 1000), ReadOutcome::Reset(cursor) if cursor == at(3, 0)));
    }
}
