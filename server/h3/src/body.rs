//! The body of a request: read from the stream piece by piece as the service asks for it, then its trailers.

use std::{
    error::Error as _,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h3::{
    error::{Code, StreamError},
    server::RequestStream,
};
use http_body::{Frame, SizeHint};

use crate::{
    gate::{Cut, Gate, TooLong},
    opening::code,
    response::BoxError,
};

/// The body of a request. Dropped before its end, the client is told to send no more.
pub struct Body {
    stream: RequestStream<Gate, Bytes>,
    connection: quinn::Connection,
    /// Value of `content-length`.
    length: Option<u64>,
    received: u64,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Data,
    Trailers,
    End,
}

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the stream failed: {0}")]
    Stream(#[from] StreamError),
    #[error("the body is not as long as content-length says")]
    Length,
}

impl Body {
    pub(crate) fn new(stream: RequestStream<Gate, Bytes>, connection: quinn::Connection, length: Option<u64>) -> Self {
        Self { stream, connection, length, received: 0, at: At::Data }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, Error>> {
        if self.at == At::Data {
            match ready!(self.stream.poll_recv_data(cx))? {
                Some(mut piece) => {
                    let piece = piece.copy_to_bytes(piece.remaining());
                    self.received += piece.len() as u64;
                    if self.length.is_some_and(|length| self.received > length) {
                        return Poll::Ready(Err(self.wrong_length()));
                    }
                    return Poll::Ready(Ok(Some(Frame::data(piece))));
                }
                None if self.length.is_some_and(|length| self.received < length) => return Poll::Ready(Err(self.wrong_length())),
                None => self.at = At::Trailers,
            }
        }
        if self.at == At::Trailers {
            let trailers = ready!(self.stream.poll_recv_trailers(cx))?;
            self.at = At::End;
            return Poll::Ready(Ok(trailers.map(Frame::trailers)));
        }
        Poll::Ready(Ok(None))
    }

    /// Stops a malformed request (RFC 9114, section 4.1.2).
    fn wrong_length(&mut self) -> Error {
        self.stream.stop_sending(Code::H3_MESSAGE_ERROR);
        Error::Length
    }

    /// Tells the peer why the gate ended the body.
    fn refuse(&mut self, error: &Error) {
        let Error::Stream(StreamError::Undefined(cause)) = error else { return };
        if cause.is::<TooLong>() {
            self.stream.stop_sending(Code::H3_EXCESSIVE_LOAD);
        } else if cause.is::<Cut>() {
            // RFC 9114, section 7.1: an error of the whole connection.
            self.connection.close(code(Code::H3_FRAME_ERROR), b"a stream ends within a frame");
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let outcome = ready!(self.poll(cx));
        if let Err(error) = &outcome {
            self.at = At::End;
            tracing::debug!(%error, cause = error.source().map(tracing::field::display), "a request's body cannot be read");
            self.refuse(error);
        }
        Poll::Ready(outcome.map_err(Into::into).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.at == At::End
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, |length| SizeHint::with_exact(length.saturating_sub(self.received)))
    }
}
