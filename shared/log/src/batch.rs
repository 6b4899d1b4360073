//! A run of consecutive entries of one producer, shared by all who read it.

use std::sync::Arc;

use bytes::Bytes;
use motience_proto::model::{LogEpoch, LogId, LogKey, Offset, ProducerId, RangeSet, RecordId};
use time::OffsetDateTime;

/// A record as the log keeps it, without its offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Identity of the record, whatever its offset.
    pub record_id: RecordId,
    /// Message that consumers receive; none where the record was erased.
    pub message: Bytes,
}

impl Entry {
    /// Whether the record was erased: of it there is its offset, and its identity, by which it is known as a duplicate.
    pub fn is_erased(&self) -> bool {
        self.message.is_empty()
    }
}

/// Consecutive entries, encoded once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Producer that the log belongs to.
    pub producer: ProducerId,
    /// Id of the log.
    pub log: LogId,
    /// Epoch of the log in which the batch was written or read.
    pub log_epoch: LogEpoch,
    /// Offset of the first entry.
    pub first: Offset,
    /// When it was written, to the millisecond; `None`: the node that wrote it did not say.
    pub received: Option<OffsetDateTime>,
    entries: Vec<Entry>,
    bytes: usize,
    has_erased: bool,
}

/// Entries of a batch that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Records.
    Records(Arc<Batch>),
    /// Records that were erased: the first and the last offset.
    Erased(Offset, Offset),
}

impl Batch {
    /// A batch of at least one entry.
    pub fn new(key: LogKey, log_epoch: LogEpoch, first: Offset, entries: Vec<Entry>) -> Self {
        debug_assert!(!entries.is_empty(), "a batch holds something");
        let bytes = entries.iter().map(|entry| entry.message.len()).sum();
        let has_erased = entries.iter().any(Entry::is_erased);
        Self { producer: key.producer, log: key.log, log_epoch, first, received: None, entries, bytes, has_erased }
    }

    /// Whether any of its records was erased.
    pub fn has_erased(&self) -> bool {
        self.has_erased
    }

    /// The entries after `after`, records apart from what was erased.
    pub fn pieces(&self, after: Offset) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let (mut at, mut rest) = (self.first, &self.entries[..]);
        let skipped = usize::try_from((after.0 + 1).saturating_sub(at.0)).unwrap_or(usize::MAX).min(rest.len());
        (at, rest) = (Offset(at.0 + skipped as u64), &rest[skipped..]);
        while let Some(is_erased) = rest.first().map(Entry::is_erased) {
            let count = rest.iter().take_while(|entry| entry.is_erased() == is_erased).count();
            let (run, left) = rest.split_at(count);
            let last = Offset(at.0 + count as u64 - 1);
            pieces.push(if is_erased {
                Piece::Erased(at, last)
            } else {
                Piece::Records(Arc::new(Self::new(self.key(), self.log_epoch, at, run.to_vec()).received(self.received)))
            });
            (at, rest) = (last.next(), left);
        }
        pieces
    }

    /// The batch without the messages at these offsets; `None`: it has none of them.
    pub(crate) fn without(&self, offsets: &RangeSet) -> Option<Self> {
        let mut entries = self.entries.clone();
        if !blank(&mut entries, self.first, offsets) {
            return None;
        }
        Some(Self::new(self.key(), self.log_epoch, self.first, entries).received(self.received))
    }

    /// Sets the time at which the batch was written.
    #[must_use]
    pub fn received(mut self, at: impl Into<Option<OffsetDateTime>>) -> Self {
        self.received = at.into().and_then(|at| at.replace_millisecond(at.millisecond()).ok());
        self
    }

    /// Key of the log.
    pub fn key(&self) -> LogKey {
        LogKey { producer: self.producer, log: self.log }
    }

    /// Offset of the last entry.
    pub fn last(&self) -> Offset {
        Offset(self.first.0 + self.entries.len() as u64 - 1)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Entries with an offset after `after`: offset, record id and message.
    pub fn after(&self, after: Offset) -> impl Iterator<Item = (Offset, RecordId, &Bytes)> {
        let skip = (after.0 + 1).saturating_sub(self.first.0) as usize;
        let first = self.first.0;
        self.entries.iter().enumerate().skip(skip).map(move |(i, entry)| (Offset(first + i as u64), entry.record_id, &entry.message))
    }
}

/// Takes away the messages of entries that begin at `first` and whose offsets are among these; says whether any was there.
pub(crate) fn blank(entries: &mut [Entry], first: Offset, offsets: &RangeSet) -> bool {
    let mut any = false;
    for (offset, entry) in (first.0..).zip(entries) {
        if !entry.is_erased() && offsets.contains(offset) {
            entry.message = Bytes::new();
            any = true;
        }
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_proto::model::{ProducerEpoch, Seq};

    #[test]
    fn a_cursor_within_a_batch_sees_its_rest() {
        let entry = |seq, text: &'static str| Entry {
            record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(seq) },
            message: Bytes::from_static(text.as_bytes()),
        };
        let batch = Batch::new(LogKey::numbered(ProducerId(1)), LogEpoch(1), Offset(5), vec![entry(1, "a"), entry(2, "b")]);
        assert_eq!(batch.last(), Offset(6));
        let seen = |after| batch.after(Offset(after)).map(|(o, record_id, _)| (o.0, record_id.seq.0)).collect::<Vec<_>>();
        assert_eq!(seen(0), [(5, 1), (6, 2)]);
        assert_eq!(seen(5), [(6, 2)]);
        assert!(seen(6).is_empty());

        let erased = batch.without(&"6-9".parse().unwrap()).unwrap();
        assert!(erased.has_erased() && erased.without(&"6-9".parse().unwrap()).is_none() && batch.without(&"7".parse().unwrap()).is_none());
        let Piece::Records(first) = &erased.pieces(Offset(0))[0] else { panic!("the first is there") };
        assert_eq!((first.first, first.last(), erased.last()), (Offset(5), Offset(5), Offset(6)));
        assert_eq!(erased.pieces(Offset(5)), [Piece::Erased(Offset(6), Offset(6))]);
        assert_eq!(erased.pieces(Offset(6)), []);
    }
}
