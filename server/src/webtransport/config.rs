//! Settings of WebTransport.

use std::time::Duration;

use motience_http::Origins;
use motience_limits::rate::Rate;
use motience_settings::env::{self, Env};

/// Settings of WebTransport.
#[derive(Clone, Debug)]
pub struct Config {
    /// Origins whose pages may connect; none, or `*`: any, as tokens and not cookies say who comes. WT_ORIGINS.
    pub origins: Origins,
    /// Where pages find it, where that is elsewhere. PUBLIC_WEBTRANSPORT_URL.
    pub url: Option<String>,
    /// Sessions of one connection at once. WT_MAX_SESSIONS_PER_CONNECTION, 16.
    pub sessions: usize,
    /// Time for a session's control stream, and again for its hello. WT_HELLO_LIMIT, 10 s.
    pub hello: Duration,
    /// Time for a client to take what is written to it, and for one to give the server a stream. HTTP3_WRITE_LIMIT, 30 s.
    pub write: Duration,
    /// Producers that one session follows, the same as over motience/1. QUIC_MAX_FOLLOWS, 1,000.
    pub follows: usize,
    /// How often a delivery stream without records says its cursor. STREAM_COMMENT_INTERVAL, 15 s.
    pub beat: Duration,
    /// Requests of one session. RATE_LIMIT_CONTROL, 3000/m.
    pub control: Rate,
}

impl Config {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let config = Self {
            origins: Origins::from_env(env, "WT_ORIGINS")?,
            url: env.get("PUBLIC_WEBTRANSPORT_URL").map(str::to_owned),
            sessions: env.parse("WT_MAX_SESSIONS_PER_CONNECTION", 16)?,
            hello: env.duration("WT_HELLO_LIMIT", Duration::from_secs(10))?,
            write: env.duration("HTTP3_WRITE_LIMIT", Duration::from_secs(30))?,
            follows: env.parse("QUIC_MAX_FOLLOWS", 1000)?,
            beat: env.duration("STREAM_COMMENT_INTERVAL", Duration::from_secs(15))?,
            control: env.parse("RATE_LIMIT_CONTROL", Rate::per_minute(3000))?,
        };
        if config.hello.is_zero() {
            return Err(env::Error::invalid("WT_HELLO_LIMIT", "must be greater than zero"));
        }
        Ok(config)
    }
}
