//! The units that plans count, who holds a plan, and the word that a rate is used up.

use std::{fmt, sync::Arc, time::Duration};

use motience_proto::model::{PlanLimits, UserId};

/// Shortest and longest pause of a sender that waits for tokens.
const SHORTEST_WAIT: Duration = Duration::from_millis(5);
pub(super) const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// A thing that is counted by the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records taken in.
    Records,
    /// Bytes of records taken in.
    Bytes,
    /// Requests over HTTP.
    Requests,
    /// Records given out.
    RecordsOut,
    /// Bytes of records given out.
    BytesOut,
}

/// Units of records that are given out.
pub const OUT: [Unit; 2] = [Unit::RecordsOut, Unit::BytesOut];

impl Unit {
    pub(super) const ALL: [Self; 5] = [Self::Records, Self::Bytes, Self::Requests, Self::RecordsOut, Self::BytesOut];

    /// The name in messages, headers and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Bytes => "bytes",
            Self::Requests => "requests",
            Self::RecordsOut => "records_out",
            Self::BytesOut => "bytes_out",
        }
    }

    /// The words in a sentence.
    fn words(self) -> &'static str {
        match self {
            Self::RecordsOut => "records given out",
            Self::BytesOut => "bytes given out",
            other => other.as_str(),
        }
    }

    /// The name of its limit in a plan.
    pub fn limit(self) -> &'static str {
        match self {
            Self::Records => "records_per_second",
            Self::Bytes => "bytes_per_second",
            Self::Requests => "requests_per_second",
            Self::RecordsOut => "records_out_per_second",
            Self::BytesOut => "bytes_out_per_second",
        }
    }

    /// The units that a plan limits.
    pub fn limited_by(plan: &PlanLimits) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|unit| unit.of(plan) > 0)
    }

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }

    pub(super) fn of(self, plan: &PlanLimits) -> u64 {
        match self {
            Self::Records => plan.records_per_second,
            Self::Bytes => plan.bytes_per_second,
            Self::Requests => plan.requests_per_second,
            Self::RecordsOut => plan.records_out_per_second,
            Self::BytesOut => plan.bytes_out_per_second,
        }
        .unwrap_or(0)
    }
}

/// Somebody with a plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An account.
    Account(UserId),
    /// An organisation, by its id, with all of its accounts.
    Organisation(Arc<str>),
}

impl Holder {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Organisation(_) => "organisation",
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(user) => write!(f, "a:{user}"),
            Self::Organisation(id) => write!(f, "o:{id}"),
        }
    }
}

/// A rate of a plan is used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan of this {holder} allows {rate} {} a second: come back in {} s", .unit.words(), .wait.as_secs() + u64::from(.wait.subsec_nanos() > 0))]
pub struct Exceeded {
    /// The unit.
    pub unit: Unit,
    /// `account` or `organisation`.
    pub holder: &'static str,
    /// How many a second the plan allows.
    pub rate: u64,
    /// When there is room again, as far as the node knows.
    pub wait: Duration,
}

impl Exceeded {
    /// How long to wait before another look: nodes may get their share earlier, or later.
    pub fn pause(&self) -> Duration {
        self.wait.clamp(SHORTEST_WAIT, LONGEST_WAIT)
    }
}
