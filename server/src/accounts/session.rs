//! A login's pair of tokens: issued, remembered, shown.

use axum::http::{HeaderMap, header};
use motience_auth::Pair;
use motience_http::{ApiError, ClientAddress};
use motience_proto::model::User;
use motience_store::{Issued, RefreshToken};
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

/// Longest text that a client's program may call itself, in characters.
const MAX_USER_AGENT: usize = 255;

/// Hands out a pair: remembers its refresh token first, and where its client is. `renews`: the id of the token that it takes the place of.
pub(super) async fn begin(
    services: &Shared,
    user: &User,
    pair: Pair,
    (address, headers): (ClientAddress, &HeaderMap),
    renews: Option<&str>,
) -> Result<Session, ApiError> {
    let address = address.to_string();
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let agent: Option<String> = agent.map(|agent| agent.chars().filter(|c| !c.is_control()).take(MAX_USER_AGENT).collect());
    let issued = Issued { at: services.backend.clock.now(), address: &address, user_agent: agent.as_deref(), renews };
    services.backend.store.add_refresh(&RefreshToken::from(&pair.refresh), Some(issued)).await?;
    Ok(Session {
        access_token: pair.access_token,
        refresh_token: pair.refresh_token,
        token_type: "Bearer",
        expires_in: pair.expires_in_s,
        user_id: user.id.0,
        role: user.role.to_string(),
    })
}
