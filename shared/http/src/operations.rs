//! `/health`, `/ready`, `/metrics`: on every HTTP port, and on the operations listener by themselves.
//!
//! What they tell of the node is for its operator: a port that clients reach says only whether the node is up and ready.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use motience_backend::Backend;
use motience_runtime::telemetry;
use motience_settings::env::{self, Env};
use serde_json::json;

use super::{ApiError, Host, tolerant};

/// How much a port tells of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Whether the node is up and ready.
    Brief,
    /// Everything: metrics, name and version, what is away, statistics.
    Full,
}

impl Detail {
    /// What the ports of the services tell. METRICS_ON_SERVICE_PORTS; without it everything, where only this machine reaches a
    /// development node, and little elsewhere.
    pub fn of_services(env: &Env) -> Result<Self, env::Error> {
        let private = !env.production() && Host::from_env(env)?.is_loopback();
        Ok(if env.flag("METRICS_ON_SERVICE_PORTS", private)? { Self::Full } else { Self::Brief })
    }

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
struct Operations {
    service: &'static str,
    backend: Arc<Backend>,
    detail: Detail,
}

/// The three paths for a service of this name.
pub fn operations(service: &'static str, backend: Arc<Backend>, detail: Detail) -> Router {
    Router::new().route("/health", get(health)).route("/ready", get(ready)).route("/metrics", get(metrics)).with_state(Operations {
        service,
        backend,
        detail,
    })
}

/// All of an operations listener: what is asked for by a wrong path, as `/` is by whoever opens it in a browser, is told what there is.
pub fn operations_listener(operations: Router) -> Router {
    let nothing = || {
        ApiError::not_found(
            "There is nothing at this path. Here are /health, /ready, /metrics and, where the node has WebSockets, /stats/producer and /stats/consumer.",
        )
    };
    tolerant(operations.fallback(async move || nothing()), OPERATIONS)
}

/// The process is up: nothing is asked.
async fn health(State(operations): State<Operations>) -> Response {
    if operations.detail == Detail::Brief {
        return Json(json!({"status": "ok", "service": operations.service})).into_response();
    }
    let body = json!({
        "status": "ok",
        "service": operations.service,
        "node": operations.backend.node,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": telemetry::uptime().as_secs(),
    });
    Json(body).into_response()
}

/// Database and log are really asked, each within a time limit.
async fn ready(State(operations): State<Operations>) -> Response {
    match operations.backend.ready().await {
        Ok(()) if operations.detail == Detail::Brief => Json(json!({"status": "ready", "service": operations.service})).into_response(),
        Err(_) if operations.detail == Detail::Brief => ApiError::unavailable("not_ready", "This node is not ready.").into_response(),
        Ok(()) => {
            let log = operations.backend.relay.log();
            let mut body = json!({"status": "ready", "service": operations.service, "durability": log.durability()});
            // All works, but somebody should look.
            let (damaged, held) = (log.damaged(), log.held());
            if damaged > 0 {
                body["damaged"] = format!("{damaged} parts of the log were skipped: see `motience-server log check`").into();
            }
            if held > 0 {
                let told = format!("the clock has jumped, and much of {held} logs is kept: see `motience-server log confirm`");
                body["retention"] = told.into();
            }
            Json(body).into_response()
        }
        Err(unready) => ApiError::unavailable("not_ready", format!("These do not answer: {}.", unready.away.join(", "))).into_response(),
    }
}

async fn metrics(State(operations): State<Operations>) -> Response {
    if let Err(refused) = operations.detail.full() {
        return refused.into_response();
    }
    let mut response = telemetry::render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}
