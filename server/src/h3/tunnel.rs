//! An extended CONNECT (RFC 9220): refused with an answer like any request, or accepted as bytes both ways.

use axum::{
    body::Body,
    http::{Method, Response, request::Parts},
};
use bytes::{Buf as _, Bytes};
use h3::{error::StreamError, server::RequestStream};
use motience_runtime::clock::Clock;

use super::{
    gate::Gate,
    quic::Exchange,
    response::{Answer, Error},
};

/// A CONNECT that nobody has answered yet.
pub(crate) struct Connect {
    pub(crate) parts: Parts,
    /// Number of its stream.
    pub(crate) id: u64,
    pub(super) stream: RequestStream<Exchange, Bytes>,
    pub(super) limit: std::time::Duration,
}

/// Bytes from the peer.
pub(crate) struct Up(RequestStream<Gate, Bytes>);

/// Bytes to the peer.
pub(crate) struct Down(Answer);

impl Connect {
    /// Answers instead of connecting.
    pub(crate) async fn refuse(self, response: Response<Body>, clock: &Clock) -> Result<(), Error> {
        let (send, _recv) = self.stream.split();
        Answer { stream: send, limit: self.limit }.write(&Method::CONNECT, response, clock).await
    }

    /// Connects.
    pub(crate) async fn accept(self, head: Response<()>) -> Result<(Down, Up), Error> {
        let (send, recv) = self.stream.split();
        let mut answer = Answer { stream: send, limit: self.limit };
        answer.head(head).await?;
        Ok((Down(answer), Up(recv)))
    }
}

impl Up {
    /// What comes next; `None` at the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        let piece = self.0.recv_data().await?;
        Ok(piece.map(|mut piece| piece.copy_to_bytes(piece.remaining())))
    }
}

impl Down {
    /// Writes the last bytes and ends the stream.
    pub(crate) async fn end(mut self, last: Bytes) -> Result<(), Error> {
        if !last.is_empty() {
            self.0.data(last).await?;
        }
        self.0.finish().await
    }
}
