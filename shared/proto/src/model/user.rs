//! Accounts: who may produce, consume or administer.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{LogId, LogKey, UserId, Visibility};

/// Role of an account: what it may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Streams telemetry.
    Producer,
    /// Subscribes to producers and receives their records.
    Consumer,
    /// Operates the platform; never made by registration.
    Admin,
}

/// The text is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a role is producer, consumer or admin")]
pub struct UnknownRole;

impl Role {
    /// The role as the database and the API spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "producer" => Ok(Self::Producer),
            "consumer" => Ok(Self::Consumer),
            "admin" => Ok(Self::Admin),
            _ => Err(UnknownRole),
        }
    }
}

/// An account as the API shows it: never with its password hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// `users.id`.
    pub id: UserId,
    /// Unique name.
    pub username: String,
    /// Role of the account.
    pub role: Role,
    /// The device this account was registered with, if any.
    pub device_id: Option<String>,
    /// Whether it may speak for that device only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict_device: bool,
    /// Who may see it, where it is a producer and says so itself; `None`: as the operator's default has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
    /// When the account was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// Its log, which no API shows.
    #[serde(skip)]
    pub log: LogId,
}

impl User {
    /// Its log, where it is a producer.
    pub fn log_key(&self) -> LogKey {
        LogKey { producer: self.id.producer(), log: self.log }
    }
}

/// An account as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Name that everyone sees.
    #[serde(flatten)]
    pub user: User,
    /// When it was closed; `None`: it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
}
