//! A run of consecutive entries of one producer, shared by all who read it.

use bytes::Bytes;

use crate::model::{LogEpoch, Offset, ProducerId};

/// Consecutive entries, encoded once: each message is what a consumer receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Whose log.
    pub producer: ProducerId,
    /// The life of the log.
    pub epoch: LogEpoch,
    /// Offset of the first message.
    pub first: Offset,
    messages: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// A batch of at least one message.
    pub fn new(producer: ProducerId, epoch: LogEpoch, first: Offset, messages: Vec<Bytes>) -> Self {
        debug_assert!(!messages.is_empty(), "a batch holds something");
        let bytes = messages.iter().map(Bytes::len).sum();
        Self { producer, epoch, first, messages, bytes }
    }

    /// Offset of the last message.
    pub fn last(&self) -> Offset {
        Offset(self.first.0 + self.messages.len() as u64 - 1)
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of all messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Messages with an offset after `after`, each with its offset.
    pub fn after(&self, after: Offset) -> impl Iterator<Item = (Offset, &Bytes)> {
        let skip = (after.0 + 1).saturating_sub(self.first.0) as usize;
        let first = self.first.0;
        self.messages.iter().enumerate().skip(skip).map(move |(i, message)| (Offset(first + i as u64), message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_within_a_batch_sees_its_rest() {
        let batch = Batch::new(ProducerId(1), LogEpoch(1), Offset(5), vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        assert_eq!(batch.last(), Offset(6));
        let seen = |after| batch.after(Offset(after)).map(|(o, _)| o.0).collect::<Vec<_>>();
        assert_eq!(seen(0), [5, 6]);
        assert_eq!(seen(5), [6]);
        assert!(seen(6).is_empty());
    }
}
