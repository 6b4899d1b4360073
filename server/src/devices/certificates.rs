//! `POST /devices/enrol` and `POST /devices/renew`: a certificate for a device's key.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use motience_http::{ApiError, Client, Json, bearer};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Certificate, device_id, refused};
use crate::http::{Shared, shapes};

/// A key that enrols.
#[derive(Deserialize, ToSchema)]
pub(super) struct Enrol {
    /// The enrolment token.
    #[schema(example = "mte_5f0c6a1e9b2d4c3f8a7b6c5d4e3f2a1b")]
    token: String,
    /// A request for a certificate (PKCS #10, PEM), signed by the device's key, which is of Ed25519 or P-256.
    csr: String,
    /// The device, where the token names none.
    #[schema(value_type = Option<shapes::DeviceId>)]
    device_id: Option<String>,
}

/// A key whose certificate is renewed.
#[derive(Deserialize, ToSchema)]
pub(super) struct Renew {
    /// A request for a certificate (PKCS #10, PEM), signed by the device's key.
    csr: String,
}

/// Makes a device, or gives one that the token names a new key; keys that it had before end at once. The token is used up by it.
#[utoipa::path(post, path = "/devices/enrol", tag = "devices", request_body = Enrol, responses(
    (status = 201, description = "The device's certificate", body = Certificate),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "The token is not good, or the request proves nothing"),
    (status = 403, description = "The device was revoked"),
    (status = 409, description = "There is such a device already, and the token does not name it; or the key is known already"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is missing or out of bounds"),
    (status = 429, description = "Too many attempts"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn enrol(
    State(services): State<Shared>,
    Client(address): Client,
    Json(enrol): Json<Enrol>,
) -> Result<(StatusCode, Json<Certificate>), ApiError> {
    let limiter = &services.limiters.devices;
    limiter.check(address)?;
    let named = enrol.device_id.as_deref().map(device_id).transpose()?;
    let certified = services.backend.enrol(&enrol.token, &enrol.csr, named.as_ref()).await;
    let certified = certified.inspect_err(|_| limiter.failed(address)).map_err(refused)?;
    Ok((StatusCode::CREATED, Json(certified.into())))
}

/// Gives a key that is enrolled its next certificate, be the last one ended or not: the request's signature is all the proof. With a token
/// of the device beside it, another key takes the place of the present one, which ends.
#[utoipa::path(post, path = "/devices/renew", tag = "devices", request_body = Renew, responses(
    (status = 200, description = "The next certificate", body = Certificate),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "The key is no device's, or no longer; or the request proves nothing"),
    (status = 403, description = "The device was revoked"),
    (status = 409, description = "The key is known already"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is missing"),
    (status = 429, description = "Too many attempts"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn renew(
    State(services): State<Shared>,
    Client(address): Client,
    headers: HeaderMap,
    Json(renew): Json<Renew>,
) -> Result<Json<Certificate>, ApiError> {
    let limiter = &services.limiters.devices;
    limiter.check(address)?;
    let caller = match bearer(&headers) {
        Some(token) => Some(services.backend.authenticate(token).await?),
        None => None,
    };
    let certified = services.backend.renew_certificate(&renew.csr, caller.as_ref()).await;
    Ok(Json(certified.inspect_err(|_| limiter.failed(address)).map_err(refused)?.into()))
}
