//! Output of a pipeline: records, and notices between them.

use bytes::Bytes;
use motience_proto::model::{Cursor, Offset, ProducerId, RecordId};
use time::OffsetDateTime;

use crate::Notice;

/// A record on its way to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredRecord {
    /// The producer in whose log it stands.
    pub producer: ProducerId,
    /// Into the stages: its own position. Out of them: the cursor to resume from once this record is dealt with, which never passes a
    /// record that is still held.
    pub cursor: Cursor,
    /// Its own offset.
    pub offset: Offset,
    /// Producer epoch and sequence number.
    pub record_id: RecordId,
    /// When it came into the log, where that is known.
    pub received: Option<OffsetDateTime>,
    /// The message of a consumer.
    pub message: Bytes,
}

/// A record or a notice, as an egress encodes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A record.
    Record(DeliveredRecord),
    /// A notice, after all records before it.
    Notice(Notice),
}

impl Item {
    pub(super) fn producer(&self) -> ProducerId {
        match self {
            Self::Record(record) => record.producer,
            Self::Notice(notice) => notice.producer(),
        }
    }
}
