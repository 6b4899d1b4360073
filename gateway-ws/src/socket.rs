//! What both sides do with a socket: writing within a time limit, noticing a dead peer, saying goodbye.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use motience_shared::{
    http::{Flooded, count_ended},
    model::UserId,
    uploads::Full,
};
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, Interval, MissedTickBehavior, interval_at, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes, error::ProtocolError, protocol::CloseFrame};

use crate::handshake::WebSocket;

/// How long a peer has to take a close and to answer it: less than the second within which the end of a right ends a connection.
const CLOSE_LIMIT: Duration = Duration::from_millis(900);

/// Why the gateway ends a connection, and the close code that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// The peer vanished, or takes nothing: there is nobody to tell.
    Gone,
    /// The peer closed: its close is answered.
    Left,
    /// 1001: the node is going away.
    Away,
    /// 1002: the peer does not keep to RFC 6455.
    Broken,
    /// 1007: a text message that is not UTF-8.
    NotUtf8,
    /// 1008: more frames that carry nothing than a peer may send.
    Flooded,
    /// 1008: more requests than one connection may make.
    RateLimited,
    /// 1013: more is being sent at once than the account, or the node, may hold.
    TooMuch,
    /// 1009: a message over the limit.
    TooLarge,
    /// 1011: the node failed.
    Failed,
    /// 1013: the log or the database is away; come back later.
    TryLater,
    /// 4401: the token has expired or was revoked.
    TokenEnded,
}

impl Goodbye {
    fn frame(self) -> Option<CloseFrame> {
        let (code, reason): (u16, _) = match self {
            Self::Gone | Self::Left => return None,
            Self::Away => (1001, "the node is going away"),
            Self::Broken => (1002, "this is not WebSocket"),
            Self::NotUtf8 => (1007, "the text is not UTF-8"),
            Self::Flooded => (1008, "too many pings, empty fragments or idle messages"),
            Self::RateLimited => (1008, "too many requests on this connection"),
            Self::TooMuch => (1013, "too much is sent at once"),
            Self::TooLarge => (1009, "the message is too large"),
            Self::Failed => (1011, "the server failed"),
            Self::TryLater => (1013, "try again later"),
            Self::TokenEnded => (4401, "the token has expired or was revoked"),
        };
        Some(CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) })
    }

    /// What the peer did wrong, as the metrics say it.
    fn fault(self) -> Option<&'static str> {
        match self {
            Self::Flooded => Some("control_flood"),
            Self::RateLimited => Some("control_rate"),
            Self::TooLarge => Some("too_large"),
            Self::TooMuch => Some("too_much_at_once"),
            Self::Broken | Self::NotUtf8 => Some("protocol"),
            _ => None,
        }
    }
}

/// A socket with its limits.
pub(crate) struct Socket {
    inner: WebSocket,
    write_limit: Duration,
    ping: Interval,
    ping_every: Duration,
    heard: Instant,
}

/// What a socket says.
pub(crate) enum Heard {
    Text(Utf8Bytes),
    Binary(Bytes),
    /// A ping, a pong: the peer lives.
    Life,
}

impl Socket {
    pub(crate) fn new(inner: WebSocket, config: &crate::Config) -> Self {
        let mut ping = interval_at(Instant::now() + config.ping, config.ping);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { inner, write_limit: config.write, ping, ping_every: config.ping, heard: Instant::now() }
    }

    /// What comes next. Pings on time, and ends a peer that is silent for two of them. Cancel-safe.
    pub(crate) async fn hear(&mut self) -> Result<Heard, Goodbye> {
        loop {
            tokio::select! {
                biased;
                message = self.inner.next() => return self.understand(message),
                _ = self.ping.tick() => {
                    if self.heard.elapsed() > self.ping_every * 2 {
                        return Err(Goodbye::Gone);
                    }
                    self.send(Message::Ping(Bytes::new())).await?;
                }
            }
        }
    }

    /// What has come already.
    pub(crate) fn heard(&mut self) -> Option<Result<Heard, Goodbye>> {
        use futures_util::FutureExt as _;
        let message = self.inner.next().now_or_never()?;
        Some(self.understand(message))
    }

    /// Whether the socket's buffer takes another message now.
    pub(crate) fn has_room(&mut self) -> Result<bool, Goodbye> {
        use futures_util::FutureExt as _;
        let ready = std::future::poll_fn(|cx| self.inner.poll_ready_unpin(cx)).now_or_never();
        ready.transpose().map(|ready| ready.is_some()).map_err(|_| Goodbye::Gone)
    }

    /// Returns once the socket's buffer takes another message, or the limit is over. Cancel-safe.
    pub(crate) async fn room(&mut self) -> Result<(), Goodbye> {
        within(self.write_limit, std::future::poll_fn(|cx| self.inner.poll_ready_unpin(cx))).await
    }

    /// Hands a message to the socket's buffer, which has room.
    pub(crate) fn put(&mut self, message: Message) -> Result<(), Goodbye> {
        self.inner.start_send_unpin(message).map_err(|_| Goodbye::Gone)
    }

    /// Hands a message to the socket's buffer; waits while that is full, within the limit.
    pub(crate) async fn feed(&mut self, message: Message) -> Result<(), Goodbye> {
        within(self.write_limit, self.inner.feed(message)).await
    }

    /// Writes the buffer out.
    pub(crate) async fn flush(&mut self) -> Result<(), Goodbye> {
        within(self.write_limit, self.inner.flush()).await
    }

    /// Sends one message at once.
    pub(crate) async fn send(&mut self, message: Message) -> Result<(), Goodbye> {
        within(self.write_limit, self.inner.send(message)).await
    }

    /// Counts what it sends as this account's from now on.
    pub(crate) fn is_of(&self, user: UserId) {
        self.inner.get_ref().is_of(user);
    }

    /// Counts a message that carries nothing, as pings are counted.
    pub(crate) fn spend(&mut self) -> Result<(), Goodbye> {
        self.inner.get_mut().spend().map_err(|Flooded| Goodbye::Flooded)
    }

    /// Says why, and gives the peer a moment to answer.
    pub(crate) async fn close(mut self, goodbye: Goodbye) {
        if let Some(fault) = goodbye.fault() {
            count_ended(fault);
        }
        match goodbye.frame() {
            Some(frame) => self.close_with(frame).await,
            // Reading on is what writes the answer; it is the last that is written.
            None if goodbye == Goodbye::Left => drop(timeout(CLOSE_LIMIT, self.rest()).await),
            None => {}
        }
    }

    /// The same in other words.
    pub(crate) async fn close_with(mut self, frame: CloseFrame) {
        let farewell = async {
            self.inner.send(Message::Close(Some(frame))).await?;
            // Until the peer has closed too, its answer could be lost with the socket.
            self.rest().await;
            Ok::<_, tungstenite::Error>(())
        };
        // Whoever does not take the farewell is not waited for.
        let _ = timeout(CLOSE_LIMIT, farewell).await;
    }

    /// Reads until the peer has closed.
    async fn rest(&mut self) {
        while self.inner.next().await.is_some_and(|m| m.is_ok()) {}
        // Of what is no WebSocket any more, only the end matters.
        let _ = self.inner.get_mut().read(&mut [0]).await;
    }

    fn understand(&mut self, message: Option<Result<Message, tungstenite::Error>>) -> Result<Heard, Goodbye> {
        self.heard = Instant::now();
        match message {
            Some(Ok(Message::Text(text))) => Ok(Heard::Text(text)),
            Some(Ok(Message::Binary(bytes))) => Ok(Heard::Binary(bytes)),
            // Whole frames are never given out.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(Heard::Life),
            Some(Ok(Message::Close(_))) => Err(Goodbye::Left),
            Some(Err(e)) => Err(why(&e)),
            None => Err(Goodbye::Gone),
        }
    }
}

async fn within(limit: Duration, write: impl Future<Output = Result<(), tungstenite::Error>>) -> Result<(), Goodbye> {
    match timeout(limit, write).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Goodbye::Gone),
        Err(_) => {
            count_ended("stalled");
            Err(Goodbye::Gone)
        }
    }
}

/// What is wrong with what came.
fn why(error: &tungstenite::Error) -> Goodbye {
    match error {
        tungstenite::Error::Capacity(_) => Goodbye::TooLarge,
        tungstenite::Error::Utf8(_) => Goodbye::NotUtf8,
        // The peer's TCP ended without a close: nobody reads what is wrong with that.
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Goodbye::Gone,
        tungstenite::Error::Protocol(_) => Goodbye::Broken,
        tungstenite::Error::Io(e) if e.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Flooded>) => Goodbye::Flooded,
        tungstenite::Error::Io(e) if e.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<Full>) => Goodbye::TooMuch,
        _ => Goodbye::Gone,
    }
}
