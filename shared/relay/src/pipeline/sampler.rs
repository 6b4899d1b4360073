//! Filter, projection and sampling of one delivery pipeline: records in, wanted records out, each with a cursor to resume from.
//!
//! Without `every` nothing is held. With it, the sampler holds a device's newest record until its window is over: when the first
//! record of another window comes, or when the window has been open for its length, so that a silent device is heard. Windows
//! are of the device's own time, so a replay is sampled as live records were. A record of the window before the open one came
//! too late; one from further back says that the device's clock was set back, and opens its own window.
//!
//! Invariant: an emitted cursor never passes a held record. Resuming from it may redeliver (the record id tells) but never skips
//! a wanted record. Cursors go forward past unwanted records: see [`Sampler::cursor`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use motience_proto::model::{Cursor, Offset, ProducerId, record};
use motience_settings::env::settings;

use super::{
    DeliveredRecord,
    selection::{Message, Selector},
};

settings! {
    /// Room of a sampler. Beyond it the oldest records leave early.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        /// Devices whose newest record is held for one reader that asks for one in each period (`every`). Beyond it the oldest leave early.
        SAMPLING_MAX_DEVICES = "10000" => devices: usize;
        /// Bytes that they take: records, names of devices and bookkeeping.
        SAMPLING_MAX_BYTES = "4MiB" => bytes: usize as Size;
    }
}

/// Cost of a held record beside its bytes and its device's name: entries in four collections, and their spare room.
const HELD: usize = 640;

/// A selection at work, and what it holds.
#[derive(Debug)]
pub struct Sampler {
    selector: Selector,
    limits: Limits,
    producers: HashMap<ProducerId, Producer>,
    /// Everything held, the longest first.
    ages: BTreeMap<Age, (ProducerId, Arc<str>)>,
    serial: u64,
    bytes: usize,
}

/// When a window was opened; the number tells apart those of one moment.
type Age = (Instant, u64);

#[derive(Debug, Default)]
struct Producer {
    devices: HashMap<Arc<str>, Held>,
    /// Offsets of held records: the first one stands in every cursor's way.
    offsets: BTreeSet<Offset>,
    /// The last cursor taken in.
    last: Cursor,
}

#[derive(Debug)]
struct Held {
    record: DeliveredRecord,
    /// The device's time, and the window it falls into.
    time: i128,
    window: i128,
    age: Age,
    /// As counted.
    cost: usize,
}

impl Sampler {
    /// An empty sampler.
    pub fn new(selector: Selector, limits: Limits) -> Self {
        Self { selector, limits, producers: HashMap::new(), ages: BTreeMap::new(), serial: 0, bytes: 0 }
    }

    /// Releases all that is held of one producer and moves its cursor past a gap that ends at `to`.
    pub fn gap(&mut self, producer: ProducerId, to: Offset, out: &mut Vec<DeliveredRecord>) {
        self.flush(producer, out);
        self.producers.entry(producer).or_default().last.offset = to;
    }

    /// Releases all that is held of one producer, whose log goes on at `cursor` in another epoch.
    pub fn reset(&mut self, producer: ProducerId, cursor: Cursor, out: &mut Vec<DeliveredRecord>) {
        self.restart(producer, out);
        self.start(producer, cursor);
    }

    /// Sets the cursor after which a producer's records come.
    pub fn start(&mut self, producer: ProducerId, cursor: Cursor) {
        self.producers.entry(producer).or_default().last = cursor;
    }

    /// Takes in the next record of a producer; its cursor is what is safe up to here.
    pub fn push(&mut self, record: &DeliveredRecord, now: Instant, out: &mut Vec<DeliveredRecord>) {
        self.pass(record, out);
        let Some(length) = self.selector.every() else {
            if let Some(message) = self.selector.apply(&record.message) {
                out.push(DeliveredRecord { message, ..*record });
            }
            return;
        };
        let message = record.message.clone();
        let Some(parts) = Message::of(&message).filter(|parts| self.selector.admits(parts)) else { return };
        // Cannot fail: what is in the log was checked.
        let Ok(time) = record::read_time(parts.timestamp.get()) else { return };
        let time = time.unix_timestamp_nanos();
        self.place(record, &parts.device(), time, time.div_euclid(length.as_nanos() as i128), now, out);
        while self.ages.len() > self.limits.devices || self.bytes > self.limits.bytes {
            self.release_oldest(out);
        }
    }

    /// Moves past a record that is not wanted, whatever is in it.
    pub(super) fn pass(&mut self, record: &DeliveredRecord, out: &mut Vec<DeliveredRecord>) {
        let id = record.producer;
        if self.producers.get(&id).is_some_and(|known| known.last.log_epoch != record.cursor.log_epoch) {
            // Another log epoch does not continue what was before.
            self.restart(id, out);
        }
        self.producers.entry(id).or_default().last = record.cursor;
    }

    /// When [`Sampler::expire`] has something to do; `None` while nothing is held back.
    pub fn due(&self) -> Option<Instant> {
        let length = self.selector.every()?;
        self.ages.first_key_value().map(|(&(since, _), _)| since + length)
    }

    /// Lets go the windows that have been open for their length.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<DeliveredRecord>) {
        while self.due().is_some_and(|due| due <= now) {
            self.release_oldest(out);
        }
    }

    /// Releases all that is held of one producer, in order of the log, ahead of what must not overtake it.
    pub fn flush(&mut self, producer: ProducerId, out: &mut Vec<DeliveredRecord>) {
        let Some(devices) = self.producers.get_mut(&producer).map(|producer| std::mem::take(&mut producer.devices)) else { return };
        let mut held: Vec<Held> = devices.into_values().collect();
        held.sort_by_key(|held| held.record.offset);
        for held in held {
            self.ages.remove(&held.age);
            self.let_go(held, out);
        }
    }

    /// Releases all that is held of one producer and forgets it: its log began another epoch.
    pub fn restart(&mut self, producer: ProducerId, out: &mut Vec<DeliveredRecord>) {
        self.flush(producer, out);
        self.forget(producer);
    }

    /// Drops all that is held of a producer that is followed no longer, or from another position.
    pub fn forget(&mut self, producer: ProducerId) {
        let Some(forgotten) = self.producers.remove(&producer) else { return };
        for held in forgotten.devices.values() {
            self.ages.remove(&held.age);
            self.bytes -= held.cost;
        }
    }

    /// Forgets every producer that is not kept.
    pub fn retain(&mut self, keep: impl Fn(ProducerId) -> bool) {
        let gone: Vec<ProducerId> = self.producers.keys().copied().filter(|&producer| !keep(producer)).collect();
        gone.into_iter().for_each(|producer| self.forget(producer));
    }

    /// The cursor of a producer once everything that came out is dealt with: past unwanted records, never past a held one. `None`
    /// for an unknown producer.
    pub fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        self.producers.get(&producer).map(Producer::safe).filter(|cursor| cursor.log_epoch.0 != 0)
    }

    /// The last cursor before the first held record of a producer; `None` while nothing of it is held.
    pub fn low_watermark(&self, producer: ProducerId) -> Option<Cursor> {
        self.producers.get(&producer).filter(|producer| !producer.offsets.is_empty()).map(Producer::safe)
    }

    /// Puts a wanted record into its device's window.
    fn place(&mut self, record: &DeliveredRecord, device: &str, time: i128, window: i128, now: Instant, out: &mut Vec<DeliveredRecord>) {
        let Some(producer) = self.producers.get_mut(&record.producer) else { return };
        if let Some(held) = producer.devices.get_mut(device) {
            if window == held.window - 1 || (window == held.window && time < held.time) {
                return;
            }
            if window == held.window {
                producer.offsets.remove(&held.record.offset);
                producer.offsets.insert(record.offset);
                let cost = cost(record, device);
                self.bytes = self.bytes + cost - held.cost;
                held.cost = cost;
                held.time = time;
                held.record = owned(record);
                return;
            }
            let key = self.ages.remove(&held.age);
            // Held from here on: the record that it releases must not carry a cursor beyond it.
            producer.offsets.insert(record.offset);
            self.release(key, out);
        }
        let Some(producer) = self.producers.get_mut(&record.producer) else { return };
        self.serial += 1;
        let (cost, age) = (cost(record, device), (now, self.serial));
        let device = Arc::<str>::from(device);
        self.ages.insert(age, (record.producer, Arc::clone(&device)));
        self.bytes += cost;
        producer.offsets.insert(record.offset);
        producer.devices.insert(device, Held { record: owned(record), time, window, age, cost });
    }

    fn release_oldest(&mut self, out: &mut Vec<DeliveredRecord>) {
        let oldest = self.ages.pop_first().map(|(_, key)| key);
        self.release(oldest, out);
    }

    fn release(&mut self, key: Option<(ProducerId, Arc<str>)>, out: &mut Vec<DeliveredRecord>) {
        let held = key.and_then(|(producer, device)| self.producers.get_mut(&producer)?.devices.remove(&device));
        if let Some(held) = held {
            self.let_go(held, out);
        }
    }

    fn let_go(&mut self, held: Held, out: &mut Vec<DeliveredRecord>) {
        let record = held.record;
        self.bytes -= held.cost;
        let Some(producer) = self.producers.get_mut(&record.producer) else { return };
        producer.offsets.remove(&record.offset);
        let cursor = producer.safe();
        let message = Message::of(&record.message).and_then(|parts| self.selector.project(&record.message, &parts));
        out.push(DeliveredRecord { cursor, message: message.unwrap_or_else(|| record.message.clone()), ..record });
    }
}

impl Producer {
    /// The furthest cursor with nothing held before it.
    fn safe(&self) -> Cursor {
        match self.offsets.first() {
            Some(first) => Cursor { offset: self.last.offset.min(Offset(first.0.saturating_sub(1))), ..self.last },
            None => self.last,
        }
    }
}

fn cost(record: &DeliveredRecord, device: &str) -> usize {
    record.message.len() + device.len() + HELD
}

/// A copy: the original may be a small part of a large buffer, which it would keep alive uncounted.
fn owned(record: &DeliveredRecord) -> DeliveredRecord {
    DeliveredRecord { message: Bytes::copy_from_slice(&record.message), ..*record }
}

#[cfg(test)]
mod tests;
