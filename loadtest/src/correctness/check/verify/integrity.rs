//! Integrity: what is received is what a device offered, byte for byte, under the name it was taken by.
//!
//! A device writes `offered` before it hands a record to its outbox and `taken` when the outbox has it. Between the two the
//! record may be sent already; so a record that was never `taken` may be received only where its device was killed before
//! the answer. The number of its incarnation tells: another one began.

use std::collections::HashMap;

use motience_proto::model::RecordId;

use super::{Invariant, Violation, broken, facts::Facts};
use crate::correctness::check::history::{Event, Id};

pub(super) fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    names_are_used_once(facts, violations);
    for (number, lines) in &facts.history.consumers {
        for line in lines {
            let Event::Received { producer, name, id, hash, .. } = &line.event else { continue };
            let mut wrong = |what: String| broken(violations, Invariant::Integrity, Some(*id), what);
            let Some(record) = facts.records.get(id) else {
                wrong(format!("consumer {number} received {id}, which nobody sent"));
                continue;
            };
            if record.hash != *hash {
                wrong(format!("consumer {number} received {id} changed: its hash is {hash}, not {}", record.hash));
            }
            let device = facts.devices.get(&id.device);
            if device.is_none_or(|device| device.producer != *producer) {
                wrong(format!("consumer {number} received {id} as producer {producer}'s"));
            }
            match record.taken {
                Some((_, taken)) if taken != *name => {
                    wrong(format!("consumer {number} received {id} as {name}; it was taken as {taken}"));
                }
                Some(_) => {}
                None => {
                    let killed = device.is_some_and(|device| device.incarnations > id.incarnation);
                    if !killed && !record.rejected {
                        wrong(format!("consumer {number} received {id}, which its outbox never took"));
                    }
                }
            }
            if line.t < record.offered {
                wrong(format!("consumer {number} received {id} before it was offered"));
            }
        }
    }
}

/// An outbox gives no name twice.
fn names_are_used_once(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut names: HashMap<RecordId, Id> = HashMap::new();
    let mut taken: Vec<_> = facts.records.iter().filter_map(|(id, record)| Some((*id, record.taken?))).collect();
    taken.sort_unstable_by_key(|(_, (t, _))| *t);
    for (id, (_, name)) in taken {
        if let Some(first) = names.insert(name, id) {
            broken(violations, Invariant::Integrity, Some(id), format!("the outbox named {id} {name}, which is the name of {first}"));
        }
    }
}
