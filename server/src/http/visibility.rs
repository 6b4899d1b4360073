//! Who may see which producer, for lists and for what is asked of one of them.

use std::collections::HashSet;

use motience_auth::Grant;
use motience_http::ApiError;
use motience_proto::model::{ProducerId, Role, User, UserId, Visibility};
use motience_settings::env::{Value, one_of};
use motience_store::Page;

use super::Services;

/// PRODUCER_VISIBILITY: the visibility of producers that have none of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerVisibility(pub Visibility);

impl ProducerVisibility {
    /// The visibility of a producer.
    pub fn of(self, producer: &User) -> Visibility {
        producer.visibility.unwrap_or(self.0)
    }

    /// An account as others see it: its visibility is told where it is not open.
    #[must_use]
    pub fn shown(self, producer: User) -> User {
        let visibility = (producer.role == Role::Producer && self.of(&producer) != Visibility::Open).then(|| self.of(&producer));
        User { visibility, ..producer }
    }
}

impl Value for ProducerVisibility {
    fn parse(text: &str) -> Result<Self, String> {
        let all = [Visibility::Open, Visibility::Listed, Visibility::Private];
        one_of(text, &all.map(|visibility| (visibility.as_str(), Self(visibility))))
    }
}

impl Services {
    /// The account of a producer, whether or not it was revoked.
    pub(crate) async fn producer(&self, producer: ProducerId) -> Result<User, ApiError> {
        let user = self.backend.store.user(producer.user()).await?.filter(|user| user.role == Role::Producer);
        user.ok_or_else(|| ApiError::not_found("There is no producer with this id."))
    }

    /// A part of the producers that the caller's account may see. A key's scopes narrow it further, as [`Services::shows`] says.
    pub(crate) async fn visible_producers(&self, caller: &Grant, page: Page) -> Result<Vec<User>, ApiError> {
        let (store, visibility) = (&self.backend.store, self.config.visibility);
        let users = match caller.role {
            Role::Admin => store.users(Role::Producer, page).await?,
            _ => store.visible_producers(caller.user, visibility.0, page, self.backend.clock.now()).await?,
        };
        Ok(users.into_iter().map(|user| visibility.shown(user)).collect())
    }

    /// Whether a caller may be shown a producer that its account may see. A key sees private ones within its scopes only: the others as anybody
    /// sees them.
    pub(crate) fn shows(&self, caller: &Grant, producer: &User) -> bool {
        let is_private = self.config.visibility.of(producer) == Visibility::Private && producer.id != caller.user;
        !is_private || caller.may_look_at(producer.id.producer()).is_ok()
    }

    /// A part of the consumers that a caller may see: all, where producers are open by default, and for operators; else those that it has to
    /// do with, as far as the scopes of a key go.
    pub(crate) async fn visible_consumers(&self, caller: &Grant, page: Page) -> Result<Vec<User>, ApiError> {
        let store = &self.backend.store;
        let within = match caller.role {
            Role::Producer => caller.may_look_at(caller.user.producer()).is_ok(),
            Role::Admin => caller.may_look_everywhere().is_ok(),
            // None but itself.
            Role::Consumer => true,
        };
        let all = self.config.visibility.0 == Visibility::Open || (caller.role == Role::Admin && within);
        Ok(if !all && !within {
            Vec::new()
        } else if all {
            store.users(Role::Consumer, page).await?
        } else {
            store.known_consumers(caller.user, page).await?
        })
    }

    /// Those of some producers that a caller may not see.
    pub(crate) async fn hidden<'u>(&self, caller: &Grant, producers: impl Iterator<Item = &'u User>) -> Result<HashSet<UserId>, ApiError> {
        let is_private = |user: &&User| self.config.visibility.of(user) == Visibility::Private && user.id != caller.user;
        let mut hidden: HashSet<UserId> = producers.filter(is_private).map(|user| user.id).collect();
        if hidden.is_empty() {
            return Ok(hidden);
        }
        let follows = match caller.role {
            Role::Consumer => self.backend.store.follows(caller.user.consumer(), self.backend.clock.now()).await?,
            Role::Producer | Role::Admin => Vec::new(),
        };
        let seen = |producer: &ProducerId| caller.role == Role::Admin || follows.contains(producer);
        hidden.retain(|user| !seen(&user.producer()) || caller.may_look_at(user.producer()).is_err());
        Ok(hidden)
    }
}
