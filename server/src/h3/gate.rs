//! What the `h3` crate is given to read of a stream: frame by frame, so that what it keeps has a limit.
//!
//! By itself it reads on for each frame and for each piece of a body, whether it needs more or not, so that a peer that
//! writes small frames has it keep most of what was sent; it keeps frames whole before it knows them, however long they
//! say they are; and it takes an empty DATA frame for the end of the body. Behind the gate heads come whole and within
//! their limit, bodies piece by piece as they are asked for, and frames that mean nothing not at all (RFC 9114, section 9).

use std::{
    mem,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use h3::{
    error::Code,
    quic::{ConnectionErrorIncoming, RecvStream, StreamErrorIncoming, StreamId},
};
use motience_proto::wire::varint;
use quinn::{ConnectionError, ReadError, VarInt};

/// Bytes read at once.
const READ: usize = 8 * 1024;

const DATA: u64 = 0x0;
/// HEADERS and every other frame that RFC 9114 names, with those of HTTP/2 that it forbids: what h3 has a say about.
const KNOWN: [u64; 10] = [0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xd];

/// A frame that is kept whole says that it is longer than it may be.
#[derive(Debug, thiserror::Error)]
#[error("a frame of {0} bytes")]
pub(super) struct TooLong(u64);

/// The stream ends within a frame of the body.
#[derive(Debug, thiserror::Error)]
#[error("the stream ends within a frame")]
pub(super) struct Cut;

/// A receiving stream with what was read ahead.
pub(super) struct Gate {
    stream: quinn::RecvStream,
    buffer: BytesMut,
    at: At,
    /// Longest frame that is kept whole.
    limit: usize,
    /// h3 was given the beginning of a DATA frame: it looks again before it takes what it has.
    ahead: bool,
    ended: bool,
}

/// What comes next.
enum At {
    Frame,
    /// So many more bytes of a frame that is given whole.
    Whole(usize),
    /// So many more bytes of a piece of the body.
    Data(u64),
    /// So many more bytes that mean nothing.
    Skip(u64),
    /// Bytes as they come: a stream's type, or what has no frames.
    Raw,
}

impl Gate {
    /// Frames, of which what is kept whole has at most `limit` bytes. `buffer`: what was read of them.
    pub(super) fn frames(stream: quinn::RecvStream, buffer: BytesMut, limit: usize) -> Self {
        Self::new(stream, buffer, At::Frame, limit)
    }

    /// A stream's type of so many bytes, then frames.
    pub(super) fn typed(stream: quinn::RecvStream, buffer: BytesMut, kind: usize, limit: usize) -> Self {
        Self::new(stream, buffer, At::Whole(kind), limit)
    }

    /// Everything as it comes.
    pub(super) fn raw(stream: quinn::RecvStream, buffer: BytesMut) -> Self {
        Self::new(stream, buffer, At::Raw, 0)
    }

    fn new(stream: quinn::RecvStream, buffer: BytesMut, at: At, limit: usize) -> Self {
        Self { stream, buffer, at, limit, ahead: false, ended: false }
    }

    /// The next piece for h3, if enough was read for one.
    fn take(&mut self) -> Result<Option<Bytes>, TooLong> {
        loop {
            match self.at {
                At::Frame => {
                    let Some((kind, a)) = varint::peek(&self.buffer, 0) else { return Ok(None) };
                    let Some((length, b)) = varint::peek(&self.buffer, a) else { return Ok(None) };
                    let head = a + b;
                    if kind == DATA && length > 0 {
                        if self.buffer.len() == head {
                            return Ok(None);
                        }
                        let piece = self.buffer.len().min(head.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)));
                        self.at = At::Data(length).less((piece - head) as u64);
                        self.ahead = true;
                        return Ok(Some(self.buffer.split_to(piece).freeze()));
                    }
                    if KNOWN.contains(&kind) {
                        if length > self.limit as u64 {
                            return Err(TooLong(length));
                        }
                        self.at = At::Whole(head + length as usize);
                    } else {
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

    /// Reads on; whether there was more.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ReadError>> {
        let start = self.buffer.len();
        self.buffer.resize(start + READ, 0);
        let read = self.stream.poll_read(cx, &mut self.buffer[start..]);
        self.buffer.truncate(start + if let Poll::Ready(Ok(n)) = read { n } else { 0 });
        Poll::Ready(Ok(ready!(read)? > 0))
    }
}

impl At {
    /// The same with `taken` bytes less to come.
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
        if mem::take(&mut self.ahead) {
            // Nobody waits for this: h3 goes on with the piece that it has.
            return Poll::Pending;
        }
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
                // Half a frame: h3 knows what to say about it.
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
    /// Whoever does not need the rest says so (RFC 9114, section 4.1).
    fn drop(&mut self) {
        if !self.ended {
            self.stop_sending(Code::H3_NO_ERROR.value());
        }
    }
}

/// The same number in h3's words.
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
