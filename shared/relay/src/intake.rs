//! What a device's connection brings for the log, whatever carries it: records that came together become one group, and
//! what the device is to hear of them waits until the log has them.

use std::collections::BTreeMap;

use motience_proto::{
    model::RangeSet,
    wire::{Record, Refused},
};

use super::{Group, Publisher, Refusal, Ticket};

/// Numbers of one frame that count as skipped: an outbox holds no more records.
const MOST_SKIPPED: u64 = 1 << 20;

/// Records and given-up numbers on their way to be one group.
pub struct Intake<'p> {
    group: Group<'p>,
    /// What is acknowledged once the group is in the log.
    numbers: RangeSet,
    records: u64,
    new: u64,
    refused: Vec<Refused>,
}

/// A group that was handed to the log's writer.
#[derive(Debug)]
pub struct Submitted {
    /// The log has it once this is committed.
    pub ticket: Ticket,
    /// What is acknowledged then.
    pub numbers: RangeSet,
    /// Records that were no records. Their numbers count as seen once the ticket is committed; the device may hear at once.
    pub refused: Vec<Refused>,
}

impl<'p> Intake<'p> {
    /// Nothing yet.
    pub fn new(publisher: &'p Publisher) -> Self {
        Self { group: publisher.group(), numbers: RangeSet::new(), records: 0, new: 0, refused: Vec::new() }
    }

    /// Takes a record. One that is no record is refused by itself; an error is the connection's end.
    pub fn record(&mut self, record: Record) -> Result<(), Refusal> {
        metrics::counter!("motience_records_received_total").increment(1);
        match self.group.push(record.seq, record.json) {
            Ok(new) => {
                // A copy sent against loss, or what a device sends again after a reconnect.
                metrics::counter!("motience_records_repeated_total").increment(u64::from(!new));
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

    /// Takes numbers that the device has given up. They are acknowledged like records, once the log counts them as seen.
    pub fn skip(&mut self, ranges: &RangeSet) {
        let taken = self.group.skip_all(ranges);
        let numbers = taken.iter().map(|range| (range.end() - range.start()).saturating_add(1)).fold(0, u64::saturating_add);
        // The device names the numbers: one frame must not be able to fill the counter.
        metrics::counter!("motience_records_skipped_total").increment(numbers.min(MOST_SKIPPED));
        taken.iter().for_each(|range| self.numbers.insert_range(range));
    }

    /// Bytes of records gathered.
    pub fn bytes(&self) -> usize {
        self.group.bytes()
    }

    /// Records gathered, repeated ones too.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Records gathered that were not sent before.
    pub fn new_records(&self) -> u64 {
        self.new
    }

    /// Hands it on, waiting while the log's writer is behind. `None`: there was nothing.
    pub async fn submit(self) -> Result<Option<Submitted>, Refusal> {
        if self.numbers.is_empty() && self.refused.is_empty() {
            return Ok(None);
        }
        let ticket = self.group.submit().await?;
        Ok(Some(Submitted { ticket, numbers: self.numbers, refused: self.refused }))
    }
}

/// What was submitted and is not acknowledged yet.
#[derive(Debug, Default)]
pub struct Pending(BTreeMap<Ticket, RangeSet>);

impl Pending {
    /// These numbers are in the log once the ticket is committed.
    pub fn add(&mut self, ticket: Ticket, numbers: RangeSet) {
        self.0.insert(ticket, numbers);
    }

    /// Everything that is in the log, now that `up_to` is.
    pub fn take(&mut self, up_to: Ticket) -> RangeSet {
        let later = self.0.split_off(&Ticket(up_to.0 + 1));
        let mut ranges = RangeSet::new();
        for range in std::mem::replace(&mut self.0, later).values().flat_map(RangeSet::iter) {
            ranges.insert_range(range);
        }
        ranges
    }

    /// Groups that wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
