//! Answers of a node that waits for its database and its log: the node is up, and not ready.

use std::{io, os::fd::AsFd as _, time::Duration};

use axum::{Json, Router, routing::get};
use motience_runtime::lifecycle::Shutdown;
use serde_json::json;
use tokio::net::TcpListener;
use tracing::warn;

use super::{ApiError, Limits, Listener, serve};

/// Time for answers under way once the node has started.
const LEAVE_LIMIT: Duration = Duration::from_millis(200);

/// Does `work` and answers on these listeners meanwhile. They are free for others afterwards.
pub async fn while_starting<T>(listeners: &[&TcpListener], limits: &Limits, work: impl Future<Output = T>) -> T {
    let shutdown = Shutdown::new();
    for listener in listeners {
        match twin(listener) {
            Ok(twin) => shutdown.spawn("starting", serve(Listener::kept(twin), router(), limits.clone(), shutdown.clone())),
            Err(e) => warn!(error = %e, "nothing answers on a port until the node has started"),
        }
    }
    let done = work.await;
    shutdown.drain(LEAVE_LIMIT).await;
    done
}

/// Another handle of the same socket.
fn twin(listener: &TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener.as_fd().try_clone_to_owned()?.into())
}

fn router() -> Router {
    Router::new()
        .route("/health", get(async || Json(json!({"status": "ok", "service": "starting"}))))
        .route("/ready", get(async || ApiError::unavailable("not_ready", "This node waits for its database or its log.")))
        .fallback(async || ApiError::unavailable("starting", "This node is starting. Try again in a moment."))
}
