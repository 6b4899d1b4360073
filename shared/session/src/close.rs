//! Why a connection ends: one reason for every transport, and how each transport says it.
//!
//! | transport | what its peer is told |
//! |---|---|
//! | motience/1 over QUIC | [`CloseReason::code`] as the application error code, the reason's text |
//! | motience/1 in a WebSocket | [`CloseReason::tunnel`]: 4100 + that code; what concerns WebSocket itself in WebSocket's own codes |
//! | wss1, wss2 | [`CloseReason::websocket`] |
//! | WebTransport | [`CloseReason::webtransport`], the reason's text |

use std::{borrow::Cow, fmt::Display};

use motience_auth::{self as auth, Standing};
use motience_http::Flooded;
use motience_limits::{permits, uploads::Full};
use motience_log as log;
use motience_proto::wire::{self, CloseCode, Frame};
use motience_relay as relay;
use tracing::warn;

/// A tunnel's close codes are motience/1's above this number: WebSocket leaves the range from 4000 on to applications.
const TUNNEL_BASE: u16 = 4100;
/// Bytes of text in a WebSocket close (RFC 6455, section 5.5).
const MAX_WEBSOCKET_TEXT: usize = 123;

type Text = Cow<'static, str>;

/// Why a connection ends. Its text is for people; a client acts on the code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The peer has what it wanted.
    #[error("done")]
    Done,
    /// No Hello came in time. That is no breach of the protocol: a bad link or a busy machine may have delayed it.
    #[error("no Hello in time")]
    NoHello,
    /// The peer was lost or takes nothing: there is nobody to tell.
    #[error("{0}")]
    Gone(Text),
    /// The peer closed the connection in good order, and its close is answered.
    #[error("the peer closed the connection")]
    Left,
    /// The node is going away.
    #[error("the node is going away")]
    Draining,
    /// The log began another epoch, so this connection's fence says nothing any more.
    #[error("the log began another epoch: connect again")]
    Stale,
    /// The log or the database cannot be reached.
    #[error("the log or the database is unavailable")]
    Unavailable,
    /// The node failed.
    #[error("{0}")]
    Internal(Text),
    /// A newer connection of the same device took over.
    #[error("a newer connection of this device took over")]
    Fenced,
    /// The token was good and is so no longer.
    #[error("the token has expired or was revoked")]
    TokenEnded,
    /// An operator ended this connection. The client may come back.
    #[error("an operator ended this connection")]
    EndedByOperator,
    /// There is no token, or a bad one.
    #[error("{0}")]
    Unauthenticated(Text),
    /// The token is good, and its account may not do this.
    #[error("{0}")]
    Forbidden(Text),
    /// The peer broke the protocol.
    #[error("{0}")]
    Protocol(Text),
    /// The peer does not keep to RFC 6455.
    #[error("this is not WebSocket")]
    NotWebSocket,
    /// A WebSocket text message is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// A frame, a message or a line is over its limit.
    #[error("{0}")]
    TooLarge(Text),
    /// The peer sent more frames that carry nothing than it may.
    #[error("{Flooded}")]
    Flooded,
    /// The peer made more requests than one connection may.
    #[error("too many requests on this connection (RATE_LIMIT_CONTROL)")]
    TooManyRequests,
    /// More is sent at once than the connection, the account or the node may hold.
    #[error("{0}")]
    TooMuchAtOnce(Full),
    /// Another limit was reached: the peer may come back later.
    #[error("{0}")]
    RateLimited(Text),
}

impl CloseReason {
    /// There is nobody to tell, because of this.
    pub fn gone(why: impl Display) -> Self {
        Self::Gone(why.to_string().into())
    }

    /// The peer broke the protocol.
    pub fn protocol(text: impl Into<Text>) -> Self {
        Self::Protocol(text.into())
    }

    /// The account may not do this.
    pub fn forbidden(text: impl Into<Text>) -> Self {
        Self::Forbidden(text.into())
    }

    /// The node failed.
    pub fn internal(text: impl Into<Text>) -> Self {
        Self::Internal(text.into())
    }

    /// A limit was reached.
    pub fn rate_limited(text: impl Into<Text>) -> Self {
        Self::RateLimited(text.into())
    }

    /// This frame has no place where it came.
    pub fn unexpected(frame: &Frame) -> Self {
        Self::protocol(format!("{} is not expected here", frame.name()))
    }

    /// The code of motience/1; `None` where there is nobody to tell.
    pub fn code(&self) -> Option<CloseCode> {
        Some(match self {
            Self::Gone(_) | Self::Left => return None,
            Self::Done | Self::NoHello => CloseCode::Done,
            Self::Draining | Self::Stale => CloseCode::Draining,
            Self::Unavailable | Self::Internal(_) => CloseCode::Internal,
            Self::Fenced => CloseCode::Fenced,
            Self::TokenEnded | Self::Unauthenticated(_) => CloseCode::Unauthenticated,
            Self::Forbidden(_) => CloseCode::Forbidden,
            Self::Protocol(_) | Self::NotWebSocket | Self::NotUtf8 => CloseCode::Protocol,
            Self::TooLarge(_) => CloseCode::TooLarge,
            // A client that comes back waits a moment first.
            Self::EndedByOperator | Self::Flooded | Self::TooManyRequests | Self::TooMuchAtOnce(_) | Self::RateLimited(_) => {
                CloseCode::RateLimited
            }
        })
    }

    /// Code and text of the tunnel's WebSocket close; `None` where there is nobody to tell.
    pub fn tunnel(&self) -> Option<(u16, Text)> {
        if matches!(self, Self::Flooded | Self::NotWebSocket | Self::NotUtf8) {
            return self.websocket().map(|(code, text)| (code, text.into()));
        }
        let mut text = self.to_string();
        text.truncate(text.floor_char_boundary(MAX_WEBSOCKET_TEXT));
        // Cannot fail: the codes are small.
        let number = u16::try_from(self.code()?.number()).unwrap_or_default();
        Some((TUNNEL_BASE + number, text.into()))
    }

    /// Code and text of the close of wss1 and wss2; `None` where there is nobody to tell, or the peer's own close is answered.
    pub fn websocket(&self) -> Option<(u16, &'static str)> {
        Some(match self {
            Self::Gone(_) | Self::Left => return None,
            Self::Done | Self::NoHello => (1000, "done"),
            Self::Draining => (1001, "the node is going away"),
            Self::NotWebSocket => (1002, "this is not WebSocket"),
            Self::NotUtf8 => (1007, "the text is not UTF-8"),
            Self::Flooded => (1008, "too many pings, empty fragments or idle messages"),
            Self::TooManyRequests => (1008, "too many requests on this connection"),
            Self::Protocol(_) => (1008, "this has no place here"),
            Self::TooLarge(_) => (1009, "the message is too large"),
            Self::Internal(_) | Self::Fenced => (1011, "the server failed"),
            Self::TooMuchAtOnce(_) => (1013, "too much is sent at once"),
            Self::EndedByOperator => (1013, "an operator ended this connection"),
            Self::Stale | Self::Unavailable | Self::RateLimited(_) => (1013, "try again later"),
            Self::TokenEnded | Self::Unauthenticated(_) => (4401, "the token has expired or was revoked"),
            Self::Forbidden(_) => (4403, "this account may not do this"),
        })
    }

    /// The code of a WebTransport session's close; `None` where there is nobody to tell.
    pub fn webtransport(&self) -> Option<u32> {
        Some(match self.code()? {
            CloseCode::Done => 0,
            CloseCode::Draining => 1001,
            CloseCode::Internal | CloseCode::Fenced => 1011,
            CloseCode::Protocol => 4400,
            CloseCode::Unauthenticated => 4401,
            CloseCode::Forbidden => 4403,
            CloseCode::TooLarge => 4413,
            CloseCode::RateLimited => 4429,
        })
    }

    /// The reason's name, as `motience_sessions_ended_total` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gone(_) => "gone",
            Self::Left => "left",
            Self::NoHello => "no_hello",
            Self::Stale => "stale",
            Self::Unavailable => "unavailable",
            Self::TokenEnded => "token_ended",
            Self::TooMuchAtOnce(_) => "too_much_at_once",
            Self::Flooded | Self::TooManyRequests => "too_many_requests",
            other => other.code().map_or("gone", CloseCode::name),
        }
    }

    /// The peer's fault, as `motience_connections_ended_total` names it.
    pub fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Flooded => Some("control_flood"),
            Self::TooManyRequests => Some("control_rate"),
            Self::TooLarge(_) => Some("too_large"),
            Self::TooMuchAtOnce(_) => Some("too_much_at_once"),
            Self::Protocol(_) | Self::NotWebSocket | Self::NotUtf8 => Some("protocol"),
            _ => None,
        }
    }
}

/// Why a connection ends whose standing is over.
impl From<&Standing> for CloseReason {
    fn from(standing: &Standing) -> Self {
        if standing.is_ended() { Self::EndedByOperator } else { Self::TokenEnded }
    }
}

impl From<auth::Denied> for CloseReason {
    fn from(denied: auth::Denied) -> Self {
        Self::forbidden(denied.to_string())
    }
}

/// Causes are logged here and never sent to a peer.
impl From<relay::Error> for CloseReason {
    fn from(error: relay::Error) -> Self {
        match error {
            relay::Error::Closed => Self::Draining,
            relay::Error::Exceeded(exceeded) => Self::rate_limited(exceeded.to_string()),
            relay::Error::Log(log::Error::Fenced) => Self::Fenced,
            // With the log's tail it was lost which of two connections is the newer one; whoever is still there comes again.
            relay::Error::Log(log::Error::Stale) => Self::Stale,
            relay::Error::Log(log::Error::Damaged(_)) => {
                warn!(%error, "a connection is closed because the log is damaged");
                Self::internal("the log is damaged")
            }
            relay::Error::Log(log::Error::Unavailable(_) | log::Error::Newer(_)) | relay::Error::Store(_) => {
                warn!(%error, "a connection is closed because the log or the database is unavailable");
                Self::Unavailable
            }
        }
    }
}

/// A record that its connection cannot outlive.
impl From<relay::Refusal> for CloseReason {
    fn from(refusal: relay::Refusal) -> Self {
        match refusal {
            relay::Refusal::Ended(error) => error.into(),
            // The device comes back, and sends what is missing first.
            relay::Refusal::TooScattered(_) => Self::rate_limited(refusal.to_string()),
            relay::Refusal::Invalid(invalid) => Self::protocol(invalid.to_string()),
        }
    }
}

impl From<wire::Error> for CloseReason {
    fn from(error: wire::Error) -> Self {
        let text = error.to_string().into();
        if matches!(error, wire::Error::TooLarge { .. }) { Self::TooLarge(text) } else { Self::Protocol(text) }
    }
}

impl From<wire::compact::Error> for CloseReason {
    fn from(error: wire::compact::Error) -> Self {
        Self::protocol(error.to_string())
    }
}

impl From<Flooded> for CloseReason {
    fn from(_: Flooded) -> Self {
        Self::Flooded
    }
}

impl From<Full> for CloseReason {
    fn from(full: Full) -> Self {
        Self::TooMuchAtOnce(full)
    }
}

impl From<permits::Refusal> for CloseReason {
    fn from(refusal: permits::Refusal) -> Self {
        Self::rate_limited(refusal.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented codes: of motience/1, of the tunnel, of wss1 and wss2, of WebTransport.
    #[test]
    fn each_transport_has_its_code() {
        type Codes = Option<(u32, u16, u16, u32)>;
        let table: [(CloseReason, Codes); 21] = [
            (CloseReason::Done, Some((0, 4100, 1000, 0))),
            (CloseReason::NoHello, Some((0, 4100, 1000, 0))),
            (CloseReason::gone("lost"), None),
            (CloseReason::Left, None),
            (CloseReason::Draining, Some((7, 4107, 1001, 1001))),
            (CloseReason::Stale, Some((7, 4107, 1013, 1001))),
            (CloseReason::Unavailable, Some((8, 4108, 1013, 1011))),
            (CloseReason::internal("x"), Some((8, 4108, 1011, 1011))),
            (CloseReason::Fenced, Some((4, 4104, 1011, 1011))),
            (CloseReason::TokenEnded, Some((2, 4102, 4401, 4401))),
            (CloseReason::EndedByOperator, Some((6, 4106, 1013, 4429))),
            (CloseReason::Unauthenticated("x".into()), Some((2, 4102, 4401, 4401))),
            (CloseReason::forbidden("x"), Some((3, 4103, 4403, 4403))),
            (CloseReason::protocol("x"), Some((1, 4101, 1008, 4400))),
            (CloseReason::NotWebSocket, Some((1, 1002, 1002, 4400))),
            (CloseReason::NotUtf8, Some((1, 1007, 1007, 4400))),
            (CloseReason::TooLarge("x".into()), Some((5, 4105, 1009, 4413))),
            (CloseReason::Flooded, Some((6, 1008, 1008, 4429))),
            (CloseReason::TooManyRequests, Some((6, 4106, 1008, 4429))),
            (CloseReason::TooMuchAtOnce(Full::Account), Some((6, 4106, 1013, 4429))),
            (CloseReason::rate_limited("x"), Some((6, 4106, 1013, 4429))),
        ];
        for (reason, codes) in table {
            assert_eq!(reason.code().map(CloseCode::number), codes.map(|codes| codes.0), "{reason:?}");
            assert_eq!(reason.tunnel().map(|(code, _)| code), codes.map(|codes| codes.1), "{reason:?}");
            assert_eq!(reason.websocket().map(|(code, _)| code), codes.map(|codes| codes.2), "{reason:?}");
            assert_eq!(reason.webtransport(), codes.map(|codes| codes.3), "{reason:?}");
        }
    }

    #[test]
    fn a_tunnel_s_text_fits_a_close_frame() {
        let (_, text) = CloseReason::protocol("é".repeat(100)).tunnel().unwrap();
        assert_eq!(text.len(), MAX_WEBSOCKET_TEXT - 1);
    }
}
