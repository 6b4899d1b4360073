//! Send scheduler of one connection: the records in flight, and the record that is sent next.
//!
//! [`Order::LiveFirst`] has two queues, the backlog from before the connection and the live records enqueued since. Three live
//! records go for each of the backlog, which may use three quarters of the credit. [`Order::OldestFirst`] has one queue.

use std::collections::BTreeSet;

use super::{Item, Order, memory::Memory};

/// Live records sent between two of the backlog where both wait.
const LIVE_RUN: u32 = 3;
/// The part of the credit that the backlog leaves free: one in so many.
const LIVE_CREDIT: u64 = 4;

#[derive(Debug)]
pub(super) struct Scheduler {
    order: Order,
    /// The first number that is not of the backlog.
    live_from: u64,
    /// The smallest number of the backlog that is not sent yet.
    next: u64,
    /// The smallest live number that is not sent yet.
    next_live: u64,
    /// Records that are sent and still in the outbox: of the backlog, and live.
    in_flight: [usize; 2],
    /// Records that were dropped for room while in flight. They use up credit until the server acknowledges them.
    dropped_in_flight: BTreeSet<u64>,
    /// Live records sent since the last one of the backlog.
    run: u32,
}

impl Scheduler {
    pub(super) fn new(order: Order) -> Self {
        let mut scheduler =
            Self { order, live_from: 0, next: 0, next_live: 0, in_flight: [0; 2], dropped_in_flight: BTreeSet::new(), run: 0 };
        scheduler.rewind(0);
        scheduler
    }

    /// Begins a new connection, on which nothing is in flight. `last` is the last number assigned so far.
    pub(super) fn rewind(&mut self, last: u64) {
        self.live_from = match self.order {
            Order::OldestFirst => u64::MAX,
            Order::LiveFirst => last + 1,
        };
        self.next = 1;
        self.next_live = self.live_from;
        self.in_flight = [0; 2];
        self.dropped_in_flight.clear();
        self.run = 0;
    }

    /// The next record for a connection that may have `credit` records in flight. None beyond `usable` is sent.
    pub(super) fn pick<'a>(&self, items: &'a Memory, usable: u64, credit: u64) -> Option<&'a Item> {
        let backlog = items.from(self.next).filter(|item| item.seq.0 < self.live_from && item.seq.0 <= usable);
        if self.order == Order::OldestFirst {
            return backlog;
        }
        let live = items.from(self.next_live).filter(|item| item.seq.0 <= usable);
        let backlog = backlog.filter(|_| (self.in_flight[0] as u64) < credit - credit / LIVE_CREDIT);
        if self.run < LIVE_RUN { live.or(backlog) } else { backlog.or(live) }
    }

    pub(super) fn sent(&mut self, seq: u64) {
        let live = self.is_live(seq);
        if live {
            self.next_live = seq + 1;
            self.run = self.run.saturating_add(1);
        } else {
            self.next = seq + 1;
            self.run = 0;
        }
        self.in_flight[usize::from(live)] += 1;
    }

    /// The record has left the outbox.
    pub(super) fn removed(&mut self, seq: u64) {
        if self.is_sent(seq) {
            self.in_flight[usize::from(self.is_live(seq))] -= 1;
        }
    }

    /// A record that was in flight was dropped for room.
    pub(super) fn dropped(&mut self, seq: u64) {
        self.dropped_in_flight.insert(seq);
    }

    /// The server acknowledged this range.
    pub(super) fn acked(&mut self, range: std::ops::RangeInclusive<u64>) {
        let late: Vec<u64> = self.dropped_in_flight.range(range).copied().collect();
        for seq in late {
            self.dropped_in_flight.remove(&seq);
        }
    }

    pub(super) fn is_sent(&self, seq: u64) -> bool {
        seq < if self.is_live(seq) { self.next_live } else { self.next }
    }

    /// The oldest record that is not sent; where all are, the oldest.
    pub(super) fn oldest(&self, items: &Memory) -> Option<u64> {
        let waiting = items.from(self.next).filter(|item| !self.is_sent(item.seq.0));
        let item = waiting.or_else(|| items.from(self.next_live)).or_else(|| items.from(0))?;
        Some(item.seq.0)
    }

    pub(super) fn in_flight(&self) -> u64 {
        (self.in_flight[0] + self.in_flight[1] + self.dropped_in_flight.len()) as u64
    }

    fn is_live(&self, seq: u64) -> bool {
        seq >= self.live_from
    }
}
