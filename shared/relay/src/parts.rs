//! Batches cut into parts. A writer may commit a mebibyte at once; a reader that stands still in the middle of it must not keep all
//! of it, and one turn of a reader must not be that long. A part has a buffer of its own, so that it keeps nothing else alive.

use std::sync::Arc;

use bytes::BytesMut;
use motience_log::{Batch, Entry};
use motience_proto::model::Offset;

/// The parts of a batch after the offset `after`, each of about `limit` bytes, until they hold `most`. A batch that is no longer than
/// that is its only part, and not copied.
pub(super) fn cut(batch: &Arc<Batch>, after: Offset, limit: usize, most: usize) -> Vec<Arc<Batch>> {
    if batch.bytes() <= limit {
        return vec![Arc::clone(batch)];
    }
    let mut parts = Vec::new();
    let (mut taken, mut first) = (0, None);
    let (mut ids, mut buffer) = (Vec::new(), BytesMut::new());
    let mut rest = batch.after(after).peekable();
    while let Some((offset, record_id, message)) = rest.next() {
        first.get_or_insert(offset);
        ids.push((record_id, message.len()));
        buffer.extend_from_slice(message);
        if buffer.len() < limit && rest.peek().is_some() {
            continue;
        }
        taken += buffer.len();
        let mut text = std::mem::take(&mut buffer).freeze();
        let entries = ids.drain(..).map(|(record_id, length)| Entry { record_id, message: text.split_to(length) }).collect();
        parts.extend(first.take().map(|first| Arc::new(Batch::new(batch.key(), batch.log_epoch, first, entries).received(batch.received))));
        if taken >= most {
            break;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use motience_proto::model::{LogEpoch, LogKey, ProducerEpoch, ProducerId, RecordId, Seq};

    fn batch(messages: &[&'static str]) -> Arc<Batch> {
        let entry = |(seq, text): (usize, &&'static str)| Entry {
            record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(seq as u64) },
            message: Bytes::from_static(text.as_bytes()),
        };
        Arc::new(Batch::new(LogKey::numbered(ProducerId(1)), LogEpoch(1), Offset(5), messages.iter().enumerate().map(entry).collect()))
    }

    #[test]
    fn parts_are_consecutive_and_hold_every_entry_once() {
        let mut whole = batch(&["aaaa", "b", "", "cccc", "dddd", "e"]);
        Arc::make_mut(&mut whole).received = Some(time::OffsetDateTime::UNIX_EPOCH);
        let parts = cut(&whole, Offset(0), 5, usize::MAX);
        assert_eq!(parts.iter().map(|part| (part.first.0, part.last().0)).collect::<Vec<_>>(), [(5, 6), (7, 9), (10, 10)]);
        let joined: Vec<Entry> = parts.iter().flat_map(|part| part.entries().to_vec()).collect();
        assert_eq!(joined, whole.entries());
        assert!(parts.iter().all(|part| part.received == whole.received), "a part came when its batch did");
        let some = cut(&whole, Offset(6), 5, 1);
        assert_eq!(some.iter().map(|part| (part.first.0, part.bytes())).collect::<Vec<_>>(), [(7, 8)]);
        assert!(Arc::ptr_eq(&cut(&whole, Offset(0), 100, 1)[0], &whole), "nothing is copied in vain");
    }
}
