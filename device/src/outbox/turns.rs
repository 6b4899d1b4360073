//! Whose turn it is: which records the present connection has been given, and which one is next.
//!
//! The connection is given two runs of numbers, each from its start to its end: the backlog, which was there when the
//! connection came up, and what was taken since. [`Order::OldestFirst`] knows only the backlog, which then has no end.

use std::collections::BTreeSet;

use super::{Item, Order, memory::Memory};

/// Live records given between two of the backlog where both wait.
const LIVE_RUN: u32 = 3;
/// The part of the credit that the backlog leaves free: one in so many.
const LIVE_CREDIT: u64 = 4;

#[derive(Debug)]
pub(super) struct Turns {
    order: Order,
    /// The first number that is not of the backlog.
    live_from: u64,
    /// The smallest number of the backlog that has not been given.
    next: u64,
    /// The smallest number from `live_from` on that has not been given.
    next_live: u64,
    /// Given, and still in the outbox; of the backlog, and live.
    under_way: [usize; 2],
    /// Given, and dropped for room since: they still use up the connection's credit.
    orphans: BTreeSet<u64>,
    /// Live records given since one of the backlog was.
    run: u32,
}

impl Turns {
    pub(super) fn new(order: Order) -> Self {
        let mut turns = Self { order, live_from: 0, next: 0, next_live: 0, under_way: [0; 2], orphans: BTreeSet::new(), run: 0 };
        turns.rewind(0);
        turns
    }

    /// A new connection, which has been given nothing. `last` is the last number taken so far.
    pub(super) fn rewind(&mut self, last: u64) {
        self.live_from = match self.order {
            Order::OldestFirst => u64::MAX,
            Order::LiveFirst => last + 1,
        };
        self.next = 1;
        self.next_live = self.live_from;
        self.under_way = [0; 2];
        self.orphans.clear();
        self.run = 0;
    }

    /// The next record for a connection that may have `credit` records under way. None beyond `usable` is given.
    pub(super) fn pick<'a>(&self, items: &'a Memory, usable: u64, credit: u64) -> Option<&'a Item> {
        let backlog = items.from(self.next).filter(|item| item.seq.0 < self.live_from && item.seq.0 <= usable);
        if self.order == Order::OldestFirst {
            return backlog;
        }
        let live = items.from(self.next_live).filter(|item| item.seq.0 <= usable);
        let backlog = backlog.filter(|_| (self.under_way[0] as u64) < credit - credit / LIVE_CREDIT);
        if self.run < LIVE_RUN { live.or(backlog) } else { backlog.or(live) }
    }

    pub(super) fn give(&mut self, seq: u64) {
        let live = self.is_live(seq);
        if live {
            self.next_live = seq + 1;
            self.run = self.run.saturating_add(1);
        } else {
            self.next = seq + 1;
            self.run = 0;
        }
        self.under_way[usize::from(live)] += 1;
    }

    /// The record has left the outbox.
    pub(super) fn forget(&mut self, seq: u64) {
        if self.is_given(seq) {
            self.under_way[usize::from(self.is_live(seq))] -= 1;
        }
    }

    /// The record, which was given, was dropped for room.
    pub(super) fn orphan(&mut self, seq: u64) {
        self.orphans.insert(seq);
    }

    /// These orphans are settled.
    pub(super) fn settle(&mut self, range: std::ops::RangeInclusive<u64>) {
        let late: Vec<u64> = self.orphans.range(range).copied().collect();
        for seq in late {
            self.orphans.remove(&seq);
        }
    }

    pub(super) fn is_given(&self, seq: u64) -> bool {
        seq < if self.is_live(seq) { self.next_live } else { self.next }
    }

    /// The oldest record that is not given; where all are, the oldest.
    pub(super) fn oldest(&self, items: &Memory) -> Option<u64> {
        let waiting = items.from(self.next).filter(|item| !self.is_given(item.seq.0));
        let item = waiting.or_else(|| items.from(self.next_live)).or_else(|| items.from(0))?;
        Some(item.seq.0)
    }

    pub(super) fn under_way(&self) -> u64 {
        (self.under_way[0] + self.under_way[1] + self.orphans.len()) as u64
    }

    fn is_live(&self, seq: u64) -> bool {
        seq >= self.live_from
    }
}
