//! One producer's log as the process holds it: who may write, what they have written, and the newest batches.

use std::{collections::VecDeque, sync::Arc};

use motience_mutation as mutation;
use motience_proto::model::{Fence, LogEpoch, LogKey, Offset, ProducerEpoch, RangeSet, RecordId};
use motience_runtime::clock::millis;
use time::OffsetDateTime;

use super::{
    Place,
    belief::Now,
    ids::Ids,
    sessions::{Limits, SessionEntry, SessionTable},
};
use crate::{
    AppendBatch, Batch, Bounds, Entry, Epochs, Error, Hold, Retention, Sender, SessionName, SessionState, retention::Segments,
    sessions::DEVICE_MEMORY,
};

/// Nobody comes back under an ephemeral name: its session is forgotten once nobody holds it.
const EPHEMERAL: Limits = Limits { count: 0, bytes: usize::MAX, since: None };

/// Devices that are forgotten in one step.
const FORGOTTEN_AT_ONCE: usize = 1000;

/// A change of a log beside its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) key: LogKey,
    pub(super) epochs: Epochs,
    /// Entries up to here are removed, the last of which was written then (milliseconds since 1970 UTC).
    pub(super) removed: Offset,
    pub(super) gone_at: Option<i64>,
    /// Devices and client ids that are forgotten.
    pub(super) gone: Vec<SessionName>,
    pub(super) ids_gone: Vec<Arc<str>>,
}

/// State of one producer's log.
#[derive(Debug, Default)]
pub(super) struct Producer {
    pub(super) epochs: Epochs,
    pub(super) last: Offset,
    /// Offsets up to here are removed.
    pub(super) removed: Offset,
    /// Offsets up to here are in the file.
    pub(super) written: Offset,
    pub(super) segments: Segments,
    pub(super) devices: SessionTable,
    ephemeral: SessionTable,
    /// Devices forgotten since the last change.
    forgotten: Vec<SessionName>,
    /// Epoch and removed offset that the last note told.
    noted: Option<(LogEpoch, Offset)>,
    pub(super) ids: Ids,
    /// In memory: all that is kept. With a file: what is not in it yet.
    batches: VecDeque<(OffsetDateTime, Arc<Batch>)>,
}

/// Changes of one append, which the file must hold before it is acknowledged.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) key: LogKey,
    /// Last offset given out.
    pub(super) last: Offset,
    pub(super) appends: Vec<Appended>,
    /// News beside the appends.
    pub(super) note: Option<Note>,
    pub(super) ids_gone: Vec<Arc<str>>,
    /// Entries up to here are to be removed from the file.
    pub(super) trim: Option<Offset>,
    /// Whether entries are only kept because the clock is not believed.
    pub(super) held: bool,
    /// Told once the file has it.
    pub(super) settled: Option<Arc<Place>>,
}

/// One sender's part of a change, which a crash keeps as a whole or not at all.
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) at: OffsetDateTime,
    pub(super) producer_epoch: ProducerEpoch,
    /// Without one: nobody comes back under the sender's name.
    pub(super) session: Option<(SessionName, SessionEntry)>,
    /// Without one: the log had all of it already.
    pub(super) batch: Option<Arc<Batch>>,
    pub(super) ids: Vec<Arc<str>>,
}

impl Producer {
    /// Begins an epoch.
    pub(super) fn begin(&mut self, log_epoch: LogEpoch) {
        self.epochs.begin(log_epoch, self.last);
        self.written = self.last;
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { epochs: self.epochs.clone(), first: self.removed.next(), last: self.last }
    }

    pub(super) fn open(&mut self, sender: &Sender, again: bool, now: Now, keep: &Retention) -> Result<SessionState, Error> {
        let sessions = self.sessions(&sender.name);
        let known = sessions.get(&sender.name);
        if again && known.is_some_and(|session| session.owner != sender.owner) {
            return Err(Error::Fenced);
        }
        let fence = Fence(known.map_or(0, |session| session.fence.0) + 1);
        let held = known.and_then(|session| session.held.upgrade()).unwrap_or_default();
        let (seen, before) = known.map_or_else(Default::default, |session| session.windows(sender.producer_epoch));
        let session = SessionEntry {
            fence,
            owner: sender.owner,
            producer_epoch: sender.producer_epoch,
            seen: seen.clone(),
            before,
            used: now.at,
            held: Arc::downgrade(&held),
        };
        sessions.put(sender.name.clone(), session);
        while self.ephemeral.forget_one(EPHEMERAL).is_some() {}
        self.forget(now, keep);
        Ok(SessionState { log_epoch: self.epochs.present(), fence, seen, held: Hold::of(held) })
    }

    pub(super) fn append(
        &mut self,
        batch: &AppendBatch,
        now: Now,
        keep: &Retention,
        change: &mut Change,
        publish: impl FnOnce(Arc<Batch>),
    ) -> Result<(), Error> {
        if mutation::keeps_no_log() {
            let name = |seq| RecordId { producer_epoch: batch.producer_epoch, seq };
            let entries =
                batch.records.iter().map(|record| Entry { record_id: name(record.seq), message: record.message.clone() }).collect();
            let written = Arc::new(Batch::new(change.key, self.epochs.present(), self.last.next(), entries).received(now.at));
            self.last = written.last();
            publish(written);
            return Ok(());
        }
        let present = self.epochs.present();
        let sessions = self.sessions(&batch.name);
        let known = sessions.get(&batch.name).filter(|known| known.fence == batch.fence && present == batch.log_epoch);
        let session = SessionEntry { seen: batch.seen.clone(), used: now.at, ..known.ok_or(Error::Fenced)?.clone() };
        let kept = (!batch.name.is_ephemeral()).then(|| (batch.name.clone(), session.clone()));
        sessions.put(batch.name.clone(), session);
        let mut appended = Appended { at: now.at, producer_epoch: batch.producer_epoch, session: kept, batch: None, ids: Vec::new() };
        let mut entries = Vec::with_capacity(batch.records.len());
        for record in &batch.records {
            if let Some(id) = &record.id {
                self.ids.forget(now.sure - keep.age);
                if !self.ids.insert(id, now.at, &mut change.ids_gone) {
                    continue;
                }
                appended.ids.push(Arc::clone(id));
            }
            entries.push(Entry {
                record_id: RecordId { producer_epoch: batch.producer_epoch, seq: record.seq },
                message: record.message.clone(),
            });
        }
        if !entries.is_empty() {
            let written = Arc::new(Batch::new(change.key, present, self.last.next(), entries).received(now.at));
            self.last = written.last();
            self.segments.add(self.last, written.bytes(), now.at, keep);
            self.batches.push_back((now.at, Arc::clone(&written)));
            appended.batch = Some(Arc::clone(&written));
            publish(written);
        }
        if appended.batch.is_some() || appended.session.is_some() {
            change.appends.push(appended);
        }
        Ok(())
    }

    fn sessions(&mut self, name: &SessionName) -> &mut SessionTable {
        if name.is_ephemeral() { &mut self.ephemeral } else { &mut self.devices }
    }

    /// Keeps the devices within their bounds, a step at a time.
    fn forget(&mut self, now: Now, keep: &Retention) {
        let bounds = Limits { count: keep.sessions, bytes: keep.windows, since: Some(now.sure - DEVICE_MEMORY) };
        for (name, reason) in std::iter::from_fn(|| self.devices.forget_one(bounds)).take(FORGOTTEN_AT_ONCE) {
            metrics::counter!("motience_log_sessions_forgotten_total", "reason" => reason).increment(1);
            self.forgotten.push(name);
        }
    }

    /// How many senders are remembered: devices, and others.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> (usize, usize) {
        (self.devices.len(), self.ephemeral.len())
    }

    /// Batches after `after` from memory; `Err` where the file has to be asked, which holds all up to there.
    pub(super) fn recent(&self, after: Offset, bytes: usize) -> Result<Vec<Arc<Batch>>, Offset> {
        match self.batches.front() {
            Some((_, front)) if front.first <= after.next() => {}
            _ if after >= self.last => return Ok(Vec::new()),
            // Nothing lies between what was removed and what is here.
            Some((_, front)) if front.first == self.removed.next() => {}
            Some((_, front)) => return Err(Offset(front.first.0 - 1)),
            None => return Err(self.last),
        }
        let start = self.batches.partition_point(|(_, batch)| batch.last() <= after);
        Ok(self.here(start, bytes))
    }

    /// All that is in memory, up to about `bytes`.
    pub(super) fn newest(&self, bytes: usize) -> Vec<Arc<Batch>> {
        self.here(0, bytes)
    }

    fn here(&self, start: usize, bytes: usize) -> Vec<Arc<Batch>> {
        let mut taken = 0;
        let within = |batch: &Arc<Batch>| {
            let more = taken < bytes;
            taken += batch.bytes();
            more
        };
        self.batches.range(start..).map(|(_, batch)| Arc::clone(batch)).take_while(within).collect()
    }

    /// The offset before the first batch here that was written at `time` or later.
    pub(super) fn offset_for_time(&self, time: OffsetDateTime) -> Offset {
        let first = self.batches.iter().find(|(at, _)| *at >= time);
        first.map_or(self.last, |(_, batch)| Offset(batch.first.0 - 1))
    }

    /// When the newest of what was removed was written.
    pub(super) fn removed_at(&self) -> Option<OffsetDateTime> {
        self.segments.gone_at()
    }

    /// The file holds everything up to `last`.
    pub(super) fn settled(&mut self, last: Offset) {
        self.written = self.written.max(last);
        self.drop_batches(self.written);
    }

    /// Erases records in memory.
    pub(super) fn erase_records(&mut self, offsets: &RangeSet) {
        for (_, batch) in &mut self.batches {
            if let Some(rest) = batch.without(offsets) {
                *batch = Arc::new(rest);
            }
        }
    }

    fn drop_batches(&mut self, up_to: Offset) {
        while self.batches.front().is_some_and(|(_, batch)| batch.last() <= up_to) {
            self.batches.pop_front();
        }
    }
}

impl Change {
    pub(super) fn new(key: LogKey) -> Self {
        Self { key, last: Offset(0), appends: Vec::new(), note: None, ids_gone: Vec::new(), trim: None, held: false, settled: None }
    }

    /// Notes where the log stands, and what is to be removed of it.
    pub(super) fn finish(&mut self, state: &mut Producer, now: Now, keep: &Retention, file: bool) {
        let trim = state.segments.trim(now.at, now.sure, keep);
        (self.trim, self.held, self.last) = (trim.gone, trim.held, state.last);
        if let Some(gone) = trim.gone {
            state.removed = state.removed.max(gone);
            if !file {
                state.drop_batches(gone);
            }
        }
        state.forget(now, keep);
        let gone = std::mem::take(&mut state.forgotten);
        let ids_gone = std::mem::take(&mut self.ids_gone);
        let stands = Some((state.epochs.present(), state.removed));
        let is_news = self.trim.is_some() || !gone.is_empty() || !ids_gone.is_empty();
        if file && (is_news || (!self.appends.is_empty() && state.noted != stands)) {
            state.noted = stands;
            self.note = Some(Note {
                key: self.key,
                epochs: state.epochs.clone(),
                removed: state.removed,
                gone_at: state.segments.gone_at().map(millis),
                gone,
                ids_gone,
            });
        }
    }

    /// Whether the file need not be told.
    pub(super) fn is_empty(&self) -> bool {
        self.note.is_none() && self.appends.is_empty()
    }
}
