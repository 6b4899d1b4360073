//! `GET /streams`: the producers that are live, and how fast.

use axum::extract::State;
use motience_shared::http::{ApiError, Bearer, Json};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::http::{Shared, shapes};

/// A live producer.
#[derive(Serialize, ToSchema)]
pub(super) struct Stream {
    /// As consumers see it: a string.
    #[schema(example = "123")]
    producer_id: String,
    username: Option<String>,
    /// Records taken in since the nodes started.
    records: u64,
    /// Over the last ten seconds.
    rate_per_second: f64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    last_record_at: OffsetDateTime,
}

/// Producers that have sent within the last minute, on any node.
#[utoipa::path(get, path = "/streams", tag = "data", security(("bearer" = [])), responses(
    (status = 200, description = "The live producers", body = [Stream], links(
        ("history" = (operation_id = "history", parameters(("producer_id" = "$response.body#/0/producer_id")))),
    )),
    (status = 401, description = "No or bad token", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is away", body = shapes::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn streams(State(services): State<Shared>, _caller: Bearer) -> Result<Json<Vec<Stream>>, ApiError> {
    let mut streams = Vec::new();
    for live in services.backend.relay.streams() {
        let user = services.backend.store.user(live.producer.user()).await?;
        streams.push(Stream {
            producer_id: live.producer.to_string(),
            username: user.map(|u| u.username),
            records: live.records,
            rate_per_second: live.rate,
            last_record_at: live.last_record_at,
        });
    }
    Ok(Json(streams))
}
