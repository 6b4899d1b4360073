//! The reorder buffer of `order=device`: records of a log leave it as each device numbered them.
//!
//! Records that travel independently reach the log out of order. Within one producer epoch the buffer holds a record that came
//! too early until those before it are there, until it has waited long enough, or until there is no more room. Pure: time is an
//! argument.
//!
//! Two invariants: every record that goes in comes out once, and no emitted cursor passes a record that is still held. A
//! consumer that resumes there may see a record again (its record id tells), and misses none.
//!
//! An epoch that is met in its middle has no known first record: the buffer finds its beginning by waiting.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use motience_proto::model::{Cursor, Offset, ProducerEpoch, ProducerId, RecordId};
use motience_settings::env::settings;

use super::DeliveredRecord;

/// Epochs of one producer whose next number is remembered; an older one that is heard of again is met anew.
const MAX_EPOCHS: usize = 256;

settings! {
    /// Longest wait in a reorder buffer, and its room.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        /// Longest time that a record waits for earlier ones of its device, for a reader that asks for `order=device`.
        ORDER_WAIT = "2s" => wait: Duration;
        /// Records that may wait for one reader.
        ORDER_MAX_RECORDS = "4096" => records: usize;
        /// Bytes of the records that may wait.
        ORDER_MAX_BYTES = "1MiB" => bytes: usize as Size;
    }
}

/// Puts the records of one delivery pipeline into device order.
#[derive(Debug)]
pub struct ReorderBuffer {
    limits: Limits,
    producers: HashMap<ProducerId, Producer>,
    records: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Producer {
    /// Held records by offset: the first one stands in every cursor's way.
    held: BTreeMap<Offset, Held>,
    epochs: HashMap<ProducerEpoch, Numbers>,
    /// The last record taken in.
    last: Cursor,
}

#[derive(Debug)]
struct Held {
    record: DeliveredRecord,
    since: Instant,
}

/// One epoch.
#[derive(Debug)]
struct Numbers {
    /// The number that comes next; unknown until the epoch's beginning is.
    next: Option<u64>,
    /// Held records. A number comes twice where a log began another epoch.
    waiting: BTreeSet<(u64, Offset)>,
    /// When it was last heard of.
    heard: Offset,
}

impl ReorderBuffer {
    /// An empty buffer.
    pub fn new(limits: Limits) -> Self {
        Self { limits, producers: HashMap::new(), records: 0, bytes: 0 }
    }

    /// Takes in the next record of a producer's log; `out` receives what may go on by this.
    pub fn push(&mut self, record: DeliveredRecord, now: Instant, out: &mut Vec<DeliveredRecord>) {
        let (id, log_epoch) = (record.producer, record.cursor.log_epoch);
        if self.producers.get(&id).is_some_and(|p| p.last.log_epoch != log_epoch || p.last.offset >= record.offset) {
            // Another log epoch, or a read from further back: the record does not continue what was before.
            self.restart(id, out);
        }
        let RecordId { producer_epoch: epoch, seq } = record.record_id;
        let producer = self.producers.entry(id).or_default();
        producer.last = Cursor { log_epoch, offset: record.offset };
        let numbers = producer.numbers(epoch, seq.0, record.offset);
        if numbers.next.is_some_and(|next| seq.0 <= next) {
            numbers.passed(seq.0);
            out.push(DeliveredRecord { cursor: producer.safe(), ..record });
            self.release(id, epoch, 0, out);
        } else {
            numbers.waiting.insert((seq.0, record.offset));
            self.records += 1;
            self.bytes += record.message.len();
            // A copy: the original may be a small part of a large buffer, which it would keep alive uncounted.
            let message = Bytes::copy_from_slice(&record.message);
            producer.held.insert(record.offset, Held { record: DeliveredRecord { message, ..record }, since: now });
            self.make_room(out);
        }
    }

    /// When [`ReorderBuffer::expire`] has something to do; `None` while nothing is held back.
    pub fn due(&self) -> Option<Instant> {
        self.oldest().map(|held| held.since + self.limits.wait)
    }

    /// Lets go what has waited long enough, and what it held up.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<DeliveredRecord>) {
        while let Some(held) = self.oldest().filter(|held| held.since + self.limits.wait <= now) {
            let DeliveredRecord { producer, record_id, .. } = held.record;
            self.release(producer, record_id.producer_epoch, record_id.seq.0, out);
        }
    }

    /// Releases all that is held of one producer, ahead of what must not overtake it.
    pub fn flush(&mut self, producer: ProducerId, out: &mut Vec<DeliveredRecord>) {
        while let Some(held) = self.producers.get(&producer).and_then(Producer::oldest) {
            let epoch = held.record.record_id.producer_epoch;
            self.release(producer, epoch, u64::MAX, out);
        }
    }

    /// Releases all that is held of one producer and forgets its numbers: the log began another epoch.
    pub fn restart(&mut self, producer: ProducerId, out: &mut Vec<DeliveredRecord>) {
        self.flush(producer, out);
        self.forget(producer);
    }

    /// Drops all that is held of a producer that is followed no longer, or from another position.
    pub fn forget(&mut self, producer: ProducerId) {
        let Some(forgotten) = self.producers.remove(&producer) else { return };
        self.records -= forgotten.held.len();
        self.bytes -= forgotten.held.values().map(|held| held.record.message.len()).sum::<usize>();
    }

    /// Forgets every producer that is not kept.
    pub fn retain(&mut self, keep: impl Fn(ProducerId) -> bool) {
        let gone: Vec<ProducerId> = self.producers.keys().copied().filter(|&producer| !keep(producer)).collect();
        gone.into_iter().for_each(|producer| self.forget(producer));
    }

    /// The last cursor before the first held record of a producer; `None` while nothing of it is held.
    pub fn low_watermark(&self, producer: ProducerId) -> Option<Cursor> {
        self.producers.get(&producer).filter(|producer| !producer.held.is_empty()).map(Producer::safe)
    }

    /// Lets go an epoch's records up to the number `through`, and those that continue what is out.
    fn release(&mut self, id: ProducerId, epoch: ProducerEpoch, through: u64, out: &mut Vec<DeliveredRecord>) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        while let Some(offset) = producer.epochs.get_mut(&epoch).and_then(|numbers| numbers.take(through)) {
            let Some(Held { record, .. }) = producer.held.remove(&offset) else { continue };
            self.records -= 1;
            self.bytes -= record.message.len();
            out.push(DeliveredRecord { cursor: producer.safe(), ..record });
        }
    }

    fn make_room(&mut self, out: &mut Vec<DeliveredRecord>) {
        while self.records > self.limits.records || self.bytes > self.limits.bytes {
            let Some(held) = self.oldest() else { return };
            let DeliveredRecord { producer, record_id, .. } = held.record;
            self.release(producer, record_id.producer_epoch, record_id.seq.0, out);
        }
    }

    fn oldest(&self) -> Option<&Held> {
        if self.records == 0 {
            return None;
        }
        self.producers.values().filter_map(Producer::oldest).min_by_key(|held| held.since)
    }
}

impl Producer {
    /// Offsets rise as records come in, so the first one has waited longest.
    fn oldest(&self) -> Option<&Held> {
        self.held.first_key_value().map(|(_, held)| held)
    }

    /// The furthest cursor with nothing held before it.
    fn safe(&self) -> Cursor {
        match self.held.first_key_value() {
            Some((first, _)) => Cursor { log_epoch: self.last.log_epoch, offset: Offset(first.0.saturating_sub(1)) },
            None => self.last,
        }
    }

    fn numbers(&mut self, epoch: ProducerEpoch, seq: u64, at: Offset) -> &mut Numbers {
        if self.epochs.len() >= MAX_EPOCHS && !self.epochs.contains_key(&epoch) {
            let quiet = self.epochs.iter().filter(|(_, numbers)| numbers.waiting.is_empty());
            if let Some(oldest) = quiet.min_by_key(|(_, numbers)| numbers.heard).map(|(&epoch, _)| epoch) {
                self.epochs.remove(&oldest);
            }
        }
        let numbers = self.epochs.entry(epoch).or_insert(Numbers { next: None, waiting: BTreeSet::new(), heard: at });
        numbers.heard = at;
        if seq <= 1 {
            // Nothing comes before it.
            numbers.next.get_or_insert(seq);
        }
        numbers
    }
}

impl Numbers {
    /// The place of the next one that may go on: up to `through`, or one that continues what is out.
    fn take(&mut self, through: u64) -> Option<Offset> {
        let &(seq, offset) = self.waiting.first()?;
        let goes = seq <= through || self.next.is_some_and(|next| seq <= next);
        goes.then(|| {
            self.waiting.pop_first();
            self.passed(seq);
            offset
        })
    }

    fn passed(&mut self, seq: u64) {
        let after = seq.saturating_add(1);
        self.next = Some(self.next.map_or(after, |next| next.max(after)));
    }
}

#[cfg(test)]
mod tests;
