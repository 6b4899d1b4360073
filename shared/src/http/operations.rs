//! `/health`, `/ready`, `/metrics`: on every HTTP port, and on the operations listener by themselves.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;

use super::ApiError;
use crate::{backend::Backend, telemetry};

/// The paths that operators ask.
pub const OPERATIONS: [&str; 3] = ["/health", "/ready", "/metrics"];

#[derive(Clone)]
struct Operations {
    service: &'static str,
    backend: Arc<Backend>,
}

/// The three paths for a service of this name.
pub fn operations(service: &'static str, backend: Arc<Backend>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Operations { service, backend })
}

/// The process is up: nothing is asked.
async fn health(State(operations): State<Operations>) -> Response {
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
        Ok(()) => {
            let durability = operations.backend.relay.log().durability();
            Json(json!({"status": "ready", "service": operations.service, "durability": durability})).into_response()
        }
        Err(unready) => ApiError::unavailable("not_ready", format!("These do not answer: {}.", unready.away.join(", "))).into_response(),
    }
}

async fn metrics() -> Response {
    let mut response = telemetry::render().into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
    response
}
