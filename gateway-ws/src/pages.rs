//! The pages: the console and the two testers, which Vite builds and the program embeds, and the configuration that they ask for.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use motience_http::{ApiError, compression};
use motience_oidc::ConsoleClient;
use rust_embed::{EmbeddedFile, RustEmbed};
use serde_json::json;

use crate::{Addresses, Config, Shared, WebTransport, cert_hash::host, counters::Stats};

/// Scripts and styles of our own only; connections anywhere, as ap, sm and the sockets have other ports.
const POLICY: &str =
    "default-src 'self'; connect-src *; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'";

const CONSOLE: &str = "console.html";

#[derive(RustEmbed)]
#[folder = "ui/dist/"]
struct Dist;

/// The side that a tester page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Producer,
    Consumer,
}

/// The endpoints of the platform as the console is told them. A service's port opens before the gateway's, so the directory is filled later.
#[derive(Clone, Debug, Default)]
pub struct EndpointDirectory(Arc<OnceLock<Endpoints>>);

#[derive(Debug)]
struct Endpoints {
    config: Config,
    at: Addresses,
    webtransport: Option<WebTransport>,
    /// Whether the sockets are at the same origin as the services.
    sockets: bool,
    issuers: Vec<ConsoleClient>,
}

impl EndpointDirectory {
    /// Fills the directory, once. `sockets`: whether this node has the WebSocket listeners. `issuers`: where people log in.
    pub fn set(&self, config: Config, at: Addresses, webtransport: Option<WebTransport>, sockets: bool, issuers: Vec<ConsoleClient>) {
        // An error says that it is filled.
        let _ = self.0.set(Endpoints { config, at, webtransport, sockets, issuers });
    }
}

/// How a page derives the services' base URLs from its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUrlMode {
    /// Each service has a port of its own.
    Ports,
    /// The services are under `/ap`, `/sm` and `/dsm` of the page's origin.
    Paths,
}

/// The console under `/console/`.
pub fn console(directory: EndpointDirectory, mode: BaseUrlMode) -> Router {
    let pages = match mode {
        // People open the root of the port that has everything.
        BaseUrlMode::Paths => Router::new().route("/", get(async || Redirect::temporary("console/"))),
        BaseUrlMode::Ports => Router::new(),
    };
    pages
        .route("/console", get(async || Redirect::permanent("console/")))
        .route("/console/", get(async |headers: HeaderMap| file(CONSOLE, "no-cache", &headers)))
        .route("/console/assets/{*path}", get(asset))
        .route("/console/config.json", get(async move |uri: Uri, headers: HeaderMap| console_config(&directory, mode, &uri, &headers)))
        .layer(compression())
}

fn console_config(directory: &EndpointDirectory, mode: BaseUrlMode, uri: &Uri, headers: &HeaderMap) -> Response {
    let Some(Endpoints { config, at, webtransport, sockets, issuers }) = directory.0.get() else {
        return ApiError::unavailable("starting", "The node is starting. Try again.").into_response();
    };
    let host = host(uri, headers);
    let mut page = with_issuers(config_json("console", Side::Consumer, config, *at, webtransport.as_ref(), host), issuers);
    if mode == BaseUrlMode::Paths {
        for service in ["ap", "sm", "dsm"] {
            // Relative to `/console/`, which may itself be under a prefix that a proxy takes off.
            page[format!("{service}_url")] = json!(format!("../{service}"));
        }
        if *sockets {
            page["ws_url"] = json!("../consumer");
        }
    }
    ([(header::CACHE_CONTROL, "no-store")], Json(page)).into_response()
}

/// The pages of a side's port, their assets, their configuration and the gateway's statistics. On the consumers' port the
/// console comes first, with the tester beside it.
pub(crate) fn router(side: Side, at: Addresses) -> Router<Arc<Shared>> {
    let page = |name| get(async move |headers: HeaderMap| file(name, "no-cache", &headers));
    let pages = match side {
        Side::Producer => Router::new().route("/", page("producer.html")),
        Side::Consumer => Router::new().route("/", page(CONSOLE)).route("/tester", page("consumer.html")),
    };
    pages
        .route("/assets/{*path}", get(asset))
        .route(
            "/config.json",
            get(async move |State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap| {
                let page = config_json(side.role(), side, &shared.config, at, shared.webtransport.as_ref(), host(&uri, &headers));
                Json(with_issuers(page, &shared.backend.issuers().console_clients()))
            }),
        )
        .layer(compression())
        .route("/stats", get(async move |State(shared): State<Arc<Shared>>| shared.config.detail.full().map(|()| stats(side, &shared))))
}

/// The statistics of both sides.
pub(crate) fn statistics() -> Router<Arc<Shared>> {
    let of = |side| get(async move |State(shared): State<Arc<Shared>>| stats(side, &shared));
    Router::new().route("/stats/producer", of(Side::Producer)).route("/stats/consumer", of(Side::Consumer))
}

impl Side {
    fn role(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
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
    // A weak one: the compressed form has it too (RFC 9110, section 8.8.3).
    let tag = format!("W/\"{tag}\"");
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known { StatusCode::NOT_MODIFIED.into_response() } else { bytes(data).into_response() };
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

/// The file's bytes, which are part of the program and not copied for each request.
fn bytes(data: Cow<'static, [u8]>) -> Bytes {
    match data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => bytes.into(),
    }
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

/// The configuration of a page: ports on the host it was loaded from, or URLs where those are set. The sockets of a page that came without
/// TLS may be under TLS, so they then have a URL too.
fn config_json(
    role: &str,
    side: Side,
    config: &Config,
    at: Addresses,
    webtransport: Option<&WebTransport>,
    host: &str,
) -> serde_json::Value {
    let (socket, path, url) = match side {
        Side::Producer => (at.wss1, "/producer", &config.public.wss1),
        Side::Consumer => (at.wss2, "/consumer", &config.public.wss2),
    };
    let secured = || config.tls.then(|| format!("wss://{host}:{}{path}", socket.port()));
    let url = url.as_ref().map(|url| url.0.clone()).or_else(secured);
    json!({
        "role": role, "ws_port": socket.port(), "ws_path": path, "ws_url": url,
        "ap_port": config.services.ap, "sm_port": config.services.sm, "dsm_port": config.services.dsm,
        "ap_url": config.public.ap, "sm_url": config.public.sm, "dsm_url": config.public.dsm,
        "webtransport_url": webtransport.map(|here| here.url(host)),
        "console_url": format!("http://{host}:{}/", at.wss2_ui.port()),
        "tester_url": format!("http://{host}:{}/tester", at.wss2_ui.port()),
        "producer_page_url": format!("http://{host}:{}/", at.wss1_ui.port()),
    })
}

/// Names the issuers at which people log in, where there are any.
fn with_issuers(mut page: serde_json::Value, issuers: &[ConsoleClient]) -> serde_json::Value {
    if !issuers.is_empty() {
        page["issuers"] = json!(issuers);
    }
    page
}

fn stats(side: Side, shared: &Shared) -> Json<Stats> {
    Json(match side {
        Side::Producer => shared.producers.stats(),
        Side::Consumer => shared.consumers.stats(),
    })
}
