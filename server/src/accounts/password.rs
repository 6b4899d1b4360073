//! `POST /account/password` and `POST /account/reset`: a new password, by the old one or by a token of an operator that is good once.

use axum::extract::State;
use motience_auth::{SecretKind, check_password};
use motience_http::{ApiError, Bearer, Client, Json};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::info;
use utoipa::ToSchema;

use super::own_password;
use crate::http::Shared;

/// The old password and a new one.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"old_password": "pass123", "new_password": "a better one"}))]
pub(super) struct Change {
    old_password: String,
    /// At least PASSWORD_MIN_LENGTH characters, at most 128.
    #[schema(min_length = 6, max_length = 128, format = "opaque-string")]
    new_password: String,
}

/// A token and a new password.
#[derive(Deserialize, ToSchema)]
pub(super) struct Reset {
    #[schema(pattern = "^motr_[0-9a-f]{72}$")]
    token: String,
    /// At least PASSWORD_MIN_LENGTH characters, at most 128.
    #[schema(min_length = 6, max_length = 128, format = "opaque-string")]
    new_password: String,
}

/// Done.
#[derive(Serialize, ToSchema)]
pub(super) struct Changed {
    #[schema(example = "changed")]
    status: &'static str,
    /// Sessions that have ended with it.
    ended: usize,
}

/// Changes the caller's password. All other sessions of the account end within a second; this one and the keys stay.
#[utoipa::path(post, path = "/account/password", tag = "account", request_body = Change, security(("bearer" = [])), responses(
    (status = 200, description = "It is changed", body = Changed),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "The old password is wrong, or the caller is a key"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "The new password is refused"),
    (status = 429, description = "Too many wrong passwords"),
    (status = 503, description = "The database is unreachable, or too many passwords are being checked"),
))]
pub(super) async fn change_password(
    State(services): State<Shared>,
    Bearer(grant): Bearer,
    Client(address): Client,
    Json(change): Json<Change>,
) -> Result<Json<Changed>, ApiError> {
    let backend = &services.backend;
    good(&services, &change.new_password)?;
    let turn = own_password::check(&services, &grant, address, change.old_password).await?;
    let hash = turn.hash(SecretString::from(change.new_password)).await?;
    drop(turn);
    backend.store.change_password(grant.user, &hash, backend.clock.now()).await?;
    let ended = backend.end_sessions(grant.user, Some(&grant)).await?;
    info!(user = %grant.user, ended, "a password was changed");
    backend.record_of_account("account.password", grant.user, grant.user, json!({"sessions_ended": ended})).await;
    Ok(Json(Changed { status: "changed", ended }))
}

/// Sets a new password by a token of `motience-server admin reset-password`, which is good once and for an hour. All sessions of the account
/// end within a second; its keys stay.
#[utoipa::path(post, path = "/account/reset", tag = "account", request_body = Reset, responses(
    (status = 200, description = "It is changed", body = Changed),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "Not a good token, or not any more"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "The new password is refused"),
    (status = 429, description = "Too many bad tokens"),
    (status = 503, description = "The database is unreachable, or too many passwords are being checked"),
))]
pub(super) async fn reset_password(
    State(services): State<Shared>,
    Client(address): Client,
    Json(reset): Json<Reset>,
) -> Result<Json<Changed>, ApiError> {
    let (backend, limiter) = (&services.backend, &services.limiters.reset);
    limiter.check(address)?;
    let bad = || {
        limiter.failed(address);
        ApiError::unauthenticated("invalid_reset", "The token is not good, or was used, or is too old. Ask the operator for another.")
    };
    let token = SecretKind::Reset.hash(&reset.token).ok_or_else(bad)?;
    let user = backend.store.reset_of(&token, backend.clock.now()).await?.ok_or_else(bad)?;
    let account = backend.store.account(user).await?.ok_or_else(bad)?;
    good(&services, &reset.new_password)?;
    let hash = backend.hasher.hash(&account.user.username, SecretString::from(reset.new_password)).await?;
    // Of two who use it at once one comes through.
    if !backend.store.take_reset(&token, backend.clock.now()).await? {
        return Err(bad());
    }
    backend.store.change_password(user, &hash, backend.clock.now()).await?;
    let ended = backend.end_sessions(user, None).await?;
    info!(%user, ended, "a password was reset");
    backend.record_of_account("account.reset", user, user, json!({"sessions_ended": ended})).await;
    Ok(Json(Changed { status: "changed", ended }))
}

fn good(services: &Shared, password: &str) -> Result<(), ApiError> {
    check_password(&services.backend.auth, password)
        .map_err(|weak| ApiError::invalid("new_password", format!("The password is refused: {weak}.")))
}
