//! A consumer's subscription to a producer's records.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{ConsumerId, ProducerId};

/// Whether a subscription is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Records are delivered.
    Active,
    /// Ended; the row is kept.
    Inactive,
}

/// The text is no subscription status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subscription is active or inactive")]
pub struct UnknownStatus;

impl Status {
    /// The status as the database and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "active" => Ok(Self::Active),
            "inactive" => Ok(Self::Inactive),
            _ => Err(UnknownStatus),
        }
    }
}

/// A row of `subscriptions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// `subscriptions.id`.
    pub id: i64,
    /// Who receives.
    pub consumer_id: ConsumerId,
    /// Producer of the records.
    pub producer_id: ProducerId,
    /// Whether it is in force.
    pub status: Status,
    /// When it was first made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}
