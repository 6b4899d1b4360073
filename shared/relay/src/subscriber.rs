//! A subscriber: a cursor for each producer it follows. A subscriber pulls; nothing is queued for it.
//!
//! In: wake-ups, and batches from the ring or the log.
//! Out: batches, gaps and resets, in order, when they are pulled.
//! Next: `shared/relay/src/pipeline/mod.rs`: the stages that the reader asked for.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, FutureExt as _};
use motience_log::{Batch, Bounds, Piece};
use motience_proto::model::{Cursor, GapCause, LogKey, Offset, ProducerId};
use motience_runtime::histogram;
use tracing::warn;

use super::{
    Error, Relay, StartPosition,
    hub::{FollowGuard, ReadyEntry, ReadyQueue},
    parts::cut,
    ring::ReadOutcome,
    traces,
};

/// Work that is given out before other tasks have their turn, as bytes of messages.
const TURN: usize = 256 * 1024;
/// Cost of a delivery beside its bytes.
const DELIVERY: usize = 256;
/// Pause before a log that is away is asked again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Deliveries of a subscriber, in offset order for each producer.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The messages of `batch` after the offset `after`.
    Batch {
        /// Shared with all who read it.
        batch: Arc<Batch>,
        /// Offsets up to here were delivered before.
        after: Offset,
    },
    /// News of a log, after all records before it.
    Notice(Notice),
}

/// News of a log that is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Offsets that are gone.
    Gap {
        /// The producer whose log it is.
        producer: ProducerId,
        /// First offset that is gone.
        from: Offset,
        /// Last offset that is gone.
        to: Offset,
        /// Why they are gone.
        cause: GapCause,
    },
    /// The log entered a new epoch and may have lost its tail. Delivery goes on after `cursor`, the last position common to both
    /// epochs; records may come again under other offsets.
    Reset {
        /// The producer whose log it is.
        producer: ProducerId,
        /// Where delivery goes on.
        cursor: Cursor,
    },
}

impl Notice {
    /// The producer whose log it is about.
    pub fn producer(&self) -> ProducerId {
        match *self {
            Self::Gap { producer, .. } | Self::Reset { producer, .. } => producer,
        }
    }
}

/// Follows any number of producers.
pub struct Subscriber {
    relay: Relay,
    wake: Arc<ReadyQueue>,
    /// By a number that is never used twice: news queued for a follow that has ended must not wake another.
    follows: HashMap<usize, Follow>,
    places: HashMap<ProducerId, usize>,
    next_place: usize,
    /// Read and not yet handed out; at most one turn.
    ready: VecDeque<Delivery>,
    /// The follow whose turn it is; kept here so that a cancelled read loses nothing.
    turn: Option<Arc<ReadyEntry>>,
    /// Bytes given out since this subscriber last waited.
    spent: usize,
    /// Whether what it reads goes out to a consumer.
    counted: bool,
    /// For a reader that takes nothing that was only published: how long news gather before the log is read.
    from_log: Option<Duration>,
}

/// A follow that has begun, and the number by which its subscriber knows it.
pub(super) struct OpenedFollow {
    place: usize,
    follow: Follow,
}

struct Follow {
    key: LogKey,
    lease: FollowGuard,
    cursor: Cursor,
    begun: Instant,
    /// Whether it has been at the log's end, so that what it reads from then on is news.
    caught_up: bool,
}

impl Subscriber {
    pub(super) fn new(relay: Relay) -> Self {
        Self {
            relay,
            wake: Arc::default(),
            follows: HashMap::new(),
            places: HashMap::new(),
            next_place: 0,
            ready: VecDeque::new(),
            turn: None,
            spent: 0,
            counted: true,
            from_log: None,
        }
    }

    /// A subscriber that is no consumer's: its records are not counted as going out.
    #[must_use]
    pub fn uncounted(mut self) -> Self {
        self.counted = false;
        self
    }

    /// A subscriber that stores the records it reads: where nodes share the log, it takes nothing from the published batches, and reads the
    /// log itself, at the latest after `every`.
    #[must_use]
    pub fn from_log(mut self, every: Duration) -> Self {
        self.from_log = self.relay.0.log.is_shared().then_some(every);
        self
    }

    /// Follows `producer`. Following it again changes nothing.
    pub async fn follow(&mut self, producer: ProducerId, from: StartPosition) -> Result<(), Error> {
        if self.places.contains_key(&producer) {
            return Ok(());
        }
        let opened = self.opening(producer, from).await?;
        self.enter(opened);
        Ok(())
    }

    /// A follow that begins while this is polled, and is the subscriber's once it is [entered](Self::enter). Many may begin at once.
    pub(super) fn opening(&mut self, producer: ProducerId, from: StartPosition) -> BoxFuture<'static, Result<OpenedFollow, Error>> {
        let place = self.next_place;
        self.next_place += 1;
        let (relay, wake) = (self.relay.clone(), Arc::clone(&self.wake));
        async move {
            let (key, begun) = (relay.log_of(producer).await?, Instant::now());
            let (lease, cursor) = relay.0.hub.follow(&relay.0.log, key, from, &wake, place).await?;
            Ok(OpenedFollow { place, follow: Follow { key, lease, cursor, begun, caught_up: false } })
        }
        .boxed()
    }

    /// Takes a follow that has begun, before anything else is taken from the queue: it may be in there already.
    pub(super) fn enter(&mut self, opened: OpenedFollow) {
        let OpenedFollow { place, follow } = opened;
        self.places.insert(follow.key.producer, place);
        self.follows.insert(place, follow);
    }

    /// Ends a follow at once: nothing of it is delivered after this.
    pub fn unfollow(&mut self, producer: ProducerId) {
        if let Some(place) = self.places.remove(&producer) {
            self.follows.remove(&place);
            self.ready.retain(|d| d.producer() != producer);
        }
    }

    /// Reads a follow again from a cursor on: one that was read before, or is of an earlier epoch of its log.
    pub(super) fn rewind(&mut self, producer: ProducerId, cursor: Cursor) {
        let Some(follow) = self.places.get(&producer).and_then(|place| self.follows.get_mut(place)) else { return };
        follow.cursor = cursor;
        self.ready.retain(|d| d.producer() != producer);
        follow.lease.wake();
    }

    /// Producers that it follows.
    pub fn followed(&self) -> impl Iterator<Item = ProducerId> {
        self.places.keys().copied()
    }

    /// The log that is read of a producer.
    pub fn log_key(&self, producer: ProducerId) -> Option<LogKey> {
        self.follows.get(self.places.get(&producer)?).map(|follow| follow.key)
    }

    /// End of a log that is followed, as this node knows it.
    pub fn end(&self, producer: ProducerId) -> Option<Cursor> {
        self.follows.get(self.places.get(&producer)?).map(|follow| follow.lease.end())
    }

    /// How far a follow has been read.
    pub fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        let place = self.places.get(&producer)?;
        self.follows.get(place).map(|f| f.cursor)
    }

    /// The next delivery. Cancel-safe: what a cancelled call had not returned, the next one does.
    pub async fn next(&mut self) -> Delivery {
        loop {
            if self.spent >= TURN {
                // However much there is to read, and however fast it is taken: this thread has others to serve.
                self.spent = 0;
                tokio::task::yield_now().await;
            }
            if let Some(delivery) = self.try_next() {
                return delivery;
            }
            if self.turn.is_some() {
                self.read_log().await;
            } else {
                self.wake.wait().await;
                if let Some(every) = self.from_log {
                    // Records that come in meanwhile are read with it. A cancelled wait loses nothing: the wake-ups stay queued.
                    tokio::time::sleep(every).await;
                }
            }
        }
    }

    /// The next delivery from memory, without waiting. `None` once a turn's worth was given out: a caller that takes everything then goes
    /// back to [`Subscriber::next`], which lets others run.
    pub fn try_next(&mut self) -> Option<Delivery> {
        if self.spent >= TURN {
            return None;
        }
        loop {
            if let Some(delivery) = self.ready.pop_front() {
                if self.counted {
                    self.count(&delivery);
                }
                self.spent += delivery.bytes() + DELIVERY;
                return Some(delivery);
            }
            if self.turn.is_some() {
                return None;
            }
            let slot = self.wake.take()?;
            let Some(follow) = self.follows.get_mut(&slot.index) else { continue };
            let (read, came) = follow.lease.read(follow.cursor, self.relay.0.limits.read, self.counted && follow.caught_up);
            if let Some(came) = came {
                let time = self.relay.0.clock.now() - came;
                histogram!("motience_delivery_seconds").record(time.try_into().unwrap_or_default());
            }
            match read {
                ReadOutcome::Nothing => follow.caught_up = true,
                ReadOutcome::Batches(_) if self.from_log.is_some() => self.turn = Some(slot),
                ReadOutcome::Batches(batches) => {
                    follow.take(batches, &mut self.ready);
                    // There may be more; others first.
                    self.wake.queue(&slot);
                }
                ReadOutcome::Older | ReadOutcome::Beyond => self.turn = Some(slot),
                ReadOutcome::Reset(cursor) => {
                    follow.cursor = cursor;
                    self.ready.push_back(Delivery::Notice(Notice::Reset { producer: follow.key.producer, cursor }));
                    self.wake.queue(&slot);
                }
            }
        }
    }

    /// Counts what goes out to a consumer.
    fn count(&self, delivery: &Delivery) {
        match delivery {
            Delivery::Batch { batch, after } => {
                self.relay.0.reports.count_out(delivery.records());
                if motience_runtime::traces::are_on() {
                    traces::delivered(batch, *after);
                }
            }
            Delivery::Notice(Notice::Gap { cause, .. }) => {
                metrics::counter!("motience_gaps_told_total", "cause" => cause.as_str()).increment(1);
            }
            Delivery::Notice(Notice::Reset { .. }) => metrics::counter!("motience_resets_told_total").increment(1),
        }
    }

    /// Reads from the log for the follow whose turn it is.
    async fn read_log(&mut self) {
        let Some(slot) = self.turn.clone() else { return };
        let Some(follow) = self.follows.get_mut(&slot.index) else {
            self.turn = None;
            return;
        };
        let (log, reads, cursor, bytes) = (&self.relay.0.log, &self.relay.0.hub.reads, follow.cursor, self.relay.0.limits.read);
        let heard = follow.lease.end();
        let found = async {
            let read = reads.read(log, follow.key, cursor, bytes, follow.begun).await?;
            // Nothing after the cursor: the log ends here, or even before, or retention has emptied it.
            let bounds = if read.batches.is_empty() { Some(log.bounds(follow.key).await?) } else { None };
            Ok::<_, Error>((read, bounds))
        };
        match found.await {
            Ok((read, bounds))
                if read.log_epoch != cursor.log_epoch || bounds.as_ref().is_some_and(|b| b.log_epoch() != cursor.log_epoch) =>
            {
                // The ring learns of the new epoch in a moment, and says where this cursor goes on.
                self.relay.0.hub.mark_stale();
                self.wake.queue(&slot);
                tokio::time::sleep(RETRY_AFTER).await;
                self.turn = None;
            }
            Ok((read, bounds)) => {
                if let Some((from, to)) = read.damaged {
                    follow.gap(Offset(from.0 - 1), GapCause::Retention, &mut self.ready);
                    follow.gap(to, GapCause::Damaged, &mut self.ready);
                }
                // Where damage is all that was found, more may lie behind it.
                let bounds = bounds.filter(|_| read.damaged.is_none());
                if let Some(first) = read.batches.first().map(|batch| batch.first).or(bounds.as_ref().map(|bounds| bounds.first)) {
                    follow.gap(Offset(first.0.saturating_sub(1)), GapCause::Retention, &mut self.ready);
                }
                follow.take(first_bytes(&read.batches, follow.cursor.offset, bytes), &mut self.ready);
                let at_end = bounds.is_some_and(|bounds| follow.reached(bounds, heard, &mut self.ready));
                self.wake.queue(&slot);
                if at_end && heard.offset > follow.cursor.offset {
                    // More was heard of than there is.
                    self.relay.0.hub.mark_stale();
                    tokio::time::sleep(RETRY_AFTER).await;
                }
                self.turn = None;
            }
            Err(e) => {
                warn!(producer = %follow.key.producer, error = %e, "the log cannot be read; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

impl Follow {
    /// The records after the cursor and up to `to`, inclusive, are gone.
    fn gap(&mut self, to: Offset, cause: GapCause, ready: &mut VecDeque<Delivery>) {
        if to > self.cursor.offset {
            ready.push_back(Delivery::Notice(Notice::Gap { producer: self.key.producer, from: self.cursor.offset.next(), to, cause }));
            self.cursor.offset = to;
        }
    }

    /// Compares the cursor with where the log ends. Returns whether there is nothing after the cursor.
    fn reached(&mut self, bounds: Bounds, heard: Cursor, ready: &mut VecDeque<Delivery>) -> bool {
        if bounds.last > self.cursor.offset {
            return false;
        }
        if bounds.last < self.cursor.offset {
            // No log gave this cursor out, or its tail is lost.
            self.cursor = bounds.epochs.resume(self.cursor, bounds.last);
            ready.push_back(Delivery::Notice(Notice::Reset { producer: self.key.producer, cursor: self.cursor }));
        }
        if heard.log_epoch == self.cursor.log_epoch && heard.offset < bounds.last {
            self.lease.advance(bounds, heard);
        }
        true
    }

    fn take(&mut self, batches: Vec<Arc<Batch>>, ready: &mut VecDeque<Delivery>) {
        for batch in batches {
            if batch.has_erased() {
                for piece in batch.pieces(self.cursor.offset) {
                    match piece {
                        Piece::Records(batch) => self.take_records(batch, ready),
                        Piece::Erased(_, to) => self.gap(to, GapCause::Erased, ready),
                    }
                }
            } else {
                self.take_records(batch, ready);
            }
        }
    }

    fn take_records(&mut self, batch: Arc<Batch>, ready: &mut VecDeque<Delivery>) {
        let after = self.cursor.offset;
        self.cursor.offset = batch.last();
        ready.push_back(Delivery::Batch { batch, after });
    }
}

/// The part of the log's batches that fits one turn: whole batches may be far longer.
fn first_bytes(batches: &[Arc<Batch>], after: Offset, bytes: usize) -> Vec<Arc<Batch>> {
    let (mut first, mut taken) = (Vec::new(), 0);
    for batch in batches {
        if taken >= bytes {
            break;
        }
        for part in cut(batch, after, bytes, bytes - taken) {
            taken += part.bytes();
            first.push(part);
        }
    }
    first
}

impl Delivery {
    /// Bytes of the batch that it keeps alive.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Batch { batch, .. } => batch.bytes(),
            Self::Notice(_) => 0,
        }
    }

    /// How many records it holds.
    fn records(&self) -> u64 {
        match self {
            Self::Batch { batch, after } => batch.last().0.saturating_sub(after.0.max(batch.first.0.saturating_sub(1))),
            Self::Notice(_) => 0,
        }
    }

    /// Producer of the log.
    pub fn producer(&self) -> ProducerId {
        match self {
            Self::Batch { batch, .. } => batch.producer,
            Self::Notice(notice) => notice.producer(),
        }
    }
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscriber").field("follows", &self.places.len()).finish_non_exhaustive()
    }
}
