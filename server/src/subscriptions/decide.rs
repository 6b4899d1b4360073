//! `POST /subscriptions/:id/approve`, `/deny` and `/revoke`, and `POST /subscriptions/invite`: a producer, or an operator for it, decides who
//! receives its records, and within which limits.

use axum::{
    extract::{Request, State},
    http::StatusCode,
};
use motience_auth::Grant;
use motience_cluster::Event;
use motience_http::{ApiError, Bearer, Decide, Json, Path, Scoped, collect, object};
use motience_proto::model::{Agreement, ConsentGrant, ProducerId, Role, Status, Subscription, times};
use motience_relay::pipeline::scope::Scope;
use motience_store::{Change, Decision, Terms};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    follows::{self, Wish},
    shown::{Shown, shown},
};
use crate::http::{
    Shared,
    shapes::{self, Id},
};

/// Terms of an approval, in the names of a grant. Without any of them: everything, without end.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"expiresAt": "2030-01-01T00:00:00Z", "agreements": [{"type": "stream", "devices": ["rpi_001"], "fields": "/data/temperature", "since": "7d"}]}))]
pub(super) struct Approval {
    /// When it ends by itself.
    #[schema(value_type = Option<shapes::Time>, inline)]
    #[serde(default, alias = "expires_at")]
    expires_at: Option<String>,
    /// Its limits: one agreement, or none.
    #[schema(value_type = Option<Vec<shapes::Agreement>>, max_items = 1)]
    #[serde(default)]
    agreements: Option<Vec<Agreement>>,
}

/// An approval of a consumer that has not asked.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"consumer": "consumer1"}))]
pub(super) struct Invitation {
    /// The consumer's id.
    #[serde(default)]
    consumer_id: Option<Id>,
    /// Or its name.
    #[schema(min_length = 1, max_length = 255)]
    #[serde(default)]
    consumer: Option<String>,
    /// The producer that invites, where an operator does it.
    #[serde(default)]
    producer_id: Option<Id>,
    /// When it ends by itself.
    #[schema(value_type = Option<shapes::Time>, inline)]
    #[serde(default, rename = "expiresAt", alias = "expires_at")]
    expires_at: Option<String>,
    /// Its limits: one agreement, or none.
    #[schema(value_type = Option<Vec<shapes::Agreement>>, max_items = 1)]
    #[serde(default)]
    agreements: Option<Vec<Agreement>>,
}

impl Approval {
    /// Checks the terms.
    fn terms(self, now: OffsetDateTime) -> Result<Terms, ApiError> {
        let expires_at = self.expires_at.as_deref().map(|text| {
            let end = times::read(text).ok_or_else(|| ApiError::invalid("expiresAt", format!("expiresAt must be {}.", times::FORMS)))?;
            if end <= now { Err(ApiError::invalid("expiresAt", "expiresAt must be in the future.")) } else { Ok(end) }
        });
        let mut agreements = self.agreements.unwrap_or_default();
        let agreement = agreements.pop();
        if !agreements.is_empty() {
            return Err(ApiError::invalid("agreements", "A grant has at most one agreement."));
        }
        let scope = agreement.map(|agreement| Scope::text(agreement, now)).transpose()?.flatten();
        Ok(Terms { expires_at: expires_at.transpose()?, scope })
    }
}

/// Approves a request, changes a grant, or gives back what was denied, revoked or has expired. The approval's terms take the place of all that
/// were there. Effective on live connections within a second.
#[utoipa::path(post, path = "/subscriptions/{id}/approve", tag = "subscriptions", request_body = Approval, security(("bearer" = [])),
    params(("id" = i64, Path, description = "The subscription")), responses(
    (status = 200, description = "The subscription, `active`; or `invited` where the consumer has left", body = shapes::Subscription, links(
        ("revoke" = (operation_id = "revoke_subscription", parameters(("id" = "$response.body#/id")))),
    )),
    (status = 400, description = "Malformed JSON, or an expression that makes no sense"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A consumer"),
    (status = 404, description = "No such subscription to the caller"),
    (status = 409, description = "The plan of the consumer, or of its organisation, allows no more"),
    (status = 413, description = "The body is too large"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn approve(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Decide>,
    Path(id): Path<i64>,
    request: Request,
) -> Result<Json<Shown>, ApiError> {
    let body = collect(request).await?;
    let approval = if body.bytes.trim_ascii().is_empty() { Approval::default() } else { object(&body.bytes)? };
    let terms = approval.terms(services.backend.clock.now())?;
    decide(&services, &grant, id, Decision::Approve(terms)).await
}

/// Refuses a request. The consumer cannot ask again.
#[utoipa::path(post, path = "/subscriptions/{id}/deny", operation_id = "deny_subscription", tag = "subscriptions", security(("bearer" = [])),
    params(("id" = i64, Path, description = "The subscription")), responses(
    (status = 200, description = "The subscription, `denied`", body = shapes::Subscription),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A consumer"),
    (status = 404, description = "No such subscription to the caller"),
    (status = 409, description = "It is no request"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn deny(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Decide>,
    Path(id): Path<i64>,
) -> Result<Json<Shown>, ApiError> {
    decide(&services, &grant, id, Decision::Deny).await
}

/// Ends a subscription, or takes an invitation back. The consumer cannot subscribe again until it is approved. Effective on live connections
/// within a second.
#[utoipa::path(post, path = "/subscriptions/{id}/revoke", operation_id = "revoke_subscription", tag = "subscriptions", security(("bearer" = [])),
    params(("id" = i64, Path, description = "The subscription")), responses(
    (status = 200, description = "The subscription, `revoked`", body = shapes::Subscription),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A consumer"),
    (status = 404, description = "No such subscription to the caller"),
    (status = 409, description = "It is a request, which is denied, or was denied"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn revoke(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Decide>,
    Path(id): Path<i64>,
) -> Result<Json<Shown>, ApiError> {
    decide(&services, &grant, id, Decision::Revoke).await
}

/// Approves a consumer that has not asked. Records begin when it subscribes.
#[utoipa::path(post, path = "/subscriptions/invite", tag = "subscriptions", request_body = Invitation, security(("bearer" = [])), responses(
    (status = 201, description = "The subscription, `invited`; or `active` where the consumer had asked", body = shapes::Subscription),
    (status = 200, description = "It stood so already", body = shapes::Subscription),
    (status = 400, description = "Malformed JSON, or an expression that makes no sense"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "A consumer"),
    (status = 404, description = "No such consumer, or no such producer"),
    (status = 409, description = "The plan of the consumer, or of its organisation, allows no more"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn invite(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Decide>,
    Json(wish): Json<Invitation>,
) -> Result<(StatusCode, Json<Shown>), ApiError> {
    let backend = &services.backend;
    let producer = match (grant.role, wish.producer_id) {
        (Role::Producer, None) => grant.user.producer(),
        (Role::Producer, Some(id)) if id.0 == grant.user.0 => grant.user.producer(),
        (Role::Admin, Some(id)) => {
            let producer = ProducerId::from(id);
            services.producer(producer).await?;
            producer
        }
        (Role::Admin, None) => return Err(ApiError::invalid("producer_id", "producer_id is missing: an operator says who invites.")),
        _ => return Err(ApiError::forbidden("Producers invite, each for itself.")),
    };
    let consumer = match (wish.consumer_id, wish.consumer) {
        (Some(id), _) => backend.store.user(motience_proto::model::ConsumerId::from(id).user()).await?,
        (None, Some(name)) => backend.store.credentials_meant(&name).await?.map(|found| found.user),
        (None, None) => return Err(ApiError::invalid("consumer_id", "consumer_id is missing: give it, or the consumer's name.")),
    };
    let consumer = consumer.filter(|user| user.role == Role::Consumer);
    let consumer = consumer.ok_or_else(|| ApiError::not_found("There is no such consumer."))?.id.consumer();
    let now = backend.clock.now();
    let terms = Approval { expires_at: wish.expires_at, agreements: wish.agreements }.terms(now)?;
    follows::check(&services, consumer, producer, Wish::Approve).await?;
    let (subscription, change) = backend.store.invite(consumer, producer, terms, Some(grant.user), now).await?;
    let status = if change == Change::Unchanged { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(told(&services, subscription, change).await?)))
}

/// The grant of a subscription, for its producer, its consumer and operators.
#[utoipa::path(get, path = "/subscriptions/{id}/grant", tag = "subscriptions", security(("bearer" = [])),
    params(("id" = i64, Path, description = "The subscription")), responses(
    (status = 200, description = "The producer's consent, and its limits", body = shapes::ConsentGrant),
    (status = 401, description = "No or bad token"),
    (status = 404, description = "No such subscription of the caller, or none that was approved"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn grant(
    State(services): State<Shared>,
    Bearer(caller): Bearer,
    Path(id): Path<i64>,
) -> Result<Json<ConsentGrant>, ApiError> {
    let backend = &services.backend;
    let missing = || ApiError::not_found("There is no such grant.");
    let subscription = backend.store.subscription(id, backend.clock.now()).await?.ok_or_else(missing)?;
    let is_party = [subscription.producer_id.user(), subscription.consumer_id.user()].contains(&caller.user);
    if !is_party && caller.role != Role::Admin {
        return Err(missing());
    }
    shown(&services, subscription).await?.grant.map(Json).ok_or_else(missing)
}

/// Decides about a subscription of the caller's own, or as an operator.
async fn decide(services: &Shared, grant: &Grant, id: i64, decision: Decision) -> Result<Json<Shown>, ApiError> {
    if grant.role == Role::Consumer {
        return Err(ApiError::forbidden("Only producers and operators decide about subscriptions.").with_code("wrong_role"));
    }
    let (backend, now) = (&services.backend, services.backend.clock.now());
    let subscription = backend.store.subscription(id, now).await?;
    let own = |subscription: &Subscription| grant.role == Role::Admin || subscription.producer_id.user() == grant.user;
    let Some(Subscription { consumer_id, producer_id, .. }) = subscription.filter(own) else {
        return Err(ApiError::not_found("There is no such subscription."));
    };
    if matches!(decision, Decision::Approve(_)) {
        follows::check(services, consumer_id, producer_id, Wish::Approve).await?;
    }
    let (subscription, change) = backend.store.decide(id, decision, Some(grant.user), now).await?;
    Ok(Json(told(services, subscription, change).await?))
}

/// The subscription as it is shown, once every node has been told of the change.
pub(super) async fn told(services: &Shared, subscription: Subscription, change: Change) -> Result<Shown, ApiError> {
    if change != Change::Unchanged {
        services.backend.broadcast(event(&subscription)).await;
    }
    shown(services, subscription).await
}

/// The event that has every node look at a consumer's rights again.
pub(crate) fn event(subscription: &Subscription) -> Event {
    let (consumer, producer) = (subscription.consumer_id, subscription.producer_id);
    match subscription.status {
        Status::Active => Event::Subscribed { consumer, producer },
        _ => Event::Unsubscribed { consumer, producer },
    }
}
