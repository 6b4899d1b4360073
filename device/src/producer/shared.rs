//! What the handle and the task share: the outbox, the counters, the wake-ups.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use motience_shared::{
    model::{RangeSet, Seq},
    wire::Refused,
};
use tokio::sync::Notify;

use super::{Error, LinkState, Outcome, Stats};
use crate::{
    client::Lane,
    outbox::{self, Full, Outbox},
    policy::Failure,
};

/// Refusals and drops that are remembered one by one, for [`super::Producer::acked`].
const MEMORY: usize = 1024;

/// Shared by reference; the lock is never held across an await.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// The outbox has something to send.
    pub(super) work: Notify,
    /// A full outbox has room.
    pub(super) room: Notify,
    /// A record was settled, or the connection's state changed.
    pub(super) settled: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) outbox: Outbox,
    pub(super) link: LinkState,
    pub(super) stopped: Option<Failure>,
    pub(super) shut: bool,
    /// The open connection, for its statistics. The task takes it out when it closes it.
    pub(super) connection: Option<quinn::Connection>,
    pub(super) counters: Stats,
    unhappy: VecDeque<(Seq, Outcome)>,
}

impl Shared {
    pub(super) fn new(config: outbox::Config) -> Self {
        Self {
            state: Mutex::new(State {
                outbox: Outbox::new(config),
                link: LinkState::Connecting,
                stopped: None,
                shut: false,
                connection: None,
                counters: Stats::default(),
                unhappy: VecDeque::new(),
            }),
            work: Notify::new(),
            room: Notify::new(),
            settled: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, counters are better than a dead device.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_link(&self, link: LinkState) {
        self.lock().link = link;
        self.settled.notify_waiters();
    }

    pub(super) fn acked(&self, ranges: &RangeSet) {
        {
            let mut state = self.lock();
            state.counters.acked += state.outbox.settle(ranges).len() as u64;
        }
        self.wake();
    }

    pub(super) fn refused(&self, refused: Refused) {
        {
            let mut state = self.lock();
            if !state.outbox.remove(refused.seq) {
                return;
            }
            state.counters.refused += 1;
            state.remember(refused.seq, Outcome::Refused { code: refused.code, message: refused.message });
        }
        self.wake();
    }

    fn wake(&self) {
        self.room.notify_waiters();
        self.settled.notify_waiters();
    }
}

impl State {
    /// Takes a record; whether others were dropped for it.
    pub(super) fn take(&mut self, lane: Lane, json: Bytes) -> Result<(Seq, bool), Full> {
        let (seq, dropped) = self.outbox.push(lane, json)?;
        let any = !dropped.is_empty();
        self.counters.dropped += dropped.len() as u64;
        for seq in dropped {
            self.remember(seq, Outcome::Dropped);
        }
        Ok((seq, any))
    }

    /// Whether the producer still works.
    pub(super) fn check(&self) -> Result<(), Error> {
        match &self.stopped {
            Some(failure) => Err(Error::Stopped(failure.clone())),
            None => Ok(()),
        }
    }

    pub(super) fn is_flushed(&self, seq: Seq) -> bool {
        self.outbox.first().is_none_or(|first| first > seq)
    }

    /// What became of a record that is no longer in the outbox.
    pub(super) fn outcome(&self, seq: Seq) -> Outcome {
        let at = self.unhappy.iter().rev().find(|(unhappy, _)| *unhappy == seq);
        at.map_or(Outcome::Acked, |(_, outcome)| outcome.clone())
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = self.counters.clone();
        stats.state = self.link;
        stats.outbox_records = self.outbox.len() as u64;
        stats.outbox_bytes = self.outbox.bytes() as u64;
        if let Some(connection) = &self.connection {
            let path = connection.stats().path;
            stats.rtt = Some(path.rtt);
            stats.lost_packets = path.lost_packets;
            stats.sent_packets = path.sent_packets;
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
