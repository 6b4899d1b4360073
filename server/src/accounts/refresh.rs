//! `POST /refresh`: a new pair for a refresh token, which works once (RFC 9700, section 4.14.2). For a moment its client gets the same pair
//! again: two tabs renewed the login at once, or the answer was lost on its way.

use axum::{extract::State, http::HeaderMap};
use motience_auth::random_id;
use motience_http::{ApiError, Client, Json};
use motience_store::{RefreshToken, Spend, Spending};
use serde::Deserialize;
use tracing::warn;
use utoipa::ToSchema;

use super::session::{self, Session};
use crate::http::Shared;

/// A refresh token.
#[derive(Deserialize, ToSchema)]
pub(super) struct Refresh {
    refresh_token: String,
}

/// Renews a login. A token that was spent before ends the whole login, as one of its two holders is not its owner; but for
/// JWT_REFRESH_LEEWAY after its use the same client gets the same pair again.
#[utoipa::path(post, path = "/refresh", tag = "accounts", request_body = Refresh, responses(
    (status = 200, description = "A new pair of tokens", body = Session, links(
        ("refresh" = (operation_id = "refresh", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
        ("logout" = (operation_id = "logout", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
    )),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "Not a good refresh token"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is missing"),
    (status = 429, description = "Too many attempts"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn refresh(
    State(services): State<Shared>,
    Client(address): Client,
    headers: HeaderMap,
    Json(refresh): Json<Refresh>,
) -> Result<Json<Session>, ApiError> {
    let limiter = &services.limiters.refresh;
    limiter.check(address)?;
    let backend = &services.backend;
    let claims = backend.tokens.refresh(&refresh.refresh_token).inspect_err(|_| limiter.failed(address))?;
    limiter.renews(&claims)?;
    if backend.revocations.is_family_revoked(&claims.family) {
        limiter.failed(address);
        return Err(unknown());
    }
    let (now, client, fresh) = (backend.clock.now(), address.to_string(), random_id());
    let spending = Spending { successor: &fresh, client: &client, leeway: backend.auth.refresh_leeway };
    let (token, successor, at) = match backend.store.spend_refresh(&RefreshToken::from(&claims), spending, now).await? {
        Spend::Fresh(token) => (token, fresh, now),
        Spend::Repeated { token, successor, at } => {
            metrics::counter!("motience_refreshes_repeated_total").increment(1);
            (token, successor, at)
        }
        Spend::Reused(token) => {
            warn!(user = %token.user, "a spent refresh token was used again; its login is ended");
            limiter.failed(address);
            backend.store.revoke_family(&token.family, now).await?;
            backend.end_family(token.family).await;
            let sentence = "This refresh token was used before. The login is ended: log in again.";
            return Err(ApiError::unauthenticated("refresh_reused", sentence));
        }
        Spend::Unknown => {
            limiter.failed(address);
            return Err(unknown());
        }
    };
    // Revoking an account ends its families, this one too; that may be happening just now.
    let account = backend.store.account(token.user).await?.filter(|account| account.revoked_at.is_none() && account.user.log == claims.log);
    let user = account.ok_or_else(unknown)?.user;
    let pair = backend.tokens.issue_as(&user, &token.family, &successor, at)?;
    Ok(Json(session::begin(&services, &user, pair, (address, &headers), Some(&claims.id)).await?))
}

fn unknown() -> ApiError {
    ApiError::unauthenticated("invalid_token", "The refresh token is not valid. Log in again.")
}
