//! HTTP/3 (RFC 9114) and WebTransport (draft-ietf-webtrans-http3) on a QUIC connection: a driver around the `h3` crate.
//!
//! ```text
//! connection -> handshake's end -> SETTINGS -> bidirectional stream -> head -> Handler::request -> Answer
//!                                                                   -> extended CONNECT -> Handler::session -> Control
//!                                           -> stream or datagram of a session -> its Inbox
//! ```
//!
//! The `h3` crate reads heads, control streams and SETTINGS. This crate decides what `h3` is given to read (`gate`), sorts streams
//! (`opening`), and answers. A malformed request ends its own stream only. Requests are served after the handshake's end, because a
//! replayed first flight does not get that far (RFC 8470, section 3).

mod body;
mod connect;
mod connection;
mod control;
mod exchange;
mod fields;
mod gate;
mod opening;
mod peer;
mod quic;
mod request;
mod response;
mod sessions;
#[cfg(test)]
mod tests;
mod varint;

use std::time::Duration;

pub use body::Body;
pub use connect::Connect;
pub use connection::serve;
pub use control::Control;
pub use peer::{Outgoing, Peer, StreamError};
pub use response::{Answer, Error};
pub use sessions::{Inbox, Incoming};

/// The ALPN name.
pub const ALPN: &[u8] = b"h3";

/// Closes a connection for which there is no room: H3_EXCESSIVE_LOAD (RFC 9114, section 8.1).
pub const EXCESSIVE_LOAD: quinn::VarInt = quinn::VarInt::from_u32(0x107);

/// Limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests at once, sessions and their streams included.
    pub streams: u32,
    /// WebTransport sessions at once.
    pub sessions: usize,
    /// Time without a request or a session after which the connection is closed.
    pub idle: Duration,
    /// Time for a request's head to arrive, and for the beginning of any other stream.
    pub head: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Time for the peer to take a piece of an answer, and its end.
    pub write: Duration,
    /// Time for requests in progress once the node drains.
    pub drain: Duration,
}

/// Answers what the peer of one connection asks for.
pub trait Handler: Send + Sync + 'static {
    /// Answers a request. The future is dropped when the client cancels the request; an answer that is dropped before its end resets
    /// its stream.
    fn request(&self, request: http::Request<Body>, answer: Answer) -> impl Future<Output = Result<(), Error>> + Send;

    /// Serves a WebTransport session, from its CONNECT to its end.
    fn session(&self, connect: Connect) -> impl Future<Output = Result<(), Error>> + Send;
}
