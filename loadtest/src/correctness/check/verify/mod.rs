//! The checker: history files in, verdict out. From the files alone it proves what `docs/delivery.md` promises.
//!
//! - **no loss** ([`loss`]): every record that a device took inside a consumer's authorised interval is received by it, unless
//!   the device reported that it dropped or lost it, or an injected rollback destroyed it where that consumer could not have
//!   read it any more. Without an injected rollback there is no excuse.
//! - **order** and **uniqueness** ([`order`]): within an epoch of a log, offset and name are one to one; what a consumer receives
//!   rises by one, but for gaps it was told of and doubles its client removed; an epoch ends with word of a reset; a name comes
//!   once, but for after a reset.
//! - **integrity** ([`integrity`]): what is received is what was offered, byte for byte, under the name it was taken by.
//! - **leak** ([`leak`]): nothing is received later than [`leak::PATIENCE`] after a subscription ended.
//! - **retention** ([`retention`]): what a device no longer has was acknowledged, or dropped or lost for a cause, and said so.
//! - **history** ([`store`]): `data_history` holds each record of the log once.

mod facts;
mod integrity;
mod leak;
mod loss;
mod order;
mod retention;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::Result;

use super::history::{self, Id, Kind, Line};
use facts::Facts;

/// All the files of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) harness: Vec<Line>,
    pub(crate) devices: BTreeMap<u32, Vec<Line>>,
    pub(crate) consumers: BTreeMap<u32, Vec<Line>>,
    /// The rows of `data_history`: whose, and what they say; `None` where it was not kept.
    pub(crate) store: Option<Vec<Row>>,
}

/// A row of `data_history`.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) producer: i64,
    /// The record's id, or why there is none.
    pub(crate) id: Result<Id, String>,
}

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Invariant {
    Loss,
    Order,
    Uniqueness,
    Integrity,
    Leak,
    Retention,
    History,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) what: String,
    /// The record it is about.
    pub(crate) id: Option<Id>,
}

/// Counts over the history files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) offered: usize,
    pub(crate) taken: usize,
    pub(crate) acked: usize,
    pub(crate) dropped: usize,
    pub(crate) lost: usize,
    /// By kind of consumer: receptions, resets, gaps.
    pub(crate) received: BTreeMap<Kind, [usize; 3]>,
    /// Receptions that an injected rollback made impossible.
    pub(crate) destroyed: usize,
    /// Records in `data_history`.
    pub(crate) stored: usize,
    /// Epochs of logs.
    pub(crate) epochs: usize,
}

/// Findings of the checker.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    pub(crate) counts: Counts,
}

/// Verifies a run.
pub(crate) fn verify(history: &History) -> Verdict {
    let facts = Facts::gather(history);
    let mut violations = Vec::new();
    integrity::check(&facts, &mut violations);
    order::check(&facts, &mut violations);
    let destroyed = loss::check(&facts, &mut violations);
    leak::check(&facts, &mut violations);
    retention::check(&facts, &mut violations);
    store::check(&facts, &mut violations);
    Verdict { violations, counts: Counts { destroyed, ..facts.counts() } }
}

impl History {
    /// Reads a folder: `harness`, `device-N`, `consumer-N`.
    pub(crate) fn load(dir: &Path, devices: u32, consumers: u32) -> Result<Self> {
        let of =
            |name: &str, count: u32| (0..count).map(|n| Ok((n, history::read(&dir.join(format!("{name}-{n}")))?))).collect::<Result<_>>();
        Ok(Self {
            harness: history::read(&dir.join("harness"))?,
            devices: of("device", devices)?,
            consumers: of("consumer", consumers)?,
            store: None,
        })
    }
}

impl Invariant {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loss => "no loss",
            Self::Order => "order",
            Self::Uniqueness => "uniqueness",
            Self::Integrity => "integrity",
            Self::Leak => "leak",
            Self::Retention => "retention",
            Self::History => "history",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant.name(), self.what)
    }
}

/// Adds a violation.
fn broken(violations: &mut Vec<Violation>, invariant: Invariant, id: Option<Id>, what: String) {
    violations.push(Violation { invariant, what, id });
}
