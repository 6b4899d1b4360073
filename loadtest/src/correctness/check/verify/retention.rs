//! Retention: what a device no longer has was acknowledged, or it said what became of it and there was a cause.
//!
//! A record is dropped only by an outbox that drops by policy; it is lost only by an outbox whose file was damaged by an
//! injected fault after the record was taken; none is refused, for all are valid. A device that ended in order has settled all.

use super::{
    Invariant, Violation, broken,
    facts::{Facts, Outcome},
};

pub(super) fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let mut ids: Vec<_> = facts.records.iter().collect();
    ids.sort_unstable_by_key(|(id, _)| **id);
    for (id, record) in ids {
        let (Some((taken, _)), Some(device)) = (record.taken, facts.devices.get(&id.device)) else { continue };
        let mut wrong = |what: String| broken(violations, Invariant::Retention, Some(*id), what);
        match record.outcome {
            Some((_, Outcome::Acked)) => {}
            Some((_, Outcome::Refused)) => wrong(format!("record {id} was refused, and nothing is wrong with it")),
            Some((_, Outcome::Dropped)) if device.drops => {}
            Some((_, Outcome::Dropped)) => wrong(format!("record {id} was dropped by an outbox that blocks")),
            Some((at, Outcome::Lost)) => {
                let torn = facts.torn.iter().any(|(number, t)| *number == id.device && (taken..=at).contains(t));
                if !torn {
                    wrong(format!("record {id} was lost by an outbox whose file nobody damaged"));
                }
            }
            None if device.done => wrong(format!("nobody knows what became of record {id}, and its device says that all is settled")),
            None => wrong(format!("record {id} was taken and is not settled in time")),
        }
    }
}
