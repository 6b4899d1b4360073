//! The facts of the history files, put in order for the checks.

use std::collections::{HashMap, HashSet};

use motience_proto::model::{Cursor, LogEpoch, RecordId};

use super::{Counts, History};
use crate::correctness::check::{
    history::{Event, Hash, Id, Kind, Phase},
    schedule::{Excuse, Fault},
};

/// How long word of what happened before a fault may be under way: an acknowledgement or an entry that a stalled link or a
/// paused node holds back.
pub(super) const LATE: u64 = 10_000_000;

/// Outcome of a record at its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Acked,
    Refused,
    Dropped,
    Lost,
}

/// A record, by its device.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) offered: u64,
    pub(super) hash: Hash,
    pub(super) taken: Option<(u64, RecordId)>,
    pub(super) rejected: bool,
    pub(super) outcome: Option<(u64, Outcome)>,
}

/// A device.
#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) producer: i64,
    pub(super) drops: bool,
    /// Its last process ended in order, everything settled.
    pub(super) done: bool,
    /// When its last process began.
    pub(super) incarnations: u32,
}

/// A consumer.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) producers: Vec<i64>,
}

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: u64,
    pub(super) to: u64,
}

/// When a consumer was subscribed: each interval ends with the request (`until`) and the answer (`ended`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) from: u64,
    pub(super) until: Option<u64>,
    pub(super) ended: Option<u64>,
}

/// Where a record stands in a log.
pub(super) type Place = (i64, LogEpoch, u64);

/// See the module.
pub(super) struct Facts<'h> {
    pub(super) history: &'h History,
    pub(super) records: HashMap<Id, Record>,
    pub(super) devices: HashMap<u32, Device>,
    pub(super) consumers: Vec<Consumer>,
    /// Where each record was seen by anyone.
    pub(super) places: HashMap<Id, HashSet<Place>>,
    /// Record at each cursor, by the first consumer that saw it.
    pub(super) at: HashMap<Place, (RecordId, Id)>,
    /// When each epoch was heard of first.
    pub(super) began: HashMap<(i64, LogEpoch), u64>,
    /// `(producer, older epoch, newer epoch)` and the last offset that both surely share.
    pub(super) shared: HashMap<(i64, LogEpoch, LogEpoch), u64>,
    pub(super) rollbacks: Vec<Window>,
    pub(super) foundation: Vec<Window>,
    pub(super) torn: Vec<(u32, u64)>,
    pub(super) subscribed: HashMap<(u32, i64), Vec<Interval>>,
    /// Consumer, record -> received.
    pub(super) received: HashSet<(u32, Id)>,
    counts: Counts,
}

impl<'h> Facts<'h> {
    pub(super) fn gather(history: &'h History) -> Self {
        let mut facts = Self {
            history,
            records: HashMap::new(),
            devices: HashMap::new(),
            consumers: Vec::new(),
            places: HashMap::new(),
            at: HashMap::new(),
            began: HashMap::new(),
            shared: HashMap::new(),
            rollbacks: Vec::new(),
            foundation: Vec::new(),
            torn: Vec::new(),
            subscribed: HashMap::new(),
            received: HashSet::new(),
            counts: Counts::default(),
        };
        facts.gather_harness();
        facts.gather_devices();
        facts.gather_consumers();
        facts.count();
        facts
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// Whether an injected rollback may have destroyed what was in the log of this record's producer: it was destroyed in
    /// every epoch in which anyone saw it, and it was not written again.
    ///
    /// - Where nobody saw it, it must have been acknowledged before the rollback ended, or shortly after: one that was not
    ///   acknowledged is sent again, so it can be destroyed only once it is.
    /// - An epoch that was first heard of after the rollback was not rolled back by it.
    /// - Records below an offset that an older and a newer epoch surely share were not destroyed. An epoch that was first heard of during the
    ///   rollback may have begun before it: if the epoch after it no longer has the record, the rollback struck both.
    ///
    /// `could` says of a rollback whether the one who asks could not have read the record before it.
    pub(super) fn may_be_destroyed(&self, id: Id, record: &Record, could: impl Fn(&Window) -> bool) -> bool {
        let places = self.places.get(&id);
        self.rollbacks.iter().filter(|rollback| could(rollback)).any(|rollback| match places {
            None => matches!(record.outcome, Some((at, Outcome::Acked)) if at <= rollback.to + LATE),
            Some(places) => places.iter().all(|place| {
                let (producer, log_epoch, offset) = *place;
                let old = self.began.get(&(producer, log_epoch)).is_none_or(|began| *began <= rollback.to);
                let survived = self.shared.iter().any(|((p, older, newer), shared)| {
                    let later = self.began.get(&(producer, *newer)).is_some_and(|began| *began > rollback.from);
                    let survived = *p == producer && *older == log_epoch && later && *shared >= offset;
                    survived && !self.was_struck(producer, *newer, offset, rollback)
                });
                old && !survived
            }),
        })
    }

    /// Whether a rollback destroyed the record at `offset` in an epoch that was first heard of while the rollback was under way.
    fn was_struck(&self, producer: i64, log_epoch: LogEpoch, offset: u64, rollback: &Window) -> bool {
        let meanwhile = self.began.get(&(producer, log_epoch)).is_some_and(|began| *began <= rollback.to);
        let next = self.shared.iter().filter(|((p, older, _), _)| *p == producer && *older == log_epoch);
        meanwhile && next.min_by_key(|((.., newer), _)| self.began.get(&(producer, *newer))).is_some_and(|(_, shared)| *shared < offset)
    }

    fn gather_harness(&mut self) {
        let mut open: HashMap<(&str, &str), u64> = HashMap::new();
        for line in &self.history.harness {
            match &line.event {
                Event::Device { device, producer, drops } => {
                    self.devices.insert(*device, Device { producer: *producer, drops: *drops, done: false, incarnations: 0 });
                }
                Event::Consumer { consumer, kind, producers } => {
                    self.consumers.push(Consumer { number: *consumer, kind: *kind, producers: producers.clone() });
                }
                Event::Subscribed { consumer, producer } => {
                    let intervals = self.subscribed.entry((*consumer, *producer)).or_default();
                    intervals.push(Interval { from: line.t, until: None, ended: None });
                }
                Event::Unsubscribing { consumer, producer } => {
                    if let Some(last) = self.subscribed.entry((*consumer, *producer)).or_default().last_mut() {
                        last.until = Some(line.t);
                    }
                }
                Event::Unsubscribed { consumer, producer } => {
                    if let Some(last) = self.subscribed.entry((*consumer, *producer)).or_default().last_mut() {
                        last.ended = Some(line.t);
                    }
                }
                Event::Fault { fault, phase: Phase::Begin, what } => {
                    open.insert((fault, what), line.t);
                }
                Event::Fault { fault, phase: Phase::End, what } => {
                    let from = open.remove(&(fault.as_str(), what.as_str())).unwrap_or(line.t);
                    let Ok(kind) = fault.parse::<Fault>() else { continue };
                    let window = Window { from, to: line.t };
                    match kind.excuse() {
                        Excuse::Rollback => self.rollbacks.push(window),
                        Excuse::Torn => self.torn.extend(what.parse().map(|device: u32| (device, line.t))),
                        Excuse::None => {}
                    }
                    if kind.is_foundation() {
                        self.foundation.push(window);
                    }
                }
                _ => {}
            }
        }
    }

    fn gather_devices(&mut self) {
        for (number, lines) in &self.history.devices {
            for line in lines {
                let outcome = match line.event {
                    Event::Acked { .. } => Some(Outcome::Acked),
                    Event::Refused { .. } => Some(Outcome::Refused),
                    Event::Dropped { .. } => Some(Outcome::Dropped),
                    Event::Lost { .. } => Some(Outcome::Lost),
                    _ => None,
                };
                match &line.event {
                    Event::Started { incarnation } => {
                        if let Some(device) = self.devices.get_mut(number) {
                            // One that was killed at once did not come to say that it began.
                            device.incarnations = device.incarnations.max(*incarnation);
                            device.done = false;
                        }
                    }
                    Event::Done { .. } => {
                        if let Some(device) = self.devices.get_mut(number) {
                            device.done = true;
                        }
                    }
                    Event::Offered { id, hash } => {
                        let record = Record { offered: line.t, hash: *hash, taken: None, rejected: false, outcome: None };
                        self.records.insert(*id, record);
                    }
                    Event::Taken { id, name } => {
                        if let Some(record) = self.records.get_mut(id) {
                            record.taken = Some((line.t, *name));
                        }
                    }
                    Event::Rejected { id, .. } => {
                        if let Some(record) = self.records.get_mut(id) {
                            record.rejected = true;
                        }
                    }
                    event => {
                        if let (Some(outcome), Some(record)) = (outcome, event.id().and_then(|id| self.records.get_mut(&id))) {
                            record.outcome = Some((line.t, outcome));
                        }
                    }
                }
            }
        }
    }

    fn gather_consumers(&mut self) {
        for (number, lines) in &self.history.consumers {
            let mut place: HashMap<i64, Cursor> = HashMap::new();
            for line in lines {
                match &line.event {
                    Event::Resumed { producer, cursor } => {
                        place.insert(*producer, cursor.unwrap_or_default());
                    }
                    Event::Received { producer, cursor, name, id, .. } => {
                        let at = (*producer, cursor.log_epoch, cursor.offset.0);
                        self.places.entry(*id).or_default().insert(at);
                        self.at.entry(at).or_insert((*name, *id));
                        self.received.insert((*number, *id));
                        self.hear_of(*producer, cursor.log_epoch, line.t);
                        place.insert(*producer, *cursor);
                    }
                    Event::Reset { producer, cursor } => {
                        self.hear_of(*producer, cursor.log_epoch, line.t);
                        if let Some(before) = place.insert(*producer, *cursor)
                            && before.log_epoch != cursor.log_epoch
                        {
                            let shared = self.shared.entry((*producer, before.log_epoch, cursor.log_epoch)).or_default();
                            *shared = (*shared).max(cursor.offset.0.min(before.offset.0));
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn hear_of(&mut self, producer: i64, log_epoch: LogEpoch, t: u64) {
        let began = self.began.entry((producer, log_epoch)).or_insert(t);
        *began = (*began).min(t);
    }

    fn count(&mut self) {
        let counts = &mut self.counts;
        for record in self.records.values() {
            counts.offered += 1;
            counts.taken += usize::from(record.taken.is_some());
            match record.outcome {
                Some((_, Outcome::Acked)) => counts.acked += 1,
                Some((_, Outcome::Dropped)) => counts.dropped += 1,
                Some((_, Outcome::Lost)) => counts.lost += 1,
                Some((_, Outcome::Refused)) | None => {}
            }
        }
        for consumer in &self.consumers {
            let counted = counts.received.entry(consumer.kind).or_default();
            for line in self.history.consumers.get(&consumer.number).into_iter().flatten() {
                match line.event {
                    Event::Received { .. } => counted[0] += 1,
                    Event::Reset { .. } => counted[1] += 1,
                    Event::Gap { .. } => counted[2] += 1,
                    _ => {}
                }
            }
        }
        counts.epochs = self.began.len();
        counts.stored = self.history.store.as_ref().map_or(0, Vec::len);
    }
}
