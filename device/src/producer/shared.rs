//! State that the handle and the tasks share: the outbox, the counters, the wake-ups.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use motience_proto::{
    model::{RangeSet, Seq},
    wire::Refused,
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::{Error, LinkState, Outcome, Stats};
use crate::{
    client::{Lane, Uplink},
    clock,
    outbox::{self, Full, Outbox},
    policy::Failure,
};

/// Refusals and drops that are remembered one by one, for [`super::Producer::acked`].
const MEMORY: usize = 1024;
/// Records for datagrams that may wait for the connection's task.
const LATEST: usize = 256;

/// Shared by reference; the lock is never held across an await.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The outbox has something to send.
    pub(super) work: Notify,
    /// A full outbox has room.
    pub(super) room: Notify,
    /// A record was acknowledged or is on disk, or the connection's state changed.
    pub(super) changed: Notify,
    /// There is something for the disk.
    pub(super) save: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) outbox: Outbox,
    pub(super) link: LinkState,
    pub(super) stopped: Option<Failure>,
    pub(super) shut: bool,
    /// Uplink of the open connection, for its statistics. The task takes it out when it closes the connection.
    pub(super) uplink: Option<Arc<Uplink>>,
    pub(super) counters: Stats,
    /// Records for datagrams, not sent yet.
    pub(super) latest: VecDeque<Bytes>,
    /// Why the disk takes nothing just now.
    pub(super) disk: Option<outbox::Error>,
    unhappy: VecDeque<(Seq, Outcome)>,
}

impl Shared {
    pub(super) fn new(outbox: Outbox, counters: Stats) -> Self {
        Self {
            state: Mutex::new(State {
                outbox,
                link: LinkState::Connecting,
                stopped: None,
                shut: false,
                uplink: None,
                counters,
                latest: VecDeque::new(),
                disk: None,
                unhappy: VecDeque::new(),
            }),
            work: Notify::new(),
            room: Notify::new(),
            changed: Notify::new(),
            save: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, counters are better than a dead device.
        self.state.lock()
    }

    /// Waits until the state has what is looked for. Cancel-safe.
    pub(super) async fn until<T>(&self, found: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = found(&self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    pub(super) fn set_link(&self, link: LinkState) {
        self.lock().link = link;
        self.changed.notify_waiters();
    }

    pub(super) fn acked(&self, ranges: &RangeSet) {
        {
            let mut state = self.lock();
            state.counters.outbox.acked += state.outbox.ack(ranges).len() as u64;
        }
        self.wake();
    }

    pub(super) fn refused(&self, refused: Refused) {
        {
            let mut state = self.lock();
            if !state.outbox.remove(refused.seq) {
                return;
            }
            state.counters.outbox.refused += 1;
            state.remember(refused.seq, Outcome::Refused { code: refused.code, message: refused.message });
        }
        self.wake();
    }

    /// A record that is not to be sent, whatever the reason.
    pub(super) fn refused_here(&self, refused: Refused) {
        {
            let mut state = self.lock();
            if !state.outbox.abandon(refused.seq) {
                return;
            }
            state.counters.outbox.refused += 1;
            state.remember(refused.seq, Outcome::Refused { code: refused.code, message: refused.message });
        }
        self.wake();
    }

    /// Room came about, or records were acknowledged.
    pub(super) fn wake(&self) {
        self.room.notify_waiters();
        self.changed.notify_waiters();
        self.save.notify_one();
    }
}

impl State {
    /// Takes a record; whether others were dropped for it.
    pub(super) fn enqueue(&mut self, lane: Lane, json: Bytes) -> Result<(Seq, bool), Full> {
        let (seq, dropped) = self.outbox.push(lane, json)?;
        let any = !dropped.is_empty();
        self.counters.outbox.enqueued += 1;
        self.dropped(dropped);
        Ok((seq, any))
    }

    /// Takes a record for a datagram; the oldest that was not sent yet is dropped for it.
    pub(super) fn enqueue_latest(&mut self, json: Bytes) {
        if self.link != LinkState::Connected {
            self.counters.link.latest_dropped += 1;
            return;
        }
        if self.latest.len() == LATEST {
            self.latest.pop_front();
            self.counters.link.latest_dropped += 1;
        }
        self.latest.push_back(json);
    }

    /// Counts records that were dropped for room.
    pub(super) fn dropped(&mut self, dropped: Vec<Seq>) {
        self.counters.outbox.dropped += dropped.len() as u64;
        for seq in dropped {
            self.remember(seq, Outcome::Dropped);
        }
    }

    /// Gives a record up that does not get onto the disk; whether it is not sent, either.
    pub(super) fn abandon_unsaved(&mut self, seq: Seq) -> bool {
        let abandoned = self.outbox.abandon_unsaved(seq);
        if abandoned {
            self.counters.outbox.enqueued -= 1;
            self.counters.outbox.blocked += 1;
            self.remember(seq, Outcome::Dropped);
        }
        abandoned
    }

    /// Whether the producer still works.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.stopped {
            Some(failure) => Err(Error::Stopped(failure.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn is_acked_through(&self, seq: Seq) -> bool {
        self.outbox.first().is_none_or(|first| first.seq > seq)
    }

    /// Outcome of a record that is no longer in the outbox.
    pub(super) fn outcome(&self, seq: Seq) -> Outcome {
        let at = self.unhappy.iter().rev().find(|(unhappy, _)| *unhappy == seq);
        at.map_or(Outcome::Acked, |(_, outcome)| outcome.clone())
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.counters.clone();
        stats.state = self.link;
        stats.outbox.records = self.outbox.len() as u64;
        stats.outbox.bytes = self.outbox.bytes() as u64;
        stats.outbox.unsaved = self.outbox.unsaved() as u64;
        stats.outbox.abandoned = self.outbox.abandoned().numbers();
        stats.outbox.order = self.outbox.config().order;
        stats.outbox.oldest =
            self.outbox.first().map(|oldest| Duration::from_millis(clock::unix_millis().saturating_sub(oldest.enqueued_at)));
        stats.disk.error = self.disk.as_ref().map(ToString::to_string);
        if let Some(uplink) = &self.uplink {
            let path = uplink.path();
            stats.link.report = Some(uplink.report());
            stats.link.rtt = Some(path.rtt);
            stats.link.lost_packets = path.lost_packets;
            stats.link.sent_packets = path.sent_packets;
        }
        stats
    }

    fn remember(&mut self, seq: Seq, outcome: Outcome) {
        if self.unhappy.len() == MEMORY {
            self.unhappy.pop_front();
        }
        self.unhappy.push_back((seq, outcome));
    }
}
