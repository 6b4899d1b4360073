//! Live delivery on this node: a ring of the newest batches for each log that is followed here, and the ready queue of each follower.
//!
//! In: [`Hub::deliver`], called by the log's sink for every signalled batch.
//! Out: [`ReadyQueue`], which wakes a [`Subscriber`](super::Subscriber); it reads the ring through its [`FollowGuard`].
//! Next: `shared/relay/src/subscriber.rs`: a reader's cursors.
//!
//! Lock order: the map of channels, then one channel. Both are held for moments, never across an await.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use motience_log::{Batch, Bounds, Log};
use motience_proto::model::{Cursor, LogKey, Offset, ProducerId};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::{Notify, OnceCell};

use super::{
    Error,
    ring::{PushOutcome, ReadOutcome, Ring},
    shared_reads::SharedReads,
};

/// Start position of a follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPosition {
    /// At the log's end at this moment.
    Live,
    /// At the oldest entry that retention still holds.
    Earliest,
    /// After this cursor, or after the last offset that its epoch and the present one surely share.
    After(Cursor),
    /// At the first entry logged at this time or later; somewhat earlier entries may come first.
    Time(OffsetDateTime),
}

/// All logs followed on this node.
#[derive(Debug)]
pub struct Hub {
    channels: Mutex<HashMap<LogKey, Arc<Channel>>>,
    ring: usize,
    /// Longest part of a batch in a ring.
    part: usize,
    next_follower: AtomicU64,
    /// Told when signals may have been lost: all bounds are compared at once.
    stale: Notify,
    /// Answers of the log that readers share who catch up.
    pub(super) reads: SharedReads,
}

impl Hub {
    /// A hub whose rings hold `ring` bytes each, in parts of `part` bytes.
    pub fn new(ring: usize, part: usize) -> Self {
        Self {
            channels: Mutex::default(),
            ring,
            part,
            next_follower: AtomicU64::new(1),
            stale: Notify::new(),
            reads: SharedReads::default(),
        }
    }

    /// Puts a signalled batch into the ring of its log. A batch of a log that nobody here follows is dropped.
    pub fn deliver(&self, batch: &Arc<Batch>) {
        let channel = self.channels.lock().get(&batch.key()).cloned();
        if channel.is_some_and(|channel| channel.push(batch) == PushOutcome::UnknownEpoch) {
            self.mark_stale();
        }
    }

    /// Forgets the newest batches of a producer's logs, some of which were erased: readers go back to the log.
    pub fn forget(&self, producer: ProducerId) {
        self.reads.forget(producer);
        for channel in self.channels().iter().filter(|channel| channel.key.producer == producer) {
            channel.state.lock().ring.forget();
        }
    }

    /// Signals may have been lost: compares all rings with the log.
    pub fn mark_stale(&self) {
        self.reads.clear();
        self.stale.notify_one();
    }

    /// Follows the log `key` from a start position. The follow's number `index` is put into `wake` whenever there is more to read.
    pub(super) async fn follow(
        self: &Arc<Self>,
        log: &Log,
        key: LogKey,
        from: StartPosition,
        wake: &Arc<ReadyQueue>,
        index: usize,
    ) -> Result<(FollowGuard, Cursor), Error> {
        let channel = {
            let mut channels = self.channels.lock();
            let channel = channels.entry(key).or_insert_with(|| Arc::new(Channel::new(key, Ring::new(self.ring, self.part))));
            channel.state.lock().users += 1;
            Arc::clone(channel)
        };
        // From here on the guard gives the channel back, whatever happens.
        let id = self.next_follower.fetch_add(1, Ordering::Relaxed);
        let guard = FollowGuard { hub: Arc::clone(self), log: log.clone(), channel, id };
        guard
            .channel
            .ready
            .get_or_try_init(|| async {
                log.watch(key).await?;
                let bounds = log.bounds(key).await?;
                guard.channel.advance(bounds, Cursor::default());
                Ok::<(), Error>(())
            })
            .await?;
        let offset = |offset| StartPosition::After(Cursor { offset, ..Cursor::default() });
        let from = match from {
            StartPosition::Earliest => offset(Offset(log.bounds(key).await?.first.0.saturating_sub(1))),
            // Removed records of that time are told as a gap, as to a reader that resumes before them.
            StartPosition::Time(time) if log.has_lost(key, time).await? => offset(Offset(0)),
            StartPosition::Time(time) => offset(log.offset_for_time(key, time).await?),
            known => known,
        };
        let cursor = guard.channel.join(id, from, wake, index);
        Ok((guard, cursor))
    }

    /// Logs that are followed and whose bounds are known.
    pub(super) fn channels(&self) -> Vec<Arc<Channel>> {
        self.channels.lock().values().filter(|channel| channel.ready.initialized()).cloned().collect()
    }

    /// Returns when signals may have been lost. Cancel-safe; for one task.
    pub(super) async fn stale(&self) {
        self.stale.notified().await;
    }
}

/// Membership of one follower in a channel, which ends when this is dropped.
pub(super) struct FollowGuard {
    hub: Arc<Hub>,
    log: Log,
    channel: Arc<Channel>,
    id: u64,
}

impl FollowGuard {
    /// Batches after the cursor. For a reader that is `first_counted`: also when the oldest of them came that nobody had before it.
    pub(super) fn read(&self, cursor: Cursor, bytes: usize, first_counted: bool) -> (ReadOutcome, Option<OffsetDateTime>) {
        let mut state = self.channel.state.lock();
        let outcome = state.ring.read(cursor, bytes);
        let came = match &outcome {
            ReadOutcome::Batches(batches) if first_counted => state.first_delivery(batches),
            _ => None,
        };
        (outcome, came)
    }

    /// Has the follow read again.
    pub(super) fn wake(&self) {
        if let Some(follower) = self.channel.state.lock().followers.get(&self.id) {
            follower.wake.queue(&follower.entry);
        }
    }

    /// End of the log as this node knows it.
    pub(super) fn end(&self) -> Cursor {
        self.channel.end()
    }

    /// Tells the ring where the log ends; `heard`: where the ring ended when the log was asked.
    pub(super) fn advance(&self, bounds: Bounds, heard: Cursor) {
        self.channel.advance(bounds, heard);
    }
}

impl Drop for FollowGuard {
    fn drop(&mut self) {
        let mut channels = self.hub.channels.lock();
        let mut state = self.channel.state.lock();
        state.followers.remove(&self.id);
        state.users -= 1;
        if state.users == 0 {
            channels.remove(&self.channel.key);
            // Under the map's lock: whoever follows this producer next comes after this.
            self.log.unwatch(self.channel.key);
        }
    }
}

/// A log that is followed here.
pub(super) struct Channel {
    pub(super) key: LogKey,
    ready: OnceCell<()>,
    state: Mutex<State>,
}

struct State {
    ring: Ring,
    /// By a number of their own, so that one of many leaves at no cost.
    followers: HashMap<u64, Follower>,
    /// Guards, those still waiting for the log included.
    users: usize,
    /// End of the log at the last check: the ring must have reached it by the next one.
    expected: Cursor,
    /// End of the batches that some reader had as they came.
    delivered: Cursor,
}

struct Follower {
    wake: Arc<ReadyQueue>,
    entry: Arc<ReadyEntry>,
}

impl Channel {
    fn new(key: LogKey, ring: Ring) -> Self {
        Self {
            key,
            ready: OnceCell::new(),
            state: Mutex::new(State {
                ring,
                followers: HashMap::new(),
                users: 0,
                expected: Cursor::default(),
                delivered: Cursor::default(),
            }),
        }
    }

    fn push(&self, batch: &Arc<Batch>) -> PushOutcome {
        let mut state = self.state.lock();
        let news = state.ring.push(batch);
        if news == PushOutcome::Appended {
            state.wake_all();
        }
        news
    }

    /// End of the ring.
    pub(super) fn end(&self) -> Cursor {
        self.state.lock().ring.end()
    }

    pub(super) fn advance(&self, bounds: Bounds, heard: Cursor) -> bool {
        let mut state = self.state.lock();
        let news = state.ring.advance(bounds, heard);
        if news {
            state.wake_all();
        }
        news
    }

    /// A signal may still be in flight, so a log that is ahead of the ring counts as a loss only at the second check. A log that ends
    /// before the ring did when it was asked counts at once.
    pub(super) fn check(&self, bounds: Bounds, heard: Cursor) -> bool {
        let mut state = self.state.lock();
        let end = state.ring.end();
        let overdue = end.offset < state.expected.offset || bounds.log_epoch() != end.log_epoch || bounds.last < heard.offset;
        state.expected = Cursor { log_epoch: bounds.log_epoch(), offset: bounds.last };
        drop(state);
        overdue && self.advance(bounds, heard)
    }

    fn join(&self, id: u64, from: StartPosition, wake: &Arc<ReadyQueue>, index: usize) -> Cursor {
        let mut state = self.state.lock();
        let end = state.ring.end();
        let cursor = match from {
            // An offset alone is one of the present epoch.
            StartPosition::After(cursor) if cursor.log_epoch.0 == 0 => Cursor { log_epoch: end.log_epoch, ..cursor },
            StartPosition::After(cursor) => cursor,
            _ => end,
        };
        let entry = Arc::new(ReadyEntry { index, queued: AtomicBool::new(false) });
        let follower = Follower { wake: Arc::clone(wake), entry };
        if cursor != end {
            follower.wake.queue(&follower.entry);
        }
        state.followers.insert(id, follower);
        cursor
    }
}

impl State {
    /// Notes that a reader has these; when the oldest of them came that no reader had before.
    fn first_delivery(&mut self, batches: &[Arc<Batch>]) -> Option<OffsetDateTime> {
        let last = batches.last()?;
        let known = if self.delivered.log_epoch == last.log_epoch { self.delivered.offset } else { Offset(0) };
        let new = batches.iter().find(|batch| batch.last() > known)?;
        self.delivered = Cursor { log_epoch: last.log_epoch, offset: last.last() };
        new.received
    }

    fn wake_all(&self) {
        for follower in self.followers.values() {
            follower.wake.queue(&follower.entry);
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Follows of one reader that have something to read. Holds each at most once.
#[derive(Default)]
pub(super) struct ReadyQueue {
    ready: Mutex<VecDeque<Arc<ReadyEntry>>>,
    notify: Notify,
}

/// One follow of one reader, in its ready queue or not.
pub(super) struct ReadyEntry {
    pub(super) index: usize,
    queued: AtomicBool,
}

impl ReadyQueue {
    pub(super) fn queue(&self, entry: &Arc<ReadyEntry>) {
        if !entry.queued.swap(true, Ordering::AcqRel) {
            self.ready.lock().push_back(Arc::clone(entry));
            self.notify.notify_one();
        }
    }

    /// Takes the next follow. From now on the follow can be queued again, so read after this, not before.
    pub(super) fn take(&self) -> Option<Arc<ReadyEntry>> {
        let entry = self.ready.lock().pop_front()?;
        entry.queued.store(false, Ordering::Release);
        Some(entry)
    }

    /// Returns when the queue may have an entry. Cancel-safe.
    pub(super) async fn wait(&self) {
        self.notify.notified().await;
    }
}
