//! `GET /devices/:producerId`: a producer's devices and how they are, for the producer, its active subscribers and operators. `GET /devices`: those
//! of all producers by a part of their names, for operators.

use axum::extract::State;
use motience_auth::DeviceStates;
use motience_cluster::DeviceStats;
use motience_http::{Admin, ApiError, Json, Look, Page, PagePermit, Path, Query, Scoped};
use motience_proto::model::{DeviceState, ProducerId, times::ClockFault};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use super::{Reading, may_read};
use crate::http::{Shared, shapes};

/// Which devices.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// Most entries wanted; all unless given, as far as a page has room.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
    /// The last device already seen.
    after: Option<String>,
}

/// A device.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"producer_id": "1", "device_id": "rpi_001", "state": "active", "connected": true, "node": "node-1", "transport": "quic",
    "last_seen_at": "2025-01-29T11:35:00Z", "records": 4711, "rate_per_second": 4.0, "loss": 0.0125, "rtt_ms": 38.2, "backlog": 0, "address_changes": 2, "clock": null, "misdated": 0}))]
pub(super) struct Device {
    /// As consumers see it: a string.
    #[schema(example = "123")]
    producer_id: String,
    device_id: String,
    /// `active`; `quarantined`: its records are kept from consumers; `revoked`: they are refused.
    #[schema(value_type = String, pattern = "^(active|quarantined|revoked)$")]
    state: DeviceState,
    /// Whether it has a connection now.
    connected: bool,
    /// The node it is connected to, or was last.
    node: String,
    /// Transport of its last connection: `quic`, `tunnel`, `websocket`, `webtransport` or `http`.
    #[schema(pattern = "^(quic|tunnel|websocket|webtransport|http)$")]
    transport: &'static str,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    last_seen_at: OffsetDateTime,
    /// Records taken in from it since the nodes started.
    records: u64,
    /// Over the last ten seconds.
    rate_per_second: f64,
    /// The share of its packets that is lost, 0 to 1, as the device says; `null`: it does not say.
    #[schema(required, minimum = 0, maximum = 1)]
    loss: Option<f64>,
    /// A round trip; `null`: not known for its transport.
    #[schema(required)]
    rtt_ms: Option<f64>,
    /// Records that wait in its outbox, as the device says; `null`: it does not say.
    #[schema(required)]
    backlog: Option<u64>,
    /// How often its address changed while it was connected.
    address_changes: u64,
    /// Fault of its clock, by the time of its last record: `seconds` (in the seventies: never set, or seconds where milliseconds are read)
    /// or `ahead`; `null`: nothing.
    #[schema(required, pattern = "^(seconds|ahead)$")]
    clock: Option<&'static str>,
    /// Records whose time cannot be right, since the nodes started. They are kept like all others.
    misdated: u64,
}

/// The devices of a producer that were heard of within a day, by name. Where there may be more, `Link` names the next part.
#[utoipa::path(get, path = "/devices/{producer_id}", tag = "operators", security(("bearer" = [])),
    params(("producer_id" = i64, Path, description = "A producer's id"), Wanted), responses(
    (status = 200, description = "Its devices", body = [Device]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not the producer, nor subscribed to it"),
    (status = 422, description = "Not an id"),
    (status = 503, description = "The database is unreachable"),
))]
pub(super) async fn devices(
    State(services): State<Shared>,
    Scoped { grant, .. }: Scoped<Look>,
    Path(producer): Path<i64>,
    Query(wanted): Query<Wanted>,
    permit: PagePermit,
) -> Result<Page<Device>, ApiError> {
    let producer = ProducerId(producer);
    grant.may_look_at(producer)?;
    let reading = may_read(&services, &grant, producer).await?;
    let Reading(scope) = reading.ok_or_else(|| ApiError::forbidden("Only the producer and its subscribers see its devices."))?;
    let key = services.backend.relay.log_of(producer).await?;
    let shown = |stats: DeviceStats| Device::new(producer, stats, &services.backend.devices);
    let limit =
        wanted.limit.map(|limit| shapes::Paging::new(Some(limit), None).page()).transpose()?.map_or(usize::MAX, |page| page.limit as usize);
    let after = wanted.after.unwrap_or_default();
    let is_wanted = |name: &str| name > after.as_str() && scope.as_ref().is_none_or(|scope| scope.has_device(name));
    let (reports, log) = (&services.backend.reports, services.backend.relay.log());
    let known = reports.wanted_devices_of(log, key, limit.saturating_add(1), is_wanted).await;
    let mut devices: Vec<Device> = known.into_iter().map(shown).collect();
    let more = devices.len() > limit;
    devices.truncate(limit);
    let page = Page::new(permit, devices, services.config.page)?;
    let asked = wanted.limit.map(|limit| format!("limit={limit}&")).unwrap_or_default();
    Ok(page.followed_by(more, |last| format!("{asked}after={}", shapes::in_query(&last.device_id))))
}

/// Which of all devices.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Sought {
    /// A part of the name, in whichever case.
    #[param(max_length = 255, example = "pump")]
    query: Option<String>,
    /// Most entries wanted, 1 to 1000; 200 where it is left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<i64>,
}

/// Longest part of a name that is looked for, in characters.
const MAX_QUERY: usize = 255;

/// Devices of all producers that were heard of within a day, by name. Where there are more than `limit`, ask for a longer part of the name.
#[utoipa::path(get, path = "/devices", tag = "operators", operation_id = "find_devices", security(("bearer" = [])), params(Sought), responses(
    (status = 200, description = "Some of them", body = [Device]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 422, description = "A parameter is out of bounds"),
))]
pub(super) async fn find(
    State(services): State<Shared>,
    _caller: Admin,
    Query(sought): Query<Sought>,
) -> Result<Json<Vec<Device>>, ApiError> {
    let query = sought.query.unwrap_or_default();
    if query.chars().count() > MAX_QUERY {
        return Err(ApiError::invalid("query", format!("query must have at most {MAX_QUERY} characters.")));
    }
    let limit = shapes::Paging::new(Some(sought.limit.unwrap_or(200)), None).page()?.limit;
    let backend = &services.backend;
    let found = backend.reports.find_devices(backend.relay.log(), &query, limit as usize).await.into_iter();
    Ok(Json(found.map(|(key, stats)| Device::new(key.producer, stats, &backend.devices)).collect()))
}

impl Device {
    fn new(producer: ProducerId, stats: DeviceStats, states: &DeviceStates) -> Self {
        Self {
            producer_id: producer.to_string(),
            state: states.state(producer, &stats.device),
            device_id: stats.device,
            connected: stats.connected,
            node: stats.node,
            transport: stats.transport.as_str(),
            last_seen_at: stats.last_seen_at,
            records: stats.records,
            rate_per_second: stats.rate,
            loss: stats.loss,
            rtt_ms: stats.rtt_ms,
            backlog: stats.backlog,
            address_changes: stats.address_changes,
            clock: stats.clock.map(ClockFault::as_str),
            misdated: stats.misdated,
        }
    }
}
