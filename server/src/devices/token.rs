//! `POST /devices/challenge` and `POST /devices/token`: a device logs in by its key, whatever ends TLS on the way.

use axum::extract::State;
use motience_http::{ApiError, Client, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::refused;
use crate::http::Shared;

/// A nonce to sign.
#[derive(Serialize, ToSchema)]
pub(super) struct Challenge {
    nonce: String,
    /// Seconds for which it is good.
    expires_in: u64,
}

/// A signed nonce.
#[derive(Deserialize, ToSchema)]
pub(super) struct Signed {
    /// As enrolment named the key.
    credential: String,
    nonce: String,
    /// Signature of `motience device token`, a line feed, the nonce, a line feed and the credential, in Base64: 64 bytes for Ed25519, ASN.1
    /// for P-256 with SHA-256.
    signature: String,
}

/// A device's token.
#[derive(Serialize, ToSchema)]
pub(super) struct Token {
    /// For `Authorization: Bearer`, and for WebSocket and QUIC connections. The device may send records of its own by it, and nothing else.
    access_token: String,
    /// Always `Bearer`.
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds for which it is good. There is no refresh token: the key is it.
    expires_in: u64,
    /// The producer of the device.
    user_id: i64,
    /// Always `producer`.
    #[schema(example = "producer")]
    role: &'static str,
    device_id: String,
}

/// Gives a nonce for a device to sign.
#[utoipa::path(post, path = "/devices/challenge", tag = "devices", responses(
    (status = 200, description = "A nonce", body = Challenge),
    (status = 429, description = "Too many attempts"),
))]
pub(super) async fn challenge(State(services): State<Shared>, Client(address): Client) -> Result<Json<Challenge>, ApiError> {
    services.limiters.devices.check(address)?;
    let (nonce, expires_in) = services.backend.tokens.nonce()?;
    Ok(Json(Challenge { nonce, expires_in }))
}

/// Gives a token to the device whose key has signed a nonce.
#[utoipa::path(post, path = "/devices/token", tag = "devices", request_body = Signed, responses(
    (status = 200, description = "The device's token", body = Token),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "The key is no device's, or no longer; or the signature or the nonce is not good"),
    (status = 403, description = "The device was revoked"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is missing"),
    (status = 429, description = "Too many attempts"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn token(
    State(services): State<Shared>,
    Client(address): Client,
    Json(signed): Json<Signed>,
) -> Result<Json<Token>, ApiError> {
    let limiter = &services.limiters.devices;
    limiter.check(address)?;
    let token = services.backend.device_token(&signed.credential, &signed.nonce, &signed.signature).await;
    let token = token.inspect_err(|_| limiter.failed(address)).map_err(refused)?;
    Ok(Json(Token {
        access_token: token.access_token,
        token_type: "Bearer",
        expires_in: token.expires_in,
        user_id: token.device.producer.0,
        role: "producer",
        device_id: token.device.device,
    }))
}
