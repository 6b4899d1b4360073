//! `GET` and `PUT /producers/:id/visibility`: who may see a producer and subscribe to it, for that producer and for operators.

use axum::extract::State;
use motience_auth::Grant;
use motience_backend::acts::account_object;
use motience_http::{ApiError, Bearer, Json, Path};
use motience_proto::model::{ProducerId, Role, User, Visibility};
use motience_store::NewAct;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::http::Shared;

/// Who may see a producer.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"visibility": "listed", "own": true}))]
pub(super) struct Seen {
    /// `open`: everybody subscribes; `listed`: everybody sees it, and asks; `private`: only those it invites see it.
    #[schema(value_type = String, pattern = "^(open|listed|private)$")]
    visibility: Visibility,
    /// Whether the producer has said so itself; else it is the operator's default.
    own: bool,
}

/// Who shall see a producer.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"visibility": "listed"}))]
pub(super) struct ToBeSeen {
    /// `open`, `listed` or `private`; `null`: as the operator's default has it.
    #[schema(required, pattern = "^(open|listed|private)$")]
    visibility: Option<String>,
}

/// Who may see a producer, and subscribe to it.
#[utoipa::path(get, path = "/producers/{id}/visibility", operation_id = "visibility", tag = "accounts", security(("bearer" = [])),
    params(("id" = i64, Path, description = "The producer")), responses(
    (status = 200, description = "Its visibility", body = Seen),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn visibility(State(services): State<Shared>, Bearer(grant): Bearer, Path(id): Path<i64>) -> Result<Json<Seen>, ApiError> {
    let user = producer(&services, &grant, id).await?;
    Ok(Json(seen(&services, &user)))
}

/// Sets who may see a producer, and subscribe to it. Subscriptions that are there already stay.
#[utoipa::path(put, path = "/producers/{id}/visibility", operation_id = "set_visibility", tag = "accounts", request_body = ToBeSeen, security(("bearer" = [])),
    params(("id" = i64, Path, description = "The producer")), responses(
    (status = 200, description = "Its visibility", body = Seen),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn set_visibility(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Path(id): Path<i64>,
    Json(wish): Json<ToBeSeen>,
) -> Result<Json<Seen>, ApiError> {
    let user = producer(&services, &grant, id).await?;
    let visibility = wish.visibility.as_deref().map(str::parse).transpose();
    let visibility: Option<Visibility> =
        visibility.map_err(|_| ApiError::invalid("visibility", "visibility must be open, listed or private."))?;
    let backend = &services.backend;
    backend.store.set_visibility(user.id.producer(), visibility).await?;
    let act = NewAct {
        at: backend.clock.now(),
        actor: Some(grant.user),
        act: "producer.visibility",
        object: account_object(user.id),
        concerns: [Some(user.id), None],
        detail: json!({"visibility": visibility}),
    };
    backend.store.record_act(&act).await?;
    Ok(Json(seen(&services, &User { visibility, ..user })))
}

fn seen(services: &Shared, user: &User) -> Seen {
    Seen { visibility: services.config.visibility.of(user), own: user.visibility.is_some() }
}

async fn producer(services: &Shared, grant: &Grant, id: i64) -> Result<User, ApiError> {
    if grant.role != Role::Admin && grant.user.producer() != ProducerId(id) {
        return Err(ApiError::forbidden("This is said by the producer itself, or by an operator."));
    }
    services.producer(ProducerId(id)).await
}
