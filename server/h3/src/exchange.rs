//! One request from its head to the acknowledgement of its answer's last byte.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use h3::{ext::Protocol, server::RequestResolver};
use http::Method;
use quinn::{StoppedError, VarInt};
use tokio::time::timeout;
use tracing::debug;

use crate::{
    Handler, Limits,
    body::Body,
    connect::Connect,
    quic::Link,
    request::{self, Head},
    response::{Answer, Error},
    sessions::Sessions,
};

/// A stream on which a request begins.
pub(crate) struct Exchange<H> {
    /// Number of the stream.
    pub(crate) id: u64,
    /// Set once there is an answer that could be cut off.
    pub(crate) armed: Arc<AtomicBool>,
    pub(crate) limits: Limits,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) handler: Arc<H>,
}

impl<H: Handler> Exchange<H> {
    /// Serves until the peer has taken the answer or does not want it any more. `stopped` is the fate of the answer's stream.
    pub(crate) async fn serve(
        self,
        resolver: RequestResolver<Link, Bytes>,
        stopped: impl Future<Output = Result<Option<VarInt>, StoppedError>>,
    ) {
        let mut stopped = pin!(stopped);
        let limit = self.limits.write;
        let outcome = tokio::select! {
            biased;
            // A client that cancels expects its handler to be dropped, over every version of HTTP.
            end = &mut stopped => return debug!(?end, "a request was cancelled"),
            outcome = self.exchange(resolver) => outcome,
        };
        match outcome {
            // Closing a connection discards unacknowledged bytes, so the stream has to be taken first.
            Ok(()) => drop(timeout(limit, stopped).await),
            Err(Failed::Request(e)) => debug!(error = %e, "no request"),
            Err(Failed::Answer(e)) => debug!(error = %e, "an answer ended early"),
        }
    }

    async fn exchange(self, resolver: RequestResolver<Link, Bytes>) -> Result<(), Failed> {
        let Self { id, armed, limits, sessions, handler } = self;
        let Head { request, stream, length, waits } = request::read(resolver, limits.head).await?;
        armed.store(true, Ordering::Relaxed);
        let (method, limit) = (request.method().clone(), limits.write);
        if method == Method::CONNECT && request.extensions().get() == Some(&Protocol::WEB_TRANSPORT) {
            let connect = Connect { parts: request.into_parts().0, id, sessions, stream, limit };
            return Ok(handler.session(connect).await?);
        }
        let (send, recv) = stream.split();
        let mut answer = Answer::new(send, limit, method);
        if waits {
            answer.go_on().await?;
        }
        let body = Body::new(recv, sessions.connection().clone(), length);
        Ok(handler.request(request.map(|()| body), answer).await?)
    }
}

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Request(#[from] request::Error),
    #[error(transparent)]
    Answer(#[from] Error),
}
