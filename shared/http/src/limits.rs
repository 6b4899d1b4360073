//! The limits of a listener and of the connections it takes.

use std::time::Duration;

use motience_runtime::lifecycle::Drain;
use motience_settings::env::settings;

use super::{Proxies, proxied::Announced};

/// Unless a setting says otherwise one address has this part of a listener's connections: a tester's host is not stopped, and nobody takes
/// all.
const SHARE_OF_AN_ADDRESS: usize = 4;

settings! {
    /// Limits of one listener.
    #[derive(Clone, Debug)]
    pub struct Limits {
        /// Connections of one port at once, upgraded ones included. More are refused. WSS1_PORT and WSS2_PORT have WSS_MAX_CONNECTIONS more.
        HTTP_MAX_CONNECTIONS = "10000" => connections: usize, > 0;
        /// Connections of one port from one address (IPv4, or IPv6 /64) at once. TRUSTED_PROXIES are exempt. 0 means a quarter of
        /// HTTP_MAX_CONNECTIONS.
        HTTP_MAX_CONNECTIONS_PER_ADDRESS = "0" => connections_each: usize;
        /// Longest wait for the head of a request, from the beginning of the connection or the last answer on, and before it for the TLS
        /// handshake.
        HTTP_HEADER_LIMIT = "10s" => header: Duration, > 0;
        /// Largest head of a request.
        HTTP_MAX_HEADER_BYTES = "16KiB" => header_bytes: usize as Size, "8KiB"..="16MiB";
        /// A client that takes nothing of an answer for this long loses its connection.
        HTTP_WRITE_LIMIT = "30s" => write: Duration, > 0;
        /// An HTTP/2 connection without a request for this long ends.
        HTTP2_IDLE_LIMIT = "60s" => idle: Duration, > 0;
        /// Requests of one HTTP/2 connection at once.
        HTTP2_MAX_STREAMS = "100" => streams: u32, > 0;
        /// Bytes that an HTTP/2 client may send ahead of what is read; a quarter of it on one stream.
        HTTP2_RECEIVE_WINDOW = "1MiB" => receive_window: usize as Size, "256KiB"..="1GiB";
        /// Bytes of an answer that wait in one HTTP/2 stream.
        HTTP2_SEND_BUFFER = "64KiB" => send_buffer: usize as Size, "16KiB"..="1GiB";
        /// Pages of lists that are sent on one connection at once. More wait for their turn.
        HTTP_MAX_PAGES_PER_CONNECTION = "4" => pages: usize, > 0;
    }
    with {
        /// Frames that carry nothing.
        frames: FrameRate,
        /// Proxies that say where a request comes from, and that the limit of an address does not hold for.
        trusted: Proxies,
        /// Balancers that say who a TCP connection comes from.
        announced: Announced,
        /// Time for requests in progress when the node drains.
        drain: Drain,
    }
}

settings! {
    /// How many frames of one connection may carry nothing.
    #[derive(Clone, Copy, Debug)]
    pub struct FrameRate {
        /// Frames of one connection that carry nothing (pings, settings, resets, empty fragments) in each second, over WebSocket, HTTP/2 and
        /// motience/1. Ten seconds' worth may come at once, after a silence perhaps twice that.
        CONTROL_FRAMES_PER_SECOND = "100" => each_second: u32, > 0;
    }
}

impl Limits {
    /// Connections of one address at once.
    pub fn connections_of_an_address(&self) -> usize {
        let share = if self.connections_each > 0 { self.connections_each } else { self.connections / SHARE_OF_AN_ADDRESS };
        share.max(1)
    }

    /// The limits of a listener that also holds this many connections which stay.
    #[must_use]
    pub fn with_more(mut self, connections: usize) -> Self {
        self.connections = self.connections.saturating_add(connections);
        self
    }
}
