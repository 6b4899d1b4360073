//! `/health`, `/ready`, `/metrics`: on every HTTP port, and on the operations listener by themselves.
//!
//! Details of the node are for its operator: a port that clients reach says only whether the node is up and ready.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use motience_backend::{Backend, Part};
use motience_runtime::{lifecycle::Shutdown, telemetry, traces};
use motience_settings::env::{Group, Reader, Setting, settings};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::{Admin, ApiError, HasBackend, Host, ListenAddress, Listening, tolerant};

settings! {
    /// Where a process answers its operator, and what it tells others.
    #[derive(Clone, Debug)]
    pub struct Operations {
        /// Health, readiness, metrics and statistics on a port of their own. The default of motience-gateway is 9091.
        OPERATIONS_PORT, example "9090" => port: Option<u16>;
        /// The address of that port. The default is BIND_ADDRESS.
        OPERATIONS_ADDRESS, example "localhost" => host: Option<Host>;
        /// Where the command `healthcheck` asks. The default is this machine's operations port.
        HEALTHCHECK_ADDRESS, example "127.0.0.1:9090" => healthcheck: Option<String>;
        /// Whether the services' own ports answer /metrics and /stats too, and tell what is unreachable in /ready and who they are in /health.
        /// The default is true for a development node that only this machine reaches, and false for others.
        METRICS_ON_SERVICE_PORTS, example "true" => on_service_ports: Option<bool>;
    }
}

impl Operations {
    /// The address of a process's operations port.
    pub fn address(reader: &mut Reader<'_>, default_port: u16) -> ListenAddress {
        let (own, everything) = (reader.group::<Self>(), reader.group::<Listening>());
        own.host.unwrap_or(everything.host).at(own.port.unwrap_or(default_port))
    }
}

/// How much a port tells of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Whether the node is up and ready.
    Brief,
    /// Everything: metrics, name and version, what is away, statistics.
    Full,
}

impl Group for Detail {
    const SETTINGS: &'static [Setting] = &[];

    /// How much the ports of the services tell.
    fn read(reader: &mut Reader<'_>) -> Self {
        let private = !reader.production() && reader.group::<Listening>().host.is_loopback();
        if reader.group::<Operations>().on_service_ports.unwrap_or(private) { Self::Full } else { Self::Brief }
    }
}

impl Detail {
    /// An error where a port tells little: there is nothing at this path.
    pub fn full(self) -> Result<(), ApiError> {
        match self {
            Self::Full => Ok(()),
            Self::Brief => Err(ApiError::not_found("This is on the operations port.")),
        }
    }
}

/// The paths that operators ask.
pub const OPERATIONS: [&str; 3] = ["/health", "/ready", "/metrics"];

#[derive(Clone)]
struct Asked {
    service: &'static str,
    backend: Arc<Backend>,
    detail: Detail,
    shutdown: Shutdown,
}

/// The three paths for a service of this name.
pub fn operations(service: &'static str, backend: Arc<Backend>, detail: Detail, shutdown: &Shutdown) -> Router {
    let asked = Asked { service, backend, detail, shutdown: shutdown.clone() };
    Router::new().route("/health", get(health)).route("/ready", get(ready)).route("/metrics", get(metrics)).with_state(asked)
}

/// All of an operations listener: what is asked for by a wrong path, as `/` is by whoever opens it in a browser, is told what there is.
pub fn operations_listener(operations: Router, backend: &Arc<Backend>) -> Router {
    let logs = Router::new().route("/logs/filter", get(filter).put(set_filter)).with_state(Operator(Arc::clone(backend)));
    let operations = operations.merge(logs);
    let nothing = || {
        ApiError::not_found(
            "There is nothing at this path. Here are /health, /ready, /metrics, /logs/filter and, where the node has WebSockets, /stats/producer and /stats/consumer.",
        )
    };
    tolerant(operations.fallback(async move || nothing()), OPERATIONS.into_iter().chain(["/logs/filter"]))
}

/// State of what only an operator may ask, by a token.
#[derive(Clone)]
struct Operator(Arc<Backend>);

impl HasBackend for Operator {
    fn backend(&self) -> &Arc<Backend> {
        &self.0
    }
}

/// A filter of logs, as of RUST_LOG.
#[derive(Deserialize)]
struct Filter {
    filter: String,
}

/// Which logs are written.
async fn filter(_caller: Admin) -> Json<Value> {
    Json(json!({"filter": telemetry::filter()}))
}

/// Writes other logs, until the settings are read again.
async fn set_filter(caller: Admin, super::Json(Filter { filter }): super::Json<Filter>) -> Result<Json<Value>, ApiError> {
    telemetry::set_filter(&filter).map_err(|e| ApiError::invalid("filter", e.to_string()))?;
    info!(filter, user = %caller.grant.user, "an operator has set the filter of logs");
    Ok(Json(json!({"filter": filter})))
}

/// The process is up: nothing is asked.
async fn health(State(operations): State<Asked>) -> Response {
    if operations.detail == Detail::Brief {
        return Json(json!({"status": "ok", "service": operations.service})).into_response();
    }
    let body = json!({
        "status": "ok",
        "service": operations.service,
        "node": operations.backend.node,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": telemetry::uptime().as_secs(),
    });
    Json(body).into_response()
}

/// Database and log are really asked, each within a time limit; of the push connection and of retention it is known. A node that is to leave is not ready.
async fn ready(State(operations): State<Asked>) -> Response {
    let sessions = operations.shutdown.draining().sessions();
    if operations.shutdown.is_leaving() && operations.detail == Detail::Full {
        let draining = ApiError::unavailable("not_ready", format!("This node is draining: {sessions} sessions are left."));
        return draining.with("draining", true).with("sessions", sessions).into_response();
    } else if operations.shutdown.is_leaving() {
        return ApiError::unavailable("not_ready", "This node is not ready.").into_response();
    }
    let parts = operations.backend.parts().await;
    let away: Vec<&str> = parts.iter().filter_map(Part::hindrance).collect();
    match away.is_empty() {
        true if operations.detail == Detail::Brief => Json(json!({"status": "ready", "service": operations.service})).into_response(),
        false if operations.detail == Detail::Brief => ApiError::unavailable("not_ready", "This node is not ready.").into_response(),
        true => {
            let log = operations.backend.relay.log();
            let mut body = json!({"status": "ready", "service": operations.service, "durability": log.durability(), "sessions": sessions, "parts": told(&parts)});
            // All works, but somebody should look.
            let (damaged, held) = (log.damaged(), log.held());
            if damaged > 0 {
                body["damaged"] = format!("{damaged} parts of the log were skipped: see `motience-server log check`").into();
            }
            if held > 0 {
                let told = format!("the clock has jumped, and much of {held} logs is kept: see `motience-server log confirm`");
                body["retention"] = told.into();
            }
            if let Some(one) = operations.backend.pressure.first_by_bytes() {
                body["first_cut"] =
                    json!({"producer_id": one.producer.to_string(), "bound": one.bound.as_str(), "seconds": one.left.as_secs()});
            }
            Json(body).into_response()
        }
        false => {
            let sentence = format!("These do not work: {}.", away.join(", "));
            ApiError::unavailable("not_ready", sentence).with("parts", told(&parts)).into_response()
        }
    }
}

/// The parts of the node as JSON: whether each works, for how many seconds it has been so, and how long its answer took.
fn told(parts: &[Part]) -> Value {
    let told = parts.iter().map(|part| {
        let milliseconds = part.took.map(|took| took.as_secs_f64() * 1000.0);
        let body =
            json!({"works": part.fault.is_none(), "fault": part.fault, "seconds": part.since.as_secs(), "milliseconds": milliseconds});
        (part.name.to_owned(), body)
    });
    told.collect::<serde_json::Map<_, _>>().into()
}

async fn metrics(State(operations): State<Asked>, headers: HeaderMap) -> Response {
    if let Err(refused) = operations.detail.full() {
        return refused.into_response();
    }
    // Exemplars name traces, so there are none without.
    let asked = |header: &HeaderValue| header.to_str().is_ok_and(|accept| accept.contains("application/openmetrics-text"));
    let (text, kind) = if traces::are_on() && headers.get(header::ACCEPT).is_some_and(asked) {
        (telemetry::render_open_metrics(), "application/openmetrics-text; version=1.0.0; charset=utf-8")
    } else {
        (telemetry::render(), "text/plain; version=0.0.4")
    };
    let mut response = text.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
