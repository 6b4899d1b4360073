//! The thread that writes the log's file.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use motience_proto::model::{LogKey, Offset};
use motience_runtime::backoff::Backoff;
use rusqlite::Connection;
use time::OffsetDateTime;
use tokio::sync::mpsc::{Receiver, error::TryRecvError};
use tracing::{error, warn};

use super::{Error, FILE, Order, QUEUE, Readers, Work, load, repair, schema};
use crate::embedded::state::Change;

/// First pause after a failed write, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Pause after a part that could not be removed.
const TRIM_AGAIN: Duration = Duration::from_secs(1);
/// Attempts at the last write of a process that ends.
const LAST_TRIES: u32 = 6;
/// New files that one process makes of damaged ones: each leaves the damaged one behind, and a disk that goes on breaking wants an operator.
const REBUILDS: u32 = 3;

pub(super) struct Writer {
    dir: PathBuf,
    connection: Connection,
    readers: Readers,
    orders: Receiver<Order>,
    failing: Arc<AtomicBool>,
    /// Logs of which something is to be removed, and up to where. Done in parts between the groups, so that nobody waits for it.
    trims: BTreeMap<LogKey, Offset>,
    /// Time that is believed, and the time before which client ids are forgotten.
    forget: Option<[OffsetDateTime; 2]>,
    /// Whether the last part could not be removed.
    pause: bool,
    rebuilds: u32,
}

impl Writer {
    pub(super) fn new(dir: PathBuf, connection: Connection, readers: Readers, orders: Receiver<Order>, failing: Arc<AtomicBool>) -> Self {
        Self { dir, connection, readers, orders, failing, trims: BTreeMap::new(), forget: None, pause: false, rebuilds: 0 }
    }

    pub(super) fn run(mut self) {
        let mut group = Vec::new();
        while let Some(first) = self.next() {
            group.push(first);
            while group.len() < QUEUE
                && let Ok(next) = self.orders.try_recv()
            {
                group.push(next);
            }
            if !self.commit(&group) {
                error!(changes = group.len(), "cannot write the log's file; records that were not acknowledged are given up");
                return;
            }
            // Once for all that have found it damaged meanwhile.
            let present = self.readers.rebuilt.load(Ordering::Relaxed);
            if group.iter().any(|order| matches!(order.work, Work::Rebuild { rebuilt } if rebuilt == present)) {
                self.rebuild();
            }
            for order in group.drain(..) {
                match &order.work {
                    Work::Change(change) => self.settle(change),
                    Work::Forget { believed, ids } => self.forget = Some([*believed, *ids]),
                    Work::Nothing | Work::Account(_) | Work::Rebuild { .. } => {}
                }
                // Nobody waits any more: the appender has given up, and will find the record seen.
                let _ = order.done.send(());
            }
            // After each group, lest a flood keeps anything from ever being removed.
            self.remove_some();
        }
        // The time that is believed is noted; what else is to go does at the next start.
        self.trims.clear();
        self.remove_some();
    }

    fn settle(&mut self, change: &Change) {
        if let Some(place) = &change.settled {
            place.lock().settled(change.last);
        }
        if let Some(gone) = change.trim {
            let up_to = self.trims.entry(change.key).or_default();
            *up_to = (*up_to).max(gone);
        }
    }

    /// The next order; while there is none, something is removed.
    fn next(&mut self) -> Option<Order> {
        loop {
            if self.pause || (self.trims.is_empty() && self.forget.is_none()) {
                self.pause = false;
                return self.orders.blocking_recv();
            }
            match self.orders.try_recv() {
                Ok(order) => return Some(order),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) => self.remove_some(),
            }
        }
    }

    /// Removes one part of what is to go.
    fn remove_some(&mut self) {
        let outcome = if let Some((key, up_to)) = self.trims.pop_first() {
            let outcome = schema::trim_some(&mut self.connection, key.log, up_to);
            if !matches!(outcome, Ok(true)) {
                self.trims.insert(key, up_to);
            }
            outcome
        } else if let Some(times @ [believed, ids]) = self.forget.take() {
            let outcome = schema::forget_some(&mut self.connection, believed, ids);
            if matches!(outcome, Ok(false)) {
                self.forget = Some(times);
            }
            outcome
        } else {
            return;
        };
        metrics::counter!("motience_log_trim_steps_total").increment(1);
        let Err(e) = outcome else { return };
        if load::is_damage(&e) {
            // A new file has nothing left of it. Where there can be none, it stays.
            self.rebuild();
            self.trims.clear();
            return;
        }
        warn!(error = %e, "a part of the log that is to go cannot be removed yet");
        self.pause = true;
        self.sleep(TRIM_AGAIN);
    }

    /// Tries until it succeeds, or until nobody could want it any more.
    fn commit(&mut self, group: &[Order]) -> bool {
        let (mut changes, mut account) = (Vec::new(), None);
        for order in group {
            match &order.work {
                Work::Nothing | Work::Forget { .. } | Work::Rebuild { .. } => {}
                Work::Change(change) => changes.push(change),
                Work::Account(user) => account = account.max(Some(*user)),
            }
        }
        if changes.is_empty() && account.is_none() {
            return true;
        }
        let (mut backoff, mut tries) = (Backoff::new(FIRST_PAUSE, MAX_PAUSE), 0);
        loop {
            match schema::write(&mut self.connection, &changes, account) {
                Ok(()) => {
                    self.failing.store(false, Ordering::Relaxed);
                    return true;
                }
                Err(e) if load::is_damage(&e) && self.rebuild() => {}
                Err(e) => {
                    let producers: HashSet<LogKey> = changes.iter().map(|change| change.key).collect();
                    warn!(error = %e, producers = producers.len(), "cannot write the log's file; retrying");
                    self.failing.store(true, Ordering::Relaxed);
                    tries += 1;
                    if self.orders.is_closed() && tries >= LAST_TRIES {
                        return false;
                    }
                    self.sleep(backoff.pause());
                }
            }
        }
    }

    /// Makes a new file of what can be read; says whether there is one.
    fn rebuild(&mut self) -> bool {
        if self.rebuilds >= REBUILDS {
            return false;
        }
        self.rebuilds += 1;
        metrics::counter!("motience_log_rebuilds_total").increment(1);
        error!(path = %self.dir.join(FILE).display(), "the log's file is damaged: a new one is made of what can be read");
        match self.swap() {
            Ok(health) => {
                self.readers.rebuilt.fetch_add(1, Ordering::Relaxed);
                let kept = health.kept.unwrap_or_default();
                error!(records = health.records, lost = ?health.lost, kept = %kept.display(), "the damaged file was put aside");
                true
            }
            Err(e) => {
                error!(error = %e, "no new file can be made: stop this node, and try `motience-server log repair`");
                false
            }
        }
    }

    /// Nobody has the file open meanwhile. Whatever comes of it, what is there then is opened.
    fn swap(&mut self) -> Result<repair::Health, Error> {
        let path = self.dir.join(FILE);
        let sqlite = |e| Error::Sqlite(path.clone(), e);
        let readers = self.readers.clone();
        let (mut reader, mut loader) = (readers.reader.0.blocking_lock(), readers.loader.0.blocking_lock());
        for open in [&mut self.connection, &mut *reader, &mut *loader] {
            *open = Connection::open_in_memory().map_err(sqlite)?;
        }
        let rebuilt = repair::rebuild(&self.dir);
        for closed in [&mut self.connection, &mut *reader, &mut *loader] {
            *closed = schema::open(&path).map_err(sqlite)?;
        }
        rebuilt
    }

    fn sleep(&self, pause: Duration) {
        #[expect(clippy::disallowed_methods, reason = "this thread does nothing but write")]
        std::thread::sleep(pause);
    }
}
