//! `GET /devices/:producer/registered`: a producer's devices with their states and keys.

use axum::extract::State;
use motience_http::{ApiError, ManageDevices, Page, PagePermit, Path, Query, Scoped};
use motience_proto::model::ProducerId;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Registered, may_manage};
use crate::http::{Shared, shapes};

/// Which devices.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Most entries wanted, 1 to 1000.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last device already seen.
    after: Option<String>,
}

/// The devices of a producer that enrolled, or whose state somebody has set, by name. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/devices/{producer_id}/registered", tag = "devices", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), Wanted), responses(
    (status = 200, description = "Its devices", body = [Registered]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Neither the producer nor an operator"),
    (status = 422, description = "A parameter is out of bounds"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn registered(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<ManageDevices>,
    Path(producer): Path<i64>,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Registered>, ApiError> {
    let producer = ProducerId(producer);
    may_manage(&grant, producer)?;
    let page = shapes::Paging::new(wanted.limit, None).page()?;
    let devices = services.backend.store.devices(producer, wanted.after.as_deref().unwrap_or_default(), page.limit).await?;
    let full = devices.len() == page.limit as usize;
    let devices = devices.into_iter().map(Registered::from).collect();
    Ok(Page::new(permit, devices, services.config.page)?
        .followed_by(full, |last| format!("limit={}&after={}", page.limit, shapes::in_query(&last.device_id))))
}
