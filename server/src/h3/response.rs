//! An answer on its way: its head, its body as it comes, its trailers. What fails is cut off, so that the client does not
//! take half of it for a whole one.

use std::{pin::pin, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, Method, Response, StatusCode, header},
};
use bytes::{Buf as _, Bytes};
use h3::{
    error::{Code, StreamError},
    server::RequestStream,
};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use motience_runtime::clock::Clock;
use time::{format_description::StaticFormatDescription, macros::format_description};
use tokio::time::timeout;

use super::{quic::Out, request::OF_A_CONNECTION};

/// RFC 9110, section 5.6.7.
const DATE: StaticFormatDescription =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Bytes of a body that a client has the time of one piece for.
const PIECE: usize = 64 * 1024;

/// Why an answer did not get to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the client does not take it")]
    Unread,
    #[error("the answer failed: {0}")]
    Body(axum::Error),
}

/// An answer's stream, with the time a client has for each piece.
pub(super) struct Answer {
    pub(super) stream: RequestStream<Out, Bytes>,
    pub(super) limit: Duration,
}

impl Answer {
    /// The client may send its body.
    pub(super) async fn go_on(&mut self) -> Result<(), Error> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::CONTINUE;
        self.head(head).await
    }

    /// The head alone.
    pub(super) async fn head(&mut self, head: Response<()>) -> Result<(), Error> {
        within(self.limit, self.stream.send_response(head)).await
    }

    /// A piece of the body.
    pub(super) async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        within(self.limit, self.stream.send_data(data)).await
    }

    /// The end.
    pub(super) async fn finish(&mut self) -> Result<(), Error> {
        within(self.limit, self.stream.finish()).await
    }

    /// Writes the whole answer to a request of this method.
    pub(super) async fn write(mut self, method: &Method, response: Response<Body>, clock: &Clock) -> Result<(), Error> {
        let (mut parts, body) = response.into_parts();
        for name in &OF_A_CONNECTION {
            parts.headers.remove(name);
        }
        if let Ok(date) = clock.now().format(DATE)
            && let Ok(date) = HeaderValue::from_str(&date)
        {
            parts.headers.entry(header::DATE).or_insert(date);
        }
        let without = *method == Method::HEAD
            || parts.status.is_informational()
            || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT {
            // Nothing has no length (RFC 9110, section 8.6).
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        if !without && let Some(length) = body.size_hint().exact() {
            parts.headers.entry(header::CONTENT_LENGTH).or_insert(length.into());
        }
        self.head(Response::from_parts(parts, ())).await?;
        if !without {
            self.body(body).await?;
        }
        self.finish().await
    }

    async fn body(&mut self, body: Body) -> Result<(), Error> {
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(e) => {
                    self.stream.stop_stream(Code::H3_INTERNAL_ERROR);
                    return Err(Error::Body(e));
                }
            };
            match frame.into_data() {
                Ok(mut data) => {
                    while data.has_remaining() {
                        let piece = data.split_to(data.len().min(PIECE));
                        self.data(piece).await?;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        return within(self.limit, self.stream.send_trailers(trailers)).await;
                    }
                }
            }
        }
        Ok(())
    }
}

async fn within(limit: Duration, write: impl Future<Output = Result<(), StreamError>>) -> Result<(), Error> {
    timeout(limit, write).await.map_err(|_| Error::Unread)?.map_err(Error::Stream)
}
