//! `POST /login`: tokens for a name and a password.

use axum::{extract::State, http::HeaderMap};
use motience_auth::{Verdict, canonical_username, random_id};
use motience_http::{ApiError, Client, Json};
use motience_proto::model::Role;
use secrecy::SecretString;
use serde::Deserialize;
use tracing::warn;
use utoipa::ToSchema;

use super::session::{self, Session};
use crate::http::Shared;

/// Bytes of a password that is worth hashing; a longer one is no account's.
pub(super) const MAX_PASSWORD: usize = 1024;

/// Name and password.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"username": "producer1", "password": "pass123"}))]
pub(super) struct Login {
    username: String,
    password: String,
}

/// Logs in.
#[utoipa::path(post, path = "/login", tag = "accounts", request_body = Login, responses(
    (status = 200, description = "A pair of tokens", body = Session, links(
        ("refresh" = (operation_id = "refresh", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
        ("logout" = (operation_id = "logout", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
    )),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "A wrong name or a wrong password"),
    (status = 403, description = "The right password of an account that was revoked"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is missing"),
    (status = 429, description = "Too many wrong passwords"),
    (status = 503, description = "The database is unreachable, or too many passwords are being checked"),
))]
pub(super) async fn login(
    State(services): State<Shared>,
    Client(address): Client,
    headers: HeaderMap,
    Json(login): Json<Login>,
) -> Result<Json<Session>, ApiError> {
    let backend = &services.backend;
    // However it is written, it is guessed at as one account.
    let name = canonical_username(&login.username).unwrap_or_else(|_| login.username.clone());
    let mut attempt = services.limiters.logins.attempt(&name, address);
    attempt.begin(&backend.store, &login.username).await.map_err(|refusal| refusal.meant(&name))?;
    let wrong = || ApiError::unauthenticated("wrong_credentials", "The username or the password is wrong.").meant(&name);
    if login.password.len() > MAX_PASSWORD {
        attempt.failed();
        return Err(wrong());
    }
    let waiter = backend.hasher.enqueue(&name)?;
    let password = SecretString::from(login.password);
    let credentials = backend.store.credentials_meant(&login.username).await?;
    let turn = waiter.turn().await?;
    // Others may have failed meanwhile: what waited is no way round the limit.
    attempt.check().map_err(|refusal| refusal.meant(&name))?;
    let hash = credentials.as_ref().map(|credentials| credentials.password_hash.as_str());
    let verdict = turn.verify(password.clone(), hash).await?;
    let Some(credentials) = credentials.filter(|_| verdict != Verdict::Mismatch) else {
        attempt.failed();
        return Err(wrong());
    };
    // Only who knows the password learns that there is such an account.
    if credentials.revoked_at.is_some() {
        return Err(revoked().meant(&name));
    }
    // The way back to the first platform stays open where that is wanted: it knows no other form than bcrypt's.
    let stays = backend.auth.keep_legacy_hashes && is_legacy(&credentials.password_hash);
    if verdict == Verdict::MatchRehash && !stays {
        // The login is good either way; the next one tries again.
        match turn.hash(password).await {
            Ok(hash) => {
                if let Err(e) = backend.store.set_password_hash(credentials.user.id, &hash).await {
                    warn!(error = %e, "a password cannot be hashed again");
                }
            }
            Err(e) => warn!(error = %e, "a password cannot be hashed again"),
        }
    }
    drop(turn);
    let (user, changed_at, family) = (credentials.user, credentials.password_changed_at, random_id());
    attempt.succeeded(&backend.store, user.id, backend.clock.now()).await;
    let session = session::begin(&services, &user, backend.tokens.issue(&user, &family)?, (address, &headers), None).await?;
    // Whoever revoked the account, or changed its password, since it was looked at may not have found this login among those to end.
    let now = backend.store.credentials(&user.username).await?.filter(|now| now.user.id == user.id);
    let closed = now.as_ref().is_none_or(|now| now.revoked_at.is_some());
    if closed || now.is_some_and(|now| now.password_changed_at != changed_at) {
        backend.store.revoke_family(&family, backend.clock.now()).await?;
        backend.end_family(family).await;
        return Err(if closed { revoked().meant(&name) } else { wrong() });
    }
    if user.role == Role::Admin {
        backend.record_of_account("login", user.id, user.id, serde_json::Value::Null).await;
    }
    Ok(Json(session))
}

/// Whether a hash is bcrypt's.
fn is_legacy(hash: &str) -> bool {
    hash.starts_with("$2")
}

fn revoked() -> ApiError {
    ApiError::forbidden("This account was revoked. Ask whoever operates this service.").with_code("account_revoked")
}
