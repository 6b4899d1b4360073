//! The sessions of WebTransport on one connection, and which of them a stream or a datagram belongs to.

use std::{collections::HashMap, mem, sync::Arc};

use bytes::{Buf as _, Bytes, BytesMut};
use motience_limits::uploads;
use motience_proto::wire::varint;
use parking_lot::{Mutex, MutexGuard};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::sync::mpsc;

/// For a stream of a session that is not there (draft-ietf-webtrans-http3, section 4.5).
const STREAM_REJECTED: VarInt = VarInt::from_u32(0x3994_bd84);
/// The type of a unidirectional stream of a session.
pub(crate) const SESSION_UNI: u64 = 0x54;
/// How a bidirectional stream of a session begins.
pub(super) const SESSION_BIDI: u64 = 0x41;
/// Streams that wait for their session to take them; the transport allows hardly more.
const WAITING_STREAMS: usize = 256;
/// Datagrams that wait for their session to take them; what comes then is worth less than what waits.
const WAITING_DATAGRAMS: usize = 64;

/// The open sessions of a connection, by the number of their CONNECT stream.
pub(crate) struct Sessions {
    connection: Connection,
    open: Mutex<HashMap<u64, Route>>,
    most: usize,
    /// What sessions and requests hold of what comes in.
    uploads: uploads::Connection,
}

struct Route {
    streams: mpsc::Sender<Incoming>,
    datagrams: mpsc::Sender<Bytes>,
}

/// A stream that the peer opened, with what was read of it.
pub(crate) enum Incoming {
    Bidi(SendStream, RecvStream, BytesMut),
    Uni(RecvStream, BytesMut),
}

/// A session's place among the others; free again when dropped.
pub(crate) struct Place {
    sessions: Arc<Sessions>,
    pub(crate) id: u64,
    pub(crate) streams: mpsc::Receiver<Incoming>,
    pub(crate) datagrams: mpsc::Receiver<Bytes>,
}

impl Sessions {
    /// None yet, and at most so many.
    pub(crate) fn new(connection: Connection, most: usize) -> Arc<Self> {
        Arc::new(Self { connection, open: Mutex::default(), most, uploads: uploads::Connection::default() })
    }

    /// The connection they share.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the connection holds of what comes in.
    pub(crate) fn uploads(&self) -> &uploads::Connection {
        &self.uploads
    }

    /// A place for a session; `None` where all are taken.
    pub(crate) fn enter(self: &Arc<Self>, id: u64) -> Option<Place> {
        let mut open = self.open();
        if open.len() >= self.most {
            return None;
        }
        let (streams, taken_streams) = mpsc::channel(WAITING_STREAMS);
        let (datagrams, taken_datagrams) = mpsc::channel(WAITING_DATAGRAMS);
        open.insert(id, Route { streams, datagrams });
        drop(open);
        Some(Place { sessions: Arc::clone(self), id, streams: taken_streams, datagrams: taken_datagrams })
    }

    /// Hands a bidirectional stream to its session.
    pub(crate) fn bidirectional(&self, session: u64, send: SendStream, recv: RecvStream, buffer: BytesMut) {
        self.hand(session, Incoming::Bidi(send, recv, buffer));
    }

    /// Hands a unidirectional stream to its session.
    pub(crate) fn unidirectional(&self, session: u64, recv: RecvStream, buffer: BytesMut) {
        self.hand(session, Incoming::Uni(recv, buffer));
    }

    /// Hands a datagram to its session, which the number before it names by its quarter (RFC 9297, section 2.1).
    pub(crate) fn datagram(&self, mut datagram: Bytes) {
        let Some((quarter, size)) = varint::peek(&datagram, 0) else { return };
        datagram.advance(size);
        let taken = self.open().get(&quarter.saturating_mul(4)).is_some_and(|route| route.datagrams.try_send(datagram).is_ok());
        if !taken {
            metrics::counter!("motience_latest_dropped_total").increment(1);
        }
    }

    fn hand(&self, session: u64, stream: Incoming) {
        let refused = match self.open().get(&session) {
            Some(route) => route.streams.try_send(stream).err().map(mpsc::error::TrySendError::into_inner),
            None => Some(stream),
        };
        if let Some(stream) = refused {
            stream.end(STREAM_REJECTED);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Route>> {
        self.open.lock()
    }
}

impl Incoming {
    /// Ends it, unread.
    pub(crate) fn end(self, code: VarInt) {
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

impl Place {
    /// What comes of the peer, to be read by several.
    pub(crate) fn take(&mut self) -> (mpsc::Receiver<Incoming>, mpsc::Receiver<Bytes>) {
        let (none, nothing) = (mpsc::channel(1).1, mpsc::channel(1).1);
        (mem::replace(&mut self.streams, none), mem::replace(&mut self.datagrams, nothing))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.open().remove(&self.id);
    }
}
