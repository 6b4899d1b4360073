//! `POST /refresh`: a new pair for a refresh token, which works once (RFC 9700, section 4.14.2).

use axum::extract::State;
use motience_shared::{
    http::{ApiError, Json},
    log::Event,
    store::Spend,
};
use serde::Deserialize;
use tracing::warn;
use utoipa::ToSchema;

use super::session::{self, Session};
use crate::http::{ClientAddress, Shared, shapes};

/// A refresh token.
#[derive(Deserialize, ToSchema)]
pub(super) struct Refresh {
    refresh_token: String,
}

/// Renews a login. A token that was spent before ends the whole login: one of its two holders is not its owner.
#[utoipa::path(post, path = "/refresh", tag = "accounts", request_body = Refresh, responses(
    (status = 200, description = "A new pair of tokens", body = Session, links(
        ("refresh" = (operation_id = "refresh", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
        ("logout" = (operation_id = "logout", request_body = json!({"refresh_token": "$response.body#/refresh_token"}))),
    )),
    (status = 400, description = "Malformed JSON", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 401, description = "Not a good refresh token", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 413, description = "The body is too large", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 415, description = "Not JSON", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 422, description = "A field is missing", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 429, description = "Too many attempts", body = shapes::Problem, content_type = "application/problem+json"),
    (status = 503, description = "The database is away", body = shapes::Problem, content_type = "application/problem+json"),
))]
pub(super) async fn refresh(
    State(services): State<Shared>,
    address: ClientAddress,
    Json(refresh): Json<Refresh>,
) -> Result<Json<Session>, ApiError> {
    services.limiters.refresh.address(address)?;
    let backend = &services.backend;
    let claims = backend.tokens.refresh(&refresh.refresh_token)?;
    services.limiters.refresh.account(&claims.user.to_string())?;
    let now = backend.clock.now();
    match backend.store.spend_refresh(&claims.id, now).await? {
        Spend::Fresh(token) => {
            // Revoking an account ends its families, this one too; that may be under way just now.
            let account = backend.store.account(token.user).await?.filter(|account| account.revoked_at.is_none());
            Ok(Json(session::begin(&services, &account.ok_or_else(unknown)?.user, &token.family).await?))
        }
        Spend::Reused(token) => {
            warn!(user = %token.user, "a spent refresh token was used again; its login is ended");
            backend.store.revoke_family(&token.family, now).await?;
            backend.announce(Event::FamilyRevoked { family: token.family }).await;
            Err(ApiError::unauthenticated("refresh_reused", "This refresh token was used before. The login is ended: log in again."))
        }
        Spend::Unknown => Err(unknown()),
    }
}

fn unknown() -> ApiError {
    ApiError::unauthenticated("invalid_token", "The refresh token is not valid. Log in again.")
}
