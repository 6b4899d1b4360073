//! Journal: the part of the outbox that is on disk, and the group that is written next. [`super::disk`] is the file itself.
//!
//! **When a record is saved.** A record is numbered and may be sent at once; it is *saved* when the group it belongs to is
//! synced to disk, and *acked* when the server has it, whichever comes first. On a good link records are acknowledged before the
//! group is due and the disk, which is often flash, is not written at all.
//!
//! **Why no number is used twice** though records are sent before they are on disk: numbers are reserved on disk in blocks ahead
//! of their use. After a cut the outbox goes on behind the reserved block, and tells the server that
//! the numbers between will not come. A reservation counts only when the commit after the one that wrote it is synced, too:
//! should the newest commit be damaged on the medium, the file falls back to the one before, which reserves enough.
//!
//! **Why each start leaves a gap**: a copy of the file may go on as well, or may have (an image, an overlay root, a cloned card). Each takes
//! its new numbers in a place of its own, so that no two records of them have one name, whatever the log remembers.
//!
//! **Why the file says what was sent**: so that a copy is noticed. Until the first connection of a start the file says that nothing
//! more was. Nothing new is sent on a connection before the file, in both commits, leaves that open.

use motience_proto::model::{ProducerEpoch, RangeSet};

use super::Item;

/// Numbers reserved ahead. After a cut at most so many, and as many again, are skipped: of 2^62 there are enough.
#[cfg(not(test))]
const RESERVE: u64 = 65_536;
/// Few enough for tests to get beyond.
#[cfg(test)]
const RESERVE: u64 = 8;

/// Changes that are written in one commit.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Records that are not on disk.
    pub(crate) put: Vec<Item>,
    /// Numbers whose records may be on disk and are acknowledged.
    pub(crate) gone: RangeSet,
    /// The numbers reserved with them.
    pub(crate) reservation: Reservation,
    /// Up to here everything was on disk before.
    pub(crate) saved: u64,
}

/// The outbox's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    /// The producer epoch.
    pub(crate) epoch: ProducerEpoch,
    /// The last number assigned.
    pub(crate) last: u64,
    /// The last number that may be assigned.
    pub(crate) reserved: u64,
    /// No number beyond was ever sent on a connection; `None`: any up to `reserved` may have been.
    pub(crate) last_sent: Option<u64>,
    /// Abandoned numbers that the server has not acknowledged.
    pub(crate) abandoned: RangeSet,
}

/// Content of the file when it was opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) reservation: Reservation,
    /// Rising.
    pub(crate) items: Vec<Item>,
    /// Whether something was damaged.
    pub(crate) doubtful: bool,
    /// How many records are gone.
    pub(crate) lost: u64,
    /// Whether it held nothing, being new: there is no copy of it.
    pub(crate) fresh: bool,
}

/// How soon the disk is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// Nothing is to be written.
    None,
    /// Only what would do no harm if it were lost: records that are acknowledged, sent again, are known to the server.
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
    /// On disk, perhaps, and acknowledged.
    gone: RangeSet,
    /// Numbers up to here may be sent.
    usable: u64,
    /// The reservation in the newest commit.
    reserved: u64,
    /// Records beyond `saved`, and their bytes.
    waiting: (usize, usize),
    /// Numbers up to here were sent by an earlier start, or may have been.
    bound: u64,
    /// Whether the file leaves it open which numbers were sent since the start.
    opening: Opening,
}

/// Whether the file leaves it open which numbers are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Opening {
    /// There has been no connection, or there will be none any more: it names the last.
    Closed,
    /// The file is to leave that open, from the next commit on.
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

    /// All records are on disk, up to `reserved`; none beyond `last_sent` was ever sent on a connection.
    pub(super) fn new(reserved: u64, last_sent: u64) -> Self {
        let (gone, opening) = (RangeSet::new(), Opening::Closed);
        Self { saved: reserved, written: reserved, gone, usable: reserved, reserved, waiting: (0, 0), bound: last_sent, opening }
    }

    /// The file has records up to `old` under another epoch, and those that are here, with `waiting`, are to take their place.
    pub(super) fn afresh(old: u64, waiting: (usize, usize)) -> Self {
        let mut gone = RangeSet::new();
        gone.insert_range(1..=old);
        Self { saved: 0, written: 0, gone, usable: 0, reserved: 0, waiting, bound: 0, opening: Opening::Closed }
    }

    /// The last number that may be sent on a connection now.
    pub(super) fn usable(&self) -> u64 {
        if self.opening == Opening::Open { self.usable } else { self.usable.min(self.bound) }
    }

    /// There is a connection, or soon will be.
    pub(super) fn open(&mut self) {
        self.opening = self.opening.max(Opening::Asked);
    }

    /// Whether numbers may be sent that never were.
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

    pub(super) fn urgency(&self, last: u64, commit_bytes: usize, abandoned_changed: bool) -> Urgency {
        if !self.is_on() {
            Urgency::None
        } else if self.runs_out(last) || self.waiting.1 >= commit_bytes || matches!(self.opening, Opening::Asked | Opening::Once) {
            Urgency::Now
        } else if self.waiting.0 > 0 {
            Urgency::Soon
        } else if abandoned_changed || !self.gone.is_empty() {
            Urgency::Lazy
        } else {
            Urgency::None
        }
    }

    /// The next group; `last_sent` is the last number that was sent on a connection. `closing`: no number is assigned any more, so that none
    /// is skipped after a good end.
    pub(super) fn collect(
        &mut self,
        put: Vec<Item>,
        (epoch, last, last_sent): (ProducerEpoch, u64, u64),
        abandoned: RangeSet,
        closing: bool,
    ) -> Group {
        if closing && self.is_on() {
            (self.opening, self.bound) = (Opening::Closed, 0);
        }
        let last_sent = (self.opening == Opening::Closed).then_some(last_sent);
        let reserved = match (closing, self.runs_out(last)) {
            (true, _) => last,
            (false, true) => last + RESERVE,
            (false, false) => self.reserved,
        };
        self.written = self.written.max(last);
        Group {
            put,
            gone: std::mem::take(&mut self.gone),
            reservation: Reservation { epoch, last, reserved, last_sent, abandoned },
            saved: self.saved,
        }
    }

    /// The group is on disk; `waiting` is what came since.
    pub(super) fn group_saved(&mut self, reservation: &Reservation, waiting: (usize, usize)) {
        self.saved = reservation.last;
        self.usable = self.usable.max(self.reserved.min(reservation.reserved));
        self.reserved = reservation.reserved;
        self.waiting = waiting;
        self.opening = match self.opening {
            Opening::Asked if reservation.last_sent.is_none() => Opening::Once,
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
