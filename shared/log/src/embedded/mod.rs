//! The log of one process: in its memory, or in a file beside it ([`disk`]) that is written before anything is
//! acknowledged.
//!
//! With a file, memory holds what is not yet in it; everything older is read from there.

mod belief;
mod disk;
mod ids;
mod once;
mod sessions;
mod state;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

pub use disk::{Error as OpenError, Health, check, confirm, copy, locked, repair};
use motience_mutation::Mutation;
use motience_proto::model::{LogEpoch, LogKey, Offset, RangeSet, UserId};
use motience_runtime::clock::Clock;

use self::{
    belief::{Belief, Now},
    disk::{Disk, SEGMENT_BYTES},
    once::Taken,
    state::{Change, Producer},
};
use crate::{
    AppendBatch, Bounds, Bus, Engine, Error, Fetch, Outline, Records, Retention, Retentions, Sender, SessionState, Sessions, Signal, Sink,
    Topic,
};

/// How often producers that write nothing are trimmed by age.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether an operator has confirmed the clock, while that is waited for.
const HELD_EVERY: Duration = Duration::from_secs(2);
/// A clock that is ahead by no more is believed.
const STEP: Duration = Duration::from_secs(90);

/// The in-process log. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    retentions: Retentions,
    clock: Clock,
    belief: Belief,
    /// Logs of which much would go at once, were the clock believed.
    held: AtomicU64,
    sink: Sink,
    disk: Option<Disk>,
    /// The map is locked to find a producer, the producer to use it: producers do not wait for each other.
    producers: Mutex<HashMap<LogKey, Arc<Place>>>,
    /// Without a file: the highest number of an account that was noted.
    highest_account: AtomicI64,
    taken: Mutex<Taken>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A producer, read from the file before it is used.
#[derive(Default)]
struct Place {
    state: OnceCell<Mutex<Producer>>,
    /// Whether anybody but the survey has asked for it.
    wanted: AtomicBool,
}

impl Log {
    /// An empty log in memory whose signals go to `sink`.
    pub fn in_memory(retention: Retention, clock: Clock, sink: Sink) -> Self {
        let believed = clock.now();
        Self::new(None, believed, Retentions::new(retention), clock, sink)
    }

    /// The log in the folder `dir`, made where there is none. One process at a time may have it.
    pub fn in_file(dir: &Path, retention: Retention, clock: Clock, sink: Sink) -> Result<Self, OpenError> {
        Self::in_segments(dir, retention, clock, sink, SEGMENT_BYTES)
    }

    fn in_segments(dir: &Path, retention: Retention, clock: Clock, sink: Sink, segment_bytes: u64) -> Result<Self, OpenError> {
        let retentions = Retentions::new(retention);
        let (disk, believed) = Disk::open(dir, retentions.clone(), clock.now(), segment_bytes)?;
        Ok(Self::new(Some(disk), believed, retentions, clock, sink))
    }

    fn new(disk: Option<Disk>, believed: OffsetDateTime, retentions: Retentions, clock: Clock, sink: Sink) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let log = Self(Arc::new(Inner {
            retentions,
            clock,
            belief: Belief::new(believed),
            held: AtomicU64::new(0),
            sink,
            disk,
            producers: Mutex::default(),
            highest_account: AtomicI64::new(0),
            taken: Mutex::default(),
            tasks,
            stop,
        }));
        let (swept, stop) = (Arc::downgrade(&log.0), log.0.stop.clone());
        log.0.tasks.spawn(async move {
            let mut is_first = true;
            while let Some(inner) = swept.upgrade() {
                let log = Self(inner);
                if stop.run_until_cancelled(log.sweep(std::mem::take(&mut is_first))).await.is_none() {
                    return;
                }
                let pause = if log.held() > 0 { HELD_EVERY } else { SWEEP_EVERY };
                drop(log);
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
            }
        });
        log
    }

    pub(super) fn damaged(&self) -> u64 {
        self.0.disk.as_ref().map_or(0, Disk::damaged)
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.disk.as_ref().is_some_and(Disk::is_full)
    }

    pub(super) fn stalled_for(&self) -> Option<Duration> {
        self.0.disk.as_ref().and_then(Disk::stalled_for)
    }

    pub(super) fn retentions(&self) -> &Retentions {
        &self.0.retentions
    }

    pub(super) fn held(&self) -> u64 {
        self.0.held.load(Ordering::Relaxed)
    }

    /// The producer, read from the file first.
    async fn place(&self, key: LogKey) -> Result<Arc<Place>, Error> {
        let place = {
            let mut producers = self.0.producers.lock();
            let place = producers.entry(key).or_default();
            place.wanted.store(true, Ordering::Relaxed);
            Arc::clone(place)
        };
        self.loaded(key, place).await
    }

    async fn loaded(&self, key: LogKey, place: Arc<Place>) -> Result<Arc<Place>, Error> {
        let load = async || {
            let mut state = match &self.0.disk {
                Some(disk) => disk.load(key, self.0.clock.now()).await?,
                None => Producer::default(),
            };
            // Of its own, so that a cursor of one log is never taken for a cursor of another.
            let kept = Mutation::EpochBesideData.is_on().then(|| state.epochs.present()).filter(|kept| kept.0 > 0);
            state.begin(kept.unwrap_or_else(new_epoch));
            Ok(Mutex::new(state))
        };
        place.state.get_or_try_init(load).await?;
        Ok(place)
    }

    fn now(&self) -> Now {
        self.0.belief.now(self.0.clock.now())
    }

    /// Trims by age, and lets go of senders and ids that are past. At the first time, and after the clock has jumped, all logs of the file
    /// are looked at, and the clock is believed unless much depends on it.
    async fn sweep(&self, is_first: bool) {
        let held_before = self.held();
        if held_before > 0
            && let Some(disk) = &self.0.disk
            && let Some(confirmed) = disk.confirmed().await
        {
            self.0.belief.believe(confirmed);
        }
        if is_first || (held_before == 0 && self.now().ahead() > STEP) {
            self.survey().await;
        }
        let places: Vec<(LogKey, Arc<Place>)> = self.0.producers.lock().iter().map(|(id, place)| (*id, Arc::clone(place))).collect();
        let mut held = 0;
        for (key, place) in places.into_iter().filter(|(_, place)| place.state.initialized()) {
            held += u64::from(self.trim(key, &place).await);
        }
        self.0.held.store(held, Ordering::Relaxed);
        metrics::gauge!("motience_log_retention_held").set(held as f64);
        if held == 0 && held_before == 0 {
            self.0.belief.believe(self.0.clock.now());
        } else if held != held_before {
            warn!(
                logs = held,
                percent = self.0.retentions.platform().at_once,
                "the clock has jumped: more than LOG_RETENTION_AT_ONCE of these logs would be too old at once, and is kept. If the clock is \
                 right, `motience-server log confirm` lets it go"
            );
        }
        if let Some(disk) = &self.0.disk {
            disk.forget(self.now()).await;
        }
    }

    /// Trims every log of the file, and keeps in memory only those that somebody wants, or that wait for the clock to be confirmed.
    async fn survey(&self) {
        let Some(disk) = &self.0.disk else { return };
        let mut after = None;
        while let Ok(keys) = disk.keys(after).await
            && let Some(last) = keys.last()
        {
            after = Some(last.log);
            for key in keys {
                let place = Arc::clone(self.0.producers.lock().entry(key).or_default());
                let Ok(place) = self.loaded(key, place).await else { continue };
                if self.trim(key, &place).await {
                    continue;
                }
                let mut producers = self.0.producers.lock();
                if !place.wanted.load(Ordering::Relaxed) {
                    producers.remove(&key);
                }
            }
        }
    }

    /// Says whether much is only kept because the clock is not believed.
    async fn trim(&self, key: LogKey, place: &Place) -> bool {
        let room = match &self.0.disk {
            Some(disk) => disk.room().await.ok(),
            None => None,
        };
        let mut change = Change::new(key);
        let (held, written) = {
            let mut state = place.lock();
            change.finish(&mut state, self.now(), &self.0.retentions.of(key.producer), self.0.disk.is_some());
            (change.held, room.filter(|_| !change.is_empty()).map(|room| room.write(change)))
        };
        if let Some(written) = written {
            // A failed trim is made up for at the next start.
            let _ = written.await;
        }
        held
    }
}

impl Records for Log {
    async fn append(&self, key: LogKey, batches: &[AppendBatch]) -> Result<Vec<Result<(), Error>>, Error> {
        let place = self.place(key).await?;
        // Before memory changes: what it says has happened must reach the file.
        let room = match &self.0.disk {
            Some(disk) => Some(disk.room().await?),
            None => None,
        };
        let (now, keep) = (self.now(), self.0.retentions.of(key.producer));
        let (outcomes, written) = {
            let mut state = place.lock();
            let mut change = Change::new(key);
            // Signalled under the producer's lock, so that signals keep the order of the log. So do orders to the file.
            let outcomes = batches
                .iter()
                .map(|batch| state.append(batch, now, &keep, &mut change, |batch| (self.0.sink)(Signal::Batch(batch))))
                .collect();
            change.finish(&mut state, now, &keep, self.0.disk.is_some());
            change.settled = Some(Arc::clone(&place));
            (outcomes, room.map(|room| room.write(change)))
        };
        if let Some(written) = written {
            written.await?;
        }
        Ok(outcomes)
    }

    async fn read(&self, key: LogKey, after: Offset, bytes: usize) -> Result<Fetch, Error> {
        let place = self.place(key).await?;
        let (after, recent, log_epoch) = {
            let state = place.lock();
            // The file may still hold some of what was removed.
            let after = after.max(state.removed);
            (after, state.recent(after, bytes), state.epochs.present())
        };
        let (disk, filed) = match (&self.0.disk, recent) {
            (_, Ok(batches)) => return Ok(Fetch { log_epoch, batches, damaged: None }),
            (None, Err(_)) => return Ok(Fetch { log_epoch, ..Fetch::default() }),
            (Some(disk), Err(filed)) => (disk, filed),
        };
        let found = disk.read(key, log_epoch, after, bytes).await?;
        let to = found.batches.first().map(|batch| Offset(batch.first.0 - 1)).or(found.skipped).unwrap_or(filed);
        let state = place.lock();
        // Entries that retention has not removed should have been there.
        let from = after.max(state.removed).next();
        let damaged = (from <= to).then_some((from, to));
        let batches = if found.batches.is_empty() && damaged.is_none() { state.newest(bytes) } else { found.batches };
        drop(state);
        if let Some((from, to)) = damaged {
            disk.note_damage(key, from, to);
        }
        Ok(Fetch { log_epoch, batches, damaged })
    }

    async fn bounds(&self, key: LogKey) -> Result<Bounds, Error> {
        Ok(self.place(key).await?.lock().bounds())
    }

    async fn outline(&self, key: LogKey) -> Result<Outline, Error> {
        let (place, now) = (self.place(key).await?, self.0.clock.now());
        let state = place.lock();
        let (segments, total, end) = state.segments.outline();
        let (bounds, gone, keep) = (state.bounds(), state.segments.gone(), self.0.retentions.of(key.producer));
        Ok(Outline { bounds, segments, total, gone, end: end.unwrap_or(now), now, keep })
    }

    async fn offset_for_time(&self, key: LogKey, time: OffsetDateTime) -> Result<Offset, Error> {
        let place = self.place(key).await?;
        if let Some(disk) = &self.0.disk
            && let Some(found) = disk.offset_for_time(key, time).await?
        {
            let state = place.lock();
            return Ok(found.clamp(state.removed, state.last));
        }
        Ok(place.lock().offset_for_time(time))
    }

    async fn removed_at(&self, key: LogKey) -> Result<Option<OffsetDateTime>, Error> {
        Ok(self.place(key).await?.lock().removed_at())
    }

    /// As a retention that keeps nothing would.
    async fn erase(&self, key: LogKey) -> Result<(), Error> {
        let place = self.place(key).await?;
        let nothing = Retention { age: Duration::ZERO, bytes: 0, at_once: 100, sessions: 0, windows: 0 };
        loop {
            let room = match &self.0.disk {
                Some(disk) => Some(disk.room().await?),
                None => None,
            };
            // A moment ahead, so that a record of this very moment is older.
            let later = self.0.clock.now() + STEP;
            let mut change = Change::new(key);
            let written = {
                let mut state = place.lock();
                change.finish(&mut state, Now { at: later, sure: later }, &nothing, self.0.disk.is_some());
                let is_news = change.trim.is_some() || change.note.is_some();
                if !is_news {
                    return Ok(());
                }
                room.map(|room| room.write(change))
            };
            if let Some(written) = written {
                written.await?;
            }
        }
    }

    async fn erase_records(&self, key: LogKey, offsets: &RangeSet) -> Result<(), Error> {
        let place = self.place(key).await?;
        if let Some(disk) = &self.0.disk {
            // Memory holds nothing but what the file lacks, and none of this once it is written.
            return disk.erase_records(key, offsets.clone()).await;
        }
        place.lock().erase_records(offsets);
        Ok(())
    }

    async fn trim(&self, key: LogKey) -> Result<(), Error> {
        let place = self.place(key).await?;
        // Not `Records::trim` but that of the sweep.
        Self::trim(self, key, &place).await;
        Ok(())
    }

    fn oldest(&self, key: LogKey) -> OffsetDateTime {
        self.0.clock.now() - self.0.retentions.of(key.producer).age
    }

    /// Does nothing: every append is signalled.
    async fn watch(&self, _key: LogKey) -> Result<(), Error> {
        Ok(())
    }

    fn unwatch(&self, _key: LogKey) {}
}

impl Sessions for Log {
    async fn open(&self, key: LogKey, sender: &Sender, reopened: Option<LogEpoch>) -> Result<SessionState, Error> {
        let place = self.place(key).await?;
        let opened = place.lock().open(sender, reopened.is_some(), self.now(), &self.0.retentions.of(key.producer))?;
        if let Some(disk) = &self.0.disk {
            // The dedup window must be as durable as an acknowledgement.
            disk.flushed().await?;
        }
        Ok(opened)
    }
}

impl Bus for Log {
    async fn broadcast(&self, _: Topic, message: bytes::Bytes) -> Result<(), Error> {
        (self.0.sink)(Signal::Message(message));
        Ok(())
    }
}

impl Engine for Log {
    async fn ping(&self) -> Result<(), Error> {
        self.0.disk.as_ref().map_or(Ok(()), Disk::ping)
    }

    fn durability(&self) -> String {
        if self.0.disk.is_some() { "file" } else { "memory" }.to_owned()
    }

    async fn highest_account(&self) -> Result<UserId, Error> {
        match &self.0.disk {
            Some(disk) => disk.highest_account().await,
            None => Ok(UserId(self.0.highest_account.load(Ordering::Relaxed))),
        }
    }

    async fn note_account(&self, user: UserId) -> Result<(), Error> {
        match &self.0.disk {
            Some(disk) => disk.note_account(user).await,
            None => {
                self.0.highest_account.fetch_max(user.0, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn take_once(&self, name: &str, ttl: Duration) -> Result<bool, Error> {
        Ok(self.0.taken.lock().take(name, ttl, self.0.clock.now()))
    }

    async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Some(disk) = &self.0.disk {
            disk.forget(self.now()).await;
            disk.close().await;
        }
    }
}

impl Place {
    /// # Panics
    ///
    /// Before the state is there; [`Log::place`] gives out no such place.
    fn lock(&self) -> MutexGuard<'_, Producer> {
        self.state.get().expect("a place is given out with its state").lock()
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("embedded::Log").finish_non_exhaustive()
    }
}

/// Another for each log and at each start. 53 bits, so that every client's JSON can hold it.
fn new_epoch() -> LogEpoch {
    LogEpoch(fastrand::u64(1..1 << 53))
}
