//! The WebTransport sessions of one connection: a stream or a datagram names its session and goes to that session's inbox.

use std::{collections::HashMap, mem, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use parking_lot::Mutex;
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;

use crate::varint;

/// Ends a stream of a session that is not there (draft-ietf-webtrans-http3, section 4.5).
const STREAM_REJECTED: VarInt = VarInt::from_u32(0x3994_bd84);
/// Type of a session's unidirectional stream.
pub(crate) const SESSION_UNI: u64 = 0x54;
/// First number of a session's bidirectional stream.
pub(crate) const SESSION_BIDI: u64 = 0x41;
/// Streams that wait for their session to take them; the transport allows hardly more.
const WAITING_STREAMS: usize = 256;
/// Datagrams that wait for their session to take them. Newer ones are dropped.
const WAITING_DATAGRAMS: usize = 64;

/// The open sessions of a connection, by the number of their CONNECT stream.
pub(crate) struct Sessions {
    connection: Connection,
    open: Mutex<HashMap<u64, Route>>,
    limit: usize,
}

struct Route {
    streams: mpsc::Sender<Incoming>,
    datagrams: mpsc::Sender<Bytes>,
}

/// A stream that the peer opened, with the bytes that were read of it.
pub enum Incoming {
    /// Both ways.
    Bidi(SendStream, RecvStream, BytesMut),
    /// From the peer alone.
    Uni(RecvStream, BytesMut),
}

/// The peer's streams and datagrams of one session. The session holds a place on its connection until this is dropped.
pub struct Inbox {
    sessions: Arc<Sessions>,
    /// Number of the session.
    pub id: u64,
    /// Streams that the peer opens.
    pub streams: mpsc::Receiver<Incoming>,
    /// Datagrams without the number of their session.
    pub datagrams: mpsc::Receiver<Bytes>,
}

impl Sessions {
    /// An empty registry for at most `limit` sessions at once.
    pub(crate) fn new(connection: Connection, limit: usize) -> Arc<Self> {
        Arc::new(Self { connection, open: Mutex::default(), limit })
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Registers a session; `None` where the connection has as many as it may have.
    pub(crate) fn enter(self: &Arc<Self>, id: u64) -> Option<Inbox> {
        let mut open = self.open.lock();
        if open.len() >= self.limit {
            return None;
        }
        let (to_streams, streams) = mpsc::channel(WAITING_STREAMS);
        let (to_datagrams, datagrams) = mpsc::channel(WAITING_DATAGRAMS);
        open.insert(id, Route { streams: to_streams, datagrams: to_datagrams });
        Some(Inbox { sessions: Arc::clone(self), id, streams, datagrams })
    }

    /// Hands a stream to its session; ends it where there is none or its inbox is full.
    pub(crate) fn stream(&self, session: u64, stream: Incoming) {
        let refused = match self.open.lock().get(&session) {
            Some(route) => route.streams.try_send(stream).err().map(mpsc::error::TrySendError::into_inner),
            None => Some(stream),
        };
        if let Some(stream) = refused {
            stream.end(STREAM_REJECTED);
        }
    }

    /// Hands a datagram to the session whose quarter number it begins with (RFC 9297, section 2.1).
    pub(crate) fn datagram(&self, mut datagram: Bytes) {
        let Some((quarter, size)) = varint::peek(&datagram, 0) else { return };
        datagram.advance(size);
        let taken = self.open.lock().get(&quarter.saturating_mul(4)).is_some_and(|route| route.datagrams.try_send(datagram).is_ok());
        if !taken {
            metrics::counter!("motience_latest_dropped_total").increment(1);
        }
    }
}

impl Incoming {
    /// Ends the stream unread.
    pub fn end(self, code: VarInt) {
        // An error says that the half has ended already.
        match self {
            Self::Bidi(mut send, mut recv, _) => {
                let _ = send.reset(code);
                let _ = recv.stop(code);
            }
            Self::Uni(mut recv, _) => drop(recv.stop(code)),
        }
    }
}

impl Inbox {
    /// Takes both receivers, to be read by several tasks.
    pub fn take(&mut self) -> (mpsc::Receiver<Incoming>, mpsc::Receiver<Bytes>) {
        (mem::replace(&mut self.streams, mpsc::channel(1).1), mem::replace(&mut self.datagrams, mpsc::channel(1).1))
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.sessions.open.lock().remove(&self.id);
    }
}
