//! Order and uniqueness: offset and name are one to one, and what a consumer receives rises without holes.
//!
//! A consumer begins where it says it resumes. From there each reception is the next offset of the same epoch, unless a gap was
//! told of or, for a consumer whose client removes doubles, the places left out hold names that this consumer has. An epoch
//! gives way to another by word of a reset only. A consumer that was killed between writing a record down and writing its
//! cursor receives that one record again, in the same place; that is its own doing.

use std::collections::HashMap;

use motience_proto::model::{Cursor, LogEpoch, RecordId};

use super::{
    Invariant, Violation, broken,
    facts::{Consumer, Facts},
};
use crate::correctness::check::history::{Event, Id, Kind};

pub(super) fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    one_to_one(facts, violations);
    once_in_shared_epochs(facts, violations);
    for consumer in &facts.consumers {
        let mut following = Following { facts, consumer, violations, places: HashMap::new(), names: HashMap::new(), process: 0 };
        for line in facts.history.consumers.get(&consumer.number).into_iter().flatten() {
            following.step(&line.event);
        }
    }
}

/// Nobody saw two things in one place, nor one thing in two places of an epoch.
fn one_to_one(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut offsets: HashMap<(i64, LogEpoch, RecordId), u64> = HashMap::new();
    let mut names: HashMap<RecordId, Id> = HashMap::new();
    for (number, lines) in &facts.history.consumers {
        for line in lines {
            let Event::Received { producer, cursor, name, id, .. } = &line.event else { continue };
            let (first_name, first_id) = facts.at[&(*producer, cursor.log_epoch, cursor.offset.0)];
            if (first_name, first_id) != (*name, *id) {
                let what = format!(
                    "place {cursor} of producer {producer} holds {name} for consumer {number}, and {first_name} ({first_id}) for another"
                );
                broken(violations, Invariant::Uniqueness, Some(*id), what);
            }
            let first = *offsets.entry((*producer, cursor.log_epoch, *name)).or_insert(cursor.offset.0);
            if first != cursor.offset.0 {
                let what = format!("record {id} ({name}) is in the log of producer {producer} twice: at {first} and at {cursor}");
                broken(violations, Invariant::Uniqueness, Some(*id), what);
            }
            let known = *names.entry(*name).or_insert(*id);
            if known != *id {
                let what = format!("the name {name} stands for two records: {known} and {id}");
                broken(violations, Invariant::Uniqueness, Some(*id), what);
            }
        }
    }
}

/// A record below the place that two epochs share stands in both of them there, and nowhere else.
fn once_in_shared_epochs(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    for (id, places) in facts.places.iter().filter(|(_, places)| places.len() > 1) {
        for (producer, older, offset) in places {
            for (_, newer, other) in places.iter().filter(|place| place.0 == *producer && place.1 != *older) {
                let shared = facts.shared.get(&(*producer, *older, *newer)).copied().unwrap_or_default();
                if *offset <= shared && other != offset {
                    let what = format!(
                        "record {id} stands at {older}-{offset}, which the epoch {newer} shares up to {shared}, and at {newer}-{other} again"
                    );
                    broken(violations, Invariant::Uniqueness, Some(*id), what);
                }
            }
        }
    }
}

/// Where a consumer is in one log.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The epoch 0 is none yet.
    at: Cursor,
    /// Where this process began.
    resumed: Cursor,
    /// How many resets there were.
    generation: u32,
    /// There was a reset in this life of the process: its client may remove doubles from now on.
    removes: bool,
}

/// When a name was received last.
#[derive(Clone, Copy, Debug)]
struct Seen {
    generation: u32,
    process: u32,
    at: Cursor,
}

struct Following<'f, 'h> {
    facts: &'f Facts<'h>,
    consumer: &'f Consumer,
    violations: &'f mut Vec<Violation>,
    places: HashMap<i64, Place>,
    names: HashMap<RecordId, Seen>,
    process: u32,
}

impl Following<'_, '_> {
    fn step(&mut self, event: &Event) {
        match event {
            Event::Resumed { producer, cursor } => {
                self.process += 1;
                let at = cursor.unwrap_or_default();
                let generation = self.places.get(producer).map_or(0, |place| place.generation);
                self.places.insert(*producer, Place { at, resumed: at, generation, removes: false });
            }
            Event::Reset { producer, cursor } => {
                if let Some(place) = self.places.get_mut(producer) {
                    place.at = *cursor;
                    place.generation += 1;
                    place.removes = self.consumer.kind == Kind::Native;
                }
            }
            Event::Gap { producer, from, to } => self.gap(*producer, *from, *to),
            Event::Received { producer, cursor, name, id, .. } => self.received(*producer, *cursor, *name, *id),
            _ => {}
        }
    }

    fn gap(&mut self, producer: i64, from: u64, to: u64) {
        let number = self.consumer.number;
        // Retention is set wider than any run, so that only a rollback can explain what is missing.
        if self.facts.rollbacks.is_empty() {
            let what = format!("consumer {number} was told of a gap {from}..={to} of producer {producer} that nothing explains");
            broken(self.violations, Invariant::Loss, None, what);
        }
        if let Some(place) = self.places.get_mut(&producer) {
            place.at.offset.0 = place.at.offset.0.max(to);
        }
    }

    fn received(&mut self, producer: i64, cursor: Cursor, name: RecordId, id: Id) {
        let number = self.consumer.number;
        let Some(place) = self.places.get(&producer).copied() else {
            let what = format!("consumer {number} received {id} of producer {producer}, which it does not follow");
            return broken(self.violations, Invariant::Integrity, Some(id), what);
        };
        let at = place.at;
        if at.log_epoch.0 != 0 && at.log_epoch != cursor.log_epoch {
            let what = format!("consumer {number} went from {at} to {cursor} of producer {producer} without word of a reset");
            broken(self.violations, Invariant::Order, Some(id), what);
        } else if cursor.offset <= at.offset {
            let what = format!("consumer {number} received {cursor} of producer {producer} after {at}");
            broken(self.violations, Invariant::Order, Some(id), what);
        } else if cursor.offset != at.offset.next() && !self.has_all_between(producer, place, cursor) {
            let what = format!("consumer {number} received {cursor} of producer {producer} right after {at}, without word of a gap");
            broken(self.violations, Invariant::Order, Some(id), what);
        }
        if let Some(place) = self.places.get_mut(&producer) {
            place.at = cursor;
        }
        let seen = Seen { generation: place.generation, process: self.process, at: cursor };
        if let Some(before) = self.names.insert(name, seen)
            && before.generation == place.generation
        {
            let own_doing = before.process != self.process && before.at == cursor && cursor.offset > place.resumed.offset;
            if !own_doing {
                let what = format!("consumer {number} received {id} ({name}) twice: at {} and at {cursor}", before.at);
                broken(self.violations, Invariant::Uniqueness, Some(id), what);
            }
        }
    }

    /// Whether everything between the place and `cursor` is, as far as anyone saw it, a double that the client removed.
    fn has_all_between(&self, producer: i64, place: Place, cursor: Cursor) -> bool {
        place.removes
            && (place.at.offset.0 + 1..cursor.offset.0).all(|offset| {
                let there = self.facts.at.get(&(producer, cursor.log_epoch, offset));
                there.is_none_or(|(name, _)| self.names.contains_key(name))
            })
    }
}
