//! Records from the moment they are taken until they are acknowledged or refused.
//!
//! The outbox numbers records from 1 and names its own life by a random epoch, so that the server recognises what it
//! has already. It is bounded by records and by bytes. It also knows what the present connection has under way, so
//! that a new connection resends the rest and nothing else.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use motience_shared::model::{Epoch, RangeSet, Seq};
use serde::{Deserialize, Serialize};

use crate::client::Lane;

mod memory;

use memory::Memory;

/// What happens when the outbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The sender waits, up to the time limit, and then hears an error.
    Block,
    /// The oldest record that is not under way makes room, and is counted.
    #[default]
    DropOldest,
}

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most records.
    pub records: usize,
    /// Most bytes, [`OVERHEAD`] for each record included.
    pub bytes: usize,
    /// What happens past them.
    pub policy: Policy,
    /// How long a sender waits under [`Policy::Block`].
    pub block_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { records: 100_000, bytes: 64 * 1024 * 1024, policy: Policy::default(), block_timeout: Duration::from_secs(10) }
    }
}

/// What a record costs beside its JSON, in bytes.
pub const OVERHEAD: usize = 96;

/// The outbox has no room under [`Policy::Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the outbox is full")]
pub struct Full;

/// A record in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its number.
    pub seq: Seq,
    /// The way it takes.
    pub lane: Lane,
    /// The record.
    pub json: Bytes,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    config: Config,
    epoch: Epoch,
    last: u64,
    /// Where the records are.
    items: Memory,
    /// The smallest number that the present connection has not been given.
    next: u64,
    /// Given to the present connection, and still in `items`.
    under_way: usize,
    /// Given to the present connection, and dropped for room since: they still use up its credit.
    orphans: BTreeSet<u64>,
}

impl Outbox {
    /// An empty outbox with a new epoch.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            epoch: Epoch(fastrand::u64(1..)),
            last: 0,
            items: Memory::default(),
            next: 1,
            under_way: 0,
            orphans: BTreeSet::new(),
        }
    }

    /// The name of this outbox's life.
    pub fn epoch(&self) -> Epoch {
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
        self.items.insert(Item { seq, lane, json });
        Ok((seq, dropped))
    }

    /// Whether a record of `size` bytes would be taken without dropping any.
    pub fn has_room(&self, size: usize) -> bool {
        self.items.len() < self.config.records && self.items.bytes() + size + OVERHEAD <= self.config.bytes
    }

    /// The next record for the present connection, without giving it.
    pub fn peek(&self) -> Option<&Item> {
        self.items.from(self.next)
    }

    /// Gives the next record to the present connection; it stays in the outbox.
    pub fn give(&mut self) -> Option<Item> {
        let item = self.peek()?.clone();
        self.next = item.seq.0 + 1;
        self.under_way += 1;
        Some(item)
    }

    /// Removes records that are in the log. Returns those that were in the outbox.
    pub fn settle(&mut self, ranges: &RangeSet) -> Vec<Seq> {
        let mut settled = Vec::new();
        for range in ranges.iter() {
            while let Some(seq) = self.items.first_in(&range) {
                self.take(seq);
                settled.push(Seq(seq));
            }
            let late: Vec<u64> = self.orphans.range(range).copied().collect();
            for seq in late {
                self.orphans.remove(&seq);
            }
        }
        settled
    }

    /// Removes one record, whatever became of it. Returns whether it was in the outbox.
    pub fn remove(&mut self, seq: Seq) -> bool {
        self.orphans.remove(&seq.0);
        self.take(seq.0).is_some()
    }

    /// Starts a new connection that has nothing under way.
    pub fn rewind(&mut self) {
        self.next = 1;
        self.under_way = 0;
        self.orphans.clear();
    }

    /// Records under way on the present connection, unacknowledged.
    pub fn under_way(&self) -> u64 {
        (self.under_way + self.orphans.len()) as u64
    }

    /// Whether the record is still here.
    pub fn contains(&self, seq: Seq) -> bool {
        self.items.contains(seq.0)
    }

    /// The last number given; 0 where there is none yet.
    pub fn last(&self) -> Seq {
        Seq(self.last)
    }

    /// The oldest record's number.
    pub fn first(&self) -> Option<Seq> {
        self.items.from(0).map(|item| item.seq)
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

    fn take(&mut self, seq: u64) -> Option<Item> {
        let item = self.items.remove(seq)?;
        if seq < self.next {
            self.under_way -= 1;
        }
        Some(item)
    }

    /// Drops the oldest record that is not under way: those are about to be acknowledged. Where all are, the oldest.
    fn drop_oldest(&mut self) -> Option<Seq> {
        let seq = self.items.from(self.next).or_else(|| self.items.from(0))?.seq;
        self.take(seq.0)?;
        if seq.0 < self.next {
            self.orphans.insert(seq.0);
        }
        Some(seq)
    }
}

#[cfg(test)]
mod tests;
