//! Records from the moment they are enqueued until they are acknowledged or refused.
//!
//! The outbox numbers records from 1 under a random producer epoch, so that the server recognises the records it
//! has already. Its bounds are records and bytes. The outbox also knows what the present connection has in flight, so
//! that a new connection resends the rest and nothing else, and which numbers will never come, so that the server can
//! be told.
//!
//! All of it is in memory. With [`Storage::Disk`] the records are in a file, too: [`journal`] says when a record is
//! saved then, and [`disk`] what the file holds and how it is recovered after a power cut.

use std::fmt;

use bytes::Bytes;
use motience_proto::model::{ProducerEpoch, RangeSet, Seq};

use crate::{client::Lane, clock};

mod abandoned;
mod config;
pub(crate) mod disk;
mod epoch;
mod journal;
mod memory;
mod scheduler;

pub(crate) use abandoned::difference;
pub use config::{Config, Order, Policy, Storage};
pub use disk::Error;
pub(crate) use epoch::new_epoch;
pub(crate) use journal::{Group, Loaded, Reservation, Urgency};

use abandoned::Abandoned;
use epoch::Before;
use journal::Journal;
use memory::Memory;
use scheduler::Scheduler;

/// Cost of a record beside its JSON, in bytes.
pub const OVERHEAD: usize = 96;

/// The outbox has no room under [`Policy::Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full")]
pub struct Full;

/// A record in the outbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub seq: Seq,
    /// Its lane.
    pub lane: Lane,
    /// Time at which it was enqueued, in milliseconds since 1970.
    pub enqueued_at: u64,
    /// The record.
    pub json: Bytes,
}

impl fmt::Debug for Item {
    /// Without the record, which is nobody's business in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Item({}, {:?}, {} bytes)", self.seq, self.lane, self.json.len())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    config: Config,
    epoch: ProducerEpoch,
    last: u64,
    /// Where the records are.
    items: Memory,
    scheduler: Scheduler,
    abandoned: Abandoned,
    journal: Journal,
    /// No number beyond was ever sent under this epoch, neither for a record nor as one that will not come.
    last_sent: u64,
    before: Before,
}

impl Outbox {
    /// An empty outbox with a new epoch, in memory whatever the configuration says.
    pub fn new(config: Config) -> Self {
        let scheduler = Scheduler::new(config.order);
        let (items, abandoned, journal) = (Memory::default(), Abandoned::default(), Journal::off());
        Self { config, epoch: new_epoch(), last: 0, items, scheduler, abandoned, journal, last_sent: 0, before: Before::default() }
    }

    /// The producer epoch.
    pub fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// Enqueues a record. Returns its number and the records dropped for it.
    pub fn push(&mut self, lane: Lane, json: Bytes) -> Result<(Seq, Vec<Seq>), Full> {
        let mut dropped = Vec::new();
        // A record larger than all room is enqueued when there is nothing else, or a flood of them would stop everything.
        while !self.items.is_empty() && !self.has_room(json.len()) {
            match self.config.policy {
                Policy::Block => return Err(Full),
                Policy::DropOldest => dropped.extend(self.drop_oldest()),
            }
        }
        self.last += 1;
        let seq = Seq(self.last);
        self.journal.pushed(seq.0, json.len());
        self.items.insert(Item { seq, lane, enqueued_at: clock::unix_millis(), json });
        Ok((seq, dropped))
    }

    /// Whether a record of `size` bytes would be enqueued without dropping any.
    pub fn has_room(&self, size: usize) -> bool {
        self.items.len() < self.config.records && self.items.bytes() + size + OVERHEAD <= self.config.bytes
    }

    /// The next record for the present connection, which may have `credit` in flight, without sending it.
    pub fn peek(&self, credit: u64) -> Option<&Item> {
        self.scheduler.pick(&self.items, self.journal.usable(), credit)
    }

    /// Sends the next record on the present connection; the record stays in the outbox.
    pub fn send(&mut self, credit: u64) -> Option<Item> {
        let item = self.peek(credit)?.clone();
        self.scheduler.sent(item.seq.0);
        self.last_sent = self.last_sent.max(item.seq.0);
        Some(item)
    }

    /// No number beyond was ever sent under this epoch.
    pub fn last_sent(&self) -> Seq {
        Seq(self.last_sent)
    }

    /// Removes records that are in the log. Returns those that were in the outbox.
    pub fn ack(&mut self, ranges: &RangeSet) -> Vec<Seq> {
        let mut acked = Vec::new();
        for range in ranges.iter() {
            while let Some(seq) = self.items.first_in(&range) {
                self.take(seq);
                acked.push(Seq(seq));
            }
            self.scheduler.acked(range);
        }
        self.abandoned.acked(ranges);
        acked
    }

    /// Removes one record that the server refused. Returns whether it was in the outbox.
    pub fn remove(&mut self, seq: Seq) -> bool {
        self.scheduler.acked(seq.0..=seq.0);
        self.take(seq.0).is_some()
    }

    /// Removes one record that is not to be sent, and has the server told. Returns whether it was in the outbox.
    pub fn abandon(&mut self, seq: Seq) -> bool {
        let removed = self.remove(seq);
        if removed {
            self.abandoned.add(seq.0, &self.items);
        }
        removed
    }

    /// Removes a record that is neither on disk nor in flight, and has the server told. Returns whether it was so.
    pub fn abandon_unsaved(&mut self, seq: Seq) -> bool {
        !self.scheduler.is_sent(seq.0) && !self.is_saved(seq) && self.abandon(seq)
    }

    /// Abandoned numbers to report to the server now.
    pub fn report_abandoned(&mut self) -> Option<RangeSet> {
        if !self.journal.is_open() {
            return None;
        }
        let reported = self.abandoned.report()?;
        let last = reported.max().unwrap_or(0);
        self.last_sent = self.last_sent.max(last);
        self.before.tell(last);
        Some(reported)
    }

    /// Starts a new connection that has nothing in flight.
    pub fn rewind(&mut self) {
        self.scheduler.rewind(self.last);
        self.abandoned.rewind();
    }

    /// There is a connection: numbers may be sent as soon as the file leaves it open which.
    pub fn open(&mut self) {
        self.journal.open();
    }

    /// Records in flight on the present connection, unacknowledged.
    pub fn in_flight(&self) -> u64 {
        self.scheduler.in_flight()
    }

    /// Whether the record is still here.
    pub fn contains(&self, seq: Seq) -> bool {
        self.items.contains(seq.0)
    }

    /// Whether the record is on disk, where there is a file, or no longer in the outbox.
    pub fn is_saved(&self, seq: Seq) -> bool {
        self.journal.is_saved(seq.0) || !self.contains(seq)
    }

    /// Whether every record up to this one is on disk, or no longer in the outbox. In memory, no record counts as being on disk.
    pub fn is_saved_through(&self, seq: Seq) -> bool {
        (self.journal.is_on() && self.journal.is_saved(seq.0)) || self.first().is_none_or(|first| first.seq > seq)
    }

    /// The last number assigned; 0 where there is none yet.
    pub fn last(&self) -> Seq {
        Seq(self.last)
    }

    /// The oldest record.
    pub fn first(&self) -> Option<&Item> {
        self.items.from(0)
    }

    /// Records here.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes here, with [`OVERHEAD`].
    pub fn bytes(&self) -> usize {
        self.items.bytes()
    }

    /// Records that are to be on disk, and are not yet.
    pub fn unsaved(&self) -> usize {
        self.journal.waiting_records()
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Abandoned numbers that the server has not acknowledged.
    pub fn abandoned(&self) -> &RangeSet {
        self.abandoned.all()
    }

    /// How soon the disk is to be written.
    pub(crate) fn urgency(&self) -> Urgency {
        self.journal.urgency(self.last, self.config.commit_bytes, self.abandoned.is_changed())
    }

    /// The group to write now. [`Outbox::saved`] or [`Outbox::failed`] follows before the next group.
    pub(crate) fn collect(&mut self, closing: bool) -> Group {
        let put = self.items.behind(self.journal.saved()).cloned().collect();
        self.abandoned.set_changed(false);
        self.journal.collect(put, (self.epoch, self.last, self.last_sent), self.abandoned.all().clone(), closing)
    }

    /// The group is on disk.
    pub(crate) fn saved(&mut self, reservation: &Reservation) {
        if reservation.epoch != self.epoch {
            // This group was written while the epoch changed: the next group holds everything under the new one.
            return;
        }
        let waiting = self.cost_behind(reservation.last);
        self.journal.group_saved(reservation, waiting);
    }

    /// The group may or may not be on disk; the next one holds the same again.
    pub(crate) fn failed(&mut self, group: &Group) {
        self.journal.failed(&group.gone);
        self.abandoned.set_changed(true);
    }

    /// The file was found damaged and is a new one: the next group holds everything.
    pub(crate) fn restart(&mut self) {
        let waiting = self.cost_behind(0);
        self.journal.restart(waiting);
    }

    /// The disk is full: drops as many of the oldest records as those that wait for the disk take, at least a few.
    /// Returns which; none under [`Policy::Block`].
    pub(crate) fn shed(&mut self) -> Vec<Seq> {
        let mut dropped = Vec::new();
        if self.config.policy == Policy::DropOldest {
            let least = self.items.bytes().saturating_sub(self.items.bytes() / 16 + self.journal.waiting_bytes());
            while self.items.bytes() > least
                && let Some(seq) = self.items.from(0).map(|item| item.seq)
                && self.journal.is_saved(seq.0)
            {
                self.drop(seq.0);
                dropped.push(seq);
            }
        }
        dropped
    }

    fn cost_behind(&self, seq: u64) -> (usize, usize) {
        self.items.behind(seq).fold((0, 0), |(count, bytes), item| (count + 1, bytes + item.json.len()))
    }

    fn take(&mut self, seq: u64) -> Option<Item> {
        let item = self.items.remove(seq)?;
        self.scheduler.removed(seq);
        self.journal.removed(seq, item.json.len());
        Some(item)
    }

    /// Drops the oldest record that is not in flight: those are about to be acknowledged. Where all are, the oldest.
    fn drop_oldest(&mut self) -> Option<Seq> {
        let seq = self.scheduler.oldest(&self.items)?;
        self.drop(seq);
        Some(Seq(seq))
    }

    fn drop(&mut self, seq: u64) {
        let in_flight = self.scheduler.is_sent(seq);
        if self.take(seq).is_some() {
            self.abandoned.add(seq, &self.items);
            if in_flight {
                self.scheduler.dropped(seq);
            }
        }
    }
}

#[cfg(test)]
mod tests;
