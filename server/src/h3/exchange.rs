//! One request from its head to the acknowledgement of its answer's last byte.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    body::Body as AnyBody,
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use h3::{ext::Protocol, server::RequestResolver};
use motience_http::{self as http, ApiError, PageRoom};
use quinn::{Connection, StoppedError, VarInt};
use tokio::time::timeout;
use tower::ServiceExt as _;
use tracing::debug;

use super::{
    Shared,
    body::Body,
    quic::Link,
    request::{self, Head},
    response::{self, Answer},
    sessions::Sessions,
    tunnel::Connect,
};

/// What serving one request needs.
pub(super) struct Service {
    /// Number of its stream.
    pub(super) id: u64,
    /// Set once there is an answer that could be cut off.
    pub(super) armed: Arc<AtomicBool>,
    pub(super) connection: Connection,
    pub(super) shared: Arc<Shared>,
    pub(super) sessions: Arc<Sessions>,
    /// Of the connection.
    pub(super) pages: PageRoom,
}

impl Service {
    /// Serves until the answer is taken, or nobody wants it any more. `stopped`: what becomes of the answer's stream.
    pub(super) async fn serve(
        self,
        resolver: RequestResolver<Link, Bytes>,
        stopped: impl Future<Output = Result<Option<VarInt>, StoppedError>>,
    ) {
        let mut stopped = pin!(stopped);
        let limit = self.shared.config.write;
        let outcome = tokio::select! {
            biased;
            // Dropping the handler is what a client expects of its cancellation, over every version of HTTP.
            end = &mut stopped => return debug!(?end, "a request was cancelled"),
            outcome = self.exchange(resolver) => outcome,
        };
        match outcome {
            // A connection that is closed takes what is not acknowledged with it.
            Ok(()) => drop(timeout(limit, stopped).await),
            Err(Error::Request(e)) => debug!(error = %e, "no request"),
            Err(e) => debug!(error = %e, "an answer ended early"),
        }
    }

    async fn exchange(self, resolver: RequestResolver<Link, Bytes>) -> Result<(), Error> {
        let Self { id, armed, connection, shared, sessions, pages } = self;
        let Head { request, stream, length, waits } = request::read(resolver, shared.limits.header, connection.remote_address()).await?;
        armed.store(true, Ordering::Relaxed);
        let limit = shared.config.write;
        if request.method() == Method::CONNECT && request.extensions().get() == Some(&Protocol::WEB_TRANSPORT) {
            let connect = Connect { parts: request.into_parts().0, id, stream, limit };
            return Ok(shared.handler.serve(connect, &sessions).await?);
        }
        let (send, recv) = stream.split();
        let mut answer = Answer { stream: send, limit };
        let method = request.method().clone();
        if let Some(response) = without_service(&request) {
            return Ok(answer.write(&method, response, &shared.clock).await?);
        }
        if waits {
            answer.go_on().await?;
        }
        let mut request = request.map(|()| AnyBody::new(Body::new(recv, connection, length)));
        request.extensions_mut().insert(pages);
        request.extensions_mut().insert(sessions.uploads().clone());
        let (right, over) = http::Answer::on_its_own();
        request.extensions_mut().insert(right);
        // Cannot fail: a router's errors are answers.
        let Ok(response) = shared.router.clone().oneshot(request).await;
        tokio::select! {
            biased;
            // Dropping the answer resets its stream, whatever the client takes.
            () = over => Err(Error::Stalled),
            written = answer.write(&method, response, &shared.clock) => Ok(written?),
        }
    }
}

/// What is about the server itself, and has no path.
fn without_service(request: &axum::http::Request<()>) -> Option<Response> {
    if request.method() == Method::CONNECT {
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This server connects to nothing else.");
        return Some(error.allowing("GET, POST, DELETE").into_response());
    }
    (request.uri().path() == "*").then(|| (StatusCode::NO_CONTENT, [(header::ALLOW, "GET, POST, DELETE, OPTIONS")]).into_response())
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Request(#[from] request::Error),
    #[error(transparent)]
    Answer(#[from] response::Error),
    #[error("the client does not take the answer, or its right to it has ended")]
    Stalled,
}
