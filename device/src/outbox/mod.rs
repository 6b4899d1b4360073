//! Records from the moment they are taken until they are acknowledged or refused.
//!
//! The outbox numbers records from 1 and names its own life by a random epoch, so that the server recognises what it
//! has already. It is bounded by records and by bytes. It also knows what the present connection has under way, so
//! that a new connection resends the rest and nothing else, and which numbers will never come, so that the server can
//! be told.
//!
//! All of it is in memory. With [`Storage::Disk`] the records are in a file, too: [`journal`] says when a record counts
//! as taken then, and [`disk`] what the file holds and how it is recovered after a power cut.

use std::fmt;

use bytes::Bytes;
use motience_mutation::Mutation;
use motience_proto::model::{ProducerEpoch, RangeSet, Seq};

use crate::{client::Lane, clock};

mod config;
pub(crate) mod disk;
mod journal;
mod memory;
mod skips;
mod turns;

pub use config::{Config, Order, Policy, Storage};
pub use disk::Error;
pub(crate) use journal::{Group, Mark, Urgency};
pub(crate) use skips::without;

use disk::Loaded;
use journal::Journal;
use memory::Memory;
use skips::Skips;
use turns::Turns;

/// What a record costs beside its JSON, in bytes.
pub const OVERHEAD: usize = 96;
/// Each start takes its numbers so far behind those of the one before, at most, and at least half as far. Two copies with a million
/// records each take one number twice about once in four million times.
const LEAP: u64 = 1 << 44;
/// Numbers from here on are left for a new epoch as soon as nothing is here that may be in the log: after about ten starts. A log keeps
/// a range of each.
const FAR: u64 = 1 << 47;
/// Numbers from here on are left in any case: they must not run out (of 2^62), and they fit into every client's JSON.
const FURTHEST: u64 = 1 << 52;

/// The outbox has no room under [`Policy::Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full")]
pub struct Full;

/// A record in the outbox.
#[derive(Clone, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub seq: Seq,
    /// The way it takes.
    pub lane: Lane,
    /// When it was taken, in milliseconds since 1970.
    pub taken_at: u64,
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
    turns: Turns,
    skips: Skips,
    journal: Journal,
    /// No number beyond was ever given out under this epoch, neither for a record nor as one that will not come.
    given: u64,
    before: Before,
}

/// What was before the file was read. Every copy of the file has the same records under those numbers; each start takes new numbers in a
/// place of its own, at random, so that no two copies ever name two records alike.
#[derive(Clone, Copy, Debug, Default)]
struct Before {
    /// No number beyond was given out.
    given: u64,
    /// No record beyond was taken.
    taken: u64,
    /// No number up to here is taken any more.
    closed: u64,
}

impl Outbox {
    /// An empty outbox with a new epoch, in memory whatever the configuration says.
    pub fn new(config: Config) -> Self {
        let turns = Turns::new(config.order);
        let (items, skips, journal) = (Memory::default(), Skips::default(), Journal::off());
        Self { config, epoch: new_epoch(), last: 0, items, turns, skips, journal, given: 0, before: Before::default() }
    }

    /// The outbox that a file holds.
    pub(crate) fn restore(config: Config, loaded: Loaded) -> Self {
        let Loaded { mark, items, fresh, .. } = loaded;
        if mark.reserved >= FURTHEST || (mark.reserved >= FAR && items.is_empty()) {
            return Self::afresh(config, mark.reserved, items);
        }
        let given = mark.given.unwrap_or(mark.reserved).min(mark.reserved);
        let last = if fresh { mark.reserved } else { mark.reserved + LEAP / 2 + random() % (LEAP / 2) };
        let (epoch, journal) = (mark.epoch, Journal::new(last, given));
        let before = Before { given, taken: mark.last, closed: last };
        let mut outbox = Self { epoch, last, given, before, journal, ..Self::new(config) };
        let mut skipped = mark.skipped;
        if Mutation::IgnoreTornTail.is_on() {
            outbox.last = mark.last;
        } else {
            // Records beyond the last commit were not taken; but some may have been sent. After a good end there are none.
            skipped.insert_range(mark.last + 1..=mark.reserved);
        }
        outbox.skips = Skips::new(skipped);
        for item in items {
            outbox.items.insert(item);
        }
        outbox
    }

    /// The records of a file under a new epoch and new numbers, for the old ones run out.
    fn afresh(config: Config, reserved: u64, items: Vec<Item>) -> Self {
        let mut outbox = Self::new(config);
        for item in items {
            outbox.last += 1;
            outbox.items.insert(Item { seq: Seq(outbox.last), ..item });
        }
        outbox.journal = Journal::afresh(reserved, outbox.cost_behind(0));
        outbox
    }

    /// The name of this outbox's life.
    pub fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// Takes a record. Returns its number and the records dropped for it.
    pub fn push(&mut self, lane: Lane, json: Bytes) -> Result<(Seq, Vec<Seq>), Full> {
        let mut dropped = Vec::new();
        // A record larger than all room is taken when there is nothing else, or a flood of them would stop everything.
        while !self.items.is_empty() && !self.has_room(json.len()) {
            match self.config.policy {
                Policy::Block => return Err(Full),
                Policy::DropOldest => dropped.extend(self.drop_oldest()),
            }
        }
        self.last += 1;
        let seq = Seq(self.last);
        self.journal.pushed(seq.0, json.len());
        self.items.insert(Item { seq, lane, taken_at: clock::unix_millis(), json });
        Ok((seq, dropped))
    }

    /// Whether a record of `size` bytes would be taken without dropping any.
    pub fn has_room(&self, size: usize) -> bool {
        self.items.len() < self.config.records && self.items.bytes() + size + OVERHEAD <= self.config.bytes
    }

    /// The next record for the present connection, which may have `credit` under way, without giving it.
    pub fn peek(&self, credit: u64) -> Option<&Item> {
        self.turns.pick(&self.items, self.journal.usable(), credit)
    }

    /// Gives the next record to the present connection; it stays in the outbox.
    pub fn give(&mut self, credit: u64) -> Option<Item> {
        let item = self.peek(credit)?.clone();
        self.turns.give(item.seq.0);
        self.given = self.given.max(item.seq.0);
        Some(item)
    }

    /// No number beyond was ever given out under this epoch.
    pub fn given(&self) -> Seq {
        Seq(self.given)
    }

    /// Whether the log has `seen` numbers that this outbox never gave out, nor any earlier start of it: it is an earlier copy of itself,
    /// or another one was made of it. `given`: the last number given out before the log was asked.
    pub fn is_copied(&self, seen: &RangeSet, given: Seq) -> bool {
        let Before { given: before, taken, closed } = self.before;
        let (known, reached) = (before.max(taken.min(given.0)), closed.max(given.0));
        seen.iter().any(|range| *range.end() > reached || (known < closed && *range.end() > known && *range.start() <= closed))
    }

    /// Goes on under a new epoch, for [this is a copy](Self::is_copied). Everything is sent again but what is in the log of the records
    /// that were here when the file was read: those are the same in every copy. Returns their numbers.
    pub fn renew(&mut self, seen: &RangeSet) -> Vec<Seq> {
        let mut common = RangeSet::new();
        for range in seen.iter().take_while(|range| *range.start() <= self.before.closed) {
            common.insert_range(*range.start()..=self.before.closed.min(*range.end()));
        }
        let settled = self.settle(&common);
        (self.epoch, self.given, self.before) = (new_epoch(), 0, Before::default());
        // The numbers stay as they are; the new epoch has never heard of those that are gone. What a start left out is not worth telling.
        let (mut skipped, mut next) = (RangeSet::new(), 1);
        let mut skip = |gap: std::ops::RangeInclusive<u64>| {
            if *gap.end() < *gap.start() + LEAP / 4 {
                skipped.insert_range(gap);
            }
        };
        for item in self.items.behind(0) {
            skip(next..=item.seq.0 - 1);
            next = item.seq.0 + 1;
        }
        skip(next..=self.last);
        self.skips.replace(skipped, &self.items);
        self.turns.rewind(self.last);
        let waiting = self.cost_behind(0);
        self.journal.renew(waiting);
        settled
    }

    /// Removes records that are in the log. Returns those that were in the outbox.
    pub fn settle(&mut self, ranges: &RangeSet) -> Vec<Seq> {
        let mut settled = Vec::new();
        for range in ranges.iter() {
            while let Some(seq) = self.items.first_in(&range) {
                self.take(seq);
                settled.push(Seq(seq));
            }
            self.turns.settle(range);
        }
        self.skips.settle(ranges);
        settled
    }

    /// Removes one record that the server refused. Returns whether it was in the outbox.
    pub fn remove(&mut self, seq: Seq) -> bool {
        self.turns.settle(seq.0..=seq.0);
        self.take(seq.0).is_some()
    }

    /// Removes one record that is not to be sent, and has the server told. Returns whether it was in the outbox.
    pub fn skip(&mut self, seq: Seq) -> bool {
        let removed = self.remove(seq);
        if removed {
            self.skips.add(seq.0, &self.items);
        }
        removed
    }

    /// Removes a record that is neither on disk nor under way, and has the server told. Returns whether it was so.
    pub fn withdraw(&mut self, seq: Seq) -> bool {
        !self.turns.is_given(seq.0) && !self.is_taken(seq) && self.skip(seq)
    }

    /// Numbers to tell the server now: they will never come.
    pub fn tell(&mut self) -> Option<RangeSet> {
        if !self.journal.is_open() {
            return None;
        }
        let told = self.skips.tell()?;
        self.given = self.given.max(told.max().unwrap_or(0));
        Some(told)
    }

    /// Starts a new connection that has nothing under way.
    pub fn rewind(&mut self) {
        self.turns.rewind(self.last);
        self.skips.rewind();
    }

    /// There is a connection: numbers may be given as soon as the file leaves it open which.
    pub fn open(&mut self) {
        self.journal.open();
    }

    /// Records under way on the present connection, unacknowledged.
    pub fn under_way(&self) -> u64 {
        self.turns.under_way()
    }

    /// Whether the record is still here.
    pub fn contains(&self, seq: Seq) -> bool {
        self.items.contains(seq.0)
    }

    /// Whether the record is safe: on disk where there is one, or settled.
    pub fn is_taken(&self, seq: Seq) -> bool {
        self.journal.is_saved(seq.0) || !self.contains(seq)
    }

    /// Whether every record up to this one is settled, or on disk.
    pub fn is_safe(&self, seq: Seq) -> bool {
        (self.journal.is_on() && self.journal.is_saved(seq.0)) || self.first().is_none_or(|first| first.seq > seq)
    }

    /// The last number given; 0 where there is none yet.
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

    /// Numbers that will not come, and of which the server has not said that it knows.
    pub fn skipped(&self) -> &RangeSet {
        self.skips.all()
    }

    /// How soon the disk is to be written.
    pub(crate) fn urgency(&self) -> Urgency {
        self.journal.urgency(self.last, self.config.commit_bytes, self.skips.is_changed())
    }

    /// What is to be written now. [`Outbox::committed`] or [`Outbox::failed`] follows before the next group.
    pub(crate) fn collect(&mut self, closing: bool) -> Group {
        let put = self.items.behind(self.journal.saved()).cloned().collect();
        self.skips.set_changed(false);
        self.journal.collect(put, (self.epoch, self.last, self.given), self.skips.all().clone(), closing)
    }

    /// The group is on disk.
    pub(crate) fn committed(&mut self, mark: &Mark) {
        if mark.epoch != self.epoch {
            // It was on its way when the epoch changed: the next group holds everything under the new one.
            return;
        }
        let waiting = self.cost_behind(mark.last);
        self.journal.committed(mark, waiting);
    }

    /// The group may or may not be on disk; the next one holds the same again.
    pub(crate) fn failed(&mut self, group: &Group) {
        self.journal.failed(&group.gone);
        self.skips.set_changed(true);
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
        self.turns.forget(seq);
        self.journal.removed(seq, item.json.len());
        Some(item)
    }

    /// Drops the oldest record that is not under way: those are about to be acknowledged. Where all are, the oldest.
    fn drop_oldest(&mut self) -> Option<Seq> {
        let seq = self.turns.oldest(&self.items)?;
        self.drop(seq);
        Some(Seq(seq))
    }

    fn drop(&mut self, seq: u64) {
        let given = self.turns.is_given(seq);
        if self.take(seq).is_some() {
            self.skips.add(seq, &self.items);
            if given {
                self.turns.orphan(seq);
            }
        }
    }
}

/// From the system's own source: a generator in memory would give the same epoch to each copy of a machine.
pub(crate) fn new_epoch() -> ProducerEpoch {
    ProducerEpoch(random().max(1))
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}

#[cfg(test)]
mod tests;
