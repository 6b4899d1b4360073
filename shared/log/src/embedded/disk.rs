//! The log's file: SQLite in WAL mode, every commit synchronous, one writer that gathers what all producers have while the
//! last commit is under way (group commit).
//!
//! A write that fails, on a full disk for one, is tried again until it succeeds: what it holds may be read by consumers
//! already. Whoever waits for it hears after [`ANSWER_LIMIT`] that the log is away.
//!
//! A damaged file is read as far as it can be: readers are told of what is missing ([`load`]). Where damage stands in the way of
//! writing, the writer makes a new file of what can be read, and puts the damaged one aside ([`mod@repair`]).

mod load;
mod repair;
mod rows;
mod schema;
mod writer;

use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use motience_proto::model::{LogEpoch, LogId, LogKey, Offset, UserId};
use motience_runtime::private;
use parking_lot::Mutex;
use rusqlite::Connection;
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{error, warn};

pub use self::repair::{Health, check, confirm, repair};
use self::{load::Found, writer::Writer};
use super::{
    belief::Now,
    state::{Change, Producer},
};
use crate::{self as log, Retention};

/// Longest wait for a write.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Changes that wait for the writer; beyond it appenders wait.
const QUEUE: usize = 1024;
/// Damaged places that are remembered one by one.
const MAX_DAMAGE: usize = 10_000;
/// The file's name in the data folder.
const FILE: &str = "log.db";

/// Why the file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two processes would give out the same offsets.
    #[error("another process uses the log in {}", .0.display())]
    InUse(PathBuf),
    /// The folder or its lock.
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Io(PathBuf, std::io::Error),
    /// The file itself.
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Sqlite(PathBuf, rusqlite::Error),
    /// The file is damaged so much that it cannot be opened.
    #[error(
        "the log {path} is damaged ({cause}): `motience-server log repair` makes a new file of what can be read, and puts this one aside",
        path = .0.display(), cause = .1
    )]
    Damaged(PathBuf, rusqlite::Error),
}

/// The open file.
pub(super) struct Disk {
    queue: Mutex<Option<mpsc::Sender<Order>>>,
    readers: Readers,
    /// Parts that readers have found damaged.
    damage: Mutex<BTreeSet<(LogKey, Offset)>>,
    retention: Retention,
    /// Whether the last attempt to write failed.
    failing: Arc<AtomicBool>,
    writer: Mutex<Option<tokio::task::JoinHandle<()>>>,
    _lock: File,
}

/// Connections that only read.
#[derive(Clone)]
struct Readers {
    reader: Reader,
    /// Of its own, since a large log takes its time: other producers' readers do not wait for it.
    loader: Reader,
    /// How many new files were made of damaged ones.
    rebuilt: Arc<AtomicU32>,
}

/// Something to be written, and who waits for it.
struct Order {
    work: Work,
    done: oneshot::Sender<()>,
}

/// An order to the writer.
enum Work {
    /// Nothing: whoever waits wants to know that what was ordered before is in the file.
    Nothing,
    Change(Change),
    /// The number of this account was given out.
    Account(UserId),
    /// The time that is believed is to be noted. Clients' ids from before `ids` go, in their own time.
    Forget {
        believed: OffsetDateTime,
        ids: OffsetDateTime,
    },
    /// The index is damaged; unless more new files were made by now.
    Rebuild {
        rebuilt: u32,
    },
}

impl Disk {
    /// The file in `dir`, and the time of day that is believed where the clock says `now`.
    pub(super) fn open(dir: &Path, retention: Retention, now: OffsetDateTime) -> Result<(Self, OffsetDateTime), Error> {
        private::folder(dir).map_err(|e| Error::Io(dir.to_owned(), e))?;
        let lock = locked(dir)?;
        let path = dir.join(FILE);
        // Before SQLite opens it: its journals take over the mode.
        private::file(&path).map_err(|e| Error::Io(path.clone(), e))?;
        let sqlite = |e| if load::is_damage(&e) { Error::Damaged(path.clone(), e) } else { Error::Sqlite(path.clone(), e) };
        let writer = schema::open(&path).map_err(sqlite)?;
        let believed = schema::believed(&writer, now).unwrap_or_else(|e| {
            warn!(error = %e, "the log's file does not tell what time it was: much that is too old waits until the clock is confirmed");
            OffsetDateTime::UNIX_EPOCH
        });
        let reader = schema::open(&path).map_err(sqlite)?;
        let loader = schema::open(&path).map_err(sqlite)?;
        let readers = Readers { reader: Reader::new(reader), loader: Reader::new(loader), rebuilt: Arc::default() };
        let failing = Arc::new(AtomicBool::new(false));
        let (queue, orders) = mpsc::channel(QUEUE);
        let writing = Writer::new(dir.to_owned(), writer, readers.clone(), orders, Arc::clone(&failing));
        let writer = tokio::task::spawn_blocking(move || writing.run());
        let disk = Self {
            queue: Mutex::new(Some(queue)),
            readers,
            damage: Mutex::default(),
            retention,
            failing,
            writer: Mutex::new(Some(writer)),
            _lock: lock,
        };
        Ok((disk, believed))
    }

    /// A place in the writer's queue.
    pub(super) async fn room(&self) -> Result<Room, log::Error> {
        let queue = self.queue.lock().clone().ok_or_else(closed)?;
        queue.reserve_owned().await.map(Room).map_err(|_| closed())
    }

    /// Returns once everything ordered before is in the file.
    pub(super) async fn flushed(&self) -> Result<(), log::Error> {
        self.room().await?.order(Work::Nothing).await
    }

    /// Loads a producer's state without its entries.
    pub(super) async fn load(&self, key: LogKey, now: OffsetDateTime) -> Result<Producer, log::Error> {
        let retention = self.retention;
        self.readers.loader.ask(move |loader| load::load(loader, key, &retention, now)).await.map_err(Failure::error)
    }

    /// Some logs after `after` that the file holds.
    pub(super) async fn keys(&self, after: Option<LogId>) -> Result<Vec<LogKey>, log::Error> {
        self.readers.loader.ask(move |loader| schema::keys(loader, after, 100)).await.map_err(Failure::error)
    }

    /// Batches after `after`, of which the file holds all up to `filed`.
    pub(super) async fn read(
        &self,
        key: LogKey,
        log_epoch: LogEpoch,
        after: Offset,
        filed: Offset,
        bytes: usize,
    ) -> Result<Found, log::Error> {
        let rebuilt = self.readers.rebuilt.load(Ordering::Relaxed);
        let read = async || self.readers.reader.ask(move |reader| load::read(reader, key, log_epoch, after, bytes)).await;
        match read().await {
            Err(Failure::Damaged(_)) => {}
            found => return found.map_err(Failure::error),
        }
        // The index is damaged, but not the rows: a new file has another.
        self.room().await?.order(Work::Rebuild { rebuilt }).await?;
        match read().await {
            Err(Failure::Damaged(e)) => {
                warn!(producer = %key.producer, error = %e, "nothing of this log can be read from the file");
                Ok(Found { batches: Vec::new(), skipped: Some(filed) })
            }
            found => found.map_err(Failure::error),
        }
    }

    /// `Some(None)`: the file is damaged there and cannot tell.
    pub(super) async fn offset_for_time(&self, key: LogKey, time: OffsetDateTime) -> Result<Option<Option<Offset>>, log::Error> {
        self.readers.reader.ask(move |reader| load::offset_for_time(reader, key, time)).await.map_err(Failure::error)
    }

    pub(super) async fn highest_account(&self) -> Result<UserId, log::Error> {
        match self.readers.reader.ask(schema::highest_account).await {
            Err(Failure::Damaged(e)) => {
                error!(error = %e, "which numbers of accounts were given out is damaged in the log's file");
                Ok(UserId(0))
            }
            found => found.map_err(Failure::error),
        }
    }

    /// When an operator has confirmed the clock last.
    pub(super) async fn confirmed(&self) -> Option<OffsetDateTime> {
        self.readers.reader.ask(schema::confirmed).await.ok().flatten()
    }

    /// These offsets cannot be read: says so once.
    pub(super) fn note_damage(&self, key: LogKey, from: Offset, to: Offset) {
        let mut damage = self.damage.lock();
        if damage.len() < MAX_DAMAGE && damage.insert((key, to)) {
            metrics::counter!("motience_log_damaged_records_total").increment((to.0 + 1).saturating_sub(from.0));
            error!(
                producer = %key.producer, %from, %to,
                "a part of the log's file is damaged: readers are told, and go on behind it (`motience-server log check` tells more)"
            );
        }
    }

    /// Damaged places that readers have come to.
    pub(super) fn damaged(&self) -> u64 {
        self.damage.lock().len() as u64
    }

    /// Has the believed time noted, and clients' ids that are past removed, a part at a time.
    pub(super) async fn forget(&self, now: Now) {
        if let Ok(room) = self.room().await {
            let _ = room.order(Work::Forget { believed: now.sure, ids: now.sure - self.retention.age }).await;
        }
    }

    pub(super) fn ping(&self) -> Result<(), log::Error> {
        if self.failing.load(Ordering::Relaxed) {
            return Err(log::Error::Unavailable("the log's file cannot be written".to_owned()));
        }
        Ok(())
    }

    /// Writes what is ordered and lets go of the file.
    pub(super) async fn close(&self) {
        self.queue.lock().take();
        let writer = self.writer.lock().take();
        if let Some(writer) = writer
            && let Err(e) = writer.await
        {
            error!(error = %e, "the log's writer failed");
        }
    }
}

/// See [`Disk::room`].
pub(super) struct Room(mpsc::OwnedPermit<Order>);

impl Room {
    /// Orders the change at once; the answer comes once it is in the file. It will be written whether anyone still waits or not.
    pub(super) fn write(self, change: Change) -> impl Future<Output = Result<(), log::Error>> {
        self.order(Work::Change(change))
    }

    pub(super) fn note_account(self, user: UserId) -> impl Future<Output = Result<(), log::Error>> {
        self.order(Work::Account(user))
    }

    fn order(self, work: Work) -> impl Future<Output = Result<(), log::Error>> {
        let (done, answer) = oneshot::channel();
        self.0.send(Order { work, done });
        async move {
            match timeout(ANSWER_LIMIT, answer).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(closed()),
                Err(_) => Err(log::Error::Unavailable("the log's file is not written in time".to_owned())),
            }
        }
    }
}

fn closed() -> log::Error {
    log::Error::Unavailable("the log is closed".to_owned())
}

/// Why the file does not answer.
enum Failure {
    Damaged(rusqlite::Error),
    Away(String),
}

impl Failure {
    fn error(self) -> log::Error {
        match self {
            Self::Damaged(e) => log::Error::Damaged(e.to_string()),
            Self::Away(why) => log::Error::Unavailable(why),
        }
    }
}

/// A connection that answers one question after another. Cheap to clone.
#[derive(Clone)]
struct Reader(Arc<tokio::sync::Mutex<Connection>>);

impl Reader {
    fn new(connection: Connection) -> Self {
        Self(Arc::new(tokio::sync::Mutex::new(connection)))
    }

    /// Asks the file, in a thread where that may take its time. Whoever waits for its turn takes no thread: each thread keeps the memory
    /// that it once needed.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let connection = Arc::clone(&self.0).lock_owned().await;
        let answer = tokio::task::spawn_blocking(move || question(&connection));
        match answer.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) if load::is_damage(&e) => Err(Failure::Damaged(e)),
            Ok(Err(e)) => Err(Failure::Away(e.to_string())),
            Err(e) => Err(Failure::Away(e.to_string())),
        }
    }
}

/// The right to use the folder's log, for as long as it is held.
fn locked(dir: &Path) -> Result<File, Error> {
    let io = |e| Error::Io(dir.to_owned(), e);
    let lock = File::create(dir.join("log.lock")).map_err(io)?;
    lock.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => Error::InUse(dir.to_owned()),
        TryLockError::Error(e) => io(e),
    })?;
    Ok(lock)
}
