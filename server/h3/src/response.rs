//! Writes an answer: its head, its body as it comes, its trailers. An answer that fails is reset, so that the client does not take half of
//! it for a whole one.

use std::{pin::pin, time::Duration};

use bytes::{Buf as _, Bytes};
use h3::{
    error::{Code, StreamError},
    server::RequestStream,
};
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt as _;
use time::{OffsetDateTime, format_description::StaticFormatDescription, macros::format_description};
use tokio::time::timeout;

use crate::{quic::Out, request::OF_A_CONNECTION};

/// Form of the `date` field (RFC 9110, section 5.6.7).
const DATE: StaticFormatDescription =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Most bytes that are written within one write limit.
const PIECE: usize = 64 * 1024;

/// The error of a body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an answer did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client cancelled it, or the connection is lost.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The client does not take it in time, or has lost its right to it.
    #[error("the client does not take it, or its right to it has ended")]
    Unread,
    /// Its body failed.
    #[error("the answer failed: {0}")]
    Body(BoxError),
}

/// The stream for the answer to one request. Dropped before its end, it is reset.
pub struct Answer {
    stream: RequestStream<Out, Bytes>,
    /// Time for the client to take each piece.
    limit: Duration,
    /// Method of the request.
    method: Method,
}

impl Answer {
    pub(crate) fn new(stream: RequestStream<Out, Bytes>, limit: Duration, method: Method) -> Self {
        Self { stream, limit, method }
    }

    /// Allows the client to send its body.
    pub(crate) async fn go_on(&mut self) -> Result<(), Error> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::CONTINUE;
        self.head(head).await
    }

    /// Writes a head.
    pub(crate) async fn head(&mut self, head: Response<()>) -> Result<(), Error> {
        within(self.limit, self.stream.send_response(head)).await
    }

    /// Writes a piece of the body.
    pub(crate) async fn data(&mut self, data: Bytes) -> Result<(), Error> {
        within(self.limit, self.stream.send_data(data)).await
    }

    /// Ends the stream.
    pub(crate) async fn finish(&mut self) -> Result<(), Error> {
        within(self.limit, self.stream.finish()).await
    }

    /// Writes the whole answer. `now` is its `date`, unless it has one.
    pub async fn write<B>(mut self, response: Response<B>, now: OffsetDateTime) -> Result<(), Error>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let (mut parts, body) = response.into_parts();
        for name in &OF_A_CONNECTION {
            parts.headers.remove(name);
        }
        if let Ok(date) = now.format(DATE)
            && let Ok(date) = HeaderValue::from_str(&date)
        {
            parts.headers.entry(header::DATE).or_insert(date);
        }
        let without = self.method == Method::HEAD
            || parts.status.is_informational()
            || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT {
            // These have no length (RFC 9110, section 8.6).
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

    async fn body(&mut self, body: impl Body<Data = Bytes, Error: Into<BoxError>>) -> Result<(), Error> {
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                Err(e) => {
                    self.stream.stop_stream(Code::H3_INTERNAL_ERROR);
                    return Err(Error::Body(e.into()));
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
