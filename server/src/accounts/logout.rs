//! `POST /logout`: the end of a login, its tokens and its live connections.

use axum::extract::State;
use motience_auth as auth;
use motience_http::{ApiError, Client, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::http::Shared;

/// The login to end.
#[derive(Deserialize, ToSchema)]
pub(super) struct Logout {
    refresh_token: String,
}

/// Done.
#[derive(Serialize, ToSchema)]
pub(super) struct LoggedOut {
    #[schema(example = "logged_out")]
    status: &'static str,
}

/// Ends a login. Doing it again changes nothing.
#[utoipa::path(post, path = "/logout", tag = "accounts", request_body = Logout, responses(
    (status = 200, description = "The login is ended", body = LoggedOut),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "Not a refresh token"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is missing"),
    (status = 429, description = "Too many logouts that end nothing"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn logout(
    State(services): State<Shared>,
    Client(address): Client,
    Json(logout): Json<Logout>,
) -> Result<Json<LoggedOut>, ApiError> {
    let (backend, limiter) = (&services.backend, &services.limiters.logout);
    limiter.check(address)?;
    let ended = match backend.tokens.refresh(&logout.refresh_token) {
        // A family that has ended costs neither a write nor a message to the other nodes.
        Ok(claims) if backend.revocations.is_family_revoked(&claims.family) => false,
        Ok(claims) if backend.store.is_family_revoked(&claims.family).await? => false,
        Ok(claims) => {
            let ended = backend.store.revoke_family(&claims.family, backend.clock.now()).await?;
            backend.end_family(claims.family).await;
            ended
        }
        // Over is over.
        Err(auth::Error::Expired) => false,
        Err(e) => {
            limiter.failed(address);
            return Err(e.into());
        }
    };
    if !ended {
        limiter.failed(address);
    }
    Ok(Json(LoggedOut { status: "logged_out" }))
}
