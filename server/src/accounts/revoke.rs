//! `POST /accounts/:id/revoke` and `POST /accounts/:id/restore`: an operator closes an account, and opens it again.

use axum::{extract::State, http::StatusCode};
use motience_http::{Admin, ApiError, Json, Path};
use motience_proto::model::{Account, UserId};
use serde_json::Value;
use tracing::info;

use crate::http::{Shared, shapes};

/// Revokes an account: every token and every live connection of it ends within a second, and nobody can log in to it. Its records and
/// subscriptions stay. Doing it again changes nothing.
#[utoipa::path(post, path = "/accounts/{id}/revoke", tag = "operators", security(("bearer" = [])),
    params(("id" = i64, Path, description = "The account")), responses(
    (status = 200, description = "The account, revoked", body = shapes::Account),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 404, description = "No such account"),
    (status = 409, description = "The caller's own account"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn revoke(State(services): State<Shared>, caller: Admin, Path(id): Path<i64>) -> Result<Json<Account>, ApiError> {
    if caller.grant.user.0 == id {
        return Err(ApiError::new(StatusCode::CONFLICT, "own_account", "Operators cannot revoke their own account."));
    }
    let account = services.backend.close_account(UserId(id)).await?.ok_or_else(unknown)?;
    info!(user = id, by = %caller.grant.user, "an account was revoked");
    services.backend.record_of_account("account.revoke", caller.grant.user, UserId(id), Value::Null).await;
    Ok(Json(account))
}

/// Restores a revoked account: its owner can log in again. Tokens from before stay dead. Doing it again changes nothing.
#[utoipa::path(post, path = "/accounts/{id}/restore", tag = "operators", security(("bearer" = [])),
    params(("id" = i64, Path, description = "The account")), responses(
    (status = 200, description = "The account, open", body = shapes::Account),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 404, description = "No such account"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn restore(State(services): State<Shared>, caller: Admin, Path(id): Path<i64>) -> Result<Json<Account>, ApiError> {
    let backend = &services.backend;
    let account = backend.store.reopen_account(UserId(id), backend.clock.now()).await?.ok_or_else(unknown)?;
    info!(user = id, by = %caller.grant.user, "an account was restored");
    backend.record_of_account("account.restore", caller.grant.user, UserId(id), Value::Null).await;
    Ok(Json(account))
}

fn unknown() -> ApiError {
    ApiError::not_found("There is no account with this id.")
}
