//! `GET /connections` and `DELETE /connections/{id}`: who is connected, on all nodes, and the end of one connection. For operators.

use axum::{extract::State, http::StatusCode};
use motience_backend::connections::MAX_CONNECTIONS;
use motience_cluster::ConnectionReport;
use motience_http::{Admin, ApiError, Json, Path, Query};
use motience_runtime::clock::from_millis;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::http::Shared;

/// Longest part that is looked for, in characters: as long as a name.
const MAX_QUERY: usize = 255;

/// Which connections.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wanted {
    /// A part of the name of account or device, of the transport, the address or the node, in whichever case; or the id of one.
    #[param(max_length = 255, example = "pump-7")]
    query: Option<String>,
    /// Most entries wanted, 1 to 200; 100 where it is left out.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
}

/// Live connections of all nodes.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"total": 1, "connections": [{"id": "6f1c2a9b03d4e577", "node": "node-1", "user_id": 2, "username": "app", "role": "consumer",
    "device_id": null, "transport": "websocket", "address": "10.0.0.7", "since": "2025-01-29T11:35:00Z", "records": 120}], "silent": []}))]
pub(super) struct LiveConnections {
    /// How many match.
    total: u64,
    /// The newest of them.
    connections: Vec<LiveConnection>,
    /// Nodes that did not answer in time: their connections are missing here.
    silent: Vec<String>,
}

/// A live connection.
#[derive(Serialize, ToSchema)]
pub(super) struct LiveConnection {
    id: String,
    /// The node that has it.
    node: String,
    user_id: i64,
    username: String,
    #[schema(pattern = "^(producer|consumer|admin)$")]
    role: String,
    /// The device's name for itself; `null`: it did not say.
    #[schema(required)]
    device_id: Option<String>,
    /// `quic`, `tunnel`, `websocket`, `webtransport` or `http`: a stream down or up.
    #[schema(pattern = "^(quic|tunnel|websocket|webtransport|http)$")]
    transport: &'static str,
    /// The address that it counts for; of IPv6 the /64.
    #[schema(required)]
    address: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    since: OffsetDateTime,
    /// Records that went through it, up or down.
    records: u64,
}

/// Who is connected, on all nodes, the newest first: devices and consumers over QUIC, tunnels, WebSockets, WebTransport sessions, and streams over
/// HTTP down and up. Requests that are answered at once are not among them.
#[utoipa::path(get, path = "/connections", tag = "operators", security(("bearer" = [])), params(Wanted), responses(
    (status = 200, description = "The newest of them, and how many there are", body = LiveConnections),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 422, description = "A parameter is out of bounds"),
))]
pub(super) async fn connections(
    State(services): State<Shared>,
    _caller: Admin,
    Query(wanted): Query<Wanted>,
) -> Result<Json<LiveConnections>, ApiError> {
    let limit = u32::try_from(wanted.limit.unwrap_or(100)).ok().filter(|limit| (1..=MAX_CONNECTIONS).contains(limit));
    let limit = limit.ok_or_else(|| ApiError::invalid("limit", format!("limit must lie between 1 and {MAX_CONNECTIONS}.")))?;
    let query = wanted.query.unwrap_or_default();
    if query.chars().count() > MAX_QUERY {
        return Err(ApiError::invalid("query", format!("query must have at most {MAX_QUERY} characters.")));
    }
    let found = services.backend.connections(&query, limit).await;
    let connections = found.connections.into_iter().map(LiveConnection::from).collect();
    Ok(Json(LiveConnections { total: found.total, connections, silent: found.silent }))
}

/// Ends one connection within a second, on whichever node it is, and records that. Its client is told, and may come back: to keep it out, revoke
/// its device, its key or its account.
#[utoipa::path(delete, path = "/connections/{id}", tag = "operators", operation_id = "end_connection", security(("bearer" = [])),
    params(("id" = String, Path, description = "The connection's id", pattern = "^[0-9a-f]{16}$")), responses(
    (status = 204, description = "Ended"),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
    (status = 404, description = "No node has this connection, or the one that has it did not answer"),
))]
pub(super) async fn end(State(services): State<Shared>, caller: Admin, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let is_id = id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit());
    if is_id && services.backend.end_connection(&id, caller.grant.user).await.is_some() {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::not_found("There is no connection with this id."))
}

impl From<(String, ConnectionReport)> for LiveConnection {
    fn from((node, report): (String, ConnectionReport)) -> Self {
        Self {
            id: report.connection,
            node,
            user_id: report.user.0,
            username: report.username,
            role: report.role.to_string(),
            device_id: report.device,
            transport: report.transport.as_str(),
            address: report.address.map(|address| address.to_string()),
            since: from_millis(report.since_ms),
            records: report.records,
        }
    }
}
