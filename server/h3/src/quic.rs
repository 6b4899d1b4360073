//! The transport as the `h3` crate sees it. `h3` opens its own streams and is handed those of the peer that it has to read.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::{VarInt, WriteError};
use tokio::sync::mpsc;

use crate::gate::{self, Gate};

type Inner = h3_quinn::Connection;

/// A connection. `h3` accepts the peer's control streams from it and never sees a bidirectional stream, which [`crate::opening`] sorts.
pub(super) struct Link {
    inner: Inner,
    /// The peer's control streams.
    control: mpsc::Receiver<Gate>,
}

impl Link {
    pub(super) fn new(connection: quinn::Connection, control: mpsc::Receiver<Gate>) -> Self {
        Self { inner: Inner::new(connection), control }
    }
}

impl quic::Connection<Bytes> for Link {
    type RecvStream = Gate;
    type OpenStreams = Self;

    fn poll_accept_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Gate, ConnectionErrorIncoming>> {
        match self.control.poll_recv(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(Ok(stream)),
            // The driver holds the other end, and notices by itself that the connection is over.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn poll_accept_bidi(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Bidi, ConnectionErrorIncoming>> {
        Poll::Pending
    }

    fn opener(&self) -> Self {
        unreachable!("only clients open requests")
    }
}

impl quic::OpenStreams<Bytes> for Link {
    type BidiStream = Bidi;
    type SendStream = h3_quinn::SendStream<Bytes>;

    fn poll_open_bidi(&mut self, _cx: &mut Context<'_>) -> Poll<Result<Bidi, StreamErrorIncoming>> {
        unreachable!("only clients open requests")
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        quic::OpenStreams::<Bytes>::poll_open_send(&mut self.inner, cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        quic::OpenStreams::<Bytes>::close(&mut self.inner, code, reason);
    }
}

/// The stream of one request and its answer.
pub(super) struct Bidi {
    pub(super) send: Out,
    pub(super) recv: Gate,
}

/// The sending half of a request's stream. Dropped before its end it is reset once it is armed, because quinn by itself would finish it
/// and the client would take half an answer for a whole one.
pub(super) struct Out {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    armed: Arc<AtomicBool>,
    over: bool,
}

impl Out {
    /// `armed`: set once there is an answer to be cut off.
    pub(super) fn new(stream: quinn::SendStream, armed: Arc<AtomicBool>) -> Self {
        Self { stream, writing: None, armed, over: false }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if !self.over && self.armed.load(Ordering::Relaxed) {
            quic::SendStream::<Bytes>::reset(self, Code::H3_REQUEST_CANCELLED.value());
        }
    }
}

impl quic::SendStream<Bytes> for Out {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            while data.has_remaining() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk())).map_err(write_error)?;
                data.advance(written);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.over = true;
        Poll::Ready(self.stream.finish().map_err(|e| StreamErrorIncoming::Unknown(Box::new(e))))
    }

    fn reset(&mut self, code: u64) {
        self.over = true;
        // An error says that it was reset or finished before.
        let _ = self.stream.reset(VarInt::from_u64(code).unwrap_or(VarInt::MAX));
    }

    fn send_id(&self) -> StreamId {
        gate::id(self.stream.id())
    }
}

impl quic::SendStream<Bytes> for Bidi {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

impl quic::RecvStream for Bidi {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::BidiStream<Bytes> for Bidi {
    type SendStream = Out;
    type RecvStream = Gate;

    fn split(self) -> (Out, Gate) {
        (self.send, self.recv)
    }
}

fn write_error(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
        WriteError::ConnectionLost(e) => StreamErrorIncoming::ConnectionErrorIncoming { connection_error: gate::connection_error(e) },
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
