//! `POST /subscribe`: a consumer wants a producer's records, and gets them at once, or asks for them.

use axum::{extract::State, http::StatusCode};
use motience_http::{ApiError, Consumer, Json};
use motience_proto::model::{ProducerId, Role, Status};
use motience_store::Change;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    decide::told,
    follows::{self, Wish},
    shown::Shown,
};
use crate::http::{
    Shared,
    shapes::{self, Id},
};

/// Producer to subscribe to.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"producer_id": 1}))]
pub(super) struct Subscribe {
    /// A producer's id, as a number or a string of digits.
    producer_id: Id,
    /// The caller's own id, if it is given at all.
    #[serde(default)]
    consumer_id: Option<Id>,
}

/// Subscribes the caller, effective on its live connections within a second. A producer that is `listed` is asked first: the answer is 202,
/// and the subscription begins when the producer approves it.
#[utoipa::path(post, path = "/subscribe", tag = "subscriptions", request_body = Subscribe, security(("bearer" = [])), responses(
    (status = 201, description = "The subscription", body = shapes::Subscription, links(
        ("unsubscribe" = (operation_id = "unsubscribe", parameters(("producer_id" = "$response.body#/producer_id")))),
        ("subscriptions" = (operation_id = "subscriptions", parameters(("consumer_id" = "$response.body#/consumer_id")))),
    )),
    (status = 200, description = "It stood already", body = shapes::Subscription, links(
        ("unsubscribe" = (operation_id = "unsubscribe", parameters(("producer_id" = "$response.body#/producer_id")))),
        ("subscriptions" = (operation_id = "subscriptions", parameters(("consumer_id" = "$response.body#/consumer_id")))),
    )),
    (status = 202, description = "The producer is asked, or was asked already", body = shapes::Subscription, links(
        ("unsubscribe" = (operation_id = "unsubscribe", parameters(("producer_id" = "$response.body#/producer_id")))),
    )),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not a consumer, for someone else, or the producer has decided against it"),
    (status = 404, description = "No such producer, or a private one that has not invited the caller"),
    (status = 409, description = "The plan of the caller, or of its organisation, allows no more"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn subscribe(
    State(services): State<Shared>,
    caller: Consumer,
    Json(wish): Json<Subscribe>,
) -> Result<(StatusCode, Json<Shown>), ApiError> {
    if wish.consumer_id.is_some_and(|id| id.0 != caller.id.0) {
        return Err(ApiError::forbidden("Consumers subscribe themselves only."));
    }
    let backend = &services.backend;
    let producer: ProducerId = wish.producer_id.into();
    let account = backend.store.account(producer.user()).await?;
    // A revoked one is in no list either.
    let account = account.filter(|account| account.user.role == Role::Producer && account.revoked_at.is_none());
    let account = account.ok_or_else(|| ApiError::not_found("There is no producer with this id."))?;
    caller.grant.may_consume(producer)?;
    let visibility = services.config.visibility.of(&account.user);
    follows::check(&services, caller.id, producer, Wish::Subscribe).await?;
    let (subscription, change) = backend.store.subscribe(caller.id, producer, visibility, backend.clock.now()).await?;
    let status = match (subscription.status, change) {
        (Status::Requested, _) => StatusCode::ACCEPTED,
        (_, Change::Unchanged) => StatusCode::OK,
        _ => StatusCode::CREATED,
    };
    Ok((status, Json(told(&services, subscription, change).await?)))
}
