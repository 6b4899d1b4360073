//! From a request to a WebSocket (RFC 6455, section 4.2). Axum's own way hides the connection, whose frames are to be counted.

use axum::{
    body::Body,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts},
    response::Response,
};
use hyper::upgrade::OnUpgrade;
use motience_http::{ApiError, Ration};
use motience_limits::uploads::Upload;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::derive_accept_key,
        protocol::{Role, WebSocketConfig},
    },
};
use tracing::{Instrument as _, Span, debug};

use crate::{Shared, frame_guard::FrameGuard};

/// Bytes read from a socket at once: tungstenite's own default costs 128 KiB for each idle connection.
const READ_BUFFER: usize = 4 * 1024;
/// Bytes that may wait for a peer beside [`crate::Config::write_buffer`]: one message, and the answers to pings. The longest message of
/// ours is a record, or a message of a thousand cursors.
const WAITING: usize = 256 * 1024;

pub(crate) type WebSocket = WebSocketStream<FrameGuard>;

/// A request that asks to become a WebSocket, and may.
pub(crate) struct Upgrade {
    on: OnUpgrade,
    accept: HeaderValue,
    offered: Vec<String>,
    protocol: Option<HeaderValue>,
    longest: usize,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let asks = parts.method == Method::GET
            && parts.version == Version::HTTP_11
            && names(&parts.headers, &header::CONNECTION, "upgrade")
            && names(&parts.headers, &header::UPGRADE, "websocket")
            && names(&parts.headers, &header::SEC_WEBSOCKET_VERSION, "13");
        if !asks {
            return Err(required());
        }
        let key = parts.headers.get(header::SEC_WEBSOCKET_KEY);
        let key = key.ok_or_else(|| ApiError::malformed("Sec-WebSocket-Key is missing.").with_code("no_websocket_key"))?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(ApiError::internal)?;
        let on = parts.extensions.remove::<OnUpgrade>().ok_or_else(required)?;
        Ok(Self { on, accept, offered: protocols(&parts.headers), protocol: None, longest: usize::MAX })
    }
}

impl Upgrade {
    /// The subprotocols that the client offers.
    pub(crate) fn offered(&self) -> &[String] {
        &self.offered
    }

    /// Chooses the first of these subprotocols that the client offers.
    #[must_use]
    pub(crate) fn protocols(mut self, known: impl IntoIterator<Item = String>) -> Self {
        let chosen = known.into_iter().find(|known| self.offered.contains(known));
        self.protocol = chosen.and_then(|chosen| HeaderValue::try_from(chosen).ok());
        self
    }

    /// Longest message of the peer, in bytes.
    #[must_use]
    pub(crate) fn longest(mut self, bytes: usize) -> Self {
        self.longest = bytes;
        self
    }

    /// Answers, and serves the socket in a task of its own. `upload`: all that it sends.
    pub(crate) fn accept<F>(self, shared: &Shared, upload: Upload, serve: impl FnOnce(WebSocket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { on, accept, protocol, longest, .. } = self;
        let (config, record) = (&shared.config, shared.backend.relay.limits().record);
        let options = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(config.write_buffer)
            .max_write_buffer_size(config.write_buffer.saturating_add(WAITING).saturating_add(record))
            .max_message_size(Some(longest))
            .max_frame_size(Some(longest));
        let ration = Ration::new(config.limits.frames.each_second);
        let serving = async move {
            match on.await {
                Ok(upgraded) => {
                    let guarded = FrameGuard::new(upgraded, ration, upload);
                    serve(WebSocketStream::from_raw_socket(guarded, Role::Server, Some(options)).await).await;
                }
                Err(e) => debug!(error = %e, "a connection ended before it was a WebSocket"),
            }
        };
        tokio::spawn(serving.instrument(Span::current()));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }
}

/// 426: a request that is no upgrade.
fn required() -> ApiError {
    ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", "This path speaks WebSocket: connect with a WebSocket client.")
}

/// The subprotocols a client offers.
fn protocols(headers: &HeaderMap) -> Vec<String> {
    tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).map(str::to_owned).collect()
}

fn names(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> + use<'h> {
    let lists = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}
