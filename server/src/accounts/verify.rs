//! `GET /verify`: whether a token is good, and whose it is.

use motience_http::{AnyToken, Json, Scoped};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

/// A good token's owner.
#[derive(Serialize, ToSchema)]
pub(super) struct Verified {
    /// Always true; a bad token is a 401.
    valid: bool,
    user_id: i64,
    username: String,
    role: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: OffsetDateTime,
}

/// Checks the caller's token.
#[utoipa::path(get, path = "/verify", tag = "accounts", security(("bearer" = [])), responses(
    (status = 200, description = "The token is good", body = Verified),
    (status = 401, description = "It is not"),
))]
pub(super) async fn verify(Scoped { grant, .. }: Scoped<AnyToken>) -> Json<Verified> {
    Json(Verified {
        valid: true,
        user_id: grant.user.0,
        username: grant.username,
        role: grant.role.to_string(),
        expires_at: grant.expires_at,
    })
}
