//! A view at work for one consumer: records in, those it wants out, each with a cursor that is safe to resume from.
//!
//! Without `every` nothing is held back. With it, a device's newest record is held until its window is over: when the first
//! record of another window comes, or when it has been open for the window's length, so that a device that falls silent is
//! heard. Windows are of the device's own time, so a replay is thinned as the live feed was. A record of the window before
//! the open one came too late; one from further back says that the device's clock was set back, and opens its own.
//!
//! No cursor that comes out lies beyond a record held back. A consumer that resumes there may see a record again, known by its
//! name, and misses none that its view shows. Cursors go forward past records that are not wanted: see [`Thinned::cursor`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use motience_proto::model::{Cursor, Offset, ProducerId, record};
use motience_settings::env::{self, Env};

use super::{Message, View};
use crate::{Delivery, order::Record};

/// How much is held back, for each consumer's connection; beyond it the oldest are let go early.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Devices whose newest record is held. VIEW_MAX_DEVICES, 10,000.
    pub devices: usize,
    /// What they take, all of it: the records, the devices' names, and what is kept beside them. VIEW_MAX_BYTES, 4 MiB.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { devices: 10_000, bytes: 4 << 20 }
    }
}

impl Limits {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let default = Self::default();
        Ok(Self { devices: env.parse("VIEW_MAX_DEVICES", default.devices)?, bytes: env.bytes("VIEW_MAX_BYTES", default.bytes)? })
    }
}

/// What a held record costs beside its bytes and its device's name: entries in four collections, and their spare room.
const HELD: usize = 640;

/// A view and what it holds back.
#[derive(Debug)]
pub struct Thinned {
    view: View,
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
    /// The places of what is held: the first stands in every cursor's way.
    places: BTreeSet<Offset>,
    /// How far the log was taken in.
    last: Cursor,
}

#[derive(Debug)]
struct Held {
    record: Record,
    /// The device's time, and the window it falls into.
    time: i128,
    window: i128,
    age: Age,
    /// As counted.
    cost: usize,
}

impl Thinned {
    /// Nothing held back yet.
    pub fn new(view: View, limits: Limits) -> Self {
        Self { view, limits, producers: HashMap::new(), ages: BTreeMap::new(), serial: 0, bytes: 0 }
    }

    /// Takes in what a feed delivers; `out` receives what may go on by this. A notice comes after all of `out`.
    pub fn deliver(&mut self, delivery: &Delivery, now: Instant, out: &mut Vec<Record>) {
        match delivery {
            Delivery::Batch { batch, after } => {
                for (offset, record_id, message) in batch.after(*after) {
                    let cursor = Cursor { log_epoch: batch.log_epoch, offset };
                    let (producer, received) = (batch.producer, batch.received);
                    self.push(&Record { producer, cursor, offset, record_id, received, message: message.clone() }, now, out);
                }
            }
            Delivery::Gap { producer, to, .. } => {
                self.flush(*producer, out);
                self.producers.entry(*producer).or_default().last.offset = *to;
            }
            Delivery::Reset { producer, cursor } => {
                self.restart(*producer, out);
                self.start(*producer, *cursor);
            }
        }
    }

    /// Says where a producer's records come after: its cursor stands there until one comes.
    pub fn start(&mut self, producer: ProducerId, cursor: Cursor) {
        self.producers.entry(producer).or_default().last = cursor;
    }

    /// Takes in the next record of a producer; its cursor is what is safe up to here.
    pub fn push(&mut self, record: &Record, now: Instant, out: &mut Vec<Record>) {
        let id = record.producer;
        if self.producers.get(&id).is_some_and(|known| known.last.log_epoch != record.cursor.log_epoch) {
            // Another life of the log does not continue what was before.
            self.restart(id, out);
        }
        let producer = self.producers.entry(id).or_default();
        producer.last = record.cursor;
        let Some(length) = self.view.every else {
            if let Some(message) = self.view.apply(&record.message) {
                out.push(Record { message, ..*record });
            }
            return;
        };
        let message = record.message.clone();
        let Some(parts) = Message::of(&message).filter(|parts| self.view.admits(parts)) else { return };
        // Cannot fail: what is in the log was checked.
        let Ok(time) = record::read_time(parts.timestamp.get()) else { return };
        let time = time.unix_timestamp_nanos();
        self.place(record, &parts.device(), time, time.div_euclid(length.as_nanos() as i128), now, out);
        while self.ages.len() > self.limits.devices || self.bytes > self.limits.bytes {
            self.release_oldest(out);
        }
    }

    /// When [`Thinned::expire`] has something to do; `None` while nothing is held back.
    pub fn due(&self) -> Option<Instant> {
        let length = self.view.every?;
        self.ages.first_key_value().map(|(&(since, _), _)| since + length)
    }

    /// Lets go the windows that have been open for their length.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<Record>) {
        while self.due().is_some_and(|due| due <= now) {
            self.release_oldest(out);
        }
    }

    /// Lets go all that is held back of one producer, in order of the log: before what must not overtake it.
    pub fn flush(&mut self, producer: ProducerId, out: &mut Vec<Record>) {
        let Some(devices) = self.producers.get_mut(&producer).map(|producer| std::mem::take(&mut producer.devices)) else { return };
        let mut held: Vec<Held> = devices.into_values().collect();
        held.sort_by_key(|held| held.record.offset);
        for held in held {
            self.ages.remove(&held.age);
            self.let_go(held, out);
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
        for held in forgotten.devices.values() {
            self.ages.remove(&held.age);
            self.bytes -= held.cost;
        }
    }

    /// The same for every producer that is not kept.
    pub fn retain(&mut self, keep: impl Fn(ProducerId) -> bool) {
        let gone: Vec<ProducerId> = self.producers.keys().copied().filter(|&producer| !keep(producer)).collect();
        gone.into_iter().for_each(|producer| self.forget(producer));
    }

    /// How far a producer's log is dealt with once everything that came out is: past what is not wanted, and never beyond what
    /// is held back. `None` for one of whom nothing is known.
    pub fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        self.producers.get(&producer).map(Producer::safe).filter(|cursor| cursor.log_epoch.0 != 0)
    }

    /// `cursor`, or the last place before what is held back: how far a consumer can have dealt with a producer's records.
    pub fn bounded(&self, producer: ProducerId, cursor: Cursor) -> Cursor {
        let Some(producer) = self.producers.get(&producer).filter(|producer| !producer.places.is_empty()) else { return cursor };
        let safe = producer.safe();
        if cursor.log_epoch == safe.log_epoch && cursor.offset > safe.offset { safe } else { cursor }
    }

    /// Puts a wanted record into its device's window.
    fn place(&mut self, record: &Record, device: &str, time: i128, window: i128, now: Instant, out: &mut Vec<Record>) {
        let Some(producer) = self.producers.get_mut(&record.producer) else { return };
        if let Some(held) = producer.devices.get_mut(device) {
            if window == held.window - 1 || (window == held.window && time < held.time) {
                return;
            }
            if window == held.window {
                producer.places.remove(&held.record.offset);
                producer.places.insert(record.offset);
                let cost = cost(record, device);
                self.bytes = self.bytes + cost - held.cost;
                held.cost = cost;
                held.time = time;
                held.record = owned(record);
                return;
            }
            let key = self.ages.remove(&held.age);
            // Held from here on: what is let go by it must not carry a cursor beyond it.
            producer.places.insert(record.offset);
            self.release(key, out);
        }
        let Some(producer) = self.producers.get_mut(&record.producer) else { return };
        self.serial += 1;
        let (cost, age) = (cost(record, device), (now, self.serial));
        let device = Arc::<str>::from(device);
        self.ages.insert(age, (record.producer, Arc::clone(&device)));
        self.bytes += cost;
        producer.places.insert(record.offset);
        producer.devices.insert(device, Held { record: owned(record), time, window, age, cost });
    }

    fn release_oldest(&mut self, out: &mut Vec<Record>) {
        let oldest = self.ages.pop_first().map(|(_, key)| key);
        self.release(oldest, out);
    }

    fn release(&mut self, key: Option<(ProducerId, Arc<str>)>, out: &mut Vec<Record>) {
        let held = key.and_then(|(producer, device)| self.producers.get_mut(&producer)?.devices.remove(&device));
        if let Some(held) = held {
            self.let_go(held, out);
        }
    }

    fn let_go(&mut self, held: Held, out: &mut Vec<Record>) {
        let record = held.record;
        self.bytes -= held.cost;
        let Some(producer) = self.producers.get_mut(&record.producer) else { return };
        producer.places.remove(&record.offset);
        let cursor = producer.safe();
        let message = Message::of(&record.message).and_then(|parts| self.view.project(&record.message, &parts));
        out.push(Record { cursor, message: message.unwrap_or_else(|| record.message.clone()), ..record });
    }
}

impl Producer {
    /// The furthest place with nothing held back before it.
    fn safe(&self) -> Cursor {
        match self.places.first() {
            Some(first) => Cursor { offset: self.last.offset.min(Offset(first.0.saturating_sub(1))), ..self.last },
            None => self.last,
        }
    }
}

fn cost(record: &Record, device: &str) -> usize {
    record.message.len() + device.len() + HELD
}

/// A copy: the original may be a small part of a large buffer, which it would keep alive uncounted.
fn owned(record: &Record) -> Record {
    Record { message: Bytes::copy_from_slice(&record.message), ..*record }
}

/// Returns when something has been held back for long enough; never while nothing is.
pub async fn due(thinned: Option<&Thinned>) {
    match thinned.and_then(Thinned::due) {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
