//! History: `data_history` holds each record of the log once, and nothing else.
//!
//! A record is of the log where any consumer received it or it was acknowledged, unless an injected rollback may have
//! destroyed it before the history writer came to it.

use std::collections::HashMap;

use super::{
    Invariant, Violation, broken,
    facts::{Facts, Outcome},
};
use crate::correctness::check::history::Id;

pub(super) fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    let Some(rows) = &facts.history.store else { return };
    let mut stored: HashMap<Id, usize> = HashMap::new();
    for row in rows {
        match &row.id {
            Ok(id) => {
                *stored.entry(*id).or_default() += 1;
                let producer = facts.devices.get(&id.device).map(|device| device.producer);
                if !facts.records.contains_key(id) || producer != Some(row.producer) {
                    let what = format!("data_history holds {id} as producer {}'s, who never sent it", row.producer);
                    broken(violations, Invariant::History, Some(*id), what);
                }
            }
            Err(why) => broken(violations, Invariant::History, None, format!("a row of producer {}: {why}", row.producer)),
        }
    }
    let mut ids: Vec<_> = facts.records.iter().collect();
    ids.sort_unstable_by_key(|(id, _)| **id);
    for (id, record) in ids {
        let count = stored.get(id).copied().unwrap_or_default();
        if count > 1 {
            broken(violations, Invariant::History, Some(*id), format!("data_history holds {id} {count} times"));
        }
        let acked = matches!(record.outcome, Some((_, Outcome::Acked)));
        let owed = acked || facts.places.contains_key(id) && !matches!(record.outcome, Some((_, Outcome::Dropped | Outcome::Lost)));
        if count == 0 && owed && !facts.may_be_destroyed(*id, record, |_| true) {
            broken(violations, Invariant::History, Some(*id), format!("data_history lacks {id}, which is in the log"));
        }
    }
}
