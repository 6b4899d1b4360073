//! Members of organisations, and what each may do for the organisation's accounts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The role of a member. Each may do whatever those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Reads lists, usage and histories of the accounts.
    Reader,
    /// Also manages devices, keys and consent.
    Manager,
    /// Also manages members, accounts and the organisation itself.
    Owner,
}

impl MemberRole {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Manager => "manager",
            Self::Owner => "owner",
        }
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no role of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a member is reader, manager or owner")]
pub struct UnknownMemberRole;

impl FromStr for MemberRole {
    type Err = UnknownMemberRole;

    fn from_str(text: &str) -> Result<Self, UnknownMemberRole> {
        Ok(match text {
            "reader" => Self::Reader,
            "manager" => Self::Manager,
            "owner" => Self::Owner,
            _ => return Err(UnknownMemberRole),
        })
    }
}
