//! A run of consecutive entries of one producer, shared by all who read it.

use bytes::Bytes;
use motience_proto::model::{LogEpoch, LogId, LogKey, Offset, ProducerId, RecordId};
use time::OffsetDateTime;

/// A record as the log keeps it, without its offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Identity of the record, whatever its offset.
    pub record_id: RecordId,
    /// Message that consumers receive.
    pub message: Bytes,
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
}

impl Batch {
    /// A batch of at least one entry.
    pub fn new(key: LogKey, log_epoch: LogEpoch, first: Offset, entries: Vec<Entry>) -> Self {
        debug_assert!(!entries.is_empty(), "a batch holds something");
        let bytes = entries.iter().map(|entry| entry.message.len()).sum();
        Self { producer: key.producer, log: key.log, log_epoch, first, received: None, entries, bytes }
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
    }
}
