//! No loss: every record that a device took inside a consumer's authorised interval is received by it.
//!
//! A record is not owed where its device said that it dropped it (its outbox was full, and it drops by policy), lost it (its
//! outbox was torn) or that it was refused; the [`super::retention`] check sees to it that these words are true.
//!
//! **The rule of destroyed records.** A record may be missing at a consumer without a word only where all of this holds: a
//! rollback of the log was injected; the record may have been destroyed by it (see [`Facts::may_be_destroyed`]: it had been
//! acknowledged, it was seen in no epoch of the log that began later, and it does not lie below a place that its epoch and a
//! later one share); and the consumer could not have read it before: it received nothing that stands behind it in the same
//! epoch and, before that rollback, nothing that was offered only after the record was acknowledged.

use std::collections::{BTreeMap, HashMap};

use motience_proto::model::LogEpoch;

use super::{
    Invariant, Violation, broken,
    facts::{Consumer, Facts, Interval, LATE, Outcome, Record, Window},
};
use crate::correctness::check::history::{Event, Id, Kind};

/// How long a record that was settled may be on its way to a consumer whose subscription ends.
const UNDER_WAY: u64 = 2_000_000;

/// Returns how many receptions an injected rollback made impossible.
pub(super) fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) -> usize {
    let mut destroyed = 0;
    let mut ids: Vec<_> = facts.records.iter().collect();
    ids.sort_unstable_by_key(|(id, _)| **id);
    for consumer in &facts.consumers {
        let read = Read::of(facts, consumer);
        for (id, record) in &ids {
            if !is_owed(facts, consumer, **id, record) || facts.received.contains(&(consumer.number, **id)) {
                continue;
            }
            if read.has_gap_over(facts, **id) {
                continue;
            }
            let too_early = |rollback: &Window| !read.had_later(facts, **id, record, rollback.from);
            if facts.may_be_destroyed(**id, record, too_early) && !read.is_past(facts, **id) {
                destroyed += 1;
                continue;
            }
            let settled = match record.outcome {
                Some((_, Outcome::Acked)) => "acknowledged",
                _ => "taken",
            };
            let what = format!("record {id} was {settled}, and consumer {} never received it", consumer.number);
            broken(violations, Invariant::Loss, Some(**id), what);
        }
        if consumer.kind != Kind::Native {
            still_there(facts, consumer, violations);
        }
    }
    destroyed
}

/// Records of one log that a consumer has.
#[derive(Default)]
struct Log {
    by_offset: BTreeMap<u64, Id>,
    /// Records behind the cursor that the consumer was sent back to, which it has not received again.
    gone: BTreeMap<Id, Gone>,
}

/// A record that has not come again.
struct Gone {
    /// When the consumer was sent back to before its place, and that place's offset.
    since: u64,
    behind: u64,
    /// When the consumer was sent back the next time after the record was acknowledged: until then it could have come.
    by: Option<u64>,
}

impl Log {
    /// The consumer is sent back at `t` to this offset: what was acknowledged before, and not read by now, is not there, unless it is sent back as far as
    /// before or further, so that all of it may come again.
    fn sent_back(&mut self, t: u64, offset: u64, facts: &Facts<'_>) {
        for (id, gone) in self.gone.iter_mut().filter(|(_, gone)| gone.by.is_none() && gone.since < t) {
            if offset <= gone.behind {
                (gone.since, gone.behind) = (t, offset);
            } else if acknowledged(facts, *id).is_some_and(|acked| acked < t) {
                gone.by = Some(t);
            }
        }
    }
}

fn acknowledged(facts: &Facts<'_>, id: Id) -> Option<u64> {
    match facts.records.get(&id)?.outcome {
        Some((at, Outcome::Acked)) => Some(at),
        _ => None,
    }
}

/// An acknowledged record is in the log, whether it was received or not.
///
/// A consumer that removes no doubles and is sent back by a reset receives everything again that is behind the place it is
/// sent to, before anything new. A record that it had received there and does not receive again is in the log no more.
fn still_there(facts: &Facts<'_>, consumer: &Consumer, violations: &mut Vec<Violation>) {
    let mut logs: HashMap<i64, Log> = HashMap::new();
    for line in facts.history.consumers.get(&consumer.number).into_iter().flatten() {
        match &line.event {
            Event::Received { producer, cursor, id, .. } => {
                let log = logs.entry(*producer).or_default();
                log.by_offset.insert(cursor.offset.0, *id);
                log.gone.remove(id);
            }
            Event::Reset { producer, cursor } => {
                let log = logs.entry(*producer).or_default();
                let offset = cursor.offset.0;
                log.sent_back(line.t, offset, facts);
                let behind = log.by_offset.split_off(&(offset + 1));
                log.gone.extend(behind.into_values().map(|id| (id, Gone { since: line.t, behind: offset, by: None })));
            }
            _ => {}
        }
    }
    let number = consumer.number;
    for (producer, log) in &logs {
        let subscribed = facts.subscribed.get(&(number, *producer)).and_then(|intervals| intervals.last());
        if subscribed.is_none_or(|last| last.until.is_some()) {
            continue;
        }
        for (id, gone) in &log.gone {
            let (Some(record), Some(acked)) = (facts.records.get(id), acknowledged(facts, *id)) else { continue };
            let by = gone.by.unwrap_or(gone.since.max(acked) + LATE);
            let between = |rollback: &Window| rollback.to + LATE >= acked && rollback.from <= by;
            if !facts.may_be_destroyed(*id, record, between) {
                let what = format!("record {id} was acknowledged, and the log that consumer {number} was sent back in holds it no more");
                broken(violations, Invariant::Loss, Some(*id), what);
            }
        }
    }
}

fn is_owed(facts: &Facts<'_>, consumer: &Consumer, id: Id, record: &Record) -> bool {
    let Some(device) = facts.devices.get(&id.device) else { return false };
    let Some((taken, _)) = record.taken else { return false };
    if !consumer.producers.contains(&device.producer) {
        return false;
    }
    let settled = match record.outcome {
        Some((_, Outcome::Dropped | Outcome::Lost | Outcome::Refused)) => return false,
        Some((at, Outcome::Acked)) => at,
        None => u64::MAX,
    };
    let intervals = facts.subscribed.get(&(consumer.number, device.producer)).map_or(&[][..], Vec::as_slice);
    // A consumer that is subscribed again goes on from its cursor; one that never is has had what came in time.
    let back = intervals.last().is_some_and(|last| last.until.is_none());
    intervals.iter().any(|Interval { from, until, .. }| {
        let until = until.unwrap_or(u64::MAX);
        *from <= taken && taken < until && (back || settled.saturating_add(UNDER_WAY) <= until)
    })
}

/// How far a consumer came in each epoch of each log, and the gaps it was told of.
#[derive(Default)]
struct Read {
    last: HashMap<(i64, LogEpoch), u64>,
    gaps: Vec<(i64, LogEpoch, u64, u64)>,
    /// By producer and in the order of time: when something was received, and the latest offer received until then.
    offers: HashMap<i64, Vec<(u64, u64)>>,
}

impl Read {
    fn of(facts: &Facts<'_>, consumer: &Consumer) -> Self {
        let (mut read, mut log_epoch) = (Self::default(), HashMap::new());
        for line in facts.history.consumers.get(&consumer.number).into_iter().flatten() {
            match &line.event {
                Event::Received { producer, cursor, id, .. } => {
                    log_epoch.insert(*producer, cursor.log_epoch);
                    let offers = read.offers.entry(*producer).or_default();
                    let latest = offers.last().map_or(0, |(_, offered)| *offered);
                    offers.push((line.t, facts.records.get(id).map_or(0, |record| record.offered).max(latest)));
                    let last = read.last.entry((*producer, cursor.log_epoch)).or_default();
                    *last = (*last).max(cursor.offset.0);
                }
                Event::Resumed { producer, cursor: Some(cursor) } | Event::Reset { producer, cursor } => {
                    log_epoch.insert(*producer, cursor.log_epoch);
                }
                Event::Gap { producer, from, to } => {
                    let log_epoch = log_epoch.get(producer).copied().unwrap_or_default();
                    read.gaps.push((*producer, log_epoch, *from, *to));
                }
                _ => {}
            }
        }
        read
    }

    /// Whether it received something that stands behind this record.
    fn is_past(&self, facts: &Facts<'_>, id: Id) -> bool {
        let mut places = facts.places.get(&id).into_iter().flatten();
        places.any(|(producer, log_epoch, offset)| self.last.get(&(*producer, *log_epoch)).is_some_and(|last| last > offset))
    }

    /// Whether it received, before `time`, something that was offered after this record was acknowledged: what stood in the
    /// log before that it should have received before that.
    fn had_later(&self, facts: &Facts<'_>, id: Id, record: &Record, time: u64) -> bool {
        let Some((acked, Outcome::Acked)) = record.outcome else { return false };
        let producer = facts.devices.get(&id.device).map_or(0, |device| device.producer);
        let offers = self.offers.get(&producer).map_or(&[][..], Vec::as_slice);
        let before = offers.partition_point(|(received, _)| *received < time);
        before.checked_sub(1).is_some_and(|last| offers[last].1 > acked)
    }

    /// Whether it was told of a gap that holds the record. Whether the gap had a cause, [`super::order`] asks.
    fn has_gap_over(&self, facts: &Facts<'_>, id: Id) -> bool {
        let mut places = facts.places.get(&id).into_iter().flatten();
        places.any(|(producer, log_epoch, offset)| {
            self.gaps.iter().any(|(p, l, from, to)| p == producer && l == log_epoch && (from..=to).contains(&offset))
        })
    }
}
