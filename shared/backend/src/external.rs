//! People and programs that other issuers know: each has an account, made at first sight.
//!
//! The account has no password. Its role is the one that its first token gave it; a token that gives another one is refused, since rights of one role
//! mean nothing in another. Everything else (subscriptions, keys, devices, revocation) goes by the account's id, as for any account.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use moka::future::Cache;
use motience_auth::{self as auth, ExternalEnd, Grant, canonical_username, external_family, secret_hash};
use motience_cluster::Event;
use motience_oidc::{Identity, Issuers};
use motience_proto::model::{Account, User, UserId};
use motience_runtime::clock::millis;
use motience_store::{self as store, ExternalAccount, NewUser};
use serde_json::json;
use time::OffsetDateTime;
use tracing::info;

use super::{Backend, lookups::Lookups};

/// Subjects whose accounts are remembered, and for how long. A closed account is looked at again in any case.
const KNOWN: u64 = 100_000;
const KNOWN_FOR: Duration = Duration::from_secs(60);
/// Longest wait for the database.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);
/// The hash of a password that is none: nothing matches it.
const NO_PASSWORD: &str = "none: this account is of another issuer";
/// Longest part of a name that the issuer chooses, in characters.
const MAX_NAME: usize = 128;
/// Digits of the hash that tells two people of one name apart.
const TELLING: usize = 8;

/// The known accounts. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct External {
    issuers: Issuers,
    /// By issuer and subject.
    known: Cache<(String, String), Arc<Known>>,
    lookups: Lookups,
}

#[derive(Debug)]
struct Known {
    user: User,
    /// Up to when its tokens were ended by then. A later end is among the revocations for longer than this is known.
    end: Option<ExternalEnd>,
    looked_at: OffsetDateTime,
}

impl External {
    pub(crate) fn new(issuers: Issuers) -> Self {
        let known = Cache::builder().max_capacity(KNOWN).time_to_live(KNOWN_FOR).build();
        Self { issuers, known, lookups: Lookups::new("subject of another issuer", LOOKUP_LIMIT) }
    }

    pub(crate) fn issuers(&self) -> &Issuers {
        &self.issuers
    }
}

impl Backend {
    /// The grant of a token of another issuer; `Ok(None)` where it is of none that is known.
    pub(super) async fn external_grant(&self, token: &str) -> Result<Option<Grant>, auth::Error> {
        if self.external.issuers.are_none() {
            return Ok(None);
        }
        // A type of its own: those of all sessions would contain this one, and get too deep to compile.
        let found: BoxFuture<'_, _> = Box::pin(self.identified(token));
        found.await
    }

    async fn identified(&self, token: &str) -> Result<Option<Grant>, auth::Error> {
        let Some(identity) = self.external.issuers.verify(token).await? else { return Ok(None) };
        let Known { user, end, .. } = &*self.known_external(&identity).await?;
        if end.is_some_and(|end| end.ends(identity.issued_at)) {
            return Err(auth::Error::Revoked);
        }
        let user = user.clone();
        if user.role != identity.role {
            return Err(auth::Error::NoRole);
        }
        Ok(Some(Grant {
            user: user.id,
            username: user.username,
            role: user.role,
            device_id: user.device_id,
            strict_device: user.strict_device,
            log: user.log,
            family: external_family(user.id),
            scopes: identity.scopes,
            issued_at: identity.issued_at,
            expires_at: identity.expires_at,
        }))
    }

    async fn known_external(&self, identity: &Identity) -> Result<Arc<Known>, auth::Error> {
        let key = (identity.issuer.clone(), identity.subject.clone());
        if let Some(known) = self.external.known.get(&key).await {
            if !self.revocations.is_user_revoked_since(known.user.id, known.looked_at) {
                return Ok(known);
            }
            self.external.known.invalidate(&key).await;
        }
        // Those who come with one subject at the same moment wait for one lookup.
        self.external.known.try_get_with(key, self.find_external(identity)).await.map_err(|e| *e)
    }

    async fn find_external(&self, identity: &Identity) -> Result<Arc<Known>, auth::Error> {
        let looked_at = self.clock.now();
        let looked = async {
            match self.store.external_account(&identity.issuer, &identity.subject).await? {
                Some(known) => Ok(known),
                None => self.make_external(identity).await,
            }
        };
        let ExternalAccount { account: Account { user, revoked_at }, end } = self.external.lookups.look(looked).await?;
        if revoked_at.is_some() { Err(auth::Error::Revoked) } else { Ok(Arc::new(Known { user, end, looked_at })) }
    }

    /// Ends an account's tokens of other issuers, but that which was issued at `kept`, here and on every node.
    pub(super) async fn end_external(&self, user: UserId, kept: Option<OffsetDateTime>) -> Result<(), store::Error> {
        let Some(end) = self.store.end_external(user, kept, self.clock.now()).await? else { return Ok(()) };
        self.revocations.end_external(user, end);
        self.broadcast(Event::ExternalEnded { user, at_ms: millis(end.at), kept_ms: end.kept.map(millis) }).await;
        Ok(())
    }

    /// Makes the account of a subject that was never seen. Of two nodes that do it at once one finds what the other has made.
    async fn make_external(&self, identity: &Identity) -> Result<ExternalAccount, store::Error> {
        for username in names(identity) {
            let new = NewUser { username, password_hash: NO_PASSWORD.into(), role: identity.role, device_id: None, strict_device: false };
            let made = match self.create_account(new).await {
                Ok(user) => user,
                Err(store::Error::UsernameTaken) => match self.store.external_account(&identity.issuer, &identity.subject).await? {
                    Some(account) => return Ok(account),
                    None => continue,
                },
                Err(e) => return Err(e),
            };
            if self.store.add_external_identity(&identity.issuer, &identity.subject, made.id, self.clock.now()).await? {
                info!(user = %made.id, issuer = identity.issuer_name, role = %made.role, "an account was made for another issuer's subject");
                let detail = json!({"issuer": identity.issuer_name, "role": made.role.as_str()});
                self.record_of_account("account.external", made.id, made.id, detail).await;
                return Ok(ExternalAccount { account: Account { user: made, revoked_at: None }, end: None });
            }
        }
        let found = self.store.external_account(&identity.issuer, &identity.subject).await?;
        found.ok_or(store::Error::UsernameTaken)
    }
}

/// Names that an account may get, the nicest first: the person's name or the subject, and the issuer's name, so that nobody is taken for an
/// account of this platform; where that is somebody else's, with digits behind it.
fn names(identity: &Identity) -> Vec<String> {
    let telling: String = secret_hash(&format!("{}\n{}", identity.issuer, identity.subject)).chars().take(TELLING).collect();
    let named = [identity.username.as_deref(), Some(identity.subject.as_str())].into_iter().flatten();
    let named = named.map(|name| name.chars().take(MAX_NAME).collect::<String>());
    let mut names: Vec<String> = named
        .flat_map(|name| [format!("{name}@{}", identity.issuer_name), format!("{name}-{telling}@{}", identity.issuer_name)])
        .filter_map(|name| canonical_username(&name).ok())
        .collect();
    names.push(format!("{telling}@{}", identity.issuer_name));
    names
}

#[cfg(test)]
mod tests {
    use motience_auth::Scopes;
    use motience_proto::model::Role;

    use super::*;

    #[test]
    fn a_name_says_whose_person_it_is() {
        let of = |username: Option<&str>, subject: &str| {
            names(&Identity {
                issuer: "https://id.example".into(),
                issuer_name: "corp".into(),
                subject: subject.into(),
                username: username.map(str::to_owned),
                role: Role::Consumer,
                scopes: Scopes::all(),
                issued_at: OffsetDateTime::UNIX_EPOCH,
                expires_at: OffsetDateTime::UNIX_EPOCH,
            })
        };
        let alice = of(Some("Alice"), "248289761001");
        assert_eq!((alice[0].as_str(), alice[2].as_str()), ("alice@corp", "248289761001@corp"));
        assert!(alice[1].starts_with("alice-") && alice[1] != of(Some("Alice"), "2")[1], "{alice:?}");
        assert_eq!(of(None, "x")[0], "x@corp");
        let odd = of(Some("a\u{202e}dmin"), "\u{0}");
        assert!(odd.len() == 1 && odd[0].ends_with("@corp"), "{odd:?}");
        assert!(of(Some(&"x".repeat(300)), "x")[0].chars().count() < 255);
    }
}
