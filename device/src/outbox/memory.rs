//! The index of records in memory; with [`super::disk`], a copy of what is on disk, and what will be.

use std::{collections::BTreeMap, ops::RangeInclusive};

use super::{Item, OVERHEAD};

/// Records by number, and what they cost.
#[derive(Debug, Default)]
pub(super) struct Memory {
    items: BTreeMap<u64, Item>,
    bytes: usize,
}

impl Memory {
    pub(super) fn insert(&mut self, item: Item) {
        self.bytes += item.json.len() + OVERHEAD;
        self.items.insert(item.seq.0, item);
    }

    pub(super) fn remove(&mut self, seq: u64) -> Option<Item> {
        let item = self.items.remove(&seq)?;
        self.bytes -= item.json.len() + OVERHEAD;
        Some(item)
    }

    /// The first record from `seq` on.
    pub(super) fn from(&self, seq: u64) -> Option<&Item> {
        self.items.range(seq..).next().map(|(_, item)| item)
    }

    /// The records behind `seq`.
    pub(super) fn behind(&self, seq: u64) -> impl Iterator<Item = &Item> {
        let from = seq.saturating_add(1);
        self.items.range(from..).map(|(_, item)| item)
    }

    pub(super) fn first_in(&self, range: &RangeInclusive<u64>) -> Option<u64> {
        self.items.range(range.clone()).next().map(|(&seq, _)| seq)
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.items.contains_key(&seq)
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
