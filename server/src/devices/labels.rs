//! `PUT /devices/:producer/:device/labels`: a producer's own words for a device.

use axum::extract::State;
use motience_http::{ApiError, Json, ManageDevices, Path, Scoped};
use motience_proto::model::ProducerId;
use motience_store::Labels;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Registered, device_id, may_manage};
use crate::http::Shared;

/// Most labels of a device, and the longest name and text of one, in characters.
const MOST_LABELS: usize = 32;
const LONGEST_LABEL: usize = 255;

/// The labels that a device shall have.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeviceLabels, example = json!({"labels": {"site": "roof", "floor": "3"}}))]
pub(super) struct Wanted {
    /// Words of your own: all of them, in place of those before.
    labels: Labels,
}

/// Gives a device these labels in place of those that it has. Nothing else changes: it goes on by its key.
#[utoipa::path(put, operation_id = "label_device", path = "/devices/{producer_id}/{device_id}/labels", tag = "devices", security(("bearer" = [])),
    request_body = Wanted,
    params(("producer_id" = i64, Path, description = "A producer's id"), ("device_id" = String, Path, description = "The device")), responses(
    (status = 200, description = "The device", body = Registered),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 404, description = "No such device"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn label(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Path((producer, device)): Path<(i64, String)>,
    Json(wanted): Json<Wanted>,
) -> Result<Json<Registered>, ApiError> {
    let producer = ProducerId(producer);
    may_manage(&grant, producer)?;
    let device = device_id(&device)?;
    check(&wanted.labels).map_err(|e| ApiError::invalid("labels", e))?;
    services.producer(producer).await?;
    let labelled = services.backend.label_device(producer, &device, &wanted.labels, grant.user).await?;
    labelled.map(|device| Json(device.into())).ok_or_else(|| ApiError::not_found("There is no device with this name."))
}

/// Refuses labels that are too many or too long.
pub(crate) fn check(labels: &Labels) -> Result<(), String> {
    let fits = |text: &str| text.chars().count() <= LONGEST_LABEL && !text.chars().any(char::is_control);
    if labels.len() <= MOST_LABELS && labels.iter().all(|(name, text)| !name.is_empty() && fits(name) && fits(text)) {
        return Ok(());
    }
    Err(format!("labels must be at most {MOST_LABELS} texts with names, each of at most {LONGEST_LABEL} characters"))
}
