//! Subscriptions and grants as both sides read them.

use std::collections::HashMap;

use motience_http::ApiError;
use motience_proto::model::{ConsentGrant, Party, Subscription, User, UserId};
use serde::Serialize;

use crate::http::Shared;

/// A subscription with its grant, where the producer has given one.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Shown {
    #[serde(flatten)]
    pub(super) subscription: Subscription,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) grant: Option<ConsentGrant>,
}

/// One subscription.
pub(super) async fn shown(services: &Shared, subscription: Subscription) -> Result<Shown, ApiError> {
    let mut all = all_shown(services, vec![subscription]).await?;
    // Cannot fail: as many come out as went in.
    all.pop().ok_or_else(|| ApiError::internal("a subscription was lost"))
}

/// Subscriptions, with the names of the parties where there are grants.
pub(super) async fn all_shown(services: &Shared, subscriptions: Vec<Subscription>) -> Result<Vec<Shown>, ApiError> {
    let parties = |subscription: &Subscription| [subscription.producer_id.user(), subscription.consumer_id.user()];
    let mut ids: Vec<UserId> = subscriptions.iter().filter(|subscription| subscription.is_approved()).flat_map(parties).collect();
    ids.sort();
    ids.dedup();
    let users = services.backend.store.users_by_id(&ids).await?;
    Ok(subscriptions.into_iter().map(|subscription| Shown { grant: grant(&subscription, &users), subscription }).collect())
}

fn grant(subscription: &Subscription, users: &HashMap<UserId, User>) -> Option<ConsentGrant> {
    let party = |id: UserId| Party { id, name: users.get(&id).map(|user| user.username.clone()) };
    let effective_at = subscription.decided_at.filter(|_| subscription.is_approved())?;
    let agreement = subscription.scope.as_deref().and_then(|text| serde_json::from_str(text).ok());
    Some(ConsentGrant {
        grantor: party(subscription.producer_id.user()),
        grantee: party(subscription.consumer_id.user()),
        effective_at,
        expires_at: subscription.expires_at,
        agreements: agreement.into_iter().collect(),
    })
}
