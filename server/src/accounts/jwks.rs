//! `GET /.well-known/jwks.json`: the public halves of the keys that sign tokens.

use axum::{
    extract::State,
    http::{HeaderName, header},
};
use motience_auth::PublicKey;
use motience_http::Json;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::Shared;

/// How long others may keep the answer. A key is there for longer before it signs.
const CACHING: [(HeaderName, &str); 1] = [(header::CACHE_CONTROL, "public, max-age=60")];

/// A set of JSON Web Keys (RFC 7517).
#[derive(Serialize, ToSchema)]
pub(super) struct TokenKeys {
    /// None where JWT_SECRET signs, which nobody else may know.
    #[schema(value_type = Vec<Object>)]
    keys: Vec<PublicKey>,
}

/// The keys by which anybody can check an access token without asking. Where JWT_SECRET signs, there are none.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "accounts", responses(
    (status = 200, description = "Public keys, those that will sign soon among them", body = TokenKeys),
))]
pub(super) async fn jwks(State(services): State<Shared>) -> ([(HeaderName, &'static str); 1], Json<TokenKeys>) {
    (CACHING, Json(TokenKeys { keys: services.backend.tokens.public_keys() }))
}
