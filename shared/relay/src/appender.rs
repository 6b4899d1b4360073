//! Group commit: one task for each producer that is being written to, from its publishers' queue into the log. While a write runs the next
//! one gathers, so a lone record is never delayed and a flood is batched by itself.
//!
//! In: submissions of all publishers of one producer.
//! Out: one append at a time, and the news that it has committed.
//! Next: `shared/log/src/lib.rs`: `append`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use motience_log::{self as log, AppendBatch, AppendRecord};
use motience_mutation::Mutation;
use motience_proto::model::{LogKey, ProducerId, RangeSet, Seq, record};
use motience_runtime::{backoff::Backoff, telemetry::Histogram, traces};
use parking_lot::Mutex;
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, error::TrySendError},
    },
    time::{Instant, sleep},
};
use tracing::warn;

use super::{
    Relay,
    session::{Session, Ticket},
    traces::{Arrival, appended},
};

/// First pause before a failed write is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of the buffers that messages are made in.
const BUFFER: usize = 64 << 10;
/// Bytes that a message has beside its record.
const HEAD: usize = 40;
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

impl Submission {
    /// Emits the spans of its records, if they are in the log, by a write that began then.
    fn traced(&self, key: LogKey, began: SystemTime, times: &Histogram) {
        if let Some(arrival) = self.arrival
            && self.session.committed.borrow().up_to >= self.ticket
        {
            let records = self.records.iter().map(|record| (record.seq, &record.json[..]));
            appended((key, self.session.sender.producer_epoch), arrival, began, records, times);
        }
    }
}

/// A record on its way into the log, as its sender wrote it.
pub(super) struct QueuedRecord {
    pub(super) seq: Seq,
    pub(super) id: Option<Arc<str>>,
    pub(super) json: Bytes,
}

/// The way to an appender: so many groups may wait for it, and so many bytes of records. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queue {
    groups: mpsc::Sender<Submission>,
    room: Arc<Semaphore>,
    /// All of the room, in pieces.
    whole: u32,
}

/// A slot in the queue for one group.
pub(super) struct Slot<'q> {
    group: mpsc::Permit<'q, Submission>,
    room: OwnedSemaphorePermit,
}

impl Queue {
    /// A slot for a group of so many bytes; waits for one. `None`: the appender has ended. Cancel-safe.
    pub(super) async fn slot(&self, bytes: usize) -> Option<Slot<'_>> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.pieces(bytes)).await.ok()?;
        Some(Slot { group: self.groups.reserve().await.ok()?, room })
    }

    /// A slot that is free now: [`TrySendError::Full`] where there is none.
    pub(super) fn try_slot(&self, bytes: usize) -> Result<Slot<'_>, TrySendError<()>> {
        let room = Arc::clone(&self.room).try_acquire_many_owned(self.pieces(bytes)).map_err(|_| TrySendError::Full(()))?;
        Ok(Slot { group: self.groups.try_reserve()?, room })
    }

    /// A group larger than all of the room takes all of it.
    fn pieces(&self, bytes: usize) -> u32 {
        u32::try_from(bytes / PIECE + 1).unwrap_or(u32::MAX).min(self.whole)
    }
}

impl Slot<'_> {
    /// Sends what `make` makes of the right to its room.
    pub(super) fn send(self, make: impl FnOnce(OwnedSemaphorePermit) -> Submission) {
        self.group.send(make(self.room));
    }
}

/// The running appenders. They end when the last of their publishers is gone.
#[derive(Default)]
pub(crate) struct Appenders(Mutex<HashMap<LogKey, Running>>);

struct Running {
    groups: mpsc::WeakSender<Submission>,
    room: Arc<Semaphore>,
    /// All of the room, in pieces.
    whole: usize,
}

impl Appenders {
    /// Groups that wait for all appenders, and bytes of their records.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let all = self.0.lock();
        let waiting = all.values().filter_map(|running| {
            let groups = running.groups.upgrade()?;
            let taken = running.whole.saturating_sub(running.room.available_permits());
            Some((groups.max_capacity() - groups.capacity(), taken * PIECE))
        });
        waiting.fold((0, 0), |(groups, bytes), (more, length)| (groups + more, bytes + length))
    }

    /// The way to the appender of this log, started if it does not run.
    pub(super) fn of(&self, relay: &Relay, key: LogKey) -> Queue {
        let whole = u32::try_from(relay.0.limits.queue_bytes / PIECE).unwrap_or(u32::MAX).max(1);
        let mut all = self.0.lock();
        if let Some(running) = all.get(&key)
            && let Some(groups) = running.groups.upgrade()
        {
            return Queue { groups, room: Arc::clone(&running.room), whole };
        }
        // Appenders start rarely enough to forget the ended ones here.
        all.retain(|_, running| running.groups.strong_count() > 0);
        let (groups, submissions) = mpsc::channel(relay.0.limits.queue);
        let queue = Queue { groups, room: Arc::new(Semaphore::new(whole as usize)), whole };
        all.insert(key, Running { groups: queue.groups.downgrade(), room: Arc::clone(&queue.room), whole: whole as usize });
        relay.0.tasks.spawn(run(relay.clone(), key, submissions));
        queue
    }
}

async fn run(relay: Relay, key: LogKey, mut submissions: mpsc::Receiver<Submission>) {
    let mut gathered = Vec::new();
    while let Some(first) = submissions.recv().await {
        let mut bytes = first.bytes;
        gathered.push(first);
        while bytes < relay.0.limits.batch
            && let Ok(next) = submissions.try_recv()
        {
            bytes += next.bytes;
            gathered.push(next);
        }
        let began = traces::are_on().then(SystemTime::now);
        write(&relay, key, &gathered).await;
        if let Some(began) = began {
            gathered.iter().for_each(|submission| submission.traced(key, began, &relay.0.appends));
        }
        gathered.clear();
    }
}

/// One sender's part of a write.
struct Part {
    session: Arc<Session>,
    records: Vec<AppendRecord>,
    skipped: RangeSet,
    ticket: Ticket,
}

async fn write(relay: &Relay, key: LogKey, gathered: &[Submission]) {
    let mut parts = encode(key.producer, gathered);
    let deadline = Instant::now() + relay.0.limits.append;
    let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
    if Mutation::AckBeforeAppend.is_on() {
        parts.iter().for_each(|part| part.session.committed.send_modify(|c| c.up_to = part.ticket));
    }
    // Some fences may be of an earlier epoch, or the outcome of the last write is not known.
    let mut unsure = false;
    loop {
        let failure = match attempt(relay, key, &mut parts, unsure).await {
            Ok(()) if parts.is_empty() => return,
            // The parts left were refused as stale, and not written.
            Ok(()) => {
                unsure = true;
                continue;
            }
            Err(e) => e,
        };
        unsure = true;
        let pause = backoff.pause();
        if Instant::now() + pause >= deadline {
            warn!(producer = %key.producer, error = %failure, "a write to the log was given up");
            parts.iter().for_each(|part| part.finish(Err(failure.clone())));
            return;
        }
        warn!(producer = %key.producer, error = %failure, "a write to the log failed; trying again");
        metrics::counter!("motience_append_retries_total").increment(1);
        sleep(pause).await;
    }
}

/// Writes once; leaves in `parts` what has to be tried again. Nothing is written before every fence is known to hold.
async fn attempt(relay: &Relay, key: LogKey, parts: &mut Vec<Part>, unsure: bool) -> Result<(), log::Error> {
    if unsure {
        reopen(relay, key, parts).await?;
    }
    if parts.is_empty() {
        return Ok(());
    }
    let batches: Vec<AppendBatch> = parts.iter_mut().map(Part::batch).collect();
    let begun = std::time::Instant::now();
    let outcomes = relay.0.log.append(key, &batches).await?;
    relay.0.appends.since(begun);
    let mut left = Vec::new();
    for ((part, batch), outcome) in std::mem::take(parts).into_iter().zip(batches).zip(outcomes) {
        match outcome {
            Ok(()) => {
                relay.0.reports.count_in(key, part.records.len() as u64);
                metrics::counter!("motience_records_appended_total").increment(part.records.len() as u64);
                part.finish(Ok(batch.seen));
            }
            Err(log::Error::Stale) => left.push(part),
            Err(e) => part.finish(Err(e)),
        }
    }
    *parts = left;
    Ok(())
}

/// Opens the session of each part again after a write of unknown outcome. A raised fence keeps the lost write from happening later, and
/// the dedup window tells which records it wrote. A part whose right to write is lost is finished; an error leaves all others to be
/// tried again.
async fn reopen(relay: &Relay, key: LogKey, parts: &mut Vec<Part>) -> Result<(), log::Error> {
    let mut left = Vec::new();
    let mut away = None;
    for part in std::mem::take(parts) {
        let log_epoch = part.session.state.lock().log_epoch;
        match relay.0.log.reopen(key, &part.session.sender, log_epoch).await {
            Ok(opened) => {
                *part.session.state.lock() = opened;
                left.push(part);
            }
            Err(e @ log::Error::Unavailable(_)) => {
                away = Some(e);
                left.push(part);
            }
            Err(e) => part.finish(Err(e)),
        }
    }
    *parts = left;
    away.map_or(Ok(()), Err)
}

/// Encodes what consumers will receive, into buffers of moderate length, and joins each sender's submissions: whoever keeps one
/// message for long keeps its buffer.
fn encode(producer: ProducerId, gathered: &[Submission]) -> Vec<Part> {
    let mut left: usize = gathered.iter().map(|s| s.bytes + s.records.len() * HEAD).sum();
    let mut buffer = BytesMut::new();
    let mut parts: Vec<Part> = Vec::new();
    // By the address of the session: a batch may hold thousands of senders.
    let mut places: HashMap<*const Session, usize> = HashMap::new();
    for submission in gathered {
        let at = *places.entry(Arc::as_ptr(&submission.session)).or_insert_with(|| {
            parts.push(Part {
                session: Arc::clone(&submission.session),
                records: Vec::new(),
                skipped: RangeSet::new(),
                ticket: submission.ticket,
            });
            parts.len() - 1
        });
        parts[at].ticket = submission.ticket;
        submission.skipped.iter().for_each(|range| parts[at].skipped.insert_range(range));
        for record in &submission.records {
            let needed = record.json.len() + HEAD;
            if buffer.capacity() < needed {
                buffer = BytesMut::with_capacity(left.min(BUFFER).max(needed));
            }
            left = left.saturating_sub(needed);
            record::encode(producer, &record.json, &mut buffer);
            parts[at].records.push(AppendRecord { seq: record.seq, id: record.id.clone(), message: buffer.split().freeze() });
        }
    }
    parts
}

impl Part {
    /// Batch to be appended now, without the records that the log has by now: another connection of the device may have brought them
    /// while this one waited.
    fn batch(&mut self) -> AppendBatch {
        let state = self.session.state.lock();
        if !Mutation::SkipDedupWindow.is_on() {
            self.records.retain(|record| !state.seen.contains(record.seq.0));
        }
        let mut seen = state.seen.clone();
        for record in &self.records {
            seen.insert(record.seq.0);
        }
        self.skipped.iter().for_each(|range| seen.insert_range(range));
        AppendBatch {
            name: self.session.sender.name.clone(),
            log_epoch: state.log_epoch,
            fence: state.fence,
            producer_epoch: self.session.sender.producer_epoch,
            seen,
            records: self.records.clone(),
        }
    }

    fn finish(&self, outcome: Result<RangeSet, log::Error>) {
        match outcome {
            Ok(seen) => {
                self.session.state.lock().seen = seen;
                self.session.committed.send_modify(|c| c.up_to = self.ticket);
            }
            Err(e) => self.session.committed.send_modify(|c| c.error = Some(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_by_its_bytes_long_before_its_groups() {
        let (groups, mut submissions) = mpsc::channel(64);
        let queue = Queue { groups, room: Arc::new(Semaphore::new(1024)), whole: 1024 };
        let full = |slot: Result<Slot<'_>, TrySendError<()>>| matches!(slot, Err(TrySendError::Full(())));
        let held: Vec<_> = std::iter::from_fn(|| queue.try_slot(256 << 10).ok()).collect();
        assert_eq!(held.len(), 3, "of four, as each takes a piece for what is beside its records");
        assert!(full(queue.try_slot(256 << 10)) && queue.try_slot(100 << 10).is_ok());
        drop(held);
        // One that is larger than all of the room waits for all of it, and is let in.
        let whole = queue.try_slot(32 << 20).expect("an empty queue takes any group");
        assert!(full(queue.try_slot(0)));
        drop(whole);
        assert!(queue.try_slot(0).is_ok() && submissions.try_recv().is_err());
    }
}
