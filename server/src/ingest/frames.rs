//! Streams of motience/1, read and written frame by frame.

use bytes::{Bytes, BytesMut};
use motience_http::Ration;
use motience_proto::wire::{Frame, Limits};
use motience_session::{CloseReason, carries_nothing};
use quinn::{RecvStream, SendStream, WriteError};

/// Bytes taken from a stream in one read.
pub(super) const READ: usize = 64 * 1024;

/// A control stream with what was read ahead of the next frame.
pub(super) struct Control {
    pub(super) send: SendStream,
    pub(super) recv: Frames,
}

/// A stream read frame by frame.
pub(super) struct Frames {
    stream: RecvStream,
    buffer: BytesMut,
    limits: Limits,
    /// Of frames that carry nothing; `None` where there are none.
    ration: Option<Ration>,
}

impl Frames {
    pub(super) fn new(stream: RecvStream, buffer: BytesMut, limits: Limits) -> Self {
        Self { stream, buffer, limits, ration: None }
    }

    /// Bounds the frames that carry nothing.
    pub(super) fn rationed(self, ration: Ration) -> Self {
        Self { ration: Some(ration), ..self }
    }

    fn count(&mut self, frame: &Frame) -> Result<(), CloseReason> {
        match &mut self.ration {
            Some(ration) if carries_nothing(frame) => Ok(ration.spend()?),
            _ => Ok(()),
        }
    }

    /// The next frame; `None` where the stream ends. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, CloseReason> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, self.limits)? {
                self.count(&frame)?;
                return Ok(Some(frame));
            }
            match self.stream.read_chunk(READ, true).await.map_err(CloseReason::gone)? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(CloseReason::protocol("a stream ends within a frame")),
            }
        }
    }
}

/// Writes frames that are already encoded.
pub(super) async fn write(send: &mut SendStream, buffer: &mut BytesMut) -> Result<(), WriteError> {
    let bytes: Bytes = buffer.split().freeze();
    send.write_chunk(bytes).await
}
