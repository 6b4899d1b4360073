//! The grant of a caller: who it is, and how much of what its account may do it may.

use motience_proto::model::{LogId, LogKey, Role, UserId, record::Defaults};
use time::OffsetDateTime;

use super::{Scopes, external::EXTERNAL_FAMILY};

/// Families of tokens that devices got by keys of their own begin so. A login's are hexadecimal digits.
pub(super) const DEVICE_FAMILY: &str = "device:";

/// Grant of an access token or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Account of the token.
    pub user: UserId,
    /// The account's name.
    pub username: String,
    /// Role of the account.
    pub role: Role,
    /// The device the account was registered with, if any.
    pub device_id: Option<String>,
    /// Whether it may speak for that device only.
    pub strict_device: bool,
    /// The account's log: not that of whoever had the number `user` before, or has it since.
    pub log: LogId,
    /// The login it goes back to; of a key, its [`key_family`].
    pub family: String,
    /// How much of what its account may do it allows.
    pub scopes: Scopes,
    /// When it was issued, to the second.
    pub issued_at: OffsetDateTime,
    /// When it ends.
    pub expires_at: OffsetDateTime,
}

/// The family of a key's grants: revoked like a login's.
pub fn key_family(id: &str) -> String {
    format!("key:{id}")
}

impl Grant {
    /// The device id of records that name none: the account's device, or the account itself.
    pub fn default_device(&self) -> &str {
        self.device_id.as_deref().unwrap_or(&self.username)
    }

    /// The device that it may speak for, where that is one only.
    pub fn only_device(&self) -> Option<&str> {
        self.device_id.as_deref().filter(|_| self.strict_device)
    }

    /// The device whose own key it was got by.
    pub fn own_device(&self) -> Option<&str> {
        self.only_device().filter(|_| self.family.starts_with(DEVICE_FAMILY))
    }

    /// Whether it goes back to a login by password, and not to a key: a login's family is nothing but hexadecimal digits.
    pub fn is_by_password(&self) -> bool {
        !self.family.contains(':')
    }

    /// Whether it comes by a token of another issuer.
    pub fn is_external(&self) -> bool {
        self.family.starts_with(EXTERNAL_FAMILY)
    }

    /// Members that complete its records at `now`.
    pub fn defaults(&self, now: OffsetDateTime) -> Defaults<'_> {
        Defaults { device_id: self.default_device(), strict: self.only_device().is_some(), now }
    }

    /// The log that the token gives a producer the right to write.
    pub fn log_key(&self) -> LogKey {
        LogKey { producer: self.user.producer(), log: self.log }
    }

    /// Whether the other is a token of this very account, in the same role and for the same device, where it is for one only.
    pub fn is_of_same_account(&self, other: &Self) -> bool {
        let subject = |grant: &Self| (grant.user, grant.log, grant.role);
        subject(self) == subject(other) && self.only_device() == other.only_device()
    }
}

/// The family of the tokens that a device gets by the credential `id`.
pub fn device_family(id: &str) -> String {
    format!("{DEVICE_FAMILY}{id}")
}
