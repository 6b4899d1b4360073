//! Batches the records of one motience/1 connection into one append.

use motience_proto::{
    model::RangeSet,
    wire::{Record, Refused},
};
use motience_relay::{Error, Group, Publisher, Refusal, Ticket};

/// Numbers of one frame that count as skipped: an outbox holds no more records.
const MOST_SKIPPED: u64 = 1 << 20;

/// Records and skipped numbers on their way to be one append.
pub(super) struct IngestBatch<'p> {
    group: Group<'p>,
    /// Numbers that are acknowledged once the batch is in the log.
    numbers: RangeSet,
    records: u64,
    new: u64,
    refused: Vec<Refused>,
}

/// A batch that was handed to the log's writer.
#[derive(Debug)]
pub(super) struct Receipt {
    /// The log has the batch once this is committed.
    pub(super) ticket: Ticket,
    /// Numbers that are acknowledged then.
    pub(super) numbers: RangeSet,
    /// Refused records. Their numbers count as seen once the ticket is committed; the device may learn of them at once.
    pub(super) refused: Vec<Refused>,
}

impl<'p> IngestBatch<'p> {
    /// An empty batch.
    pub(super) fn new(publisher: &'p Publisher) -> Self {
        Self { group: publisher.group(), numbers: RangeSet::new(), records: 0, new: 0, refused: Vec::new() }
    }

    /// Takes a record. One that is no record is refused by itself; an error is the connection's end.
    pub(super) fn record(&mut self, record: Record) -> Result<(), Refusal> {
        motience_runtime::counter!("motience_records_received_total").increment(1);
        match self.group.push(record.seq, record.json) {
            Ok(new) => {
                // A redundant transmission, or a record that a device sends again after a reconnect.
                motience_runtime::counter!("motience_records_repeated_total").increment(u64::from(!new));
                self.numbers.insert(record.seq.0);
                self.records += 1;
                self.new += u64::from(new);
                Ok(())
            }
            Err(Refusal::Invalid(invalid)) => {
                metrics::counter!("motience_records_refused_total").increment(1);
                self.group.skip(record.seq)?;
                self.refused.push(Refused { seq: record.seq, code: invalid.code().to_owned(), message: invalid.to_string() });
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// Takes numbers whose records will never come. They are acknowledged like records, once the log counts them as seen.
    pub(super) fn skip(&mut self, ranges: &RangeSet) {
        let taken = self.group.skip_all(ranges);
        let numbers = taken.iter().map(|range| (range.end() - range.start()).saturating_add(1)).fold(0, u64::saturating_add);
        // The device names the numbers: one frame must not be able to fill the counter.
        metrics::counter!("motience_records_skipped_total").increment(numbers.min(MOST_SKIPPED));
        taken.iter().for_each(|range| self.numbers.insert_range(range));
    }

    /// Bytes of the new records.
    pub(super) fn bytes(&self) -> usize {
        self.group.bytes()
    }

    /// Records taken, repeated ones too.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Records taken that were not sent before.
    pub(super) fn new_records(&self) -> u64 {
        self.new
    }

    /// Records that were refused.
    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// Whether there is nothing to submit.
    pub(super) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.refused.is_empty()
    }

    /// Hands the batch to the log's writer, and waits while that is behind.
    pub(super) async fn submit(self) -> Result<Receipt, Error> {
        let ticket = self.group.submit().await?;
        Ok(Receipt { ticket, numbers: self.numbers, refused: self.refused })
    }
}
