//! The log's file: SQLite in WAL mode, every commit synchronous, one writer that gathers what all producers have while the
//! last commit is under way (group commit).
//!
//! A write that fails, on a full disk for one, is tried again until it succeeds: what it holds may be read by consumers
//! already. Whoever waits for it hears after [`ANSWER_LIMIT`] that the log is away.

mod schema;

use std::{
    collections::HashSet,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rusqlite::Connection;
use time::OffsetDateTime;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{error, warn};

use super::state::{Change, Producer};
use crate::{
    log::{self, Batch, Retention},
    model::{LogEpoch, LogKey, Offset, UserId},
    private,
};

/// Longest wait for a write.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Changes that wait for the writer; beyond it appenders wait.
const QUEUE: usize = 1024;
/// First pause after a failed write; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Attempts at the last write of a process that ends.
const LAST_TRIES: u32 = 5;

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
}

/// The open file.
pub(super) struct Disk {
    queue: Mutex<Option<mpsc::Sender<Order>>>,
    reader: Arc<Mutex<Connection>>,
    retention: Retention,
    /// Whether the last attempt to write failed.
    failing: Arc<AtomicBool>,
    writer: Mutex<Option<tokio::task::JoinHandle<()>>>,
    _lock: File,
}

/// Something to be written, and who waits for it.
struct Order {
    work: Work,
    done: oneshot::Sender<()>,
}

/// What is to be written.
enum Work {
    /// Nothing: whoever waits wants to know that what was ordered before is in the file.
    Nothing,
    Change(Change),
    /// The number of this account was given out.
    Account(UserId),
}

impl Disk {
    pub(super) fn open(dir: &Path, retention: Retention, now: OffsetDateTime) -> Result<Self, Error> {
        let io = |e| Error::Io(dir.to_owned(), e);
        private::folder(dir).map_err(io)?;
        let lock = File::create(dir.join("log.lock")).map_err(io)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => Error::InUse(dir.to_owned()),
            TryLockError::Error(e) => io(e),
        })?;
        let path = dir.join("log.db");
        // Before SQLite opens it: its journals take over the mode.
        private::file(&path).map_err(|e| Error::Io(path.clone(), e))?;
        let sqlite = |e| Error::Sqlite(path.clone(), e);
        let writer = schema::open(&path).map_err(sqlite)?;
        schema::forget(&writer, now - retention.age).map_err(sqlite)?;
        let reader = schema::open(&path).map_err(sqlite)?;
        let failing = Arc::new(AtomicBool::new(false));
        let (queue, orders) = mpsc::channel(QUEUE);
        let writing = Writer { connection: writer, orders, failing: Arc::clone(&failing) };
        let writer = tokio::task::spawn_blocking(move || writing.run());
        Ok(Self {
            queue: Mutex::new(Some(queue)),
            reader: Arc::new(Mutex::new(reader)),
            retention,
            failing,
            writer: Mutex::new(Some(writer)),
            _lock: lock,
        })
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

    /// What the file holds of a producer, its entries left out.
    pub(super) async fn load(&self, key: LogKey) -> Result<Producer, log::Error> {
        let retention = self.retention;
        self.ask(move |reader| schema::load(reader, key, &retention)).await
    }

    pub(super) async fn read(&self, key: LogKey, epoch: LogEpoch, after: Offset, bytes: usize) -> Result<Vec<Arc<Batch>>, log::Error> {
        self.ask(move |reader| schema::read(reader, key, epoch, after, bytes)).await
    }

    pub(super) async fn before(&self, key: LogKey, time: OffsetDateTime) -> Result<Option<Offset>, log::Error> {
        self.ask(move |reader| schema::before(reader, key, time)).await
    }

    pub(super) async fn highest_account(&self) -> Result<UserId, log::Error> {
        self.ask(schema::highest_account).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, log::Error> {
        let reader = Arc::clone(&self.reader);
        let answer = tokio::task::spawn_blocking(move || question(&reader.lock()));
        match answer.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(e)) => Err(log::Error::Damaged(e.to_string())),
            Err(e) => Err(log::Error::Unavailable(e.to_string())),
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
    /// Returns once the change is in the file. It will be written whether anyone still waits or not.
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

/// The thread that writes.
struct Writer {
    connection: Connection,
    orders: mpsc::Receiver<Order>,
    failing: Arc<AtomicBool>,
}

impl Writer {
    fn run(mut self) {
        let mut group = Vec::new();
        while let Some(first) = self.orders.blocking_recv() {
            group.push(first);
            while group.len() < QUEUE
                && let Ok(next) = self.orders.try_recv()
            {
                group.push(next);
            }
            if !self.commit(&group) {
                error!(changes = group.len(), "the log's file cannot be written; what was not acknowledged is given up");
                return;
            }
            for order in group.drain(..) {
                if let Work::Change(change) = &order.work
                    && let Some(place) = &change.settled
                {
                    place.lock().settled(change.last);
                }
                // Nobody waits any more: the appender has given up, and will find the record seen.
                let _ = order.done.send(());
            }
        }
    }

    /// Tries until it succeeds, or until nobody could want it any more.
    fn commit(&mut self, group: &[Order]) -> bool {
        let (mut changes, mut account) = (Vec::new(), None);
        for order in group {
            match &order.work {
                Work::Nothing => {}
                Work::Change(change) => changes.push(change),
                Work::Account(user) => account = account.max(Some(*user)),
            }
        }
        if changes.is_empty() && account.is_none() {
            return true;
        }
        let (mut pause, mut tries) = (FIRST_PAUSE, 0);
        loop {
            match schema::write(&mut self.connection, &changes, account) {
                Ok(()) => {
                    self.failing.store(false, Ordering::Relaxed);
                    return true;
                }
                Err(e) => {
                    let producers: HashSet<LogKey> = changes.iter().map(|change| change.key).collect();
                    warn!(error = %e, producers = producers.len(), "the log's file cannot be written; trying again");
                    self.failing.store(true, Ordering::Relaxed);
                    tries += 1;
                    if self.orders.is_closed() && tries >= LAST_TRIES {
                        return false;
                    }
                    #[expect(clippy::disallowed_methods, reason = "this thread does nothing but write")]
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }
}
