//! The queue of one producer's log: bounded in groups and in bytes, and with one turn to write, which whoever finds it free takes.
//!
//! In: submissions of all publishers of one producer.
//! Out: what one write takes, to whoever has the [`Turn`].
//! Next: `shared/relay/src/appender.rs`: the write.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use motience_proto::model::{LogKey, RangeSet, Seq};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    Limits,
    session::{Session, Ticket},
    traces::Arrival,
};

/// Bytes that the room of a queue is counted in.
const PIECE: usize = 1024;

/// Records of one sender on their way into the log.
pub(super) struct Submission {
    pub(super) session: Arc<Session>,
    pub(super) records: Vec<QueuedRecord>,
    /// Refused: seen, but not written.
    pub(super) skipped: RangeSet,
    pub(super) bytes: usize,
    pub(super) ticket: Ticket,
    /// When it came, where traces are made.
    pub(super) arrival: Option<Arrival>,
    /// Room in the queue, given back once the submission is written.
    pub(super) _room: OwnedSemaphorePermit,
}

/// A record on its way into the log, as its sender wrote it.
pub(super) struct QueuedRecord {
    pub(super) seq: Seq,
    pub(super) id: Option<Arc<str>>,
    pub(super) json: Bytes,
}

/// The queues of all logs that are written to.
#[derive(Default)]
pub(crate) struct Queues(Mutex<HashMap<LogKey, Weak<Queue>>>);

/// The way to one log: so many groups may wait to be written, and so many bytes of records wait or are being written.
pub(super) struct Queue {
    pub(super) key: LogKey,
    state: Mutex<State>,
    groups: Arc<Semaphore>,
    room: Arc<Semaphore>,
    /// All of the room, in pieces.
    whole: u32,
    /// The relay closes when the last queue is gone.
    _open: TaskTrackerToken,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    turn: Standing,
}

struct Waiting {
    submission: Submission,
    _group: OwnedSemaphorePermit,
}

#[derive(Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Free,
    Taken,
    /// A write was cut short: nobody knows what it did, so that nothing may be acknowledged after it.
    Lost,
}

/// A place in the queue for one group.
pub(super) struct Slot {
    group: OwnedSemaphorePermit,
    room: OwnedSemaphorePermit,
}

/// Why there is no slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoSlot {
    Full,
    /// Nothing is written any more.
    Closed,
}

/// The right to write, of which a queue has one.
pub(super) struct Turn {
    queue: Arc<Queue>,
    /// Whether it is not given back yet.
    held: bool,
}

impl Queues {
    /// Groups that wait in all queues, and bytes of records that wait or are being written.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let all = self.0.lock();
        let counts = all.values().filter_map(Weak::upgrade).map(|queue| {
            let taken = (queue.whole as usize).saturating_sub(queue.room.available_permits());
            (queue.state.lock().waiting.len(), taken * PIECE)
        });
        counts.fold((0, 0), |(groups, bytes), (more, length)| (groups + more, bytes + length))
    }

    /// The queue of this log, made if there is none.
    pub(super) fn of(&self, key: LogKey, limits: &Limits, tasks: &TaskTracker) -> Arc<Queue> {
        let mut all = self.0.lock();
        if let Some(queue) = all.get(&key).and_then(Weak::upgrade)
            && !queue.groups.is_closed()
        {
            return queue;
        }
        // Queues are made rarely enough to forget the ended ones here.
        all.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::new(Queue::new(key, limits, tasks));
        all.insert(key, Arc::downgrade(&queue));
        queue
    }
}

impl Queue {
    fn new(key: LogKey, limits: &Limits, tasks: &TaskTracker) -> Self {
        let whole = u32::try_from(limits.queue_bytes / PIECE).unwrap_or(u32::MAX).max(1);
        let (groups, room) = (Arc::new(Semaphore::new(limits.queue)), Arc::new(Semaphore::new(whole as usize)));
        Self { key, state: Mutex::default(), groups, room, whole, _open: tasks.token() }
    }

    /// A slot for a group of so many bytes; waits for one. `None`: nothing is written any more. Cancel-safe.
    pub(super) async fn slot(&self, bytes: usize) -> Option<Slot> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.pieces(bytes)).await.ok()?;
        Some(Slot { group: Arc::clone(&self.groups).acquire_owned().await.ok()?, room })
    }

    /// A slot that is free now.
    pub(super) fn try_slot(&self, bytes: usize) -> Result<Slot, NoSlot> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(self.pieces(bytes))?;
        Ok(Slot { group: Arc::clone(&self.groups).try_acquire_owned()?, room })
    }

    /// Puts what `make` makes of the right to its room at the end. Returns the turn where nobody has it: whoever gets it must write.
    #[must_use]
    pub(super) fn push(self: &Arc<Self>, slot: Slot, make: impl FnOnce(OwnedSemaphorePermit) -> Submission) -> Option<Turn> {
        let waiting = Waiting { submission: make(slot.room), _group: slot.group };
        let mut state = self.state.lock();
        if state.turn == Standing::Lost {
            return None;
        }
        state.waiting.push_back(waiting);
        let is_free = mem::replace(&mut state.turn, Standing::Taken) == Standing::Free;
        is_free.then(|| Turn { queue: Arc::clone(self), held: true })
    }

    /// A group larger than all of the room takes all of it.
    fn pieces(&self, bytes: usize) -> u32 {
        u32::try_from(bytes / PIECE + 1).unwrap_or(u32::MAX).min(self.whole)
    }
}

impl Turn {
    /// The groups that the next write takes: about so many bytes. Gives the turn back where nothing waits.
    pub(super) fn next(&mut self, bytes: usize) -> Option<Vec<Submission>> {
        let (mut taken, mut length) = (Vec::new(), 0);
        let mut state = self.queue.state.lock();
        while length < bytes
            && let Some(Waiting { submission, .. }) = state.waiting.pop_front()
        {
            length += submission.bytes;
            taken.push(submission);
        }
        if taken.is_empty() && mem::take(&mut self.held) {
            state.turn = Standing::Free;
        }
        (!taken.is_empty()).then_some(taken)
    }

    /// Log that is written to.
    pub(super) fn key(&self) -> LogKey {
        self.queue.key
    }
}

impl Drop for Turn {
    /// A turn that is not given back has been lost with its write.
    fn drop(&mut self) {
        if self.held {
            let mut state = self.queue.state.lock();
            state.turn = Standing::Lost;
            state.waiting.clear();
            self.queue.groups.close();
            self.queue.room.close();
        }
    }
}

impl From<TryAcquireError> for NoSlot {
    fn from(error: TryAcquireError) -> Self {
        match error {
            TryAcquireError::NoPermits => Self::Full,
            TryAcquireError::Closed => Self::Closed,
        }
    }
}

#[cfg(test)]
mod tests {
    use motience_log::{Sender, SessionName, SessionState};
    use motience_proto::model::{Fence, LogEpoch, ProducerEpoch, ProducerId};
    use tokio::sync::watch;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn queue() -> Arc<Queue> {
        let limits = Limits { queue: 64, queue_bytes: 1 << 20, ..Limits::default() };
        Arc::new(Queue::new(LogKey::numbered(ProducerId(1)), &limits, &TaskTracker::new()))
    }

    /// Pushes a group of so many bytes, by a sender of its own.
    fn push(queue: &Arc<Queue>, bytes: usize) -> Option<Turn> {
        let sender = Sender { name: SessionName::ephemeral(), producer_epoch: ProducerEpoch(1), owner: 1 };
        let opened = SessionState { log_epoch: LogEpoch(1), fence: Fence(1), seen: RangeSet::new(), held: Default::default() };
        let (committed, superseded) = (watch::Sender::default(), CancellationToken::new());
        let session = Arc::new(Session { key: queue.key, sender, state: Mutex::new(opened), committed, superseded });
        let slot = queue.try_slot(bytes).expect("there is room");
        queue.push(slot, |room| Submission {
            session,
            records: Vec::new(),
            skipped: RangeSet::new(),
            bytes,
            ticket: Ticket(1),
            arrival: None,
            _room: room,
        })
    }

    #[test]
    fn a_queue_is_full_by_its_bytes_long_before_its_groups() {
        let queue = queue();
        let is_full = |slot: Result<Slot, NoSlot>| slot.is_err_and(|no| no == NoSlot::Full);
        let held: Vec<_> = std::iter::from_fn(|| queue.try_slot(256 << 10).ok()).collect();
        assert_eq!(held.len(), 3, "of four, as each takes a piece for what is beside its records");
        assert!(is_full(queue.try_slot(256 << 10)) && queue.try_slot(100 << 10).is_ok());
        drop(held);
        // One that is larger than all of the room waits for all of it, and is let in.
        let whole = queue.try_slot(32 << 20).expect("an empty queue takes any group");
        assert!(is_full(queue.try_slot(0)));
        drop(whole);
        assert!(queue.try_slot(0).is_ok());
    }

    #[test]
    fn whoever_has_the_turn_writes_what_others_push_meanwhile() {
        let queue = queue();
        let mut turn = push(&queue, 10).expect("nobody writes");
        assert!(push(&queue, 10).is_none() && push(&queue, 10).is_none());
        assert_eq!(turn.next(15).map(|groups| groups.len()), Some(2), "until the write is full");
        assert!(push(&queue, 10).is_none());
        assert_eq!(turn.next(15).map(|groups| groups.len()), Some(2));
        assert!(turn.next(15).is_none());
        // The turn is given back, whatever becomes of what is left of it.
        let mut other = push(&queue, 10).expect("nobody writes");
        drop(turn);
        assert!(push(&queue, 10).is_none());
        assert_eq!(other.next(usize::MAX).map(|groups| groups.len()), Some(2));
    }

    #[test]
    fn nothing_is_written_behind_a_write_that_was_cut_short() {
        let queues = Queues::default();
        let of = || queues.of(LogKey::numbered(ProducerId(1)), &Limits::default(), &TaskTracker::new());
        let queue = of();
        let mut turn = push(&queue, 10).expect("nobody writes");
        let slot = queue.try_slot(10).expect("there is room");
        let writing = turn.next(usize::MAX);
        drop(turn);
        assert_eq!(queue.try_slot(0).err(), Some(NoSlot::Closed));
        // Even a group that had its slot before.
        let session = Arc::clone(&writing.expect("the group")[0].session);
        let submission = |room| Submission {
            session,
            records: Vec::new(),
            skipped: RangeSet::new(),
            bytes: 10,
            ticket: Ticket(2),
            arrival: None,
            _room: room,
        };
        assert!(queue.push(slot, submission).is_none() && queue.state.lock().waiting.is_empty());
        // Whoever opens a publisher now has a queue that is written.
        assert!(of().try_slot(0).is_ok());
    }
}
