//! The log's files: segments, to which one writer appends what all producers have gathered while the last group was synced (group commit); and
//! a database beside them, with what is known of senders and of logs as wholes.
//!
//! | part | what it does |
//! |---|---|
//! | [`frame`] | bytes of a batch, of what it says of its sender, of notes |
//! | [`segment`] | files of frames; where one that was being written ends |
//! | [`index`] | where each log's batches are |
//! | [`writer`] | groups: encoded, written, synced, then told |
//! | [`maintenance`] | behind the writer: database, index files, room |
//! | [`mod@compact`] | what is removed, and what survives of a segment |
//! | [`recover`], [`mod@import`] | opening: torn ends, what the database lags behind, files from before there were segments |
//! | [`load`] | reading |
//! | [`mod@repair`] | `motience-server log` |
//! | [`backup`] | `motience-server backup` |
//!
//! The segments are the truth. Each batch is one frame with its sender's dedup window and client ids, so a crash keeps all of it or nothing. The
//! database follows: its rows are copied from frames that are synced, and after a crash the frames behind its checkpoint are read again
//! ([`dirty`]). A segment is removed once it is behind the checkpoint and nothing in it is in use.
//!
//! A write that fails, on a full disk for one, is tried again until it succeeds: what it holds may be read by consumers
//! already. Whoever waits for it hears after [`ANSWER_LIMIT`] that the log is away.
//!
//! Damaged files are read as far as they can be: readers are told of what is missing. Where damage stands in the way of the database,
//! maintenance makes a new one of what can be read, and puts the damaged one aside ([`mod@repair`]).

mod backup;
mod compact;
mod dirty;
mod frame;
mod import;
mod index;
mod load;
mod maintenance;
mod numbers;
#[cfg(test)]
pub(super) mod old;
mod recover;
mod repair;
mod rows;
mod schema;
mod segment;
mod shared;
mod writer;

use std::{
    collections::BTreeSet,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use motience_proto::model::{LogEpoch, LogId, LogKey, Offset, RangeSet, UserId};
use motience_runtime::private;
use parking_lot::Mutex;
use rusqlite::Connection;
use time::OffsetDateTime;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tracing::{error, warn};

pub use self::{
    backup::copy,
    repair::{Health, check, confirm, repair},
};
use self::{
    compact::Erased,
    index::Index,
    load::Found,
    maintenance::{Bell, Done, Maintenance, Work},
    recover::Recovered,
    shared::{Pending, Shared},
    writer::{Order, Writer},
};
use super::{
    belief::Now,
    state::{Change, Producer},
};
use crate::{self as log, Retentions};

/// Longest wait for a write.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait until segments are written anew without records that are erased.
const ERASE_LIMIT: Duration = Duration::from_secs(300);
/// Changes that wait for the writer; beyond it appenders wait.
const QUEUE: usize = 1024;
/// How often it is looked whether another process still holds the log.
const HOLD_PAUSE: Duration = Duration::from_millis(20);
/// Damaged places that are remembered one by one.
const MAX_DAMAGE: usize = 10_000;
/// Segments read at once; each takes a thread.
const READS: usize = 4;
/// Bytes after which the next segment begins.
pub(super) const SEGMENT_BYTES: u64 = 32 << 20;
/// The database's name in the data folder.
const FILE: &str = "log.db";

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two processes would give out the same offsets.
    #[error("another process uses the log in {}", .0.display())]
    InUse(PathBuf),
    /// The folder, its lock, or a segment.
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Io(PathBuf, std::io::Error),
    /// The database itself.
    #[error("{path}: {cause}", path = .0.display(), cause = .1)]
    Sqlite(PathBuf, rusqlite::Error),
    /// A newer program has written it.
    #[error(
        "a newer motience-server wrote the log {path} (version {found}); this program reads versions up to {known}: upgrade it",
        path = .path.display(), known = schema::VERSION
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The database is damaged so much that it cannot be opened.
    #[error(
        "the log {path} is damaged ({cause}): `motience-server log repair` makes a new file of what can be read, and puts this one aside",
        path = .0.display(), cause = .1
    )]
    Damaged(PathBuf, rusqlite::Error),
}

impl Error {
    /// An error of the database in `dir`.
    fn sqlite(dir: &Path, e: rusqlite::Error) -> Self {
        let path = dir.join(FILE);
        if load::is_damage(&e) { Self::Damaged(path, e) } else { Self::Sqlite(path, e) }
    }
}

/// A failure of the database or of other files, while it is not known yet where they are.
enum Cause {
    Sqlite(rusqlite::Error),
    Io(io::Error),
}

impl Cause {
    /// The error of the log in `dir`.
    fn within(self, dir: &Path) -> Error {
        match self {
            Self::Sqlite(e) => Error::sqlite(dir, e),
            Self::Io(e) => Error::Io(dir.join(segment::FOLDER), e),
        }
    }
}

impl From<rusqlite::Error> for Cause {
    fn from(e: rusqlite::Error) -> Self {
        Self::Sqlite(e)
    }
}

impl From<io::Error> for Cause {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// The open log.
pub(super) struct Disk {
    queue: Mutex<Option<mpsc::Sender<Order>>>,
    bell: Mutex<Option<Bell>>,
    shared: Shared,
    readers: Readers,
    /// Parts that readers have found damaged.
    damage: Mutex<BTreeSet<(LogKey, Offset)>>,
    retentions: Retentions,
    threads: Mutex<Vec<JoinHandle<()>>>,
    _lock: Arc<File>,
}

/// Who only reads.
#[derive(Clone)]
struct Readers {
    /// Turns at the segments.
    turns: Arc<Semaphore>,
    loader: Reader,
    /// How many new databases were made of damaged ones.
    rebuilt: Arc<AtomicU32>,
}

impl Disk {
    /// The log in `dir`, and the time of day that is believed where the clock says `now`.
    pub(super) fn open(
        dir: &Path,
        retentions: Retentions,
        now: OffsetDateTime,
        segment_bytes: u64,
    ) -> Result<(Self, OffsetDateTime), Error> {
        private::folder(dir).map_err(|e| Error::Io(dir.to_owned(), e))?;
        let lock = locked(dir)?;
        // A backup that began while nobody ran is of one moment too.
        let _held = Hold::open(dir).and_then(|hold| hold.wait(&AtomicBool::new(false))).map_err(|e| Error::Io(dir.to_owned(), e))?;
        let path = dir.join(FILE);
        // Before SQLite opens it: its journals take over the mode.
        private::file(&path).map_err(|e| Error::Io(path.clone(), e))?;
        let sqlite = |e| Error::sqlite(dir, e);
        let connection = schema::open(&path).map_err(sqlite)?;
        import::import(dir, &connection, segment_bytes)?;
        load::unless_damaged(schema::put_version(&connection).map(Some)).map_err(sqlite)?;
        let (connection, Recovered { folder, index, tail, end, spoiled }) = recovered(dir, &path, connection)?;
        let believed = schema::believed(&connection, now).unwrap_or_else(|e| {
            warn!(error = %e, "the log's file does not tell what time it was: much that is too old waits until the clock is confirmed");
            OffsetDateTime::UNIX_EPOCH
        });
        let loader = Reader::new(schema::open(&path).map_err(sqlite)?);
        let readers = Readers { turns: Arc::new(Semaphore::new(READS)), loader, rebuilt: Arc::default() };
        let shared = Shared {
            folder,
            index: Arc::new(index),
            pending: Arc::new(Mutex::new(Pending { end, ..Pending::default() })),
            failing: Arc::default(),
            full: Arc::default(),
            stalled: Arc::default(),
            closing: Arc::default(),
            segment_bytes,
        };
        let hold = || Hold::open(dir).map_err(|e| Error::Io(dir.to_owned(), e));
        let (queue, orders) = mpsc::channel(QUEUE);
        let (bell, work) = Bell::new();
        let writer = Writer { shared: shared.clone(), tail, hold: hold()?, orders, maintenance: bell.clone(), doubt: false };
        let maintenance = Maintenance {
            dir: dir.to_owned(),
            shared: shared.clone(),
            connection,
            readers: readers.clone(),
            work,
            hold: hold()?,
            checkpoint: end,
            forget: None,
            spoiled,
            rebuilds: 0,
            unremoved: Vec::new(),
            failed: false,
        };
        let lock = Arc::new(lock);
        let threads = started(&lock, writer, maintenance);
        let disk = Self {
            queue: Mutex::new(Some(queue)),
            bell: Mutex::new(Some(bell)),
            shared,
            readers,
            damage: Mutex::default(),
            retentions,
            threads: Mutex::new(threads),
            _lock: lock,
        };
        Ok((disk, believed))
    }

    /// A place in the writer's queue.
    pub(super) async fn room(&self) -> Result<Room, log::Error> {
        let queue = self.queue.lock().clone().ok_or_else(closed)?;
        queue.reserve_owned().await.map(Room).map_err(|_| closed())
    }

    /// Erases these records from the file.
    pub(super) async fn erase_records(&self, key: LogKey, offsets: RangeSet) -> Result<(), log::Error> {
        self.room().await?.send(Order::sealing).await?;
        self.ask_maintenance_within(ERASE_LIMIT, |done| Work::Erase(Erased { key, offsets }, done)).await
    }

    /// Returns once everything ordered before is in the file.
    pub(super) async fn flushed(&self) -> Result<(), log::Error> {
        self.room().await?.order(None).await
    }

    /// Loads a producer's state without its entries.
    pub(super) async fn load(&self, key: LogKey, now: OffsetDateTime) -> Result<Producer, log::Error> {
        let (index, retention) = (Arc::clone(&self.shared.index), self.retentions.of(key.producer));
        let load = async || {
            let index = Arc::clone(&index);
            self.readers.loader.ask(move |loader| load::load(&index, loader, key, &retention, now)).await
        };
        match load().await {
            Err(Failure::Damaged(_)) => {}
            found => return found.map_err(Failure::error),
        }
        let rebuilt = self.readers.rebuilt.load(Ordering::Relaxed);
        self.ask_maintenance(|done| Work::Rebuild { rebuilt, done }).await?;
        load().await.map_err(Failure::error)
    }

    /// Some logs after `after` that the database knows.
    pub(super) async fn keys(&self, after: Option<LogId>) -> Result<Vec<LogKey>, log::Error> {
        self.readers.loader.ask(move |loader| schema::keys(loader, after, 100)).await.map_err(Failure::error)
    }

    /// Batches after `after`.
    pub(super) async fn read(&self, key: LogKey, log_epoch: LogEpoch, after: Offset, bytes: usize) -> Result<Found, log::Error> {
        self.look(move |index| load::read(index, key, log_epoch, after, bytes)).await
    }

    /// `None` where the segments have no batch of that time or later.
    pub(super) async fn offset_for_time(&self, key: LogKey, time: OffsetDateTime) -> Result<Option<Offset>, log::Error> {
        self.look(move |index| load::offset_for_time(index, key, time)).await
    }

    /// Looks into the segments, in a thread where that may take its time. Who waits for a turn takes no thread.
    async fn look<T: Send + 'static>(&self, question: impl FnOnce(&Index) -> io::Result<T> + Send + 'static) -> Result<T, log::Error> {
        let turn = Arc::clone(&self.readers.turns).acquire_owned().await.map_err(|_| closed())?;
        let index = Arc::clone(&self.shared.index);
        let answer = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            question(&index)
        });
        let answer = answer.await.map_err(|e| log::Error::Unavailable(e.to_string()))?;
        answer.map_err(|e| log::Error::Unavailable(format!("the log's file cannot be read: {e}")))
    }

    pub(super) async fn highest_account(&self) -> Result<UserId, log::Error> {
        match self.readers.loader.ask(schema::highest_account).await {
            Err(Failure::Damaged(e)) => {
                error!(error = %e, "which numbers of accounts were given out is damaged in the log's file");
                Ok(UserId(0))
            }
            found => found.map_err(Failure::error),
        }
    }

    pub(super) async fn note_account(&self, user: UserId) -> Result<(), log::Error> {
        self.ask_maintenance(|done| Work::Account(user, done)).await
    }

    /// When an operator has confirmed the clock last.
    pub(super) async fn confirmed(&self) -> Option<OffsetDateTime> {
        self.readers.loader.ask(schema::confirmed).await.ok().flatten()
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

    /// Brings the database up to date, has the believed time noted, and clients' ids that are past removed, a part at a time.
    pub(super) async fn forget(&self, now: Now) {
        let (believed, ids) = (now.sure, now.sure - self.retentions.platform().age);
        let _ = self.ask_maintenance(|done| Work::Forget { believed, ids, done }).await;
    }

    pub(super) fn ping(&self) -> Result<(), log::Error> {
        if self.shared.failing.load(Ordering::Relaxed) {
            return Err(log::Error::Unavailable("the log's file cannot be written".to_owned()));
        }
        Ok(())
    }

    /// Whether the last attempt to write failed for want of room.
    pub(super) fn is_full(&self) -> bool {
        self.shared.full.load(Ordering::Relaxed)
    }

    /// How long segments have waited to be removed or put together, because their files cannot be written or removed.
    pub(super) fn stalled_for(&self) -> Option<Duration> {
        self.shared.stalled.lock().map(|since| since.elapsed())
    }

    async fn ask_maintenance(&self, work: impl FnOnce(Done) -> Work) -> Result<(), log::Error> {
        self.ask_maintenance_within(ANSWER_LIMIT, work).await
    }

    async fn ask_maintenance_within(&self, limit: Duration, work: impl FnOnce(Done) -> Work) -> Result<(), log::Error> {
        let bell = self.bell.lock().clone().ok_or_else(closed)?;
        let (done, answer) = oneshot::channel();
        if !bell.order(work(done)) {
            return Err(log::Error::Unavailable("the log's database has too much to do".to_owned()));
        }
        match timeout(limit, answer).await {
            Ok(Ok(outcome)) => outcome.map_err(log::Error::Unavailable),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(log::Error::Unavailable("the log's database is not written in time".to_owned())),
        }
    }

    /// Writes what is ordered and lets go of the files.
    pub(super) async fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        self.queue.lock().take();
        self.bell.lock().take();
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if let Err(e) = thread.await {
                error!(error = %e, "a thread of the log failed");
            }
        }
    }
}

/// See [`Disk::room`].
pub(super) struct Room(mpsc::OwnedPermit<Order>);

impl Room {
    /// Orders the change at once; the answer comes once it is in the file. The write happens whether anyone still waits or not.
    pub(super) fn write(self, change: Change) -> impl Future<Output = Result<(), log::Error>> {
        self.order(Some(change))
    }

    fn order(self, change: Option<Change>) -> impl Future<Output = Result<(), log::Error>> {
        self.send(|done| Order { change, seals: false, done })
    }

    fn send(self, order: impl FnOnce(oneshot::Sender<()>) -> Order) -> impl Future<Output = Result<(), log::Error>> {
        let (done, answer) = oneshot::channel();
        self.0.send(order(done));
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

/// Contents of the folder. A database that is damaged is made anew of what can be read.
fn recovered(dir: &Path, path: &Path, mut connection: Connection) -> Result<(Connection, Recovered), Error> {
    match recover::recover(dir, &mut connection) {
        Err(Error::Damaged(_, e)) => {
            drop(connection);
            let kept = repair::rebuild(dir)?;
            error!(error = %e, kept = %kept.display(), "the log's database was damaged: there is a new one of what could be read");
            let mut connection = schema::open(path).map_err(|e| Error::sqlite(dir, e))?;
            let recovered = recover::recover(dir, &mut connection)?;
            Ok((connection, recovered))
        }
        recovered => Ok((connection, recovered?)),
    }
}

/// Starts both threads. They have the lock for as long as they run: nobody else opens files that they still write.
fn started(lock: &Arc<File>, writer: Writer, maintenance: Maintenance) -> Vec<JoinHandle<()>> {
    let (first, second) = (Arc::clone(lock), Arc::clone(lock));
    vec![
        tokio::task::spawn_blocking(move || {
            let _lock = first;
            writer.run();
        }),
        tokio::task::spawn_blocking(move || {
            let _lock = second;
            maintenance.run();
        }),
    ]
}

/// The lock by which another process keeps the log's files as they are, to make a copy of them: `flock data/log.hold cp -r data …`.
#[derive(Clone)]
struct Hold(Arc<File>);

/// Nobody else has the lock for as long as this lives.
struct Held(Arc<File>);

impl Hold {
    /// The lock in `dir`, for one thread.
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("log.hold");
        private::file(&path)?;
        Ok(Self(Arc::new(File::open(path)?)))
    }

    /// Fails where another process has it.
    fn share(&self) -> io::Result<Held> {
        match self.0.try_lock_shared() {
            Ok(()) => Ok(Held(Arc::clone(&self.0))),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds log.hold")),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Keeps everybody from writing, and waits until those who write have finished.
    fn alone(&self) -> io::Result<Held> {
        self.0.lock()?;
        Ok(Held(Arc::clone(&self.0)))
    }

    /// Waits for as long as another process has it; fails where the log is closed meanwhile.
    fn wait(&self, closing: &AtomicBool) -> io::Result<Held> {
        loop {
            match self.share() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && !closing.load(Ordering::Relaxed) => {
                    #[expect(clippy::disallowed_methods, reason = "only threads that nobody waits for call this, and a node that starts")]
                    std::thread::sleep(HOLD_PAUSE);
                }
                held => return held,
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.unlock();
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
pub fn locked(dir: &Path) -> Result<File, Error> {
    let io = |e| Error::Io(dir.to_owned(), e);
    let lock = File::create(dir.join("log.lock")).map_err(io)?;
    lock.try_lock().map_err(|e| match e {
        TryLockError::WouldBlock => Error::InUse(dir.to_owned()),
        TryLockError::Error(e) => io(e),
    })?;
    readable(dir)?;
    Ok(lock)
}

/// Refuses a log that a newer program has written, before anything is done to it.
fn readable(dir: &Path) -> Result<(), Error> {
    let path = dir.join(FILE);
    schema::newer(&path).map_or(Ok(()), |found| Err(Error::Newer { path, found }))
}
