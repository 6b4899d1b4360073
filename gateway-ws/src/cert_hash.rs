//! `GET /cert-hash`: the URL of WebTransport, and the hash by which a page trusts a self-made certificate.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, Uri},
    response::{IntoResponse as _, Response},
    routing::get,
};
use motience_certs::ServerIdentity;
use motience_http::{ApiError, called_host};
use serde_json::json;

/// The WebTransport of this process.
#[derive(Clone, Debug)]
pub struct WebTransport {
    /// The certificate it shows.
    pub identity: Arc<ServerIdentity>,
    /// Whether browsers have to be told to trust that.
    pub self_made: bool,
    /// Its UDP socket.
    pub address: SocketAddr,
    /// Its URL, where that is not on the host that a page was loaded from.
    pub url: Option<String>,
}

impl WebTransport {
    /// Its URL for a page that was loaded from `host`.
    pub fn url(&self, host: &str) -> String {
        // A browser takes `localhost` for ::1 first, and tries no other for WebTransport.
        let host = if host == "localhost" && self.address.is_ipv4() { "127.0.0.1" } else { host };
        self.url.clone().unwrap_or_else(|| format!("https://{host}:{}/wt", self.address.port()))
    }
}

/// The route `/cert-hash`, which answers 404 where there is no WebTransport.
pub fn router(here: Option<WebTransport>) -> Router {
    Router::new().route("/cert-hash", get(hashes)).with_state(here)
}

/// The host a page was loaded from, without its port.
pub(crate) fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> &'a str {
    called_host(uri, headers).unwrap_or("localhost")
}

async fn hashes(State(here): State<Option<WebTransport>>, uri: Uri, headers: HeaderMap) -> Response {
    let Some(here) = here else {
        return ApiError::not_found("This node has no WebTransport.").into_response();
    };
    let hash = here.identity.hash().filter(|_| here.self_made);
    let url = here.url(host(&uri, &headers));
    Json(json!({"algorithm": "sha-256", "hashes": Vec::from_iter(hash), "webtransport_url": url})).into_response()
}
