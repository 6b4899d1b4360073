//! A consumer's subscription to a producer's records, and the consent that it rests on.
//!
//! ```text
//! (none) --subscribe--> active (an open producer) | requested (a listed one)      (none) --invite--> invited --subscribe--> active
//! requested --approve--> active       requested --deny--> denied       requested, invited --unsubscribe--> inactive
//! active --unsubscribe--> inactive --subscribe--> active, under the grant that stood; without one as from (none)
//! active, invited, inactive --revoke--> revoked       active --its end--> expired --subscribe--> requested
//! denied, revoked, expired --approve--> active        inactive --approve--> invited
//! ```
//!
//! Only the producer and operators approve, invite, deny and revoke. A consumer that was denied or revoked cannot ask again: the producer
//! approves, or nothing changes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{ConsumerId, ProducerId, UserId};

/// State of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The consumer asked; the producer has not decided.
    Requested,
    /// The producer approved without having been asked; the consumer has not subscribed.
    Invited,
    /// Records are delivered.
    Active,
    /// The producer refused a request.
    Denied,
    /// The producer ended it.
    Revoked,
    /// The end that the producer set has come.
    Expired,
    /// The consumer ended it, or withdrew its request; the row is kept.
    Inactive,
}

/// The text is no subscription status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a subscription is requested, invited, active, denied, revoked, expired or inactive")]
pub struct UnknownStatus;

impl Status {
    const ALL: [Self; 7] = [Self::Requested, Self::Invited, Self::Active, Self::Denied, Self::Revoked, Self::Expired, Self::Inactive];

    /// The status as the database and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Invited => "invited",
            Self::Active => "active",
            Self::Denied => "denied",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
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
        Self::ALL.into_iter().find(|status| status.as_str() == s).ok_or(UnknownStatus)
    }
}

/// A row of `subscriptions`, as it stands at some moment. Members that only consent brings are left out of its JSON where they are not set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// `subscriptions.id`.
    pub id: i64,
    /// Who receives.
    pub consumer_id: ConsumerId,
    /// Producer of the records.
    pub producer_id: ProducerId,
    /// Its state.
    pub status: Status,
    /// When it was first made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the consumer last asked a producer that decides.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub requested_at: Option<OffsetDateTime>,
    /// When the producer, or an operator for it, last decided.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<OffsetDateTime>,
    /// The account that decided; `None` with a time of decision: the operator's command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<UserId>,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
    /// The agreement that limits it, as JSON text; `None`: everything. Shown as a part of its grant.
    #[serde(skip)]
    pub scope: Option<String>,
}

impl Subscription {
    /// Whether the producer has approved it: the approval outlives the consumer's leaving.
    pub fn is_approved(&self) -> bool {
        self.decided_at.is_some() && matches!(self.status, Status::Active | Status::Invited | Status::Inactive | Status::Expired)
    }
}

/// Who may see a producer, and subscribe to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Everybody sees it, and subscribes without being asked.
    #[default]
    Open,
    /// Everybody sees it; a subscription begins when it is approved.
    Listed,
    /// Only those that it invited see it.
    Private,
}

/// The text is no visibility.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("visibility is open, listed or private")]
pub struct UnknownVisibility;

impl Visibility {
    /// The visibility as the database and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Listed => "listed",
            Self::Private => "private",
        }
    }
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Visibility {
    type Err = UnknownVisibility;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Open, Self::Listed, Self::Private].into_iter().find(|visibility| visibility.as_str() == s).ok_or(UnknownVisibility)
    }
}
