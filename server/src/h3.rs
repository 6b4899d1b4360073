//! HTTP/3 as this server speaks it: the router and WebTransport that `motience_h3` hands requests to.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use motience_h3::{Answer, Connect, Error, Handler};
use motience_http::{self as http, ApiError, Limits, PageRoom};
use motience_limits::uploads;
use motience_runtime::clock::Clock;
use quinn::Connection;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{http::http3::Config, webtransport};

pub(crate) use motience_h3::{ALPN, EXCESSIVE_LOAD};

/// The services that every connection is served with.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Limits of the services' own listeners.
    pub(crate) limits: Limits,
    pub(crate) router: Router,
    pub(crate) clock: Clock,
    pub(crate) webtransport: Arc<webtransport::Shared>,
}

/// Serves a connection until it ends. `finished` resolves with the handshake's end, which must come within `handshake`.
pub(crate) async fn serve(
    connection: Connection,
    finished: impl Future<Output = bool> + Send,
    handshake: Duration,
    draining: CancellationToken,
    shared: Arc<Shared>,
) {
    let limits = motience_h3::Limits {
        streams: shared.config.streams,
        sessions: shared.webtransport.config.sessions,
        idle: shared.config.idle,
        head: shared.limits.header,
        head_bytes: shared.limits.header_bytes,
        write: shared.config.write,
        drain: shared.limits.drain.requests(),
    };
    let pages = PageRoom::of(shared.limits.pages);
    let services = Services { connection: connection.clone(), pages, uploads: uploads::Connection::default(), shared };
    motience_h3::serve(connection, finished, handshake, draining, limits, services).await;
}

/// The services for the requests of one connection.
struct Services {
    connection: Connection,
    pages: PageRoom,
    /// Memory that requests and sessions of the connection hold.
    uploads: uploads::Connection,
    shared: Arc<Shared>,
}

impl Handler for Services {
    async fn request(&self, request: Request<motience_h3::Body>, answer: Answer) -> Result<(), Error> {
        let Shared { router, clock, .. } = &*self.shared;
        if let Some(response) = without_service(&request) {
            return answer.write(response, clock.now()).await;
        }
        let mut request = request.map(Body::new);
        let (right, over) = http::Answer::on_its_own();
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.connection.remote_address()));
        extensions.insert(self.pages.clone());
        extensions.insert(self.uploads.clone());
        extensions.insert(right);
        // Cannot fail: a router's errors are answers.
        let Ok(response) = router.clone().oneshot(request).await;
        tokio::select! {
            biased;
            // Dropping the answer resets its stream, whatever the client takes.
            () = over => Err(Error::Unread),
            written = answer.write(response, clock.now()) => written,
        }
    }

    async fn session(&self, connect: Connect) -> Result<(), Error> {
        // On the heap: each request would have room for it.
        Box::pin(webtransport::serve(connect, &self.uploads, &self.shared.webtransport)).await
    }
}

/// Answers a request about the server itself, which has no path.
fn without_service<B>(request: &Request<B>) -> Option<Response> {
    if request.method() == Method::CONNECT {
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This server connects to nothing else.");
        return Some(error.allowing("GET, POST, DELETE").into_response());
    }
    (request.uri().path() == "*").then(|| (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, POST, DELETE, OPTIONS")]).into_response())
}
