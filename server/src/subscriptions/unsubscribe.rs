//! `DELETE /unsubscribe`: a consumer no longer wants a producer's records.

use axum::extract::{Request, State};
use motience_cluster::Event;
use motience_http::{ApiError, Consumer, Json, Query, collect, object};
use motience_proto::model::ProducerId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::shown::{Shown, shown};
use crate::http::{
    Shared,
    shapes::{self, Id},
};

/// Producer to unsubscribe from, as query or as body; the document can require only one of the two, and names the query.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Unsubscribe {
    /// A producer's id.
    #[param(value_type = i64, required = true, minimum = 1)]
    #[serde(default)]
    producer_id: Option<Id>,
    /// The caller's own id, if it is given at all.
    #[param(value_type = Option<i64>, minimum = 1)]
    #[serde(default)]
    consumer_id: Option<Id>,
}

/// Ends a subscription of the caller, or withdraws its request, effective on its live connections within a second. Legacy clients send the same fields as a JSON body
/// instead; it counts where the query names no producer.
#[utoipa::path(delete, path = "/unsubscribe", tag = "subscriptions", params(Unsubscribe), security(("bearer" = [])), responses(
    (status = 200, description = "The subscription, inactive", body = shapes::Subscription),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not a consumer, or for someone else"),
    (status = 404, description = "There was none"),
    (status = 413, description = "The body is too large"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn unsubscribe(
    State(services): State<Shared>,
    caller: Consumer,
    Query(query): Query<Unsubscribe>,
    request: Request,
) -> Result<Json<Shown>, ApiError> {
    let body = collect(request).await?;
    // Legacy clients send the body with or without naming its type.
    let wish = if query.producer_id.is_some() { query } else { parse(&body.bytes)? };
    if wish.consumer_id.is_some_and(|id| id.0 != caller.id.0) {
        return Err(ApiError::forbidden("Consumers unsubscribe themselves only."));
    }
    let producer: ProducerId = wish.producer_id.ok_or_else(|| ApiError::invalid("producer_id", "producer_id is missing."))?.into();
    caller.grant.may_consume(producer)?;
    let backend = &services.backend;
    let ended = backend.store.unsubscribe(caller.id, producer, backend.clock.now()).await?;
    let ended = ended.ok_or_else(|| ApiError::not_found("There is no such subscription."))?;
    backend.broadcast(Event::Unsubscribed { consumer: caller.id, producer }).await;
    Ok(Json(shown(&services, ended).await?))
}

fn parse(body: &[u8]) -> Result<Unsubscribe, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(ApiError::invalid("producer_id", "producer_id is missing: give it in the query or in a JSON body."));
    }
    object(body)
}
