//! The HTTP/3 face of the services: the same router as over TCP, over QUIC (RFC 9114), and WebTransport beside it.
//!
//! ```text
//! connection -> handshake's end -> SETTINGS -> bidirectional stream -> head -> Router (tower) -> answer
//!                                           -> stream of a WebTransport session -> sessions
//! ```
//!
//! The `h3` crate reads heads and the control stream; what it is given, and what becomes of a stream, is decided here. A
//! malformed request ends its own stream only. Requests are served after the handshake's end: who repeats a client's
//! first flight does not get that far (RFC 8470, section 3).

mod body;
mod connection;
mod exchange;
mod fields;
mod gate;
mod opening;
mod quic;
mod request;
mod response;
mod sessions;
#[cfg(test)]
mod tests;
mod tunnel;

use std::{pin::Pin, sync::Arc, time::Duration};

use axum::Router;
use motience_http::Limits;
use motience_runtime::clock::Clock;
use motience_settings::env::{self, Env};

pub(crate) use connection::serve;
pub(crate) use response::Error;
pub(crate) use sessions::{Incoming, Place, SESSION_UNI, Sessions};
pub(crate) use tunnel::{Connect, Up};

/// The ALPN name.
pub(crate) const ALPN: &[u8] = b"h3";

/// Why a connection too many is closed: H3_EXCESSIVE_LOAD (RFC 9114, section 8.1).
pub(crate) const EXCESSIVE_LOAD: quinn::VarInt = quinn::VarInt::from_u32(0x107);

/// Settings of HTTP/3.
#[derive(Clone, Debug)]
pub struct Config {
    /// Requests of one connection at once, sessions and their streams included. HTTP3_MAX_STREAMS, 100.
    pub streams: u32,
    /// Time without a request or a session after which a connection is closed. HTTP3_IDLE_LIMIT, 60 s.
    pub idle: Duration,
    /// Time for a peer to take a piece of an answer, and its end. HTTP3_WRITE_LIMIT, 30 s.
    pub write: Duration,
}

impl Config {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let config = Self {
            streams: env.parse("HTTP3_MAX_STREAMS", 100)?,
            idle: env.duration("HTTP3_IDLE_LIMIT", Duration::from_secs(60))?,
            write: env.duration("HTTP3_WRITE_LIMIT", Duration::from_secs(30))?,
        };
        if config.streams == 0 || config.streams > 65_536 {
            return Err(env::Error::invalid("HTTP3_MAX_STREAMS", "must lie between 1 and 65536"));
        }
        for (name, limit) in [("HTTP3_IDLE_LIMIT", config.idle), ("HTTP3_WRITE_LIMIT", config.write)] {
            if limit.is_zero() {
                return Err(env::Error::invalid(name, "must be more than nothing"));
            }
        }
        Ok(config)
    }
}

/// What every connection of the face uses.
pub(crate) struct Shared {
    pub(crate) config: Config,
    /// Those of the services' own listeners.
    pub(crate) limits: Limits,
    pub(crate) router: Router,
    pub(crate) clock: Clock,
    pub(crate) handler: Box<dyn ConnectHandler>,
}

/// A session that is being served.
pub(crate) type Served<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>>;

/// Who serves sessions of WebTransport: an extended CONNECT, and the streams and datagrams that name it.
pub(crate) trait ConnectHandler: Send + Sync {
    /// Sessions that one connection may have at once.
    fn sessions(&self) -> usize;

    /// Serves one session, from its CONNECT to its end.
    fn serve<'a>(&'a self, connect: Connect, sessions: &'a Arc<Sessions>) -> Served<'a>;
}
