//! The log of one process: in its memory, or in a file beside it ([`disk`]) that is written before anything is
//! acknowledged.
//!
//! With a file, memory holds what is not yet in it; everything older is read from there.

mod disk;
mod state;

use std::{
    collections::HashMap,
    fmt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use time::OffsetDateTime;
use tokio::sync::OnceCell;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use disk::Error as OpenError;

use self::{
    disk::Disk,
    state::{Change, Producer},
};
use super::{Error, Event, Head, Opened, Read, Retention, Section, Sender, Signal, Sink};
use crate::{
    clock::Clock,
    model::{LogEpoch, LogKey, Offset, UserId},
    mutation::Mutation,
};

/// How often producers that write nothing are trimmed by age.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The in-process log. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    retention: Retention,
    clock: Clock,
    sink: Sink,
    disk: Option<Disk>,
    /// The map is locked to find a producer, the producer to use it: producers do not wait for each other.
    producers: Mutex<HashMap<LogKey, Arc<Place>>>,
    /// Without a file: the highest number of an account that was noted.
    highest_account: AtomicI64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A producer, read from the file before it is used.
#[derive(Default)]
struct Place {
    state: OnceCell<Mutex<Producer>>,
}

impl Log {
    /// An empty log in memory whose signals go to `sink`.
    pub fn in_memory(retention: Retention, clock: Clock, sink: Sink) -> Self {
        Self::new(None, retention, clock, sink)
    }

    /// The log in the folder `dir`, made where there is none. One process at a time may have it.
    pub fn in_file(dir: &Path, retention: Retention, clock: Clock, sink: Sink) -> Result<Self, OpenError> {
        let disk = Disk::open(dir, retention, clock.now())?;
        Ok(Self::new(Some(disk), retention, clock, sink))
    }

    fn new(disk: Option<Disk>, retention: Retention, clock: Clock, sink: Sink) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let log = Self(Arc::new(Inner {
            retention,
            clock,
            sink,
            disk,
            producers: Mutex::default(),
            highest_account: AtomicI64::new(0),
            tasks,
            stop,
        }));
        let (swept, stop) = (Arc::downgrade(&log.0), log.0.stop.clone());
        log.0.tasks.spawn(async move {
            while stop.run_until_cancelled(tokio::time::sleep(SWEEP_EVERY)).await.is_some() {
                let Some(inner) = swept.upgrade() else { return };
                Self(inner).sweep().await;
            }
        });
        log
    }

    pub(super) async fn open(&self, key: LogKey, sender: &Sender, reopened: Option<LogEpoch>) -> Result<Opened, Error> {
        let place = self.place(key).await?;
        let opened = place.lock().open(sender, reopened.is_some(), self.0.clock.now())?;
        if let Some(disk) = &self.0.disk {
            // What it has seen must be as durable as an acknowledgement.
            disk.flushed().await?;
        }
        Ok(opened)
    }

    pub(super) async fn append(&self, key: LogKey, sections: &[Section]) -> Result<Vec<Result<(), Error>>, Error> {
        let place = self.place(key).await?;
        // Before memory changes: what it says has happened must reach the file.
        let room = match &self.0.disk {
            Some(disk) => Some(disk.room().await?),
            None => None,
        };
        let now = self.0.clock.now();
        let (outcomes, mut change) = {
            let mut state = place.lock();
            let mut change = Change::new(key);
            // Signalled under the producer's so that signals keep the order of the log.
            let outcomes = sections
                .iter()
                .map(|section| state.append(section, now, &self.0.retention, &mut change, |batch| (self.0.sink)(Signal::Batch(batch))))
                .collect();
            change.finish(&mut state, now, &self.0.retention, self.0.disk.is_some());
            (outcomes, change)
        };
        if let Some(room) = room {
            change.settled = Some(place);
            room.write(change).await?;
        }
        Ok(outcomes)
    }

    pub(super) async fn head(&self, key: LogKey) -> Result<Head, Error> {
        Ok(self.place(key).await?.lock().head())
    }

    pub(super) async fn read(&self, key: LogKey, after: Offset, bytes: usize) -> Result<Read, Error> {
        let place = self.place(key).await?;
        let (recent, epoch) = {
            let state = place.lock();
            (state.recent(after, bytes), state.lives.present())
        };
        let batches = match (&self.0.disk, recent) {
            (_, Some(batches)) => batches,
            (Some(disk), None) => disk.read(key, epoch, after, bytes).await?,
            (None, None) => Vec::new(),
        };
        Ok(Read { epoch, batches })
    }

    pub(super) async fn before(&self, key: LogKey, time: OffsetDateTime) -> Result<Offset, Error> {
        let place = self.place(key).await?;
        if let Some(disk) = &self.0.disk
            && let Some(found) = disk.before(key, time).await?
        {
            return Ok(found);
        }
        Ok(place.lock().before(time))
    }

    /// When the newest of what was removed was written.
    pub(super) async fn removed_at(&self, key: LogKey) -> Result<Option<OffsetDateTime>, Error> {
        Ok(self.place(key).await?.lock().removed_at())
    }

    pub(super) fn oldest(&self) -> OffsetDateTime {
        self.0.clock.now() - self.0.retention.age
    }

    /// Every append is signalled, so there is nothing to arrange.
    pub(super) async fn follow(&self, _key: LogKey) -> Result<(), Error> {
        Ok(())
    }

    pub(super) fn unfollow(&self, _key: LogKey) {}

    pub(super) async fn announce(&self, event: &Event) -> Result<(), Error> {
        (self.0.sink)(Signal::Event(event.clone()));
        Ok(())
    }

    pub(super) async fn highest_account(&self) -> Result<UserId, Error> {
        match &self.0.disk {
            Some(disk) => disk.highest_account().await,
            None => Ok(UserId(self.0.highest_account.load(Ordering::Relaxed))),
        }
    }

    pub(super) async fn note_account(&self, user: UserId) -> Result<(), Error> {
        match &self.0.disk {
            Some(disk) => disk.room().await?.note_account(user).await,
            None => {
                self.0.highest_account.fetch_max(user.0, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    pub(super) async fn ping(&self) -> Result<(), Error> {
        self.0.disk.as_ref().map_or(Ok(()), Disk::ping)
    }

    pub(super) fn durability(&self) -> String {
        if self.0.disk.is_some() { "file" } else { "memory" }.to_owned()
    }

    pub(super) async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Some(disk) = &self.0.disk {
            disk.close().await;
        }
    }

    /// The producer, read from the file first.
    async fn place(&self, key: LogKey) -> Result<Arc<Place>, Error> {
        let place = Arc::clone(self.0.producers.lock().entry(key).or_default());
        let load = async || {
            let mut state = match &self.0.disk {
                Some(disk) => disk.load(key).await?,
                None => Producer::default(),
            };
            // Of its own, so that a cursor of one log is never taken for a cursor of another.
            let kept = Mutation::EpochBesideData.is_on().then(|| state.lives.present()).filter(|kept| kept.0 > 0);
            state.begin(kept.unwrap_or_else(new_epoch));
            Ok(Mutex::new(state))
        };
        place.state.get_or_try_init(load).await?;
        Ok(place)
    }

    async fn sweep(&self) {
        let places: Vec<(LogKey, Arc<Place>)> = self.0.producers.lock().iter().map(|(id, place)| (*id, Arc::clone(place))).collect();
        let now = self.0.clock.now();
        for (key, place) in places.into_iter().filter(|(_, place)| place.state.initialized()) {
            let mut change = Change::new(key);
            change.finish(&mut place.lock(), now, &self.0.retention, self.0.disk.is_some());
            if let Some(disk) = &self.0.disk
                && change.trim.is_some()
            {
                // What cannot be done now is done at the next start.
                if let Ok(room) = disk.room().await {
                    let _ = room.write(change).await;
                }
            }
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
