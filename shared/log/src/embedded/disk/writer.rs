//! The thread that writes the log: what all producers have gathered while the last group was synced is one group, written and synced at once.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use motience_proto::model::LogKey;
use motience_runtime::{backoff::Backoff, clock::millis, histogram};
use tokio::sync::{mpsc::Receiver, oneshot};
use tracing::{error, warn};

use super::{
    Hold, QUEUE,
    frame::{Draft, Encoder, MAGIC, Slot},
    maintenance::Bell,
    segment::{Name, Position, Segment},
    shared::Shared,
};
use crate::embedded::state::Change;

/// First pause after a failed write, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Bytes of messages from which on a group is large enough.
const GROUP_BYTES: usize = 8 << 20;
/// Attempts at the last write of a process that ends.
const LAST_TRIES: u32 = 6;

/// Something to be written, and who waits for it. Without a change: whoever waits wants to know that what was ordered before is in the file.
pub(super) struct Order {
    pub(super) change: Option<Change>,
    /// Whether all that was ordered before must be in segments that are written no more.
    pub(super) seals: bool,
    pub(super) done: oneshot::Sender<()>,
}

impl Order {
    /// Has the segment that is being written ended.
    pub(super) fn sealing(done: oneshot::Sender<()>) -> Self {
        Self { change: None, seals: true, done }
    }

    fn bytes(&self) -> usize {
        let batches = self.change.iter().flat_map(|change| &change.appends).filter_map(|appended| appended.batch.as_ref());
        batches.map(|batch| batch.bytes()).sum()
    }
}

/// The end of the segment that is being written.
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    pub(super) file: File,
    pub(super) encoder: Encoder,
}

pub(super) struct Writer {
    pub(super) shared: Shared,
    pub(super) tail: Tail,
    pub(super) hold: Hold,
    pub(super) orders: Receiver<Order>,
    pub(super) maintenance: Bell,
    /// Whether the last sync failed: nobody knows what of that group is on the disk.
    pub(super) doubt: bool,
}

/// Bytes of a group, made for one position of one segment.
struct Made {
    name: Name,
    slots: Vec<(LogKey, Slot)>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let (mut group, mut buffer) = (Vec::new(), Vec::new());
        while let Some(first) = self.orders.blocking_recv() {
            let mut bytes = first.bytes();
            group.push(first);
            while group.len() < QUEUE
                && bytes < GROUP_BYTES
                && let Ok(next) = self.orders.try_recv()
            {
                bytes += next.bytes();
                group.push(next);
            }
            if !self.commit(&group, &mut buffer) {
                error!(changes = group.len(), "cannot write the log's file; records that were not acknowledged are given up");
                return;
            }
            let seals = group.iter().any(|order| order.seals) && self.tail.segment.length() > MAGIC.len() as u64;
            if seals && let Err(e) = self.hold.share().and_then(|_held| self.rotate()) {
                // Whoever waits for it finds the segment still being written, and tries again.
                warn!(error = %e, "no new segment of the log can be begun yet");
            }
            for order in group.drain(..) {
                if let Some(change) = order.change
                    && let Some(place) = &change.settled
                {
                    place.lock().settled(change.last);
                }
                // Nobody waits any more: the appender has given up, and will find the record seen.
                let _ = order.done.send(());
            }
            if buffer.capacity() > GROUP_BYTES {
                buffer = Vec::new();
            }
        }
    }

    /// Tries until it succeeds, or until nobody could want it any more.
    fn commit(&mut self, group: &[Order], buffer: &mut Vec<u8>) -> bool {
        let changes: Vec<&Change> = group.iter().filter_map(|order| order.change.as_ref()).filter(|change| !change.is_empty()).collect();
        if changes.is_empty() {
            return true;
        }
        let (mut backoff, mut tries, mut made) = (Backoff::new(FIRST_PAUSE, MAX_PAUSE), 0, None);
        loop {
            match self.write(&changes, buffer, &mut made) {
                Ok(slots) => {
                    self.shared.failing.store(false, Ordering::Relaxed);
                    self.shared.full.store(false, Ordering::Relaxed);
                    self.written(&changes, slots, buffer.len());
                    return true;
                }
                Err(e) => {
                    let producers: HashSet<LogKey> = changes.iter().map(|change| change.key).collect();
                    warn!(error = %e, producers = producers.len(), "cannot write the log's file; retrying");
                    self.shared.failing.store(true, Ordering::Relaxed);
                    self.shared.full.store(is_full(&e), Ordering::Relaxed);
                    tries += 1;
                    if self.orders.is_closed() && tries >= LAST_TRIES {
                        return false;
                    }
                    #[expect(clippy::disallowed_methods, reason = "this thread does nothing but write")]
                    std::thread::sleep(backoff.pause());
                }
            }
        }
    }

    /// Writes and syncs a group at the end of the segment; what a failed attempt left there is cut off first.
    fn write(&mut self, changes: &[&Change], buffer: &mut Vec<u8>, made: &mut Option<Made>) -> io::Result<Vec<(LogKey, Slot)>> {
        let _held = self.hold.share()?;
        let end = self.tail.segment.length();
        if self.doubt || made.is_some() {
            self.tail.file.set_len(end)?;
        }
        if self.doubt || end >= self.shared.segment_bytes {
            self.rotate()?;
            self.doubt = false;
        }
        let (name, end) = (self.tail.segment.name, self.tail.segment.length());
        let slots = match made.take_if(|made| made.name == name) {
            Some(made) => made.slots,
            None => encode(&mut self.tail.encoder, changes, buffer, end),
        };
        let begun = Instant::now();
        let outcome = self.tail.file.write_all_at(buffer, end).and_then(|()| {
            let synced = self.tail.file.sync_data();
            self.doubt = synced.is_err();
            synced
        });
        match outcome {
            Ok(()) => {
                histogram!("motience_log_commit_seconds").since(begun);
                self.tail.segment.set_length(end + buffer.len() as u64);
                Ok(slots)
            }
            Err(e) => {
                *made = Some(Made { name, slots });
                let _ = self.tail.file.set_len(end);
                Err(e)
            }
        }
    }

    /// Begins the next segment. All of the present one is synced.
    fn rotate(&mut self) -> io::Result<()> {
        let name = Name::numbered(self.tail.segment.name.last + 1);
        let segment = Arc::new(Segment::new(&self.shared.folder, name, 0));
        let file = segment.write()?;
        segment.set_length(file.metadata()?.len());
        self.shared.index.begin(&segment);
        // All that was written before has been told.
        self.shared.pending.lock().end = Position { segment: name.first, at: segment.length() };
        self.tail = Tail { segment, file, encoder: Encoder::default() };
        self.maintenance.ring();
        Ok(())
    }

    /// Tells readers and the database of a group that is on the disk.
    fn written(&self, changes: &[&Change], slots: Vec<(LogKey, Slot)>, bytes: usize) {
        motience_runtime::counter!("motience_log_written_bytes_total").increment(bytes as u64);
        motience_runtime::counter!("motience_log_syncs_total").increment(1);
        self.shared.index.add(&self.tail.segment, slots);
        let end = Position { segment: self.tail.segment.name.first, at: self.tail.segment.length() };
        {
            let mut pending = self.shared.pending.lock();
            changes.iter().for_each(|change| pending.dirty.change(change));
            pending.end = end;
        }
        for change in changes {
            if let (Some(gone), Some(note)) = (change.trim, &change.note) {
                self.shared.index.trim(change.key, gone, note.gone_at);
            }
        }
    }
}

/// Whether there was no room: on the disk, in a quota, or in the largest file that there may be.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// The frames of a group that begins at `start`.
fn encode(encoder: &mut Encoder, changes: &[&Change], out: &mut Vec<u8>, start: u64) -> Vec<(LogKey, Slot)> {
    out.clear();
    let mut slots = Vec::with_capacity(changes.len());
    for change in changes {
        // First, since a sender that was forgotten may have come back.
        if let Some(note) = &change.note {
            Encoder::note(out, note);
        }
        for appended in &change.appends {
            let batch = appended.batch.as_ref();
            let draft = Draft {
                key: change.key,
                producer_epoch: appended.producer_epoch,
                session: appended.session.as_ref().map(|(name, session)| (name, session.fence, &session.seen)),
                first: batch.map_or(motience_proto::model::Offset(0), |batch| batch.first),
                at: millis(appended.at),
                entries: batch.map_or(&[], |batch| batch.entries()),
                ids: &appended.ids,
            };
            slots.extend(encoder.append(out, start, &draft).map(|slot| (change.key, slot)));
        }
    }
    slots
}
