//! The newest record of each device, out of many: each record is looked at once, however many batches they come in.

use std::collections::HashMap;

use motience_proto::model::record;
use motience_relay::pipeline::DeliveredRecord;

/// Records of one turn.
#[derive(Debug, Default)]
pub(super) struct Newest {
    /// By device, under the record's number.
    records: HashMap<Box<str>, (u64, DeliveredRecord)>,
    /// How many were looked at.
    looked_at: u64,
}

impl Newest {
    /// Takes the remaining records, in the order they came.
    pub(super) fn take(&mut self) -> Vec<DeliveredRecord> {
        let mut left: Vec<(u64, DeliveredRecord)> = std::mem::take(&mut self.records).into_values().collect();
        left.sort_unstable_by_key(|(number, _)| *number);
        left.into_iter().map(|(_, record)| record).collect()
    }
}

impl Extend<DeliveredRecord> for Newest {
    fn extend<T: IntoIterator<Item = DeliveredRecord>>(&mut self, records: T) {
        for record in records {
            self.looked_at += 1;
            let device: Box<str> = record::Parts::of(&record.message).map(|parts| parts.device_id.into()).unwrap_or_default();
            self.records.insert(device, (self.looked_at, record));
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use motience_proto::model::{Cursor, Offset, ProducerEpoch, ProducerId, RecordId, Seq};

    use super::*;

    fn record(device: &str, offset: u64) -> DeliveredRecord {
        DeliveredRecord {
            producer: ProducerId(1),
            cursor: Cursor::default(),
            offset: Offset(offset),
            record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(offset) },
            received: None,
            message: Bytes::from(format!(r#"{{"producer_id":"1","device_id":"{device}","timestamp":1,"data":{{}}}}"#)),
        }
    }

    fn offsets(newest: &mut Newest) -> Vec<u64> {
        newest.take().iter().map(|record| record.offset.0).collect()
    }

    #[test]
    fn of_many_records_the_newest_of_each_device_is_left() {
        let mut newest = Newest::default();
        newest.extend([record("a", 1), record("b", 2), record("a", 3)]);
        newest.extend([record("c", 4), record("b", 5)]);
        assert_eq!(offsets(&mut newest), [3, 4, 5]);
        assert!(offsets(&mut newest).is_empty());
    }

    #[test]
    fn batches_cost_what_their_records_do() {
        let mut newest = Newest::default();
        for batch in 0..3000 {
            newest.extend([record(&format!("d{}", batch % 1500), batch)]);
        }
        assert_eq!(newest.looked_at, 3000, "no record is looked at again for a later batch");
        assert_eq!(offsets(&mut newest).len(), 1500);
    }
}
