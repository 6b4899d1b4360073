//! The way to the client of a session: its errors are the reasons why the session ends.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use motience_h3::StreamError;
use motience_http::ClientAddress;
use motience_limits::uploads;
use motience_session::CloseReason;
use quinn::SendStream;

/// The client of a session. Cheap to clone.
#[derive(Clone)]
pub(super) struct Peer {
    pub(super) inner: motience_h3::Peer,
    /// Time for the client to take something that it must take.
    pub(super) write: Duration,
    /// Memory that its connection holds of what comes in.
    pub(super) uploads: uploads::Connection,
}

impl Peer {
    /// Address that it counts for.
    pub(super) fn client(&self) -> ClientAddress {
        ClientAddress::of(self.inner.address().ip())
    }

    /// Opens a stream to the client, which must give one in time.
    pub(super) async fn open_uni(&self) -> Result<Outgoing, CloseReason> {
        self.inner.open_uni(self.write).await.map(Outgoing).map_err(close_reason)
    }

    /// The first bytes of the session's datagrams.
    pub(super) fn datagram(&self) -> BytesMut {
        self.inner.datagram()
    }

    /// Sends a datagram. Returns whether the transport took it.
    pub(super) fn send(&self, datagram: Bytes) -> bool {
        self.inner.send(datagram)
    }
}

/// A stream to the client. Dropped before its end, it is reset.
pub(super) struct Outgoing(motience_h3::Outgoing);

impl Outgoing {
    /// The sending half of a stream that the client opened.
    pub(super) fn new(stream: SendStream) -> Self {
        Self(motience_h3::Outgoing::new(stream))
    }

    /// Writes all of `bytes` within the limit.
    pub(super) async fn write_within(&mut self, limit: Duration, bytes: Bytes) -> Result<(), CloseReason> {
        self.0.write_within(limit, bytes).await.map_err(close_reason)
    }

    /// Ends the stream, and resets it where the client does not take the last of it in time.
    pub(super) async fn end(self) {
        self.0.end().await;
    }

    /// Ends the stream.
    pub(super) fn finish(&mut self) {
        self.0.finish();
    }
}

fn close_reason(error: StreamError) -> CloseReason {
    match error {
        StreamError::Unread => {
            metrics::counter!("motience_webtransport_let_go_total", "reason" => "unread").increment(1);
            CloseReason::rate_limited(error.to_string())
        }
        StreamError::Gone(why) => CloseReason::gone(why),
    }
}
