//! Devices as subjects, part of the accounts service: enrolment, certificates, tokens by key, and their states. One operation a file.

mod certificates;
mod enrolments;
pub(crate) mod labels;
mod list;
mod qr;
mod state;
mod token;

use axum::http::StatusCode;
use motience_auth::Grant;
use motience_backend::devices::{Certified, Refused};
use motience_http::ApiError;
use motience_proto::model::{DeviceId, ProducerId, Role};
use motience_store::{Credential, Device, Labels};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::Shared;

/// The operations.
pub(crate) fn operations() -> OpenApiRouter<Shared> {
    OpenApiRouter::new()
        .routes(routes!(enrolments::make, enrolments::list))
        .routes(routes!(enrolments::remove))
        .routes(routes!(certificates::enrol))
        .routes(routes!(certificates::renew))
        .routes(routes!(token::challenge))
        .routes(routes!(token::token))
        .routes(routes!(list::registered))
        .routes(routes!(labels::label))
        .routes(routes!(state::revoke))
        .routes(routes!(state::quarantine))
        .routes(routes!(state::restore))
}

/// A device that enrolled, or whose state somebody has set.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"producer_id": 1, "device_id": "rpi_001", "state": "active", "withheld": false, "state_changed_at": "2025-01-29T11:35:00Z",
    "labels": {"site": "roof"}, "created_at": "2025-01-29T11:35:00Z", "credential": {"id": "5f0c6a1e9b2d4c3f8a7b6c5d4e3f2a1b", "algorithm": "ed25519",
    "not_after": "2025-02-05T11:35:00Z", "created_at": "2025-01-29T11:35:00Z", "last_login_at": null}}))]
pub(super) struct Registered {
    producer_id: i64,
    device_id: String,
    /// `active`, `quarantined` or `revoked`.
    #[schema(pattern = "^(active|quarantined|revoked)$")]
    state: &'static str,
    /// Whether its records are kept from consumers; also those of a device that was revoked while in quarantine.
    withheld: bool,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    state_changed_at: OffsetDateTime,
    labels: Labels,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// The key that it is known by; `null`: it has none, or none any more.
    #[schema(required)]
    credential: Option<DeviceKey>,
}

/// A device's key.
#[derive(Serialize, ToSchema)]
pub(super) struct DeviceKey {
    id: String,
    /// `ed25519` or `p256`.
    algorithm: String,
    /// When its newest certificate ends.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    not_after: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
    /// When it last got a token; `null`: never.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime, required)]
    last_login_at: Option<OffsetDateTime>,
}

impl From<Device> for Registered {
    fn from(device: Device) -> Self {
        let key = |Credential { id, algorithm, not_after, created_at, last_login_at, .. }| DeviceKey {
            id,
            algorithm,
            not_after,
            created_at,
            last_login_at,
        };
        Self {
            producer_id: device.producer.0,
            device_id: device.device,
            state: device.state.as_str(),
            withheld: device.withheld,
            state_changed_at: device.state_at,
            labels: device.labels,
            created_at: device.created_at,
            credential: device.credential.map(key),
        }
    }
}

/// A device's certificate.
#[derive(Serialize, ToSchema)]
pub(super) struct Certificate {
    producer_id: i64,
    device_id: String,
    /// Names the key at `POST /devices/token`.
    credential: String,
    /// `ed25519` or `p256`.
    algorithm: &'static str,
    /// PEM.
    certificate: String,
    /// The authority that signed it, in PEM.
    ca: String,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    not_after: OffsetDateTime,
    /// When to renew it: after two thirds of its life.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    renew_at: OffsetDateTime,
}

impl From<Certified> for Certificate {
    fn from(certified: Certified) -> Self {
        let whole = |at: OffsetDateTime| at.replace_nanosecond(0).unwrap_or(at);
        Self {
            producer_id: certified.producer.0,
            device_id: certified.device,
            credential: certified.credential,
            algorithm: certified.algorithm.as_str(),
            certificate: certified.certificate,
            ca: certified.ca,
            not_after: whole(certified.not_after),
            renew_at: whole(certified.renew_at),
        }
    }
}

/// Lets a producer at its own devices, and an operator at all. A device manages none, not even itself.
fn may_manage(grant: &Grant, producer: ProducerId) -> Result<(), ApiError> {
    let own = grant.role == Role::Producer && grant.user == producer.user() && grant.own_device().is_none();
    if own || grant.role == Role::Admin { Ok(()) } else { Err(ApiError::forbidden("Only the producer and operators manage its devices.")) }
}

/// The producer that is meant: the caller itself, or the one that an operator names.
fn producer_meant(grant: &Grant, named: Option<i64>) -> Result<ProducerId, ApiError> {
    let producer = match (grant.role, named) {
        (Role::Admin, None) => return Err(ApiError::invalid("producer_id", "producer_id is missing: operators say whose devices.")),
        (_, Some(named)) => ProducerId(named),
        (_, None) => grant.user.producer(),
    };
    may_manage(grant, producer)?;
    Ok(producer)
}

fn device_id(text: &str) -> Result<DeviceId, ApiError> {
    DeviceId::new(text).map_err(|_| ApiError::invalid("device_id", "device_id must have 1 to 255 characters, and no control characters."))
}

/// The answer to a device that does not get what it asks for.
fn refused(refused: Refused) -> ApiError {
    let sentence = refused.to_string();
    match refused {
        Refused::Enrolment => ApiError::unauthenticated("invalid_enrolment", sentence),
        Refused::Nameless => ApiError::invalid("device_id", sentence),
        Refused::Exists => ApiError::new(StatusCode::CONFLICT, "device_exists", sentence),
        Refused::KeyKnown => ApiError::new(StatusCode::CONFLICT, "key_known", sentence),
        Refused::Proof(_) => ApiError::unauthenticated("invalid_proof", sentence),
        Refused::Unknown => ApiError::unauthenticated("unknown_credential", sentence),
        Refused::Revoked => ApiError::forbidden(sentence).with_code("device_revoked"),
        Refused::Ca(e) => ApiError::internal(e),
        Refused::Token(e) => e.into(),
        Refused::Store(e) => e.into(),
    }
}
