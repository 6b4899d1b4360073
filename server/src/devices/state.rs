//! `POST /devices/:producer/:device/revoke`, `quarantine` and `restore`: whether a device may speak, and whether consumers hear it.

use axum::extract::State;
use motience_auth::Grant;
use motience_http::{ApiError, Json, ManageDevices, Path, Scoped};
use motience_proto::model::{DeviceState, ProducerId};
use tracing::info;

use super::{Registered, device_id, may_manage};
use crate::http::Shared;

/// Revokes a device: within a second its connections end on every node, its keys are dead for ever, and records that name it are refused,
/// whoever sends them. Doing it again changes nothing.
#[utoipa::path(post, operation_id = "revoke_device", path = "/devices/{producer_id}/{device_id}/revoke", tag = "devices", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), ("device_id" = String, Path, description = "The device")), responses(
    (status = 200, description = "The device, revoked", body = Registered),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn revoke(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Path((producer, device)): Path<(i64, String)>,
) -> Result<Json<Registered>, ApiError> {
    set(&services, &grant, ProducerId(producer), &device, DeviceState::Revoked).await
}

/// Puts a device in quarantine: its records are taken in and withheld from consumers, live and in the history, until it is restored. The producer
/// itself and operators still read them. A device that is revoked stays so.
#[utoipa::path(post, operation_id = "quarantine_device", path = "/devices/{producer_id}/{device_id}/quarantine", tag = "devices", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), ("device_id" = String, Path, description = "The device")), responses(
    (status = 200, description = "The device, in quarantine", body = Registered),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn quarantine(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Path((producer, device)): Path<(i64, String)>,
) -> Result<Json<Registered>, ApiError> {
    set(&services, &grant, ProducerId(producer), &device, DeviceState::Quarantined).await
}

/// Restores a device. After a quarantine all is as before, and consumers read what was withheld in the history and by resuming. After a
/// revocation the device enrols anew, by a token that names it.
#[utoipa::path(post, operation_id = "restore_device", path = "/devices/{producer_id}/{device_id}/restore", tag = "devices", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), ("device_id" = String, Path, description = "The device")), responses(
    (status = 200, description = "The device, active", body = Registered),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such device"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn restore(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Path((producer, device)): Path<(i64, String)>,
) -> Result<Json<Registered>, ApiError> {
    set(&services, &grant, ProducerId(producer), &device, DeviceState::Active).await
}

async fn set(
    services: &Shared,
    grant: &Grant,
    producer: ProducerId,
    device: &str,
    state: DeviceState,
) -> Result<Json<Registered>, ApiError> {
    may_manage(grant, producer)?;
    let device = device_id(device)?;
    let backend = &services.backend;
    services.producer(producer).await?;
    let changed = backend.set_device_state(producer, &device, state, grant.user).await?;
    let changed = changed.ok_or_else(|| ApiError::not_found("There is no device with this name."))?;
    info!(%producer, %device, state = %changed.state, by = %grant.user, "the state of a device was set");
    Ok(Json(changed.into()))
}
