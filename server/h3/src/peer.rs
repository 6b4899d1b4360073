//! The way to the peer of a WebTransport session: streams that the server opens, and datagrams.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use quinn::{Connection, SendStream, VarInt};
use tokio::time::timeout;

use crate::{sessions::SESSION_UNI, varint};

/// How long a peer may take for the last of a stream that has ended.
const LAST_LIMIT: Duration = Duration::from_secs(1);
/// Resets the streams of a session that has ended (draft-ietf-webtrans-http3, section 8.5).
const SESSION_GONE: VarInt = VarInt::from_u32(0x170d_7b68);

/// The peer of one session. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peer {
    connection: Connection,
    session: u64,
}

/// Why a stream to the peer ended early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The peer takes nothing, or gives no stream, within the limit.
    #[error("the client takes nothing")]
    Unread,
    /// The peer stopped the stream, or the connection is lost.
    #[error("{0}")]
    Gone(String),
}

impl StreamError {
    fn gone(error: impl std::fmt::Display) -> Self {
        Self::Gone(error.to_string())
    }
}

impl Peer {
    pub(crate) fn new(connection: Connection, session: u64) -> Self {
        Self { connection, session }
    }

    /// Address of the peer; changes when the peer moves to another network.
    pub fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Opens a stream to the peer, which must allow one within `limit`.
    pub async fn open_uni(&self, limit: Duration) -> Result<Outgoing, StreamError> {
        let stream = timeout(limit, self.connection.open_uni()).await.map_err(|_| StreamError::Unread)?;
        let mut stream = Outgoing::new(stream.map_err(StreamError::gone)?);
        let mut head = BytesMut::new();
        varint::put(SESSION_UNI, &mut head);
        varint::put(self.session, &mut head);
        stream.write_within(limit, head.freeze()).await?;
        Ok(stream)
    }

    /// The first bytes of each of the session's datagrams.
    pub fn datagram(&self) -> BytesMut {
        let mut head = BytesMut::new();
        varint::put(self.session / 4, &mut head);
        head
    }

    /// Sends a datagram that begins as [`Self::datagram`] says. Returns whether the transport took it.
    pub fn send(&self, datagram: Bytes) -> bool {
        self.connection.send_datagram(datagram).is_ok()
    }
}

/// A stream to the peer. Dropped before its end, it is reset.
pub struct Outgoing {
    stream: SendStream,
    finished: bool,
}

impl Outgoing {
    /// The sending half of a stream that the peer opened.
    pub fn new(stream: SendStream) -> Self {
        Self { stream, finished: false }
    }

    /// Writes all of `bytes` within the limit.
    pub async fn write_within(&mut self, limit: Duration, bytes: Bytes) -> Result<(), StreamError> {
        let written = timeout(limit, self.stream.write_chunk(bytes)).await.map_err(|_| StreamError::Unread)?;
        written.map_err(StreamError::gone)
    }

    /// Ends the stream, and resets it where the peer does not take the last of it in time, so that nothing of it is kept.
    pub async fn end(mut self) {
        self.finish();
        if timeout(LAST_LIMIT, self.stream.stopped()).await.is_err() {
            let _ = self.stream.reset(SESSION_GONE);
        }
    }

    /// Ends the stream.
    pub fn finish(&mut self) {
        self.finished = true;
        // An error says that it has ended already.
        let _ = self.stream.finish();
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.stream.reset(SESSION_GONE);
        }
    }
}
