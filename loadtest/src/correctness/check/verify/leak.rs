//! No leak: nothing is received later than [`PATIENCE`] after a subscription ended.
//!
//! The time does not run while a node, Redis or PostgreSQL is away by an injected fault: then nobody can know.

use super::{Invariant, Violation, broken, facts::Facts};
use crate::correctness::check::history::Event;

/// How long the end of a subscription may take to be known everywhere, in microseconds.
pub(super) const PATIENCE: u64 = 3_000_000;

pub(super) fn check(facts: &Facts<'_>, violations: &mut Vec<Violation>) {
    for ((consumer, producer), intervals) in &facts.subscribed {
        for (i, interval) in intervals.iter().enumerate() {
            let Some(ended) = interval.ended else { continue };
            let limit = limit(facts, ended);
            let again = intervals.get(i + 1).map_or(u64::MAX, |next| next.from);
            for line in facts.history.consumers.get(consumer).into_iter().flatten() {
                if let Event::Received { producer: p, id, .. } = &line.event
                    && p == producer
                    && line.t > limit
                    && line.t < again
                {
                    let late = (line.t - ended) / 1000;
                    let what = format!("consumer {consumer} received {id} of producer {producer} {late} ms after its subscription ended");
                    broken(violations, Invariant::Leak, Some(*id), what);
                }
            }
        }
    }
}

/// When the time is up.
fn limit(facts: &Facts<'_>, ended: u64) -> u64 {
    let mut limit = ended + PATIENCE;
    // Each window that overlaps begins the time anew; that may reach into the next window.
    while let Some(window) = facts.foundation.iter().find(|w| w.from < limit && w.to + PATIENCE > limit) {
        limit = window.to + PATIENCE;
    }
    limit
}
