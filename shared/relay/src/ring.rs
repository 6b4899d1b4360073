//! The newest entries of one producer, kept ready for all who follow it on this node.

use std::{collections::VecDeque, sync::Arc};

use motience_log::{Batch, Head};
use motience_proto::model::{Cursor, Offset};

use super::parts::cut;

/// Consecutive batches, bounded by bytes.
///
/// Invariant: the batches are consecutive and the last ends at the head. A hole empties the ring, so that a cursor before
/// it finds nothing here and reads the log.
#[derive(Debug)]
pub(super) struct Ring {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    limit: usize,
    /// Longest part, in bytes: longer batches are cut, once for all who read them.
    part: usize,
    /// The log's end as far as it is known; `None` before the log has been asked.
    head: Option<Head>,
}

/// What a cursor finds.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing after it yet.
    Nothing,
    /// These, the first of them holding the next offset.
    Batches(Vec<Arc<Batch>>),
    /// There is more than the ring holds: read the log.
    Older,
    /// The log has another life: go on after this cursor.
    Reset(Cursor),
}

/// What a published batch was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Known.
    Nothing,
    /// The next, or one after a hole.
    Batch,
    /// Word of a life that this node knows nothing of, or of other records than it heard before: ask the log.
    Life,
}

impl Ring {
    pub(super) fn new(limit: usize, part: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, limit, part, head: None }
    }

    /// Takes a published batch.
    pub(super) fn push(&mut self, batch: &Arc<Batch>) -> News {
        let Some(head) = self.head.as_mut() else { return News::Life };
        if batch.epoch != head.epoch() {
            return News::Life;
        }
        if batch.last() <= head.last {
            let agrees = agree(&self.batches, batch);
            if !agrees {
                // One of the two is not what the log has: readers that have not passed it read the log.
                self.batches.clear();
                self.bytes = 0;
            }
            return if agrees { News::Nothing } else { News::Life };
        }
        if batch.first != head.last.next() {
            self.batches.clear();
            self.bytes = 0;
        }
        head.last = batch.last();
        self.bytes += batch.bytes();
        self.batches.extend(cut(batch, Offset(0), self.part, usize::MAX));
        while self.bytes > self.limit && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
        News::Batch
    }

    /// Learns where the log really ends. Returns whether that was news. `heard` is where the ring ended when the log was asked: an
    /// end before that, in the same life, means that something was heard which the log does not have.
    pub(super) fn advance(&mut self, head: Head, heard: Cursor) -> bool {
        let false_end = head.epoch() == heard.epoch && head.last < heard.offset;
        // Asked for before the newest batch was heard, it may be behind.
        let news = false_end || self.head.as_ref().is_none_or(|known| head.lives != known.lives || head.last > known.last);
        if news {
            self.batches.clear();
            self.bytes = 0;
            self.head = Some(head);
        }
        news
    }

    /// The newest place known.
    pub(super) fn end(&self) -> Cursor {
        self.head.as_ref().map_or_else(Cursor::default, |head| Cursor { epoch: head.epoch(), offset: head.last })
    }

    /// Batches after `cursor`, up to about `bytes`.
    pub(super) fn read(&self, cursor: Cursor, bytes: usize) -> Found {
        let Some(head) = &self.head else { return Found::Nothing };
        if cursor.epoch != head.epoch() || cursor.offset > head.last {
            return Found::Reset(head.lives.resume(cursor, head.last));
        }
        if cursor.offset == head.last {
            return Found::Nothing;
        }
        match self.batches.front() {
            Some(front) if front.first <= cursor.offset.next() => {}
            _ => return Found::Older,
        }
        let start = self.batches.partition_point(|batch| batch.last() <= cursor.offset);
        let mut taken = 0;
        let within = |batch: &&Arc<Batch>| {
            let more = taken < bytes;
            taken += batch.bytes();
            more
        };
        Found::Batches(self.batches.range(start..).take_while(within).cloned().collect())
    }
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
    use motience_proto::model::{Epoch, LogEpoch, LogKey, ProducerId, RecordName, Seq};

    fn batch(epoch: u64, first: u64, count: u64) -> Arc<Batch> {
        let entry = |n| Entry { name: RecordName { epoch: Epoch(1), seq: Seq(n) }, message: Bytes::from_static(b"0123456789") };
        Arc::new(Batch::new(
            LogKey::numbered(ProducerId(1)),
            LogEpoch(epoch),
            Offset(first),
            (0..count).map(|n| entry(first + n)).collect(),
        ))
    }

    fn head(lives: &str, last: u64) -> Head {
        Head { lives: lives.parse().unwrap(), first: Offset(1), last: Offset(last) }
    }

    fn ring(limit: usize) -> Ring {
        let mut ring = Ring::new(limit, 1 << 20);
        assert!(ring.advance(head("1:0", 0), Cursor::default()));
        ring
    }

    fn at(epoch: u64, offset: u64) -> Cursor {
        Cursor { epoch: LogEpoch(epoch), offset: Offset(offset) }
    }

    fn seen(found: &Found) -> Option<(u64, u64)> {
        match found {
            Found::Batches(batches) => Some((batches[0].first.0, batches[batches.len() - 1].last().0)),
            _ => None,
        }
    }

    #[test]
    fn it_keeps_the_newest_and_sends_older_cursors_to_the_log() {
        let mut ring = ring(40);
        for first in [1, 3, 5, 7] {
            assert_eq!(ring.push(&batch(1, first, 2)), News::Batch);
        }
        assert_eq!(ring.push(&batch(1, 7, 2)), News::Nothing, "a repeated message is no news");
        assert!(matches!(ring.read(at(1, 8), 1000), Found::Nothing));
        assert_eq!(seen(&ring.read(at(1, 4), 1000)), Some((5, 8)));
        assert_eq!(seen(&ring.read(at(1, 4), 1)), Some((5, 6)), "at least one batch, whatever the budget");
        assert!(matches!(ring.read(at(1, 3), 1000), Found::Older));
    }

    #[test]
    fn a_long_batch_is_cut_so_that_a_reader_keeps_little_of_it() {
        let mut ring = Ring::new(1000, 30);
        ring.advance(head("1:0", 0), Cursor::default());
        assert_eq!(ring.push(&batch(1, 1, 20)), News::Batch);
        let Found::Batches(read) = ring.read(at(1, 4), 30) else { panic!("it is there") };
        assert_eq!(read.iter().map(|part| (part.first.0, part.last().0)).collect::<Vec<_>>(), [(4, 6)]);
        let Found::Batches(read) = ring.read(at(1, 6), 31) else { panic!("it is there") };
        assert_eq!(read.iter().map(|part| part.first.0).collect::<Vec<_>>(), [7, 10]);
        assert_eq!(ring.end(), at(1, 20));
    }

    #[test]
    fn a_hole_empties_it() {
        let mut ring = ring(1000);
        ring.push(&batch(1, 1, 2));
        ring.push(&batch(1, 5, 1));
        assert!(matches!(ring.read(at(1, 2), 1000), Found::Older));
        assert_eq!(seen(&ring.read(at(1, 4), 1000)), Some((5, 5)));
        assert!(ring.advance(head("1:0", 9), Cursor::default()), "a lost last message shows in the head");
        assert!(!ring.advance(head("1:0", 8), Cursor::default()), "an answer that was overtaken is no news");
        assert!(matches!(ring.read(at(1, 5), 1000), Found::Older));
    }

    #[test]
    fn the_log_is_right_where_it_disagrees_with_what_was_heard() {
        let mut ring = ring(1000);
        ring.push(&batch(1, 1, 9));
        assert!(!ring.advance(head("1:0", 5), at(1, 5)), "the rest came in while the log was asked");
        assert!(ring.advance(head("1:0", 5), at(1, 9)), "the log ends before what was heard by then");
        assert!(matches!(ring.read(at(1, 9), 1000), Found::Reset(cursor) if cursor == at(1, 5)));
        assert!(matches!(ring.read(at(1, 2), 1000), Found::Older));

        ring.push(&batch(1, 6, 3));
        ring.push(&batch(1, 9, 2));
        assert_eq!(ring.push(&batch(1, 4, 6)), News::Nothing, "known, and as it was told");
        let other = Entry { name: RecordName { epoch: Epoch(2), seq: Seq(1) }, message: Bytes::from_static(b"another") };
        let false_one = Arc::new(Batch::new(LogKey::numbered(ProducerId(1)), LogEpoch(1), Offset(8), vec![other]));
        assert_eq!(ring.push(&false_one), News::Life, "the log is asked");
        assert!(matches!(ring.read(at(1, 7), 1000), Found::Older));
        assert_eq!(ring.end(), at(1, 10));
    }

    #[test]
    fn another_life_is_asked_for_and_sends_cursors_back_to_what_is_shared() {
        let mut ring = ring(1000);
        ring.push(&batch(1, 1, 9));
        assert_eq!(ring.push(&batch(2, 4, 1)), News::Life);
        assert_eq!(seen(&ring.read(at(1, 4), 1000)), Some((1, 9)), "until it is known where it began");
        assert!(ring.advance(head("1:0,2:3", 4), Cursor::default()));
        assert!(matches!(ring.read(at(1, 9), 1000), Found::Reset(cursor) if cursor == at(2, 3)));
        assert!(matches!(ring.read(at(1, 2), 1000), Found::Reset(cursor) if cursor == at(2, 2)));
        assert!(matches!(ring.read(at(2, 4), 1000), Found::Nothing));
        // A wiped log knows nothing of its past.
        assert!(ring.advance(head("3:0", 0), Cursor::default()));
        assert!(matches!(ring.read(at(2, 4), 1000), Found::Reset(cursor) if cursor == at(3, 0)));
    }
}
