//! What of the outbox is on disk, and what is to be written next: the side in memory of [`super::disk`].
//!
//! **When a record is taken.** It is numbered and may be sent at once; it counts as taken when the group it belongs to
//! is synced to disk, or when it is settled, whichever comes first. On a good link records are acknowledged before the
//! group is due and the disk, which is often flash, is not written at all.
//!
//! **Why no number is used twice** though records are sent before they are on disk: numbers are used only below a mark
//! that was reserved on disk ahead of them. After a cut the outbox goes on behind the mark, and tells the server that
//! the numbers between will not come. A mark counts only when the commit after the one that wrote it is synced, too:
//! should the newest commit be damaged on the medium, the file falls back to the one before, which holds a mark as good.
//!
//! **Why each start leaves a gap**: a copy of the file may go on as well, or may have (an image, an overlay root, a cloned card). Each takes
//! its new numbers in a place of its own, so that no two records of them have one name, whatever the log remembers.
//!
//! **Why the file says what was given out**: so that a copy is noticed. Until the first connection of a start the file says that nothing
//! more was. Nothing new is given to a connection before the file, in both commits, leaves that open.

use motience_proto::model::{ProducerEpoch, RangeSet};

use super::Item;

/// Numbers reserved ahead. After a cut at most so many, and as many again, are skipped: of 2^62 there are enough.
#[cfg(not(test))]
const RESERVE: u64 = 65_536;
/// Few enough for tests to get beyond.
#[cfg(test)]
const RESERVE: u64 = 8;

/// What is written together.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Records that are not on disk.
    pub(crate) put: Vec<Item>,
    /// Numbers whose records may be on disk and are settled.
    pub(crate) gone: RangeSet,
    /// What holds with them.
    pub(crate) state: Mark,
    /// Up to here everything was on disk before.
    pub(crate) saved: u64,
}

/// The outbox's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The name of its life.
    pub(crate) epoch: ProducerEpoch,
    /// The last number given.
    pub(crate) last: u64,
    /// The last number that may be given.
    pub(crate) reserved: u64,
    /// No number beyond was ever given to a connection; `None`: any up to `reserved` may have been.
    pub(crate) given: Option<u64>,
    /// Numbers that will not come, of which the server does not know yet.
    pub(crate) skipped: RangeSet,
}

/// How soon the disk is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Nothing is to be written.
    None,
    /// Only what would do no harm if it were lost: records that are settled, sent again, are known to the server.
    Lazy,
    /// Records.
    Soon,
    /// Enough records, or the reserve runs out.
    Now,
}

#[derive(Debug)]
pub(super) struct Journal {
    /// Every record up to here that is in the outbox is on disk.
    saved: u64,
    /// No record beyond is on disk.
    written: u64,
    /// On disk, perhaps, and settled.
    gone: RangeSet,
    /// Numbers up to here may be sent.
    usable: u64,
    /// The mark in the newest commit.
    reserved: u64,
    /// Records beyond `saved`, and their bytes.
    waiting: (usize, usize),
    /// Numbers up to here were given by an earlier start, or may have been.
    bound: u64,
    /// What the file says of numbers given in this life.
    opening: Opening,
}

/// Whether the file leaves it open what numbers are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Opening {
    /// There has been no connection, or there will be none any more: it names the last.
    Closed,
    /// It is to leave that open, from the next commit on.
    Asked,
    /// The newest commit does, the one before does not.
    Once,
    /// Both do.
    Open,
}

impl Journal {
    /// Nothing is on disk, and nothing ever will be.
    pub(super) fn off() -> Self {
        Self {
            saved: u64::MAX,
            written: 0,
            gone: RangeSet::new(),
            usable: u64::MAX,
            reserved: u64::MAX,
            waiting: (0, 0),
            bound: u64::MAX,
            opening: Opening::Open,
        }
    }

    /// All records are on disk, up to `reserved`; none beyond `given` was ever given to a connection.
    pub(super) fn new(reserved: u64, given: u64) -> Self {
        let (gone, opening) = (RangeSet::new(), Opening::Closed);
        Self { saved: reserved, written: reserved, gone, usable: reserved, reserved, waiting: (0, 0), bound: given, opening }
    }

    /// The file has records up to `old` under another epoch, and those that are here, with `waiting`, are to take their place.
    pub(super) fn afresh(old: u64, waiting: (usize, usize)) -> Self {
        let mut gone = RangeSet::new();
        gone.insert_range(1..=old);
        Self { saved: 0, written: 0, gone, usable: 0, reserved: 0, waiting, bound: 0, opening: Opening::Closed }
    }

    /// The last number that may be given to a connection now.
    pub(super) fn usable(&self) -> u64 {
        if self.opening == Opening::Open { self.usable } else { self.usable.min(self.bound) }
    }

    /// There is a connection, or soon will be.
    pub(super) fn open(&mut self) {
        self.opening = self.opening.max(Opening::Asked);
    }

    /// Whether numbers may be given that never were.
    pub(super) fn is_open(&self) -> bool {
        self.opening == Opening::Open
    }

    pub(super) fn is_on(&self) -> bool {
        self.saved != u64::MAX
    }

    /// Whether the record is on disk, or need not be.
    pub(super) fn is_saved(&self, seq: u64) -> bool {
        seq <= self.saved
    }

    pub(super) fn pushed(&mut self, seq: u64, bytes: usize) {
        if seq > self.saved {
            self.waiting.0 += 1;
            self.waiting.1 += bytes;
        }
    }

    pub(super) fn removed(&mut self, seq: u64, bytes: usize) {
        if seq <= self.written {
            self.gone.insert(seq);
        }
        if seq > self.saved {
            self.waiting.0 -= 1;
            self.waiting.1 -= bytes;
        }
    }

    /// Every record up to here is on disk.
    pub(super) fn saved(&self) -> u64 {
        self.saved
    }

    pub(super) fn waiting_records(&self) -> usize {
        self.waiting.0
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting.1
    }

    pub(super) fn urgency(&self, last: u64, commit_bytes: usize, skips_changed: bool) -> Urgency {
        if !self.is_on() {
            Urgency::None
        } else if self.runs_out(last) || self.waiting.1 >= commit_bytes || matches!(self.opening, Opening::Asked | Opening::Once) {
            Urgency::Now
        } else if self.waiting.0 > 0 {
            Urgency::Soon
        } else if skips_changed || !self.gone.is_empty() {
            Urgency::Lazy
        } else {
            Urgency::None
        }
    }

    /// The next group; `given` is the last number that was given to a connection. `closing`: no number is given any more, so that none
    /// is skipped after a good end.
    pub(super) fn collect(
        &mut self,
        put: Vec<Item>,
        (epoch, last, given): (ProducerEpoch, u64, u64),
        skipped: RangeSet,
        closing: bool,
    ) -> Group {
        if closing && self.is_on() {
            (self.opening, self.bound) = (Opening::Closed, 0);
        }
        let given = (self.opening == Opening::Closed).then_some(given);
        let reserved = match (closing, self.runs_out(last)) {
            (true, _) => last,
            (false, true) => last + RESERVE,
            (false, false) => self.reserved,
        };
        self.written = self.written.max(last);
        Group { put, gone: std::mem::take(&mut self.gone), state: Mark { epoch, last, reserved, given, skipped }, saved: self.saved }
    }

    /// The group is on disk; `waiting` is what came since.
    pub(super) fn committed(&mut self, mark: &Mark, waiting: (usize, usize)) {
        self.saved = mark.last;
        self.usable = self.usable.max(self.reserved.min(mark.reserved));
        self.reserved = mark.reserved;
        self.waiting = waiting;
        self.opening = match self.opening {
            Opening::Asked if mark.given.is_none() => Opening::Once,
            Opening::Once => Opening::Open,
            other => other,
        };
    }

    /// Whether the group is on disk is not known.
    pub(super) fn failed(&mut self, gone: &RangeSet) {
        for range in gone.iter() {
            self.gone.insert_range(range);
        }
    }

    /// The file is a new one: everything is to be written again.
    pub(super) fn restart(&mut self, waiting: (usize, usize)) {
        self.saved = 0;
        self.waiting = waiting;
    }

    /// The outbox has a new epoch: everything is to be written again, and no number may be sent before the file says so.
    pub(super) fn renew(&mut self, waiting: (usize, usize)) {
        if self.is_on() {
            (self.usable, self.reserved, self.bound) = (0, 0, 0);
            self.opening = self.opening.min(Opening::Asked);
            self.restart(waiting);
        }
    }

    fn runs_out(&self, last: u64) -> bool {
        self.usable < last + RESERVE / 2
    }
}
