//! A WebSocket with its limits: writes that must be taken in time, pings that notice a dead peer, the close.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use motience_http::{Flooded, count_ended};
use motience_limits::uploads::Full;
use motience_proto::model::UserId;
use motience_session::CloseReason;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes, error::ProtocolError, protocol::CloseFrame};

use crate::handshake::WebSocket;

/// How long a peer has to take a close and to answer it: less than the second within which the end of a right ends a connection.
const CLOSE_LIMIT: Duration = Duration::from_millis(900);

/// A socket with its limits.
pub(crate) struct Socket {
    inner: WebSocket,
    write_limit: Duration,
    ping: Interval,
    /// Pings sent since the peer was heard last.
    unanswered: u8,
}

/// Message of a peer.
pub(crate) enum SocketEvent {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// A ping or a pong: the peer is alive.
    KeepAlive,
}

impl Socket {
    pub(crate) fn new(inner: WebSocket, config: &crate::Config) -> Self {
        let mut ping = interval_at(Instant::now() + config.ping, config.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inner, write_limit: config.write, ping, unanswered: 0 }
    }

    /// The peer's next message. Sends pings on time, and fails when the peer was silent for two of them. Cancel-safe.
    pub(crate) async fn event(&mut self) -> Result<SocketEvent, CloseReason> {
        loop {
            tokio::select! {
                biased;
                message = self.inner.next() => return self.read(message),
                _ = self.ping.tick() => {
                    if self.unanswered >= 2 {
                        return Err(CloseReason::gone("the peer is silent"));
                    }
                    self.unanswered += 1;
                    self.send(Message::Ping(Bytes::new())).await?;
                }
            }
        }
    }

    /// Whether the socket's buffer takes another message now.
    pub(crate) fn has_room(&mut self) -> Result<bool, CloseReason> {
        use futures_util::FutureExt as _;
        let ready = std::future::poll_fn(|cx| self.inner.poll_ready_unpin(cx)).now_or_never();
        ready.transpose().map(|ready| ready.is_some()).map_err(CloseReason::gone)
    }

    /// Returns once the socket's buffer takes another message, or the limit is over. Cancel-safe.
    pub(crate) async fn room(&mut self) -> Result<(), CloseReason> {
        within(self.write_limit, std::future::poll_fn(|cx| self.inner.poll_ready_unpin(cx))).await
    }

    /// Hands a message to the socket's buffer, which has room.
    pub(crate) fn put(&mut self, message: Message) -> Result<(), CloseReason> {
        self.inner.start_send_unpin(message).map_err(CloseReason::gone)
    }

    /// Hands a message to the socket's buffer; waits while that is full, within the limit.
    pub(crate) async fn feed(&mut self, message: Message) -> Result<(), CloseReason> {
        if !self.has_room()? {
            self.room().await?;
        }
        self.put(message)
    }

    /// Writes the buffer out.
    pub(crate) async fn flush(&mut self) -> Result<(), CloseReason> {
        within(self.write_limit, self.inner.flush()).await
    }

    /// Sends one message at once.
    pub(crate) async fn send(&mut self, message: Message) -> Result<(), CloseReason> {
        within(self.write_limit, self.inner.send(message)).await
    }

    /// Counts the bytes that the peer sends as this account's from now on.
    pub(crate) fn is_of(&self, user: UserId) {
        self.inner.get_ref().is_of(user);
    }

    /// Counts a message that carries nothing, as pings are counted.
    pub(crate) fn spend(&mut self) -> Result<(), CloseReason> {
        Ok(self.inner.get_mut().spend()?)
    }

    /// Closes with the code and text of wss1 and wss2, and gives the peer a moment to answer.
    pub(crate) async fn close(self, reason: &CloseReason) {
        if let Some(fault) = reason.fault() {
            count_ended(fault);
        }
        self.close_with(reason, reason.websocket().map(|(code, text)| frame(code, text))).await;
    }

    /// Closes with the code and text of motience/1.
    pub(crate) async fn close_tunnel(self, reason: &CloseReason) {
        self.close_with(reason, reason.tunnel().map(|(code, text)| frame(code, &text))).await;
    }

    async fn close_with(mut self, reason: &CloseReason, frame: Option<CloseFrame>) {
        // On the heap: the task of each idle connection would have room for it.
        let closing = Box::pin(async {
            match frame {
                Some(frame) => self.inner.send(Message::Close(Some(frame))).await?,
                // Reading on is what writes the answer to the peer's close; it is the last that is written.
                None if *reason == CloseReason::Left => {}
                None => return Ok(()),
            }
            // Until the peer has closed too, its answer could be lost with the socket.
            self.rest().await;
            Ok::<_, tungstenite::Error>(())
        });
        // A peer that does not take the close is not waited for.
        let _ = timeout(CLOSE_LIMIT, closing).await;
    }

    /// Reads until the peer has closed.
    async fn rest(&mut self) {
        while self.inner.next().await.is_some_and(|m| m.is_ok()) {}
        // The bytes behind the close are no WebSocket: only their end matters.
        let _ = self.inner.get_mut().read(&mut [0]).await;
    }

    fn read(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Result<SocketEvent, CloseReason> {
        self.unanswered = 0;
        match message {
            Some(Ok(Message::Text(text))) => Ok(SocketEvent::Text(text)),
            Some(Ok(Message::Binary(bytes))) => Ok(SocketEvent::Binary(bytes)),
            // Whole frames are never given out.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(SocketEvent::KeepAlive),
            Some(Ok(Message::Close(_))) => Err(CloseReason::Left),
            Some(Err(e)) => Err(close_reason(&e)),
            None => Err(CloseReason::gone("the socket is closed")),
        }
    }
}

async fn within(limit: Duration, write: impl Future<Output = Result<(), tungstenite::Error>>) -> Result<(), CloseReason> {
    match timeout(limit, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(CloseReason::gone(e)),
        Err(_) => {
            count_ended("stalled");
            Err(CloseReason::gone("the peer takes nothing"))
        }
    }
}

fn frame(code: u16, text: &str) -> CloseFrame {
    CloseFrame { code: code.into(), reason: text.into() }
}

/// Close reason of an error while reading.
fn close_reason(error: &tungstenite::Error) -> CloseReason {
    match error {
        tungstenite::Error::Capacity(_) => CloseReason::TooLarge("the message is too large".into()),
        tungstenite::Error::Utf8(_) => CloseReason::NotUtf8,
        // The peer's TCP ended without a close: nobody reads what is wrong with that.
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseReason::gone(error),
        tungstenite::Error::Protocol(_) => CloseReason::NotWebSocket,
        tungstenite::Error::Io(e) => match e.get_ref() {
            Some(cause) if cause.is::<Flooded>() => CloseReason::Flooded,
            Some(cause) => cause.downcast_ref::<Full>().map_or_else(|| CloseReason::gone(cause), |&full| full.into()),
            None => CloseReason::gone(error),
        },
        _ => CloseReason::gone(error),
    }
}
