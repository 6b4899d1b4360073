//! Scopes: the rights of a token, within the role of its account. A login's token has them all, a key those that it was made with.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use motience_proto::model::{ProducerId, Role};

/// One right of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To send records.
    Publish,
    /// To read whatever the account may read.
    Consume,
    /// To read this producer's records, if the account may.
    ConsumeFrom(ProducerId),
    /// To enrol, label and revoke the account's devices.
    ManageDevices,
    /// To read lists and statistics.
    ReadUsage,
    /// To operate the platform.
    Operate,
    /// To make, see and end the account's keys: a manager's of the account's organisation alone, no key's.
    ManageKeys,
    /// To decide who receives the account's records, how long they stay and which are erased: likewise.
    Decide,
}

impl Scope {
    /// Whether an account of this role could use it.
    pub fn fits(self, role: Role) -> bool {
        match self {
            Self::Publish | Self::ManageDevices => role == Role::Producer,
            Self::Operate => role == Role::Admin,
            Self::Consume | Self::ConsumeFrom(_) | Self::ReadUsage => true,
            Self::ManageKeys | Self::Decide => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish => f.write_str("publish"),
            Self::Consume => f.write_str("consume"),
            Self::ConsumeFrom(producer) => write!(f, "consume:{producer}"),
            Self::ManageDevices => f.write_str("manage_devices"),
            Self::ReadUsage => f.write_str("read_usage"),
            Self::Operate => f.write_str("operate"),
            Self::ManageKeys => f.write_str("manage_keys"),
            Self::Decide => f.write_str("decide"),
        }
    }
}

/// The text is no scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a scope is publish, consume, consume:ID, manage_devices, read_usage or operate")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Ok(match text {
            "publish" => Self::Publish,
            "consume" => Self::Consume,
            "manage_devices" => Self::ManageDevices,
            "read_usage" => Self::ReadUsage,
            "operate" => Self::Operate,
            "manage_keys" => Self::ManageKeys,
            "decide" => Self::Decide,
            other => {
                let id = other.strip_prefix("consume:").and_then(|id| id.parse().ok());
                Self::ConsumeFrom(id.ok_or(UnknownScope)?)
            }
        })
    }
}

/// The scopes of a token. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(Option<Arc<BTreeSet<Scope>>>);

impl Scopes {
    /// A login's: whatever the account may do, its own management too.
    pub fn all() -> Self {
        Self(None)
    }

    /// A key's.
    pub fn only(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self(Some(Arc::new(scopes.into_iter().collect())))
    }

    /// Whether there is no limit.
    pub fn are_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this scope is among them.
    pub fn has(&self, scope: Scope) -> bool {
        self.0.as_ref().is_none_or(|scopes| scopes.contains(&scope))
    }

    /// Whether they let their holder read this producer's records.
    pub fn consume(&self, producer: ProducerId) -> bool {
        self.has(Scope::Consume) || self.has(Scope::ConsumeFrom(producer))
    }

    /// Whether they let their holder read anybody's records.
    pub fn consume_any(&self) -> bool {
        let Some(scopes) = &self.0 else { return true };
        scopes.iter().any(|scope| matches!(scope, Scope::Consume | Scope::ConsumeFrom(_)))
    }

    /// Whether they hold all that the others do.
    pub fn cover(&self, others: &Self) -> bool {
        match (&self.0, &others.0) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(_), Some(others)) => others.iter().all(|&scope| match scope {
                Scope::ConsumeFrom(producer) => self.consume(producer),
                other => self.has(other),
            }),
        }
    }
}

impl fmt::Display for Scopes {
    /// With blanks between them, as the database holds a key's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().flat_map(|scopes| scopes.iter()).map(ToString::to_string).collect();
        f.write_str(&names.join(" "))
    }
}

impl FromStr for Scopes {
    type Err = UnknownScope;

    /// Reads a key's scopes, with blanks between them. None at all is no right at all.
    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Ok(Self::only(text.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_whom_its_scopes_name() {
        let some: Scopes = "consume:2 consume:1 publish".parse().unwrap();
        assert_eq!(some.to_string(), "publish consume:1 consume:2");
        assert!(some.consume(ProducerId(1)) && !some.consume(ProducerId(3)) && some.consume_any());
        assert!(some.has(Scope::Publish) && !some.has(Scope::Consume) && !some.are_all());
        let all_consume: Scopes = "consume".parse().unwrap();
        assert!(all_consume.consume(ProducerId(3)) && !all_consume.has(Scope::Publish));
        let none: Scopes = "".parse().unwrap();
        assert!(!none.consume_any() && !none.has(Scope::ReadUsage));
        for wrong in ["everything", "consume:", "consume:x", "Publish", "publish,consume"] {
            assert_eq!(wrong.parse::<Scopes>(), Err(UnknownScope), "{wrong}");
        }
    }

    #[test]
    fn a_renewal_may_not_take_rights_away() {
        let scopes = |text: &str| text.parse::<Scopes>().unwrap();
        assert!(Scopes::all().cover(&scopes("publish")) && !scopes("publish").cover(&Scopes::all()));
        assert!(scopes("consume").cover(&scopes("consume:1 consume:2")) && !scopes("consume:1").cover(&scopes("consume")));
        assert!(scopes("publish consume:1").cover(&scopes("publish")) && !scopes("publish").cover(&scopes("publish read_usage")));
    }
}
