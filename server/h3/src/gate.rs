//! The receiving half of a stream as the `h3` crate reads it, which bounds how much `h3` keeps.
//!
//! `h3` 0.0.8 reads once before each frame and once before each piece of a body, whether it needs more or not; it keeps every frame but DATA
//! whole, of whatever type and length, before it looks at it; and it takes an empty DATA frame for the end of the body. The gate therefore
//! hands out heads whole and within a limit, the head of a DATA frame by itself, then one piece of its body for each that is asked for, and no
//! frame that means nothing (RFC 9114, section 9). `tests/order.rs` observes the order in which `h3` reads: where that changes, this file
//! has to be read again.

use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use h3::{
    error::Code,
    quic::{ConnectionErrorIncoming, RecvStream, StreamErrorIncoming, StreamId},
};
use quinn::{ConnectionError, ReadError, VarInt};

use crate::varint;

/// Bytes read at once.
const READ: usize = 8 * 1024;

const DATA: u64 = 0x0;
/// HEADERS and every other frame that RFC 9114 names, with those of HTTP/2 that it forbids. `h3` acts on these.
const KNOWN: [u64; 10] = [0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xd];

/// A frame that would be kept whole is longer than the limit.
#[derive(Debug, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub(super) struct TooLong(u64);

/// The stream ends within a frame of the body.
#[derive(Debug, thiserror::Error)]
#[error("the stream ends within a frame")]
pub(super) struct Cut;

/// A receiving stream with the bytes that were read ahead of `h3`.
pub(super) struct Gate {
    stream: quinn::RecvStream,
    buffer: BytesMut,
    at: At,
    /// Longest frame that is kept whole, in bytes.
    limit: usize,
    ended: bool,
}

/// The next bytes of the stream.
enum At {
    /// The head of a frame.
    Frame,
    /// A part of this length that is handed out whole.
    Whole(usize),
    /// The rest of a DATA frame.
    Data(u64),
    /// The rest of a frame that means nothing.
    Skip(u64),
    /// Bytes without frames.
    Raw,
}

impl Gate {
    /// A stream of frames, of which `buffer` was read. A frame that is kept whole has at most `limit` bytes.
    pub(super) fn frames(stream: quinn::RecvStream, buffer: BytesMut, limit: usize) -> Self {
        Self::new(stream, buffer, At::Frame, limit)
    }

    /// A stream that begins with a type of `kind` bytes and goes on with frames.
    pub(super) fn typed(stream: quinn::RecvStream, buffer: BytesMut, kind: usize, limit: usize) -> Self {
        Self::new(stream, buffer, At::Whole(kind), limit)
    }

    /// A stream without frames.
    pub(super) fn raw(stream: quinn::RecvStream, buffer: BytesMut) -> Self {
        Self::new(stream, buffer, At::Raw, 0)
    }

    fn new(stream: quinn::RecvStream, buffer: BytesMut, at: At, limit: usize) -> Self {
        Self { stream, buffer, at, limit, ended: false }
    }

    /// The next piece for `h3`, if enough was read for one.
    fn take(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            match self.at {
                At::Frame => {
                    let Some((kind, a)) = varint::peek(&self.buffer, 0) else { return Ok(None) };
                    let Some((length, b)) = varint::peek(&self.buffer, a) else { return Ok(None) };
                    let head = a + b;
                    if kind == DATA && length > 0 {
                        self.at = At::Data(length);
                        return Ok(Some(self.buffer.split_to(head).freeze()));
                    }
                    if KNOWN.contains(&kind) {
                        if length > self.limit as u64 {
                            return Err(TooLong(length));
                        }
                        self.at = At::Whole(head + length as usize);
                    } else {
                        // An empty DATA frame is among these.
                        self.buffer.advance(head);
                        self.at = At::Skip(length).less(0);
                    }
                }
                At::Whole(length) if self.buffer.len() >= length => {
                    self.at = At::Frame;
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
                _ if self.buffer.is_empty() => return Ok(None),
                At::Whole(_) => return Ok(None),
                At::Data(left) => {
                    let piece = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.at = At::Data(left).less(piece as u64);
                    return Ok(Some(self.buffer.split_to(piece).freeze()));
                }
                At::Skip(left) => {
                    let piece = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.buffer.advance(piece);
                    self.at = At::Skip(left).less(piece as u64);
                }
                At::Raw => return Ok(Some(self.buffer.split().freeze())),
            }
        }
    }

    /// Reads from the transport. Returns whether there was more.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReadError>> {
        let start = self.buffer.len();
        self.buffer.resize(start + READ, 0);
        let read = self.stream.poll_read(cx, &mut self.buffer[start..]);
        self.buffer.truncate(start + if let Poll::Ready(Ok(n)) = read { n } else { 0 });
        Poll::Ready(Ok(ready!(read)? > 0))
    }
}

impl At {
    /// The state after `taken` more bytes.
    fn less(self, taken: u64) -> Self {
        match self {
            Self::Data(left) if left > taken => Self::Data(left - taken),
            Self::Skip(left) if left > taken => Self::Skip(left - taken),
            _ => Self::Frame,
        }
    }
}

impl RecvStream for Gate {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            match self.take() {
                Ok(Some(piece)) => return Poll::Ready(Ok(Some(piece))),
                Ok(None) => {}
                Err(e) => return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(e)))),
            }
            if !self.ended && ready!(self.fill(cx)).map_err(read_error)? {
                continue;
            }
            self.ended = true;
            return Poll::Ready(match self.at {
                At::Data(_) => Err(StreamErrorIncoming::Unknown(Box::new(Cut))),
                // Half a frame, which `h3` refuses.
                _ if !self.buffer.is_empty() => Ok(Some(self.buffer.split().freeze())),
                _ => Ok(None),
            });
        }
    }

    fn stop_sending(&mut self, code: u64) {
        // An error says that the stream has ended already.
        let _ = self.stream.stop(VarInt::from_u64(code).unwrap_or(VarInt::MAX));
        self.ended = true;
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for Gate {
    /// Tells the peer that the rest is not needed (RFC 9114, section 4.1).
    fn drop(&mut self) {
        if !self.ended {
            self.stop_sending(Code::H3_NO_ERROR.value());
        }
    }
}

/// Converts a stream's number.
pub(super) fn id(id: quinn::StreamId) -> StreamId {
    StreamId::try_from(u64::from(id)).expect("both are numbers below 2^62")
}

fn read_error(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        ReadError::ConnectionLost(e) => StreamErrorIncoming::ConnectionErrorIncoming { connection_error: connection_error(e) },
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

pub(super) fn connection_error(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(std::sync::Arc::new(other)),
    }
}
