//! WebTransport for browsers, beside HTTP/3 on the same UDP port (draft-ietf-webtrans-http3).
//!
//! ```text
//! CONNECT /wt -> Origin, seat -> session: streams and datagrams -> hello -> consumer | producer
//! ```
//!
//! `sessions` and `session` are the plumbing: which session a stream belongs to, and when a session ends. What is said on
//! the streams is in `messages`, and what it means in `consumer` and `producer`.

mod sessions;

use std::{sync::Arc, time::Duration};

use axum::response::IntoResponse as _;
use motience_shared::{
    backend::Backend,
    env::{self, Env},
    http::ApiError,
};
use tokio_util::sync::CancellationToken;

pub(crate) use sessions::Sessions;

use crate::h3::{Connect, Error};

/// The type of a unidirectional stream of a session.
pub(crate) const SESSION_UNI: u64 = 0x54;
/// How a bidirectional stream of a session begins.
pub(crate) const SESSION_BIDI: u64 = 0x41;

/// Settings of WebTransport.
#[derive(Clone, Debug)]
pub struct Config {
    /// Origins whose pages may connect; none: any, as tokens and not cookies say who comes. WT_ORIGINS.
    pub origins: Vec<String>,
    /// Where pages find it, where that is elsewhere. PUBLIC_WEBTRANSPORT_URL.
    pub url: Option<String>,
    /// Sessions at once. WT_MAX_SESSIONS, 10,000.
    pub most: usize,
    /// Sessions of one connection at once. WT_MAX_SESSIONS_PER_CONNECTION, 16.
    pub sessions: usize,
    /// Sessions of one account at once. MAX_CONNECTIONS_PER_ACCOUNT, 1,000.
    pub each: usize,
    /// Time for a session's hello. WT_HELLO_LIMIT, 10 s.
    pub hello: Duration,
}

impl Config {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let config = Self {
            origins: env.list("WT_ORIGINS"),
            url: env.get("PUBLIC_WEBTRANSPORT_URL").map(str::to_owned),
            most: env.parse("WT_MAX_SESSIONS", 10_000)?,
            sessions: env.parse("WT_MAX_SESSIONS_PER_CONNECTION", 16)?,
            each: env.parse("MAX_CONNECTIONS_PER_ACCOUNT", 1000)?,
            hello: env.duration("WT_HELLO_LIMIT", Duration::from_secs(10))?,
        };
        if config.hello.is_zero() {
            return Err(env::Error::invalid("WT_HELLO_LIMIT", "must be more than nothing"));
        }
        Ok(config)
    }
}

/// What every session uses.
pub(crate) struct Shared {
    pub(crate) backend: Arc<Backend>,
    pub(crate) config: Config,
    /// Cancelled when the node drains.
    pub(crate) draining: CancellationToken,
}

impl Shared {
    /// Over this backend.
    pub(crate) fn new(backend: Arc<Backend>, config: Config, draining: CancellationToken) -> Self {
        Self { backend, config, draining }
    }
}

/// Serves one session, from its CONNECT to its end.
pub(crate) async fn serve(connect: Connect, _sessions: &Arc<Sessions>, shared: &Arc<Shared>) -> Result<(), Error> {
    connect.refuse(ApiError::not_found("There is nothing at this path.").into_response(), &shared.backend.clock).await
}
