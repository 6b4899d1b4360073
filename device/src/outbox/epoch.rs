//! Epochs and numbers of an outbox: how a start goes on from a file, and how a copy of a file is told from the file.

use motience_mutation::Mutation;
use motience_proto::model::{ProducerEpoch, RangeSet, Seq};

use super::{Abandoned, Config, Item, Journal, Loaded, Outbox};

/// Each start takes its numbers so far behind those of the one before, at most, and at least half as far. Two copies with a million
/// records each take one number twice about once in four million times.
const LEAP: u64 = 1 << 44;
/// Numbers from here on are left for a new epoch as soon as nothing is here that may be in the log: after about ten starts. A log keeps
/// a range of each.
pub(super) const FAR: u64 = 1 << 47;
/// Numbers from here on are left in any case: they must not run out (of 2^62), and they fit into every client's JSON.
pub(super) const FURTHEST: u64 = 1 << 52;

/// State from before the file was read. Every copy of the file has the same records under those numbers; each start takes new numbers in a
/// place of its own, at random, so that no two copies ever name two records alike.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    /// No number beyond was sent.
    last_sent: u64,
    /// No record beyond was enqueued.
    enqueued: u64,
    /// No number beyond was reserved: this start tells the server that those without a record will not come.
    reserved: u64,
    /// Up to here it has told so.
    told: u64,
    /// No number up to here is assigned any more.
    closed: u64,
}

impl Before {
    /// Numbers up to `seq` were told to the server as those that will not come.
    pub(super) fn tell(&mut self, seq: u64) {
        self.told = self.told.max(seq.min(self.reserved));
    }
}

impl Outbox {
    /// The outbox that a file holds.
    pub(crate) fn restore(config: Config, loaded: Loaded) -> Self {
        let Loaded { reservation, items, fresh, .. } = loaded;
        if reservation.reserved >= FURTHEST || (reservation.reserved >= FAR && items.is_empty()) {
            return Self::afresh(config, reservation.reserved, items);
        }
        let last_sent = reservation.last_sent.unwrap_or(reservation.reserved).min(reservation.reserved);
        let last = if fresh { reservation.reserved } else { reservation.reserved + LEAP / 2 + random() % (LEAP / 2) };
        let (epoch, journal) = (reservation.epoch, Journal::new(last, last_sent));
        let before = Before { last_sent, enqueued: reservation.last, reserved: reservation.reserved, told: 0, closed: last };
        let mut outbox = Self { epoch, last, last_sent, before, journal, ..Self::new(config) };
        let mut abandoned = reservation.abandoned;
        if Mutation::IgnoreTornTail.is_on() {
            outbox.last = reservation.last;
        } else {
            // Records beyond the last commit were not enqueued; but some may have been sent. After a good end there are none.
            abandoned.insert_range(reservation.last + 1..=reservation.reserved);
        }
        outbox.abandoned = Abandoned::new(abandoned);
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

    /// Whether the log has `seen` numbers that this outbox never gave out, nor any earlier start of it: it is an earlier copy of itself,
    /// or another one was made of it. `last_sent`: the last number sent before the log was asked.
    pub fn is_copied(&self, seen: &RangeSet, last_sent: Seq) -> bool {
        let Before { last_sent: before, enqueued, told, closed, .. } = self.before;
        let (known, reached) = (before.max(told).max(enqueued.min(last_sent.0)), closed.max(last_sent.0));
        seen.iter().any(|range| *range.end() > reached || (known < closed && *range.end() > known && *range.start() <= closed))
    }

    /// Goes on under a new epoch, for [this is a copy](Self::is_copied). Everything is sent again but what is in the log of the records
    /// that were here when the file was read: those are the same in every copy. Returns their numbers.
    pub fn renew(&mut self, seen: &RangeSet) -> Vec<Seq> {
        let mut common = RangeSet::new();
        for range in seen.iter().take_while(|range| *range.start() <= self.before.closed) {
            common.insert_range(*range.start()..=self.before.closed.min(*range.end()));
        }
        let acked = self.ack(&common);
        (self.epoch, self.last_sent, self.before) = (new_epoch(), 0, Before::default());
        // The numbers stay as they are; the new epoch has never heard of those that are gone. Numbers that a start left out need not be told.
        let (mut abandoned, mut next) = (RangeSet::new(), 1);
        let mut skip = |gap: std::ops::RangeInclusive<u64>| {
            if *gap.end() < *gap.start() + LEAP / 4 {
                abandoned.insert_range(gap);
            }
        };
        for item in self.items.behind(0) {
            skip(next..=item.seq.0 - 1);
            next = item.seq.0 + 1;
        }
        skip(next..=self.last);
        self.abandoned.replace(abandoned, &self.items);
        self.scheduler.rewind(self.last);
        let waiting = self.cost_behind(0);
        self.journal.renew(waiting);
        acked
    }
}

/// From the system's own source: a generator in memory would give the same epoch to each copy of a machine.
pub(crate) fn new_epoch() -> ProducerEpoch {
    ProducerEpoch(random().max(1))
}

fn random() -> u64 {
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}
