//! The scope of a grant as text: an agreement between a producer and a consumer. Shape and names follow DIMO's SACD (service access
//! contract document), in which a grant has a grantor, a grantee, a beginning, an end, and agreements.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Selection, UserId};

/// Most devices that an agreement names.
pub const MAX_AGREED_DEVICES: usize = 1000;

/// The kind of agreement that there is: about a producer's stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgreementType {
    /// Records, their history, and devices.
    #[default]
    Stream,
}

/// Limits of what a consumer receives. A member that is left out limits nothing; `where`, `fields` and `every` are written as a consumer
/// writes its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// Always `stream`.
    #[serde(default)]
    pub r#type: AgreementType,
    /// Ids of devices: records of no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// Conditions that a record must meet, all of them.
    #[serde(rename = "where", default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<String>,
    /// Members of `data` that are shown. With them, nothing is shown beside device, time and data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<String>,
    /// The last value of each device in each such time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// How far back: a time, or a length such as `7d` before now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Most connections of the consumer that receive these records at once, on each node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

impl Agreement {
    /// Filter, projection and sampling.
    pub fn selection(&self) -> Selection {
        Selection { conditions: self.conditions.clone(), fields: self.fields.clone(), every: self.every.clone() }
    }

    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One side of a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The account.
    pub id: UserId,
    /// Its name; `None`: the account is gone.
    pub name: Option<String>,
}

/// A producer's consent, as both sides read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConsentGrant {
    /// The producer.
    pub grantor: Party,
    /// The consumer.
    pub grantee: Party,
    /// When it was given.
    #[serde(with = "time::serde::rfc3339")]
    pub effective_at: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
    /// Its limits; none: everything.
    pub agreements: Vec<serde_json::Value>,
}
