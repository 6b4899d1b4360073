//! Tokens by which members of organisations act for accounts: keys of the account, with the scopes of the member's role and a short life.

use std::time::Duration;

use motience_auth::{SecretKind, member_scopes, random_id};
use motience_cluster::Event;
use motience_proto::model::{MemberRole, UserId};
use motience_store::{Error, Key, NewKey};

use super::Backend;

/// How long such a token is good.
const LIFE: Duration = Duration::from_secs(3600);

impl Backend {
    /// A new token of a member for an account of its organisation, which takes the place of its last one; `None`: the organisation does not own it.
    pub async fn member_token(
        &self,
        organisation: &str,
        (member, role): (UserId, MemberRole),
        account: UserId,
    ) -> Result<Option<(String, Key)>, Error> {
        if !self.store.owned_accounts(organisation).await?.iter().any(|(user, ..)| *user == account) {
            return Ok(None);
        }
        let Some(user) = self.store.user(account).await? else { return Ok(None) };
        self.end_member_tokens(organisation, Some(member), Some(account)).await?;
        let (secret, hash) = SecretKind::Key.make();
        let now = self.clock.now();
        let new = NewKey {
            id: &random_id(),
            user: account,
            name: &token_name(organisation, member),
            hash: &hash,
            scopes: &member_scopes(role, account, user.role),
            created_at: now,
            expires_at: Some(now + LIFE),
        };
        Ok(self.store.add_key(new).await?.map(|key| (secret, key)))
    }

    /// Ends tokens of members for accounts of an organisation: of this member, or of all; for this account, or for all.
    pub async fn end_member_tokens(&self, organisation: &str, member: Option<UserId>, account: Option<UserId>) -> Result<(), Error> {
        let accounts = match account {
            Some(account) => vec![account],
            None => self.store.owned_accounts(organisation).await?.into_iter().map(|(user, ..)| user).collect(),
        };
        let name = member.map_or_else(|| format!("organisation:{organisation}:"), |member| token_name(organisation, member));
        for account in accounts {
            for key in self.store.keys_of(account).await? {
                if if member.is_some() { key.name == name } else { key.name.starts_with(&name) } {
                    self.revoke_key(&key.id, Some(account)).await?;
                }
            }
        }
        Ok(())
    }

    /// Reads plans again, and has every node do so.
    pub async fn quotas_changed(&self) {
        super::retention::reload(&self.store, &self.retention_policy, self.relay.log()).await;
        self.broadcast(Event::QuotasChanged).await;
    }
}

/// The name of a member's tokens among the keys of an account.
fn token_name(organisation: &str, member: UserId) -> String {
    format!("organisation:{organisation}:{member}")
}
