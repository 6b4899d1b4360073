//! Group commit: one write at a time for each producer, from its publishers' queue into the log. While a write runs the next one gathers, so
//! a lone record is never delayed and a flood is batched by itself.
//!
//! In: the turn to write, and the submissions of all publishers of one producer.
//! Out: one append at a time, and the news that it has committed.
//! Next: `shared/log/src/lib.rs`: `append`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use motience_log::{self as log, AppendBatch, AppendRecord};
use motience_mutation::Mutation;
use motience_proto::model::{LogKey, ProducerId, RangeSet, record};
use motience_runtime::{backoff::Backoff, telemetry::Histogram, traces};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    Relay,
    queue::{Submission, Turn},
    session::{Session, Ticket},
    traces::appended,
};

/// First pause before a failed write is tried again, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Bytes of the buffers that messages are made in.
const BUFFER: usize = 64 << 10;
/// Bytes that a message has beside its record.
const HEAD: usize = 40;

/// Writes what waits. The first write begins at once, on its caller's task: where the log has it at once, as in memory, and nothing more has
/// come, no other task is woken. Else a task of its own goes on.
pub(super) fn run(relay: &Relay, mut turn: Turn) {
    let (key, most) = (turn.key(), relay.0.limits.batch);
    let Some(gathered) = turn.next(most) else { return };
    let mut first = write(relay.clone(), key, gathered).boxed();
    let is_done = (&mut first).now_or_never().is_some();
    let mut next = if is_done { turn.next(most) } else { None };
    if is_done && next.is_none() {
        return;
    }
    let writer = relay.clone();
    relay.0.tasks.spawn(async move {
        if !is_done {
            first.await;
            next = turn.next(most);
        }
        while let Some(gathered) = next {
            write(writer.clone(), key, gathered).await;
            next = turn.next(most);
        }
    });
}

async fn write(relay: Relay, key: LogKey, gathered: Vec<Submission>) {
    let began = traces::are_on().then(SystemTime::now);
    append(&relay, key, &gathered).await;
    if let Some(began) = began {
        gathered.iter().for_each(|submission| trace(submission, key, began, &relay.0.appends));
    }
}

/// Emits the spans of a group's records, if they are in the log, by a write that began then.
fn trace(submission: &Submission, key: LogKey, began: SystemTime, times: &Histogram) {
    if let Some(arrival) = submission.arrival
        && submission.session.committed.borrow().up_to >= submission.ticket
    {
        let records = submission.records.iter().map(|record| (record.seq, &record.json[..]));
        appended((key, submission.session.sender.producer_epoch), arrival, began, records, times);
    }
}

/// One sender's part of a write.
struct Part {
    session: Arc<Session>,
    records: Vec<AppendRecord>,
    skipped: RangeSet,
    ticket: Ticket,
}

async fn append(relay: &Relay, key: LogKey, gathered: &[Submission]) {
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
                motience_runtime::counter!("motience_records_appended_total").increment(part.records.len() as u64);
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
