//! The tester pages: built by Vite, committed, embedded; and what they ask of the gateway itself.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use motience_shared::http::ApiError;
use rust_embed::{EmbeddedFile, RustEmbed};
use serde_json::json;

use crate::{Shared, gauge::Stats};

/// Scripts and styles of our own only; connections anywhere, as ap, sm and the sockets have other ports.
const POLICY: &str =
    "default-src 'self'; connect-src *; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'";

#[derive(RustEmbed)]
#[folder = "ui/dist/"]
struct Dist;

/// Whose page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producer,
    Consumer,
}

/// The page, its assets, its configuration and its statistics.
pub(crate) fn router(side: Side, socket: SocketAddr) -> Router<Arc<Shared>> {
    let page = match side {
        Side::Producer => "producer.html",
        Side::Consumer => "consumer.html",
    };
    Router::new()
        .route("/", get(async move |headers: HeaderMap| file(page, "no-cache", &headers)))
        .route("/assets/{*path}", get(asset))
        .route(
            "/config.json",
            get(async move |State(shared): State<Arc<Shared>>, headers: HeaderMap| config(side, socket, &headers, &shared)),
        )
        .route("/stats", get(async move |State(shared): State<Arc<Shared>>| stats(side, &shared)))
}

async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Response {
    // Names carry a hash of the content.
    file(&format!("assets/{path}"), "public, max-age=31536000, immutable", &headers)
}

fn file(name: &str, caching: &'static str, headers: &HeaderMap) -> Response {
    let Some(EmbeddedFile { data, metadata, .. }) = Dist::get(name) else {
        return ApiError::not_found("There is nothing at this path.").into_response();
    };
    let tag: String = metadata.sha256_hash().iter().take(16).map(|b| format!("{b:02x}")).collect();
    let tag = format!("\"{tag}\"");
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { data.into_owned().into_response() };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(name)));
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    answer.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    answer.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.insert(header::ETAG, tag);
    }
    response
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

/// Where the page finds everything: ports on the host it was loaded from, or whole addresses where those are set. The
/// sockets of a page that came without TLS may be under TLS; their whole address says so.
fn config(side: Side, socket: SocketAddr, headers: &HeaderMap, shared: &Shared) -> Json<serde_json::Value> {
    let config = &shared.config;
    let (role, path, url) = match side {
        Side::Producer => ("producer", "/producer", &config.wss1_url),
        Side::Consumer => ("consumer", "/consumer", &config.wss2_url),
    };
    let secured = || config.tls.then(|| format!("wss://{}:{}{path}", host(headers), socket.port()));
    let url = url.clone().or_else(secured);
    Json(json!({
        "role": role, "ws_port": socket.port(), "ws_path": path, "ws_url": url,
        "ap_port": config.ap_port, "sm_port": config.sm_port, "dsm_port": config.dsm_port,
        "ap_url": config.ap_url, "sm_url": config.sm_url, "dsm_url": config.dsm_url,
        "webtransport_url": shared.webtransport.as_ref().map(|here| here.url(host(headers))),
    }))
}

/// The host a page was loaded from, without its port.
pub(crate) fn host(headers: &HeaderMap) -> &str {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    // The port of `[::1]:3010` begins after the bracket.
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn stats(side: Side, shared: &Shared) -> Json<Stats> {
    Json(match side {
        Side::Producer => shared.producers.stats(),
        Side::Consumer => shared.consumers.stats(),
    })
}
