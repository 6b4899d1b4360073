//! A login's pair of tokens: issued, remembered, shown.

use motience_auth::Pair;
use motience_http::ApiError;
use motience_proto::model::User;
use motience_store::RefreshToken;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Shared;

/// Answer of `POST /login` and `POST /refresh`.
#[derive(Serialize, ToSchema)]
pub(super) struct Session {
    /// For `Authorization: Bearer`, and for WebSocket and QUIC connections.
    access_token: String,
    /// For `POST /refresh`, once.
    refresh_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds for which the access token is good.
    expires_in: u64,
    /// The account.
    user_id: i64,
    /// `producer`, `consumer` or `admin`.
    role: String,
}

/// Hands out a pair: remembers its refresh token first.
pub(super) async fn begin(services: &Shared, user: &User, pair: Pair) -> Result<Session, ApiError> {
    services.backend.store.add_refresh(&RefreshToken::from(&pair.refresh)).await?;
    Ok(Session {
        access_token: pair.access_token,
        refresh_token: pair.refresh_token,
        token_type: "Bearer",
        expires_in: pair.expires_in_s,
        user_id: user.id.0,
        role: user.role.to_string(),
    })
}
