//! The newest entries of one producer, kept ready for all who follow it on this node.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    log::{Batch, Head},
    model::{LogEpoch, Offset},
};

/// Consecutive batches, bounded by bytes.
///
/// Invariant: the batches are consecutive and the last ends at `end`. A hole empties the ring, so that a cursor before
/// it finds nothing here and reads the log.
#[derive(Debug)]
pub(super) struct Ring {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    limit: usize,
    epoch: LogEpoch,
    /// The newest offset known; `None` before the log has been asked.
    end: Option<Offset>,
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
    /// The log has another life and ends before the cursor: go on after this offset.
    Reset(LogEpoch, Offset),
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self { batches: VecDeque::new(), bytes: 0, limit, epoch: LogEpoch::default(), end: None }
    }

    /// Takes a published batch. Returns whether it was news.
    pub(super) fn push(&mut self, batch: &Arc<Batch>) -> bool {
        if let Some(end) = self.end {
            let same_life = batch.epoch == self.epoch;
            if same_life && batch.last() <= end {
                return false;
            }
            if batch.first != end.next() {
                self.clear();
            }
        }
        self.epoch = batch.epoch;
        self.end = Some(batch.last());
        self.bytes += batch.bytes();
        self.batches.push_back(Arc::clone(batch));
        while self.bytes > self.limit && self.batches.len() > 1 {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
        true
    }

    /// Learns where the log really ends. Returns whether that was news.
    pub(super) fn advance(&mut self, head: Head) -> bool {
        let news = match self.end {
            None => true,
            Some(end) => head.last > end || head.epoch != self.epoch && head.last < end,
        };
        if news {
            self.clear();
            self.end = Some(head.last);
            self.epoch = head.epoch;
        }
        news
    }

    pub(super) fn end(&self) -> Offset {
        self.end.unwrap_or_default()
    }

    pub(super) fn epoch(&self) -> LogEpoch {
        self.epoch
    }

    /// Batches after `cursor`, up to about `bytes`.
    pub(super) fn read(&self, cursor: Offset, bytes: usize) -> Found {
        let end = self.end();
        if cursor == end {
            return Found::Nothing;
        }
        if cursor > end {
            // A cursor only ever comes from this log, so the log has lost its tail.
            let start = self.batches.front().map_or(end, |b| Offset(b.first.0.saturating_sub(1)));
            return Found::Reset(self.epoch, start);
        }
        match self.batches.front() {
            Some(front) if front.first <= cursor.next() => {}
            _ => return Found::Older,
        }
        let start = self.batches.partition_point(|batch| batch.last() <= cursor);
        let mut taken = 0;
        let within = |batch: &&Arc<Batch>| {
            let more = taken < bytes;
            taken += batch.bytes();
            more
        };
        Found::Batches(self.batches.range(start..).take_while(within).cloned().collect())
    }

    fn clear(&mut self) {
        self.batches.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::ProducerId;

    fn batch(epoch: u64, first: u64, count: usize) -> Arc<Batch> {
        Arc::new(Batch::new(ProducerId(1), LogEpoch(epoch), Offset(first), vec![Bytes::from_static(b"0123456789"); count]))
    }

    fn seen(found: &Found) -> Option<(u64, u64)> {
        match found {
            Found::Batches(batches) => Some((batches[0].first.0, batches[batches.len() - 1].last().0)),
            _ => None,
        }
    }

    #[test]
    fn it_keeps_the_newest_and_sends_older_cursors_to_the_log() {
        let mut ring = Ring::new(40);
        for first in [1, 3, 5, 7] {
            assert!(ring.push(&batch(1, first, 2)));
        }
        assert!(!ring.push(&batch(1, 7, 2)), "a repeated message is no news");
        assert!(matches!(ring.read(Offset(8), 1000), Found::Nothing));
        assert_eq!(seen(&ring.read(Offset(4), 1000)), Some((5, 8)));
        assert_eq!(seen(&ring.read(Offset(4), 1)), Some((5, 6)), "at least one batch, whatever the budget");
        assert!(matches!(ring.read(Offset(3), 1000), Found::Older));
    }

    #[test]
    fn a_hole_empties_it() {
        let mut ring = Ring::new(1000);
        ring.push(&batch(1, 1, 2));
        ring.push(&batch(1, 5, 1));
        assert!(matches!(ring.read(Offset(2), 1000), Found::Older));
        assert_eq!(seen(&ring.read(Offset(4), 1000)), Some((5, 5)));
        assert!(ring.advance(Head { epoch: LogEpoch(1), last: Offset(9) }), "a lost last message shows in the head");
        assert!(matches!(ring.read(Offset(5), 1000), Found::Older));
    }

    #[test]
    fn a_log_that_lost_its_tail_is_noticed() {
        let mut ring = Ring::new(1000);
        ring.push(&batch(1, 1, 9));
        assert!(ring.push(&batch(2, 4, 1)));
        assert!(matches!(ring.read(Offset(9), 1000), Found::Reset(LogEpoch(2), Offset(3))));
        assert!(ring.advance(Head { epoch: LogEpoch(3), last: Offset(0) }));
        assert!(matches!(ring.read(Offset(4), 1000), Found::Reset(LogEpoch(3), Offset(0))));
    }
}
