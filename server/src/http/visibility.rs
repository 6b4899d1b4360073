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

    /// A part of the producers that a caller may see.
    pub(crate) async fn visible_producers(&self, caller: &Grant, page: Page) -> Result<Vec<User>, ApiError> {
        let (store, visibility) = (&self.backend.store, self.config.visibility);
        let users = match caller.role {
            Role::Admin => store.users(Role::Producer, page).await?,
            _ => store.visible_producers(caller.user, visibility.0, page, self.backend.clock.now()).await?,
        };
        Ok(users.into_iter().map(|user| visibility.shown(user)).collect())
    }

    /// A part of the consumers that a caller may see: all, where producers are open by default, and for operators; else those that it has to
    /// do with.
    pub(crate) async fn visible_consumers(&self, caller: &Grant, page: Page) -> Result<Vec<User>, ApiError> {
        let store = &self.backend.store;
        let all = caller.role == Role::Admin || self.config.visibility.0 == Visibility::Open;
        Ok(if all { store.users(Role::Consumer, page).await? } else { store.known_consumers(caller.user, page).await? })
    }

    /// Those of some producers that a caller may not see.
    pub(crate) async fn hidden<'u>(&self, caller: &Grant, producers: impl Iterator<Item = &'u User>) -> Result<HashSet<UserId>, ApiError> {
        let is_private = |user: &&User| self.config.visibility.of(user) == Visibility::Private && user.id != caller.user;
        let private: Vec<ProducerId> = producers.filter(is_private).map(|user| user.id.producer()).collect();
        if private.is_empty() || caller.role == Role::Admin {
            return Ok(HashSet::new());
        }
        let mut hidden: HashSet<UserId> = private.iter().map(|producer| producer.user()).collect();
        if caller.role == Role::Consumer {
            let follows = self.backend.store.follows(caller.user.consumer(), self.backend.clock.now()).await?;
            hidden.retain(|user| !follows.contains(&user.producer()) || caller.may_look_at(user.producer()).is_err());
        }
        Ok(hidden)
    }
}
