//! Frames out of a QUIC stream.

use bytes::BytesMut;
use motience_proto::wire::{Frame, Limits, StreamKind};
use quinn::{ReadError, RecvStream};

use super::Error;

/// Bytes taken from the stream at once.
const CHUNK: usize = 64 * 1024;

/// Reads frames. Every method is cancel-safe: what was read stays in the buffer.
pub(super) struct Frames {
    stream: RecvStream,
    buffer: BytesMut,
    limits: Limits,
}

impl Frames {
    pub(super) fn new(stream: RecvStream, limits: Limits) -> Self {
        Self { stream, buffer: BytesMut::new(), limits }
    }

    /// The stream's kind, its first bytes. `None`: the stream ended.
    pub(super) async fn kind(&mut self) -> Result<Option<StreamKind>, Error> {
        loop {
            if let Some(kind) = StreamKind::decode(&mut self.buffer)? {
                return Ok(Some(kind));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The next frame. `None`: the stream ended.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// The next frame that needs no waiting.
    pub(super) fn buffered(&mut self) -> Result<Option<Frame>, Error> {
        Ok(Frame::decode(&mut self.buffer, self.limits)?)
    }

    async fn fill(&mut self) -> Result<bool, Error> {
        match self.stream.read_chunk(CHUNK, true).await {
            Ok(Some(chunk)) => {
                self.buffer.extend_from_slice(&chunk.bytes);
                Ok(true)
            }
            Ok(None) if self.buffer.is_empty() => Ok(false),
            Ok(None) => Err(Error::Protocol("a stream ended within a frame".into())),
            Err(ReadError::ConnectionLost(error)) => Err(error.into()),
            // The server gave this stream up; what it carried is over.
            Err(ReadError::Reset(_)) => Ok(false),
            Err(error) => Err(Error::Protocol(error.to_string())),
        }
    }
}
