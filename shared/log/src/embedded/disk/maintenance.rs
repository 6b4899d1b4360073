//! The thread that keeps house behind the writer: it brings the database up to date, files the index of segments that are full, and makes room.
//!
//! Nobody waits for it but those who note an account's number, and those who want something made sure in the database.

use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use motience_proto::model::UserId;
use rusqlite::Connection;
use time::OffsetDateTime;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::{
    Error, FILE, Hold, Readers,
    compact::{self, Erased},
    index::{Use, filed},
    load, repair, schema,
    segment::{Name, Position, Segment},
    shared::Shared,
};

/// How often it is tried again when something has failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Times that segments are put together before other work has its turn.
const PARTS: usize = 16;
/// Orders that wait.
const QUEUE: usize = 256;
/// New databases that one process makes of damaged ones: each leaves the damaged one behind, and a disk that goes on breaking wants an operator.
const REBUILDS: u32 = 3;

/// An order, and who waits for it.
pub(super) enum Work {
    /// There may be something to do.
    Look,
    /// The number of this account was given out.
    Account(UserId, Done),
    /// The time that is believed is to be noted. Clients' ids from before `ids` go, in their own time.
    Forget { believed: OffsetDateTime, ids: OffsetDateTime, done: Done },
    /// These records are to be erased. All of them are in segments that are written no more.
    Erase(Erased, Done),
    /// The database is damaged; unless more new ones were made by now.
    Rebuild { rebuilt: u32, done: Done },
}

/// Told once it is done, or why not.
pub(super) type Done = oneshot::Sender<Result<(), String>>;

/// The way to maintenance. Cheap to clone.
#[derive(Clone)]
pub(super) struct Bell(SyncSender<Work>);

impl Bell {
    pub(super) fn new() -> (Self, Receiver<Work>) {
        let (bell, work) = sync_channel(QUEUE);
        (Self(bell), work)
    }

    /// There may be something to do. If the queue is full, maintenance will look anyway.
    pub(super) fn ring(&self) {
        let _ = self.0.try_send(Work::Look);
    }

    /// Whether there was room for the order.
    pub(super) fn order(&self, work: Work) -> bool {
        self.0.try_send(work).is_ok()
    }
}

pub(super) struct Maintenance {
    pub(super) dir: PathBuf,
    pub(super) shared: Shared,
    pub(super) connection: Connection,
    pub(super) readers: Readers,
    pub(super) work: Receiver<Work>,
    pub(super) hold: Hold,
    /// Up to where the database knows the segments.
    pub(super) checkpoint: Position,
    /// Time that is believed, and the time before which client ids are forgotten.
    pub(super) forget: Option<[OffsetDateTime; 2]>,
    /// Segments that cannot be copied because they are damaged.
    pub(super) spoiled: HashSet<Name>,
    pub(super) rebuilds: u32,
    /// Segments of which nothing is in use, and whose files could not be removed yet.
    pub(super) unremoved: Vec<Arc<Segment>>,
    /// Whether anything failed at the last look.
    pub(super) failed: bool,
}

impl Maintenance {
    /// Ends when nobody can order anything any more, after all of it is in the database.
    pub(super) fn run(mut self) {
        let mut again = true;
        loop {
            let work = if again { self.work.recv_timeout(AGAIN) } else { self.work.recv().map_err(|_| RecvTimeoutError::Disconnected) };
            if matches!(work, Err(RecvTimeoutError::Disconnected)) {
                break;
            }
            // Whoever holds the log makes a copy of it, which takes as long as it takes.
            let Ok(_held) = self.hold.wait(&self.shared.closing) else {
                if let Ok(Work::Account(_, done) | Work::Erase(_, done) | Work::Forget { done, .. } | Work::Rebuild { done, .. }) = work {
                    let _ = done.send(Err("another process holds log.hold".to_owned()));
                }
                continue;
            };
            match work {
                Ok(Work::Look) | Err(_) => {}
                Ok(Work::Account(user, done)) => {
                    let noted = self.changed(|connection| schema::raise_fact(connection, "highest_account", user.0));
                    let _ = done.send(noted);
                }
                Ok(Work::Forget { believed, ids, done }) => {
                    self.forget = Some([believed, ids]);
                    self.check_in();
                    self.forget_some();
                    let _ = done.send(Ok(()));
                }
                Ok(Work::Erase(erased, done)) => {
                    let _ = done.send(self.erase(&erased));
                }
                Ok(Work::Rebuild { rebuilt, done }) => {
                    if rebuilt == self.readers.rebuilt.load(Ordering::Relaxed) {
                        self.rebuild();
                    }
                    let _ = done.send(Ok(()));
                }
            }
            again = !self.look();
            let mut stalled = self.shared.stalled.lock();
            *stalled = self.failed.then(|| stalled.unwrap_or_else(Instant::now));
        }
        if let Ok(_held) = self.hold.share() {
            self.check_in();
        }
    }

    /// Does what there is to do; says whether that was all.
    fn look(&mut self) -> bool {
        let mut is_all = true;
        self.failed = false;
        for segment in self.shared.index.unfiled() {
            let outcome = filed::write(&segment, &self.shared.index.of_segment(&segment));
            match outcome {
                Ok(blocks) => self.shared.index.file(&segment, blocks),
                Err(e) => {
                    warn!(error = %e, segment = %segment.path().display(), "the index of a segment cannot be written yet");
                    is_all = false;
                }
            }
        }
        if self.shared.pending.lock().end.segment > self.checkpoint.segment {
            is_all &= self.check_in();
        }
        self.failed |= !is_all;
        if self.forget.is_some() {
            self.forget_some();
        }
        is_all && self.make_room() && self.forget.is_none()
    }

    /// Brings the database up to date; says whether it is.
    fn check_in(&mut self) -> bool {
        let (dirty, end) = {
            let mut pending = self.shared.pending.lock();
            (std::mem::take(&mut pending.dirty), pending.end)
        };
        if dirty.is_empty() && end == self.checkpoint {
            return true;
        }
        // The rebuilt one lacks what the damage took; the next start brings it back from the segments.
        let rebuilt = Arc::clone(&self.readers.rebuilt);
        match self.changed(|connection| dirty.write(connection, end, rebuilt.load(Ordering::Relaxed) == 0)) {
            Ok(()) => self.checkpoint = end,
            Err(e) => {
                warn!(error = %e, "the log's database cannot be brought up to date yet");
                let mut pending = self.shared.pending.lock();
                let later = std::mem::replace(&mut pending.dirty, dirty);
                pending.dirty.merge(later);
            }
        }
        self.checkpoint == end
    }

    /// Writes segments anew without these records. The database knows first whatever they said of senders.
    fn erase(&mut self, erased: &Erased) -> Result<(), String> {
        if !self.check_in() {
            return Err("the log's database cannot be brought up to date".to_owned());
        }
        erased
            .rewrite(&self.shared.index, &self.shared.folder, self.checkpoint)
            .map_err(|e| format!("records cannot be erased from the log's file: {e}"))
    }

    /// Writes to the database; once more where a new one had to be made of it.
    fn changed(&mut self, write: impl Fn(&mut Connection) -> rusqlite::Result<()>) -> Result<(), String> {
        match write(&mut self.connection) {
            Err(e) if load::is_damage(&e) && self.rebuild() => write(&mut self.connection),
            outcome => outcome,
        }
        .map_err(|e| e.to_string())
    }

    /// Removes one part of the ids that are to go.
    fn forget_some(&mut self) {
        let Some([believed, ids]) = self.forget else { return };
        match schema::forget_some(&mut self.connection, believed, ids) {
            Ok(false) => {}
            Ok(true) => self.forget = None,
            Err(e) if load::is_damage(&e) => {
                // A new file has nothing left of it. Where there can be none, it stays.
                self.rebuild();
                self.forget = None;
            }
            Err(e) => warn!(error = %e, "client ids that are to go cannot be removed yet"),
        }
    }

    /// Removes segments of which nothing is in use, and puts survivors together; says whether that was all.
    fn make_room(&mut self) -> bool {
        let index = Arc::clone(&self.shared.index);
        for _ in 0..PARTS {
            let (dead, uses): (Vec<Use>, Vec<Use>) = index.uses(self.checkpoint).into_iter().partition(|used| used.live == 0);
            for used in dead {
                index.replace(std::slice::from_ref(&used.segment), None, Vec::new());
                metrics::counter!("motience_log_segments_removed_total").increment(1);
                self.unremoved.push(used.segment);
            }
            self.unremoved.retain(|segment| {
                let left = segment.remove();
                if let Err(e) = &left {
                    warn!(error = %e, segment = %segment.path().display(), "a segment that is to go cannot be removed yet");
                }
                left.is_err()
            });
            self.failed |= !self.unremoved.is_empty();
            let sizes: Vec<_> = uses.iter().map(|used| self.size(used)).collect();
            let Some(range) = compact::choose(&sizes, self.shared.segment_bytes) else { return self.unremoved.is_empty() };
            let old: Vec<Arc<Segment>> = uses[range].iter().map(|used| Arc::clone(&used.segment)).collect();
            match compact::compact(&index, &self.shared.folder, &old, None) {
                Ok(()) => metrics::counter!("motience_log_segments_removed_total").increment(old.len() as u64 - 1),
                Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
                    error!(error = %e, segment = old.first().map(|segment| segment.name.first), "segments that are damaged are kept as they are");
                    self.spoiled.extend(old.iter().map(|segment| segment.name));
                }
                Err(e) => {
                    warn!(error = %e, "segments cannot be put together yet");
                    self.failed = true;
                    return false;
                }
            }
        }
        false
    }

    /// Bytes of a segment, and how much of it is in use: all of one that is damaged and so is not copied.
    fn size(&self, used: &Use) -> (u64, u64) {
        let size = used.segment.length();
        if self.spoiled.contains(&used.segment.name) { (size, self.shared.segment_bytes + 1) } else { (size, used.live) }
    }

    /// Makes a new database of what can be read; says whether there is one.
    fn rebuild(&mut self) -> bool {
        if self.rebuilds >= REBUILDS {
            return false;
        }
        self.rebuilds += 1;
        metrics::counter!("motience_log_rebuilds_total").increment(1);
        error!(path = %self.dir.join(FILE).display(), "the log's database is damaged: a new one is made of what can be read");
        match self.swap() {
            Ok(kept) => {
                self.readers.rebuilt.fetch_add(1, Ordering::Relaxed);
                error!(kept = %kept.display(), "the damaged database was put aside");
                true
            }
            Err(e) => {
                error!(error = %e, "no new database can be made: stop this node, and try `motience-server log repair`");
                false
            }
        }
    }

    /// Nobody has the file open meanwhile. Whatever comes of it, what is there then is opened.
    fn swap(&mut self) -> Result<PathBuf, Error> {
        let path = self.dir.join(FILE);
        let sqlite = |e| Error::Sqlite(path.clone(), e);
        let readers = self.readers.clone();
        let mut loader = readers.loader.0.blocking_lock();
        for open in [&mut self.connection, &mut *loader] {
            *open = Connection::open_in_memory().map_err(sqlite)?;
        }
        let rebuilt = repair::rebuild(&self.dir);
        for closed in [&mut self.connection, &mut *loader] {
            *closed = schema::open(&path).map_err(sqlite)?;
        }
        rebuilt
    }
}
