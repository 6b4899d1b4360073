//! `GET /nodes`: every node of the platform, for operators.

use axum::extract::State;
use motience_cluster::{self as cluster, NodeStats};
use motience_http::{Admin, ApiError, Json};
use serde::Serialize;
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::http::Shared;

/// A node.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"node": "node-1", "version": "0.1.0", "roles": ["ap", "sm", "dsm", "ingest", "wss"], "started_at": "2025-01-29T11:00:00Z",
    "seen_at": "2025-01-29T11:35:00Z", "durability": "redis", "connections": {"quic": 120, "webtransport": 0, "producers": 3, "consumers": 40, "tunnels": 1, "http3": 0},
    "records_in_per_second": 118.5, "records_out_per_second": 4740.0, "records_in": 248850, "records_out": 9954000}))]
pub(super) struct Node {
    /// Its name: NODE_NAME.
    node: String,
    version: String,
    /// Any of `ap`, `sm`, `dsm`, `ingest`, `wss`.
    roles: Vec<String>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    started_at: OffsetDateTime,
    /// When it was last heard of; a node that is silent for a minute is left out.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    seen_at: OffsetDateTime,
    /// Durability of an acknowledged record there: `memory`, `file`, `redis` or `redis+N`.
    durability: String,
    connections: Connections,
    /// Over the last ten seconds.
    records_in_per_second: f64,
    /// Over the last ten seconds; a record that goes to two consumers counts twice.
    records_out_per_second: f64,
    /// Since it started.
    records_in: u64,
    /// Since it started.
    records_out: u64,
}

/// Open connections, by kind.
#[derive(Serialize, ToSchema)]
pub(super) struct Connections {
    /// motience/1 over QUIC, devices and consumers.
    quic: u64,
    webtransport: u64,
    /// WebSocket producers.
    producers: u64,
    /// WebSocket consumers.
    consumers: u64,
    /// Devices in the gateway's tunnel.
    tunnels: u64,
    http3: u64,
}

/// The nodes that were heard of within the last minute, by name.
#[utoipa::path(get, path = "/nodes", tag = "operators", security(("bearer" = [])), responses(
    (status = 200, description = "The nodes", body = [Node]),
    (status = 401, description = "No or bad token"),
    (status = 403, description = "Not an operator"),
))]
pub(super) async fn nodes(State(services): State<Shared>, _caller: Admin) -> Result<Json<Vec<Node>>, ApiError> {
    Ok(Json(services.backend.reports.live_nodes().into_iter().map(Node::from).collect()))
}

impl From<NodeStats> for Node {
    fn from(NodeStats { report, started_at, seen_at }: NodeStats) -> Self {
        let cluster::Connections { quic, webtransport, producers, consumers, tunnels, http3 } = report.connections;
        Self {
            node: report.node,
            version: report.version,
            roles: report.roles,
            started_at,
            seen_at,
            durability: report.durability,
            connections: Connections { quic, webtransport, producers, consumers, tunnels, http3 },
            records_in_per_second: report.millirate_in as f64 / 1000.0,
            records_out_per_second: report.millirate_out as f64 / 1000.0,
            records_in: report.records_in,
            records_out: report.records_out,
        }
    }
}
