//! One producer's log as the process holds it: who may write, what they have written, and the newest batches.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use time::OffsetDateTime;

use super::Place;
use crate::{
    log::{Batch, Entry, Error, Head, Lives, Opened, Retention, Section, Sender, SessionName, retention::Marks},
    model::{Epoch, Fence, LogEpoch, LogKey, Offset, RangeSet, RecordName},
    mutation,
};

/// Most client ids remembered of one producer; past it the oldest is forgotten before its time.
const MAX_IDS: usize = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Producer {
    pub(super) lives: Lives,
    pub(super) last: Offset,
    /// Offsets up to here are removed.
    pub(super) removed: Offset,
    /// Offsets up to here are in the file.
    pub(super) written: Offset,
    pub(super) marks: Marks,
    pub(super) sessions: HashMap<SessionName, Session>,
    pub(super) ids: Ids,
    /// In memory: all that is kept. With a file: what is not in it yet.
    batches: VecDeque<(OffsetDateTime, Arc<Batch>)>,
}

/// What the log knows of a sender.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) fence: Fence,
    /// The connection that raised it.
    pub(super) owner: u64,
    pub(super) epoch: Epoch,
    pub(super) seen: RangeSet,
    pub(super) used: OffsetDateTime,
}

/// What one append changes: what the file must hold before it is acknowledged.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) key: LogKey,
    pub(super) lives: Lives,
    pub(super) last: Offset,
    pub(super) batches: Vec<(OffsetDateTime, Arc<Batch>)>,
    pub(super) sessions: Vec<(SessionName, Session)>,
    pub(super) ids: Vec<(OffsetDateTime, Arc<str>)>,
    /// Entries up to here are to be removed, and when the last of them was written.
    pub(super) trim: Option<(Offset, OffsetDateTime)>,
    /// Told once the file has it.
    pub(super) settled: Option<Arc<Place>>,
}

impl Producer {
    /// A life of the log begins.
    pub(super) fn begin(&mut self, epoch: LogEpoch) {
        self.lives.begin(epoch, self.last);
        self.written = self.last;
    }

    pub(super) fn head(&self) -> Head {
        Head { lives: self.lives.clone(), first: self.removed.next(), last: self.last }
    }

    pub(super) fn open(&mut self, sender: &Sender, again: bool, now: OffsetDateTime) -> Result<Opened, Error> {
        // Connections begin rarely enough to look for senders long gone each time.
        self.sessions.retain(|name, session| now - session.used < name.memory());
        let new = || Session { fence: Fence(0), owner: sender.owner, epoch: sender.epoch, seen: RangeSet::new(), used: now };
        let session = self.sessions.entry(sender.name.clone()).or_insert_with(new);
        if again && session.owner != sender.owner {
            return Err(Error::Fenced);
        }
        if session.epoch != sender.epoch {
            session.epoch = sender.epoch;
            session.seen = RangeSet::new();
        }
        session.owner = sender.owner;
        session.fence.0 += 1;
        session.used = now;
        Ok(Opened { life: self.lives.present(), fence: session.fence, seen: session.seen.clone() })
    }

    pub(super) fn append(
        &mut self,
        section: &Section,
        now: OffsetDateTime,
        keep: &Retention,
        change: &mut Change,
        publish: impl FnOnce(Arc<Batch>),
    ) -> Result<(), Error> {
        if mutation::keeps_no_log() {
            let name = |seq| RecordName { epoch: section.epoch, seq };
            let entries = section.records.iter().map(|record| Entry { name: name(record.seq), message: record.message.clone() }).collect();
            let batch = Arc::new(Batch::new(change.key, self.lives.present(), self.last.next(), entries).received(now));
            self.last = batch.last();
            publish(batch);
            return Ok(());
        }
        let session = self
            .sessions
            .get_mut(&section.name)
            .filter(|s| s.fence == section.fence && self.lives.present() == section.life)
            .ok_or(Error::Fenced)?;
        session.seen.clone_from(&section.seen);
        session.used = now;
        if !section.name.is_passing() {
            change.sessions.push((section.name.clone(), session.clone()));
        }
        let mut entries = Vec::with_capacity(section.records.len());
        for record in &section.records {
            if let Some(id) = &record.id {
                if !self.ids.insert(id, now, keep) {
                    continue;
                }
                change.ids.push((now, Arc::clone(id)));
            }
            entries.push(Entry { name: RecordName { epoch: section.epoch, seq: record.seq }, message: record.message.clone() });
        }
        if !entries.is_empty() {
            let batch = Arc::new(Batch::new(change.key, self.lives.present(), self.last.next(), entries).received(now));
            self.last = batch.last();
            self.marks.add(self.last, batch.bytes(), now, keep);
            self.batches.push_back((now, Arc::clone(&batch)));
            change.batches.push((now, Arc::clone(&batch)));
            publish(batch);
        }
        Ok(())
    }

    /// Batches after `after` from memory; `None` where the file has to be asked.
    pub(super) fn recent(&self, after: Offset, bytes: usize) -> Option<Vec<Arc<Batch>>> {
        match self.batches.front() {
            Some((_, front)) if front.first <= after.next() => {}
            _ if after >= self.last => return Some(Vec::new()),
            // Nothing lies between what was removed and what is here.
            Some((_, front)) if front.first == self.removed.next() => {}
            _ => return None,
        }
        let start = self.batches.partition_point(|(_, batch)| batch.last() <= after);
        let mut taken = 0;
        let within = |batch: &Arc<Batch>| {
            let more = taken < bytes;
            taken += batch.bytes();
            more
        };
        Some(self.batches.range(start..).map(|(_, batch)| Arc::clone(batch)).take_while(within).collect())
    }

    /// The offset before the first batch here that was written at `time` or later.
    pub(super) fn before(&self, time: OffsetDateTime) -> Offset {
        let first = self.batches.iter().find(|(at, _)| *at >= time);
        first.map_or(self.last, |(_, batch)| Offset(batch.first.0 - 1))
    }

    /// When the newest of what was removed was written.
    pub(super) fn removed_at(&self) -> Option<OffsetDateTime> {
        self.marks.gone_at()
    }

    /// The file holds everything up to `last`.
    pub(super) fn settled(&mut self, last: Offset) {
        self.written = self.written.max(last);
        self.drop_batches(self.written);
    }

    fn drop_batches(&mut self, up_to: Offset) {
        while self.batches.front().is_some_and(|(_, batch)| batch.last() <= up_to) {
            self.batches.pop_front();
        }
    }
}

impl Change {
    pub(super) fn new(key: LogKey) -> Self {
        Self {
            key,
            lives: Lives::default(),
            last: Offset(0),
            batches: Vec::new(),
            sessions: Vec::new(),
            ids: Vec::new(),
            trim: None,
            settled: None,
        }
    }

    /// Notes where the log stands, and what is to be removed of it.
    pub(super) fn finish(&mut self, state: &mut Producer, now: OffsetDateTime, keep: &Retention, file: bool) {
        self.trim = state.marks.trim(now, keep).zip(state.marks.gone_at());
        if let Some((gone, _)) = self.trim {
            state.removed = state.removed.max(gone);
            if !file {
                state.drop_batches(gone);
            }
        }
        self.lives = state.lives.clone();
        self.last = state.last;
    }
}

/// Clients' own names of records, for as long as the log is kept.
#[derive(Debug, Default)]
pub(super) struct Ids {
    known: HashMap<Arc<str>, OffsetDateTime>,
    order: VecDeque<(OffsetDateTime, Arc<str>)>,
}

impl Ids {
    /// Whether the id is new.
    pub(super) fn insert(&mut self, id: &Arc<str>, now: OffsetDateTime, keep: &Retention) -> bool {
        while self.order.front().is_some_and(|(at, _)| now - *at > keep.age || self.order.len() >= MAX_IDS) {
            if let Some((_, oldest)) = self.order.pop_front() {
                self.known.remove(&oldest);
            }
        }
        if self.known.contains_key(id) {
            return false;
        }
        self.known.insert(Arc::clone(id), now);
        self.order.push_back((now, Arc::clone(id)));
        true
    }
}
