//! The rights of a grant: one question for each, role and scopes in one. Every way in and out asks here, so that none forgets a scope.

use motience_proto::model::{MemberRole, ProducerId, Role, UserId};

use super::{Grant, Scope, Scopes};

/// Why a good token does not allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The account has another role.
    #[error("this account is no {0}")]
    Role(Role),
    /// The key was made without this scope.
    #[error("scope_missing: this key lacks the scope {0}")]
    Scope(Scope),
    /// No key may do it: it is of the account itself.
    #[error("login_required: this needs a login, not a key")]
    Login,
    /// A login by password, where only keys give the right to publish.
    #[error("device_credential_required: here a device publishes by a key of its own (DEVICE_PASSWORDS)")]
    Credential,
}

impl Denied {
    /// A stable name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::Role(_) => "wrong_role",
            Self::Scope(_) => "scope_missing",
            Self::Login => "login_required",
            Self::Credential => "device_credential_required",
        }
    }
}

/// The scopes by which a member of an organisation acts for one of its accounts: a reader sees what the account sees, and its own log; a manager
/// also manages devices, keys, consent and how long records stay. Nobody but the account itself sends its records, or manages the account.
pub fn member_scopes(role: MemberRole, account: UserId, account_role: Role) -> Scopes {
    let reads = if account_role == Role::Producer { Scope::ConsumeFrom(account.producer()) } else { Scope::Consume };
    let mut scopes = vec![reads, Scope::ReadUsage];
    if role >= MemberRole::Manager {
        scopes.push(Scope::ManageKeys);
        if account_role == Role::Producer {
            scopes.extend([Scope::ManageDevices, Scope::Decide]);
        }
    }
    Scopes::only(scopes)
}

impl Grant {
    /// May it send records, as far as the grant goes? Whether logins by password may at all is for the backend's settings to say, which every way in
    /// asks.
    pub fn may_publish(&self) -> Result<(), Denied> {
        self.acts_as(Role::Producer)?;
        self.has(Scope::Publish)
    }

    /// May it follow producers, be it only some?
    pub fn may_follow(&self) -> Result<(), Denied> {
        self.acts_as(Role::Consumer)?;
        self.may_consume_any()
    }

    /// May it read records of this producer, as far as its scopes go? Whether the account may is for the subscriptions to say.
    pub fn may_consume(&self, producer: ProducerId) -> Result<(), Denied> {
        self.scopes.consume(producer).then_some(()).ok_or(Denied::Scope(Scope::ConsumeFrom(producer)))
    }

    /// May it read records of anybody, as far as its scopes go?
    pub fn may_consume_any(&self) -> Result<(), Denied> {
        self.scopes.consume_any().then_some(()).ok_or(Denied::Scope(Scope::Consume))
    }

    /// May it enrol, label and revoke devices of its account, or as an operator all devices? The caller compares whose devices they are.
    pub fn may_manage_devices(&self) -> Result<(), Denied> {
        self.has(if self.role == Role::Admin { Scope::Operate } else { Scope::ManageDevices })
    }

    /// May it read lists and statistics? Whoever may read records may.
    pub fn may_look(&self) -> Result<(), Denied> {
        if self.scopes.consume_any() { Ok(()) } else { self.has(Scope::ReadUsage) }
    }

    /// May it read statistics of this producer and its devices? Whoever may read its records may.
    pub fn may_look_at(&self, producer: ProducerId) -> Result<(), Denied> {
        if self.scopes.consume(producer) { Ok(()) } else { self.has(Scope::ReadUsage) }
    }

    /// May it read lists and statistics of all that its account sees?
    pub fn may_look_everywhere(&self) -> Result<(), Denied> {
        if self.scopes.has(Scope::Consume) { Ok(()) } else { self.has(Scope::ReadUsage) }
    }

    /// May it operate the platform?
    pub fn may_operate(&self) -> Result<(), Denied> {
        self.acts_as(Role::Admin)?;
        self.has(Scope::Operate)
    }

    /// May it manage the account itself, and its keys? Logins only: whoever finds a key must not make another of it.
    pub fn may_manage_account(&self) -> Result<(), Denied> {
        self.scopes.are_all().then_some(()).ok_or(Denied::Login)
    }

    /// May it make, see and end the account's keys? Logins, and managers of its organisation.
    pub fn may_manage_keys(&self) -> Result<(), Denied> {
        self.scopes.has(Scope::ManageKeys).then_some(()).ok_or(Denied::Login)
    }

    /// May it decide about the account's records: who receives them, how long they stay, which are erased? Logins, and managers of its organisation.
    /// The caller compares whose they are.
    pub fn may_decide(&self) -> Result<(), Denied> {
        self.scopes.has(Scope::Decide).then_some(()).ok_or(Denied::Login)
    }

    fn acts_as(&self, role: Role) -> Result<(), Denied> {
        (self.role == role).then_some(()).ok_or(Denied::Role(role))
    }

    fn has(&self, scope: Scope) -> Result<(), Denied> {
        self.scopes.has(scope).then_some(()).ok_or(Denied::Scope(scope))
    }
}
