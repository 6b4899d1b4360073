//! `DELETE /account`: the end of the caller's own account, with everything that is held about it.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use motience_http::{ApiError, Bearer, Client, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use tracing::info;
use utoipa::ToSchema;

use super::own_password;
use crate::http::Shared;

/// By then everything is erased: after a minute as a rule, later where a history has many millions of records.
const ERASED_WITHIN: Duration = Duration::from_secs(3600);

/// The password, once more.
#[derive(Deserialize, ToSchema)]
pub(super) struct End {
    password: String,
}

/// The account has ended.
#[derive(Serialize, ToSchema)]
pub(super) struct Erasing {
    #[schema(example = "erasing")]
    status: &'static str,
    /// By then nothing of it is left.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    erased_by: OffsetDateTime,
}

/// Ends the caller's account for ever. Its sessions, its keys and its live connections end within a second, nobody can log in to it, and nobody
/// reads its records any more; records, history, subscriptions, cursors, keys and the account itself are then erased.
#[utoipa::path(delete, path = "/account", tag = "account", request_body = End, security(("bearer" = [])), responses(
    (status = 202, description = "It has ended, and is being erased", body = Erasing),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "The password is wrong, or the caller is a key"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is missing"),
    (status = 429, description = "Too many wrong passwords"),
    (status = 503, description = "The database is unreachable, or too many passwords are being checked"),
))]
pub(super) async fn end_account(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Client(address): Client,
    Json(end): Json<End>,
) -> Result<(StatusCode, Json<Erasing>), ApiError> {
    own_password::check(&services, &grant, address, end.password).await?;
    let backend = &services.backend;
    backend.end_account(grant.user).await?;
    info!(user = %grant.user, "an account was ended by its owner");
    backend.record_of_account("account.end", grant.user, grant.user, Value::Null).await;
    let erased_by = backend.clock.now() + ERASED_WITHIN;
    Ok((StatusCode::ACCEPTED, Json(Erasing { status: "erasing", erased_by })))
}
