//! `POST`, `GET` and `DELETE /devices/enrolments`: tokens by which devices enrol.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use motience_backend::devices::NewEnrolment;
use motience_http::{ApiError, Json, ManageDevices, Page, PagePermit, Path, Query, Scoped};
use motience_proto::model::Role;
use motience_store::{EnrolmentToken, Labels};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::{device_id, labels, may_manage, producer_meant, qr};
use crate::http::{Shared, shapes};

/// Most devices that one token enrols.
const MOST_USES: u32 = 100_000;
/// How long a token is good unless said otherwise, and the bounds of that, in seconds.
const LIFE: u64 = 86_400;
const LIVES: std::ops::RangeInclusive<u64> = 60..=365 * 86_400;

/// An enrolment token that is wanted.
#[derive(Deserialize, ToSchema)]
#[schema(as = EnrolmentWanted, example = json!({"uses": 1, "expires_in": 86400, "device_id": "rpi_001", "labels": {"site": "roof"}}))]
pub(super) struct Wanted {
    /// How many devices may enrol by it; 1 unless given.
    #[schema(minimum = 1, maximum = 100_000)]
    uses: Option<u32>,
    /// Seconds for which it is good; a day unless given.
    #[schema(minimum = 60, maximum = 31_536_000)]
    expires_in: Option<u64>,
    /// The only device that it is for. One that is enrolled already gets its new key, and the one before ends.
    #[schema(value_type = Option<shapes::DeviceId>)]
    device_id: Option<String>,
    /// Words of your own for the devices.
    #[serde(default)]
    labels: Labels,
    /// Producer of the devices, where an operator asks.
    producer_id: Option<i64>,
}

/// An enrolment token.
#[derive(Serialize, ToSchema)]
#[schema(as = Enrolment, example = json!({"id": "0f1e2d3c4b5a69788796a5b4c3d2e1f0", "producer_id": 1, "token": "mte_5f0c6a1e9b2d4c3f8a7b6c5d4e3f2a1b", "qr": "<svg/>",
    "device_id": "rpi_001", "labels": {"site": "roof"}, "uses_left": 1, "expires_at": "2025-01-30T11:35:00Z", "created_at": "2025-01-29T11:35:00Z"}))]
pub(super) struct Shown {
    id: String,
    producer_id: i64,
    /// The token itself: shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// The token as a QR code: an SVG image.
    #[serde(skip_serializing_if = "Option::is_none")]
    qr: Option<String>,
    /// The only device that it is for; `null`: each names itself.
    #[schema(required)]
    device_id: Option<String>,
    labels: Labels,
    uses_left: i64,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    expires_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    created_at: OffsetDateTime,
}

/// Producer of the tokens.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Whose {
    /// A producer's id, where an operator asks.
    producer_id: Option<i64>,
}

impl Shown {
    fn of(token: EnrolmentToken, text: Option<String>) -> Self {
        Self {
            id: token.id,
            producer_id: token.producer.0,
            qr: text.as_deref().and_then(qr::svg),
            token: text,
            device_id: token.device,
            labels: token.labels,
            uses_left: token.uses_left,
            expires_at: token.expires_at,
            created_at: token.created_at,
        }
    }
}

/// Makes a token by which a device enrols, or several devices do. Print it, or have the device read its QR code: whoever has it becomes a device.
#[utoipa::path(post, path = "/devices/enrolments", tag = "devices", security(("bearer" = [])), request_body = Wanted, responses(
    (status = 201, description = "The token", body = Shown),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither a producer nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn make(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Json(wanted): Json<Wanted>,
) -> Result<Response, ApiError> {
    let producer = producer_meant(&grant, wanted.producer_id)?;
    let uses = wanted.uses.unwrap_or(1);
    if !(1..=MOST_USES).contains(&uses) {
        return Err(ApiError::invalid("uses", format!("uses must lie between 1 and {MOST_USES}.")));
    }
    let life = wanted.expires_in.unwrap_or(LIFE);
    if !LIVES.contains(&life) {
        return Err(ApiError::invalid("expires_in", format!("expires_in must lie between {} and {} seconds.", LIVES.start(), LIVES.end())));
    }
    let device = wanted.device_id.as_deref().map(device_id).transpose()?;
    if device.is_some() && uses > 1 {
        return Err(ApiError::invalid("uses", "A token for one device is good once."));
    }
    labels::check(&wanted.labels).map_err(|e| ApiError::invalid("labels", e))?;
    let backend = &services.backend;
    services.producer(producer).await?;
    let new = NewEnrolment { producer, device, labels: wanted.labels, uses, life: Duration::from_secs(life) };
    let (text, token) = backend.make_enrolment(new, grant.user).await?;
    info!(%producer, id = token.id, by = %grant.user, uses, "an enrolment token was made");
    let mut answer = (StatusCode::CREATED, Json(Shown::of(token, Some(text)))).into_response();
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// The tokens that are still good, the newest first, at most 1000; without the tokens themselves, which nobody has but who got them.
#[utoipa::path(get, path = "/devices/enrolments", tag = "devices", security(("bearer" = [])), params(Whose), responses(
    (status = 200, description = "The tokens", body = [Shown]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn list(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Query(whose): Query<Whose>,
    permit: PagePermit,
) -> Result<Page<Shown>, ApiError> {
    let producer = producer_meant(&grant, whose.producer_id)?;
    let tokens = services.backend.store.enrolments(producer, services.backend.clock.now()).await?;
    Page::new(permit, tokens.into_iter().map(|token| Shown::of(token, None)).collect(), services.config.page)
}

/// Takes a token back: nobody enrols by it any more. Devices that did stay.
#[utoipa::path(delete, path = "/devices/enrolments/{id}", tag = "devices", security(("bearer" = [])),
    params(("id" = String, Path, description = "The token's id")), responses(
    (status = 200, description = "What it was", body = Shown),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither a producer nor an operator"),
    (status = 404, description = "No such token"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn remove(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Path(id): Path<String>,
) -> Result<Json<Shown>, ApiError> {
    may_manage(&grant, grant.user.producer())?;
    let own = (grant.role == Role::Producer).then(|| grant.user.producer());
    let removed = services.backend.remove_enrolment(own, &id, grant.user).await?;
    removed.map(|token| Json(Shown::of(token, None))).ok_or_else(|| ApiError::not_found("There is no enrolment token with this id."))
}
