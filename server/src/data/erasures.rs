//! `POST /erasures` and `GET /erasures`: records that are erased for good, of a device or of a span.

use axum::{extract::State, http::StatusCode};
use motience_auth::Grant;
use motience_http::{ApiError, Decide, Json, Look, Page, PagePermit, Query, Scoped};
use motience_proto::model::{DeviceId, ProducerId, Role, times};
use motience_store::{self as store, Erased};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::{IntoParams, ToSchema};

use crate::http::{Shared, shapes};

/// The records: those for which everything holds that is set, which must be something.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"device_id": "rpi_001", "from": "2025-01-29T00:00:00Z", "to": "2025-01-30T00:00:00Z"}))]
pub(super) struct ToErase {
    /// The producer; one that asks itself may leave it out.
    #[schema(minimum = 1)]
    producer_id: Option<i64>,
    /// Of this device only.
    #[schema(min_length = 1, max_length = 255)]
    device_id: Option<String>,
    /// That came at this time or later.
    #[schema(value_type = Option<shapes::Time>)]
    from: Option<String>,
    /// That came at this time or earlier.
    #[schema(value_type = Option<shapes::Time>)]
    to: Option<String>,
    /// With this offset of the present log epoch or a later one.
    #[schema(minimum = 1)]
    first: Option<i64>,
    /// With this offset or an earlier one.
    #[schema(minimum = 1)]
    last: Option<i64>,
}

/// An erasure of records.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"id": 4, "producer_id": "1", "device_id": "rpi_001", "from": null, "to": null, "first": null, "last": null,
    "asked_at": "2025-01-29T11:35:00Z", "asked_by": 1, "records": 120, "history_rows": 3000, "done_at": "2025-01-29T11:36:10Z"}))]
pub(super) struct Erasure {
    id: i64,
    producer_id: String,
    #[schema(required)]
    device_id: Option<String>,
    #[schema(required, format = DateTime)]
    from: Option<String>,
    #[schema(required, format = DateTime)]
    to: Option<String>,
    #[schema(required)]
    first: Option<u64>,
    #[schema(required)]
    last: Option<u64>,
    #[schema(format = DateTime)]
    asked_at: String,
    /// `null`: the operator's command line.
    #[schema(required)]
    asked_by: Option<i64>,
    /// Records erased in the log so far.
    records: u64,
    /// Records erased in the history so far.
    history_rows: u64,
    /// When the last round was done; `null`: it has yet to come.
    #[schema(required, format = DateTime)]
    done_at: Option<String>,
}

/// Which erasures.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last id already seen: older ones come.
    #[param(minimum = 0)]
    before: Option<i64>,
}

/// Erases records that are there now, in the log and in the history: within seconds nobody can read them, and within two minutes it is done.
/// Readers are told of a gap with the cause `erased`; cursors hold. A record that its device sends again does not come back.
/// Managers of the producer's organisation may do it, acting for it.
#[utoipa::path(post, path = "/erasures", tag = "history", security(("bearer" = [])), request_body = ToErase, responses(
    (status = 202, description = "They are being erased", body = Erasure),
    (status = 400, description = "Malformed JSON"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer, nor a manager of its organisation, nor an operator"),
    (status = 404, description = "No such producer"),
    (status = 413, description = "The body is too large"),
    (status = 415, description = "Not JSON"),
    (status = 422, description = "A field is out of bounds, or nothing says which records"),
    (status = 429, description = "As many erasures of this producer's records as there may be, 20, are not done yet; or too many requests"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn erase(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Decide>,
    Json(wish): Json<ToErase>,
) -> Result<(StatusCode, Json<Erasure>), ApiError> {
    let producer = producer(&grant, wish.producer_id)?;
    let erased = wish.erased()?;
    services.producer(producer).await?;
    let begun = services.backend.erase_records(producer, &erased, grant.user).await?;
    let begun = begun.ok_or_else(|| ApiError::not_found("There is no such producer."))?;
    Ok((StatusCode::ACCEPTED, Json(begun.into())))
}

/// Erasures, the newest first: a producer's own, or all for operators. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/erasures", tag = "history", security(("bearer" = [])), params(Wanted), responses(
    (status = 200, description = "Some of them", body = [Erasure]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither a producer, nor a member of its organisation, nor an operator"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn erasures(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Look>,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Erasure>, ApiError> {
    let limit = shapes::Paging::new(wanted.limit, wanted.before).page()?.limit;
    let of = if grant.role == Role::Admin { None } else { Some(producer(&grant, None)?) };
    let found = services.backend.store.record_erasures(of, wanted.before, limit).await?;
    let full = found.len() == limit as usize;
    let page = Page::new(permit, found.into_iter().map(Erasure::from).collect(), services.config.page)?;
    Ok(page.followed_by(full, |last| format!("limit={limit}&before={}", last.id)))
}

/// The producer whose records a caller may erase.
fn producer(grant: &Grant, wanted: Option<i64>) -> Result<ProducerId, ApiError> {
    match (grant.role, wanted) {
        (Role::Admin, None) => Err(ApiError::invalid("producer_id", "producer_id is missing: an operator says whose records.")),
        (Role::Admin, Some(id)) => Ok(ProducerId(id)),
        (Role::Producer, wanted) if wanted.is_none_or(|id| id == grant.user.0) => Ok(grant.user.producer()),
        _ => Err(ApiError::forbidden("Records are erased by their producer, or by an operator.").with_code("wrong_role")),
    }
}

impl ToErase {
    fn erased(self) -> Result<Erased, ApiError> {
        let time = |name: &str, text: Option<&String>| match text {
            Some(text) => times::read(text).map(Some).ok_or_else(|| ApiError::invalid(name, format!("{name} must be {}.", times::FORMS))),
            None => Ok(None),
        };
        let offset = |name: &str, offset: Option<i64>| match offset.map(u64::try_from) {
            None => Ok(None),
            Some(Ok(offset)) if offset > 0 => Ok(Some(offset)),
            Some(_) => Err(ApiError::invalid(name, format!("{name} must be 1 or more."))),
        };
        if let Some(device) = &self.device_id {
            DeviceId::new(device).map_err(|e| ApiError::invalid("device_id", e.to_string()))?;
        }
        let (from, to) = (time("from", self.from.as_ref())?, time("to", self.to.as_ref())?);
        let (first, last) = (offset("first", self.first)?, offset("last", self.last)?);
        let erased = Erased { device: self.device_id, from, to, first, last };
        if erased == Erased::default() {
            return Err(ApiError::invalid("device_id", "Say which records: a device, a time, or offsets."));
        }
        Ok(erased)
    }
}

impl From<store::RecordErasure> for Erasure {
    fn from(erasure: store::RecordErasure) -> Self {
        let time = |at: OffsetDateTime| at.format(&Rfc3339).unwrap_or_default();
        let Erased { device, from, to, first, last } = erasure.erased;
        Self {
            id: erasure.id,
            producer_id: erasure.key.producer.to_string(),
            device_id: device,
            from: from.map(time),
            to: to.map(time),
            first,
            last,
            asked_at: time(erasure.asked_at),
            asked_by: erasure.asked_by.map(|by| by.0),
            records: erasure.records,
            history_rows: erasure.history_rows,
            done_at: erasure.done_at.map(time),
        }
    }
}
