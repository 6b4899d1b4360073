//! Device order: what a log holds as it arrived, handed out as each sender numbered it.
//!
//! Records that travel independently reach the log out of order. For a consumer that asks for it they are put back into
//! order here: within one sender's epoch a record that came too early is held back until those before it are there, until
//! it has waited long enough, or until there is no more room. Pure: time is an argument.
//!
//! Two things hold whatever comes: every record that goes in comes out once, and no cursor that comes out lies beyond a
//! record that is still held back. A consumer that resumes there may see a record again, known by its name, but none is
//! missing.
//!
//! Where an epoch is met in its middle, nothing tells which of its records come first: the beginning is found by waiting.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use bytes::Bytes;
use motience_proto::model::{Cursor, Offset, ProducerEpoch, ProducerId, RecordId};
use motience_settings::env::{self, Env};
use time::OffsetDateTime;

/// Epochs of one producer whose next number is remembered; an older one that is heard of again is met anew.
const MAX_EPOCHS: usize = 256;

/// How long and how much is held back, for each consumer's connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest wait for the records before one. ORDER_WAIT, 2 s.
    pub wait: Duration,
    /// Records held back at once. ORDER_MAX_RECORDS, 4,096.
    pub records: usize,
    /// Their bytes. ORDER_MAX_BYTES, 1 MiB.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { wait: Duration::from_secs(2), records: 4096, bytes: 1 << 20 }
    }
}

impl Limits {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let default = Self::default();
        Ok(Self {
            wait: env.duration("ORDER_WAIT", default.wait)?,
            records: env.parse("ORDER_MAX_RECORDS", default.records)?,
            bytes: env.bytes("ORDER_MAX_BYTES", default.bytes)?,
        })
    }
}

/// A record on its way to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose.
    pub producer: ProducerId,
    /// In: its own place. Out: the place to resume from once this record is dealt with; never beyond one held back.
    pub cursor: Cursor,
    /// Its own place, in and out.
    pub offset: Offset,
    /// Its sender's epoch, and its number there.
    pub record_id: RecordId,
    /// When it came into the log, where that is known.
    pub received: Option<OffsetDateTime>,
    /// What the consumer receives.
    pub message: Bytes,
}

/// Puts the records of one consumer's connection into device order.
#[derive(Debug)]
pub struct Reorder {
    limits: Limits,
    producers: HashMap<ProducerId, Producer>,
    records: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Producer {
    /// Held back, by place: the first is the one that came first and stands in every cursor's way.
    held: BTreeMap<Offset, Held>,
    epochs: HashMap<ProducerEpoch, Numbers>,
    /// The highest place taken in.
    last: Cursor,
}

#[derive(Debug)]
struct Held {
    record: Record,
    since: Instant,
}

/// One epoch.
#[derive(Debug)]
struct Numbers {
    /// The number that comes next; unknown until the epoch's beginning is.
    next: Option<u64>,
    /// Those held back. The same number comes twice where a log began another life.
    waiting: BTreeSet<(u64, Offset)>,
    /// When it was last heard of.
    heard: Offset,
}

impl Reorder {
    /// Nothing held back yet.
    pub fn new(limits: Limits) -> Self {
        Self { limits, producers: HashMap::new(), records: 0, bytes: 0 }
    }

    /// Takes in the next record of a producer's log; `out` receives what may go on by this.
    pub fn push(&mut self, record: Record, now: Instant, out: &mut Vec<Record>) {
        let (id, place) = (record.producer, record.cursor.log_epoch);
        if self.producers.get(&id).is_some_and(|p| p.last.log_epoch != place || p.last.offset >= record.offset) {
            // Another life of the log, or read again from further back: it does not continue what was before.
            self.restart(id, out);
        }
        let RecordId { producer_epoch: epoch, seq } = record.record_id;
        let producer = self.producers.entry(id).or_default();
        producer.last = Cursor { log_epoch: place, offset: record.offset };
        let numbers = producer.numbers(epoch, seq.0, record.offset);
        if numbers.next.is_some_and(|next| seq.0 <= next) {
            numbers.passed(seq.0);
            out.push(Record { cursor: producer.safe(), ..record });
            self.release(id, epoch, 0, out);
        } else {
            numbers.waiting.insert((seq.0, record.offset));
            self.records += 1;
            self.bytes += record.message.len();
            // A copy: the original may be a small part of a large buffer, which it would keep alive uncounted.
            let message = Bytes::copy_from_slice(&record.message);
            producer.held.insert(record.offset, Held { record: Record { message, ..record }, since: now });
            self.make_room(out);
        }
    }

    /// When [`Reorder::expire`] has something to do; `None` while nothing is held back.
    pub fn due(&self) -> Option<Instant> {
        self.oldest().map(|held| held.since + self.limits.wait)
    }

    /// Lets go what has waited long enough, and what it held up.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<Record>) {
        while let Some(held) = self.oldest().filter(|held| held.since + self.limits.wait <= now) {
            let Record { producer, record_id, .. } = held.record;
            self.release(producer, record_id.producer_epoch, record_id.seq.0, out);
        }
    }

    /// Lets go all that is held back of one producer: before what must not overtake it.
    pub fn flush(&mut self, producer: ProducerId, out: &mut Vec<Record>) {
        while let Some(held) = self.producers.get(&producer).and_then(Producer::oldest) {
            let epoch = held.record.record_id.producer_epoch;
            self.release(producer, epoch, u64::MAX, out);
        }
    }

    /// The same, and what follows begins anew: the log has begun another life.
    pub fn restart(&mut self, producer: ProducerId, out: &mut Vec<Record>) {
        self.flush(producer, out);
        self.forget(producer);
    }

    /// Drops what is held back of a producer: it is followed no longer, or from elsewhere.
    pub fn forget(&mut self, producer: ProducerId) {
        let Some(forgotten) = self.producers.remove(&producer) else { return };
        self.records -= forgotten.held.len();
        self.bytes -= forgotten.held.values().map(|held| held.record.message.len()).sum::<usize>();
    }

    /// The same for every producer that is not kept.
    pub fn retain(&mut self, keep: impl Fn(ProducerId) -> bool) {
        let gone: Vec<ProducerId> = self.producers.keys().copied().filter(|&producer| !keep(producer)).collect();
        gone.into_iter().for_each(|producer| self.forget(producer));
    }

    /// `cursor`, or the last place before what is held back: how far a consumer can have dealt with a producer's records.
    pub fn bounded(&self, producer: ProducerId, cursor: Cursor) -> Cursor {
        let Some(producer) = self.producers.get(&producer) else { return cursor };
        let safe = producer.safe();
        let beyond = !producer.held.is_empty() && cursor.log_epoch == safe.log_epoch && cursor.offset > safe.offset;
        if beyond { safe } else { cursor }
    }

    /// Lets go an epoch's records up to the number `through`, and those that continue what is out.
    fn release(&mut self, id: ProducerId, epoch: ProducerEpoch, through: u64, out: &mut Vec<Record>) {
        let Some(producer) = self.producers.get_mut(&id) else { return };
        while let Some(offset) = producer.epochs.get_mut(&epoch).and_then(|numbers| numbers.take(through)) {
            let Some(Held { record, .. }) = producer.held.remove(&offset) else { continue };
            self.records -= 1;
            self.bytes -= record.message.len();
            out.push(Record { cursor: producer.safe(), ..record });
        }
    }

    fn make_room(&mut self, out: &mut Vec<Record>) {
        while self.records > self.limits.records || self.bytes > self.limits.bytes {
            let Some(held) = self.oldest() else { return };
            let Record { producer, record_id, .. } = held.record;
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
    /// Places rise as records come in, so the first place is the longest wait.
    fn oldest(&self) -> Option<&Held> {
        self.held.first_key_value().map(|(_, held)| held)
    }

    /// The furthest place with nothing held back before it.
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
