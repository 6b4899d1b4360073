//! A session's own stream, the CONNECT, and what the server opens in it.
//!
//! The CONNECT stream is read for as long as the session lives: its end, its reset, and a CLOSE_WEBTRANSPORT_SESSION
//! capsule are seen at once (draft-ietf-webtrans-http3, section 6).

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use motience_http::ClientAddress;
use motience_limits::uploads;
use motience_proto::wire::varint;
use motience_session::CloseReason;
use quinn::{Connection, SendStream, VarInt};
use tokio::time::timeout;

use crate::h3::{SESSION_UNI, Up};

/// CLOSE_WEBTRANSPORT_SESSION.
const CLOSE: u64 = 0x2843;
/// Longest reason of a close, in bytes.
const MAX_REASON: usize = 1024;
/// How long a client may take for the last of a stream that has ended.
const LAST_LIMIT: Duration = Duration::from_secs(1);
/// For the streams of a session that has ended (section 8.5).
const SESSION_GONE: VarInt = VarInt::from_u32(0x170d_7b68);

/// The other end of a session. Cheap to clone.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) connection: Connection,
    /// The session's number.
    pub(super) id: u64,
    /// Time for the client to take something that it must take.
    pub(super) write: Duration,
    /// What its connection holds of what comes in.
    pub(super) uploads: uploads::Connection,
}

impl Peer {
    /// Where it comes from.
    pub(super) fn client(&self) -> ClientAddress {
        ClientAddress::of(self.connection.remote_address().ip())
    }

    /// Opens a stream to the client, which must give one in time.
    pub(super) async fn open_uni(&self) -> Result<Outgoing, CloseReason> {
        let stream = timeout(self.write, self.connection.open_uni()).await.map_err(|_| unread())?;
        let mut stream = Outgoing { stream: stream.map_err(CloseReason::gone)?, finished: false };
        let mut head = BytesMut::new();
        varint::put(SESSION_UNI, &mut head);
        varint::put(self.id, &mut head);
        stream.write_within(self.write, head.freeze()).await?;
        Ok(stream)
    }

    /// The beginning of the session's datagrams.
    pub(super) fn datagram(&self) -> BytesMut {
        let mut head = BytesMut::new();
        varint::put(self.id / 4, &mut head);
        head
    }

    /// Sends one; whether it went on its way.
    pub(super) fn send(&self, datagram: Bytes) -> bool {
        self.connection.send_datagram(datagram).is_ok()
    }
}

/// A stream to the client. Dropped before its end, it is reset.
pub(super) struct Outgoing {
    stream: SendStream,
    finished: bool,
}

impl Outgoing {
    pub(super) fn new(stream: SendStream) -> Self {
        Self { stream, finished: false }
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), CloseReason> {
        self.stream.write_chunk(bytes).await.map_err(CloseReason::gone)
    }

    /// Writes all of it within the limit.
    pub(super) async fn write_within(&mut self, limit: Duration, bytes: Bytes) -> Result<(), CloseReason> {
        timeout(limit, self.write(bytes)).await.map_err(|_| unread())?
    }

    /// Nothing more comes. Reset where the client does not take the last of it in time, so that nothing of it is kept.
    pub(super) async fn end(mut self) {
        self.finish();
        if timeout(LAST_LIMIT, self.stream.stopped()).await.is_err() {
            let _ = self.stream.reset(SESSION_GONE);
        }
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) {
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

fn unread() -> CloseReason {
    metrics::counter!("motience_webtransport_let_go_total", "reason" => "unread").increment(1);
    CloseReason::rate_limited("the client takes nothing")
}

/// Returns when the client has ended the session: how.
pub(super) async fn ended_by_client(up: &mut Up) -> String {
    let mut buffer = BytesMut::new();
    // Bytes of a capsule that says nothing to us (RFC 9297, section 3.2).
    let mut skip = 0;
    loop {
        let left = buffer.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
        buffer.advance(left);
        skip -= left as u64;
        if skip == 0
            && let Some((kind, a)) = varint::peek(&buffer, 0)
            && let Some((length, b)) = varint::peek(&buffer, a)
        {
            if kind == CLOSE {
                return "the client closed the session".to_owned();
            }
            buffer.advance(a + b);
            skip = length;
            continue;
        }
        match up.next().await {
            Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
            Ok(None) => return "the client ended the session".to_owned(),
            Err(e) => return format!("the session was lost: {e}"),
        }
    }
}

/// The capsule that closes a session.
pub(super) fn close(code: u32, reason: &str) -> Bytes {
    let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
    let mut capsule = BytesMut::new();
    varint::put(CLOSE, &mut capsule);
    varint::put(4 + reason.len() as u64, &mut capsule);
    capsule.put_u32(code);
    capsule.put_slice(reason.as_bytes());
    capsule.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_carries_its_code_and_as_much_of_its_reason_as_fits() {
        assert_eq!(close(4401, "no"), &b"\x68\x43\x06\x00\x00\x11\x31no"[..]);
        let long = close(0, &"é".repeat(1000));
        assert_eq!(long.len(), 2 + 2 + 4 + MAX_REASON);
    }
}
