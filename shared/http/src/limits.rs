//! The limits of a listener and of the connections it takes.

use std::time::Duration;

use motience_settings::env::{self, Env};

use super::Proxies;

/// Without a setting one address has this part of a listener's connections: a tester's host is not stopped, and nobody takes all.
const SHARE_OF_AN_ADDRESS: usize = 4;

/// Limits of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once, upgraded ones included; more are refused. HTTP_MAX_CONNECTIONS, 10,000.
    pub connections: usize,
    /// Connections of one address (IPv4, or IPv6 /64) at once. HTTP_MAX_CONNECTIONS_PER_ADDRESS, a quarter of all.
    pub connections_each: Option<usize>,
    /// Proxies, whose word on where a request comes from is believed, and for whom the limit of an address does not hold.
    /// TRUSTED_PROXIES, none.
    pub trusted: Proxies,
    /// Time for a request's head to arrive, from the connection's beginning or the last answer on; and before it for the TLS
    /// handshake. HTTP_HEADER_LIMIT, 10 s.
    pub header: Duration,
    /// Bytes of a request's head. HTTP_MAX_HEADER_BYTES, 16 KiB.
    pub header_bytes: usize,
    /// Time for a client to take a piece of an answer. HTTP_WRITE_LIMIT, 30 s.
    pub write: Duration,
    /// Time without a request after which an HTTP/2 connection ends. HTTP2_IDLE_LIMIT, 60 s.
    pub idle: Duration,
    /// Requests of one HTTP/2 connection at once. HTTP2_MAX_STREAMS, 100.
    pub streams: u32,
    /// Bytes that the peer of an HTTP/2 connection may send ahead of what is read; a quarter of it on one stream.
    /// HTTP2_RECEIVE_WINDOW, 1 MiB.
    pub receive_window: usize,
    /// Bytes of one HTTP/2 stream's answer that wait to be written. HTTP2_SEND_BUFFER, 64 KiB.
    pub send_buffer: usize,
    /// Frames of one connection that carry nothing (pings and the like, over WebSocket and HTTP/2), for each second and ten seconds'
    /// worth at once. CONTROL_FRAMES_PER_SECOND, 100.
    pub control_frames: u32,
    /// Pages of lists that one connection is sent at once; more wait for their turn. HTTP_MAX_PAGES_PER_CONNECTION, 4.
    pub pages: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_each: None,
            trusted: Proxies::default(),
            header: Duration::from_secs(10),
            header_bytes: 16 * 1024,
            write: Duration::from_secs(30),
            idle: Duration::from_secs(60),
            streams: 100,
            receive_window: 1 << 20,
            send_buffer: 64 * 1024,
            control_frames: 100,
            pages: 4,
        }
    }
}

impl Limits {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let default = Self::default();
        // 0 says: not set.
        let each = env.parse("HTTP_MAX_CONNECTIONS_PER_ADDRESS", 0)?;
        let limits = Self {
            connections: env.parse("HTTP_MAX_CONNECTIONS", default.connections)?,
            connections_each: (each > 0).then_some(each),
            trusted: Proxies::from_env(env)?,
            header: env.duration("HTTP_HEADER_LIMIT", default.header)?,
            header_bytes: env.bytes("HTTP_MAX_HEADER_BYTES", default.header_bytes)?,
            write: env.duration("HTTP_WRITE_LIMIT", default.write)?,
            idle: env.duration("HTTP2_IDLE_LIMIT", default.idle)?,
            streams: env.parse("HTTP2_MAX_STREAMS", default.streams)?,
            receive_window: env.bytes("HTTP2_RECEIVE_WINDOW", default.receive_window)?,
            send_buffer: env.bytes("HTTP2_SEND_BUFFER", default.send_buffer)?,
            control_frames: env.parse("CONTROL_FRAMES_PER_SECOND", default.control_frames)?,
            pages: env.parse("HTTP_MAX_PAGES_PER_CONNECTION", default.pages)?,
        };
        if limits.header_bytes < 8192 {
            return Err(env::Error::invalid("HTTP_MAX_HEADER_BYTES", "must be at least 8KiB"));
        }
        if !(256 << 10..=1 << 30).contains(&limits.receive_window) {
            return Err(env::Error::invalid("HTTP2_RECEIVE_WINDOW", "must lie between 256KiB and 1GiB"));
        }
        if !(16 << 10..=1 << 30).contains(&limits.send_buffer) {
            return Err(env::Error::invalid("HTTP2_SEND_BUFFER", "must lie between 16KiB and 1GiB"));
        }
        for (name, none) in [
            ("HTTP_MAX_CONNECTIONS", limits.connections == 0),
            ("HTTP_HEADER_LIMIT", limits.header.is_zero()),
            ("HTTP_WRITE_LIMIT", limits.write.is_zero()),
            ("HTTP2_IDLE_LIMIT", limits.idle.is_zero()),
            ("HTTP2_MAX_STREAMS", limits.streams == 0),
            ("CONTROL_FRAMES_PER_SECOND", limits.control_frames == 0),
            ("HTTP_MAX_PAGES_PER_CONNECTION", limits.pages == 0),
        ] {
            if none {
                return Err(env::Error::invalid(name, "must be greater than zero"));
            }
        }
        Ok(limits)
    }

    /// Connections of one address at once.
    pub fn connections_of_an_address(&self) -> usize {
        self.connections_each.unwrap_or(self.connections / SHARE_OF_AN_ADDRESS).max(1)
    }

    /// The same for a listener that also holds so many connections which stay.
    #[must_use]
    pub fn with_more(mut self, connections: usize) -> Self {
        self.connections = self.connections.saturating_add(connections);
        self
    }
}
