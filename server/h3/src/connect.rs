//! An extended CONNECT (RFC 9220): refused with an answer like any request, or accepted as a WebTransport session.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h3::server::RequestStream;
use http::{HeaderValue, Method, Response, request::Parts};
use time::OffsetDateTime;

use crate::{
    control::Control,
    peer::Peer,
    quic::Bidi,
    response::{self, Answer, Error},
    sessions::{Inbox, Sessions},
};

/// A CONNECT that nobody has answered yet.
pub struct Connect {
    /// Head of the request.
    pub parts: Parts,
    pub(crate) id: u64,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) stream: RequestStream<Bidi, Bytes>,
    pub(crate) limit: Duration,
}

impl Connect {
    /// The way to the peer.
    pub fn peer(&self) -> Peer {
        Peer::new(self.sessions.connection().clone(), self.id)
    }

    /// Registers the session, so that its streams find it; `None` where the connection has as many as it may have.
    pub fn register(&self) -> Option<Inbox> {
        self.sessions.enter(self.id)
    }

    /// Answers instead of connecting; `now` is the answer's `date`.
    pub async fn refuse<B>(self, response: Response<B>, now: OffsetDateTime) -> Result<(), Error>
    where
        B: http_body::Body<Data = Bytes, Error: Into<response::BoxError>>,
    {
        let (stream, _recv) = self.stream.split();
        Answer::new(stream, self.limit, Method::CONNECT).write(response, now).await
    }

    /// Opens the session.
    pub async fn accept(self) -> Result<Control, Error> {
        let (stream, recv) = self.stream.split();
        let mut head = Response::new(());
        // Chromium asks this of a server that speaks this draft.
        head.headers_mut().insert("sec-webtransport-http3-draft", HeaderValue::from_static("draft02"));
        let mut answer = Answer::new(stream, self.limit, Method::CONNECT);
        answer.head(head).await?;
        Ok(Control::new(answer, recv))
    }
}
