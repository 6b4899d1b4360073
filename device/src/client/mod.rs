//! One motience/1 connection: a QUIC connection with its control stream, lanes up and delivery streams down; or a tunnel.
//!
//! [`Connector`] holds what outlives a connection (the UDP socket, TLS session tickets); [`Session`] is one connection
//! after `Hello` and `Welcome`. Nothing here reconnects: [`crate::producer`] and [`crate::consumer`] do.

use std::{fmt, str::FromStr, time::Duration};

use motience_certs::Trust;
use motience_proto::{
    model::{DeviceId, record::MAX_RECORD},
    wire::features,
};

use crate::link;

mod connector;
mod error;
mod frames;
mod lanes;
mod quic;
mod session;
mod tunnel;

pub use connector::Connector;
pub use error::Error;
pub(crate) use error::explain;
pub use lanes::Lane;
pub(crate) use lanes::Uplink;
pub use motience_proto::model::Transport;
pub use session::{Event, Session};
pub use tunnel::{Gateway, InvalidGateway};

/// Where servers listen when an address names no port.
pub const DEFAULT_PORT: u16 = 4433;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name or IP address; resolved anew for every connection.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

/// The text is no server address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server is written like quic://host:4433, not {0:?}")]
pub struct InvalidServer(String);

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "quic://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "quic://{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Server {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        let invalid = || InvalidServer(text.to_owned());
        let rest = match text.split_once("://") {
            Some(("quic" | "motience", rest)) => rest,
            Some(_) => return Err(invalid()),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = if let Some(bracketed) = rest.strip_prefix('[') {
            let (host, after) = bracketed.split_once(']').ok_or_else(invalid)?;
            (host, after.strip_prefix(':').map_or(if after.is_empty() { Ok(None) } else { Err(invalid()) }, |port| Ok(Some(port)))?)
        } else {
            match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            }
        };
        if host.is_empty() || host.contains(['/', '@', ' ']) {
            return Err(invalid());
        }
        let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| invalid()))?;
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Settings of connections.
#[derive(Clone, Debug)]
pub struct Config {
    /// The server.
    pub server: Server,
    /// The name the server's certificate must carry, where it is not the host.
    pub server_name: Option<String>,
    /// Trusted certificates.
    pub trust: Trust,
    /// Where to go where UDP does not get through; `None`: nowhere. For producers.
    pub fallback: Option<Gateway>,
    /// Name of the device within its account; for a consumer, of the client.
    pub device_id: DeviceId,
    /// Longest record, in bytes; the server may allow less.
    pub max_record: usize,
    /// Time limit of resolving, handshake and `Welcome` together.
    pub connect_timeout: Duration,
    /// Whether a producer wants to hear of its subscribers ([`Event::Subscriber`]), where its token allows that.
    pub subscribers: bool,
    /// QUIC settings.
    pub quic: QuicSettings,
    /// A producer's link: redundancy, compact form, congestion control.
    pub link: link::Settings,
}

impl Config {
    /// The address it connects to, for people.
    pub(crate) fn place(&self) -> String {
        match &self.fallback {
            Some(gateway) => format!("{} or {gateway}", self.server),
            None => self.server.to_string(),
        }
    }

    /// Those of these abilities that it offers in `Hello`.
    pub(super) fn features(&self, of: u64) -> u64 {
        let compact = if self.link.compact { 0 } else { features::COMPACT };
        of & !compact | if self.subscribers { features::SUBSCRIBERS } else { 0 }
    }

    /// The defaults for a server and a device.
    pub fn new(server: Server, trust: Trust, device_id: DeviceId) -> Self {
        Self {
            server,
            server_name: None,
            trust,
            fallback: None,
            device_id,
            max_record: MAX_RECORD,
            connect_timeout: Duration::from_secs(15),
            subscribers: false,
            quic: QuicSettings::default(),
            link: link::Settings::default(),
        }
    }
}

/// QUIC settings. quinn's own defaults leave the receive window unbounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicSettings {
    /// How often a quiet connection sends a packet, so that NATs keep its mapping.
    pub keep_alive: Duration,
    /// How long without any packet until the connection counts as lost.
    pub idle_timeout: Duration,
    /// Bytes of one delivery stream that may wait unread.
    pub stream_window: u32,
    /// Bytes of all delivery streams that may wait unread.
    pub window: u32,
    /// Bytes sent that may wait for their QUIC acknowledgement.
    pub send_window: u64,
    /// Producers one consumer connection may follow at once.
    pub max_deliveries: u32,
    /// Bursts in one system call. Far cheaper; switch it off where a mobile link drops bursts.
    pub gso: bool,
}

impl Default for QuicSettings {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            stream_window: 1024 * 1024,
            window: 8 * 1024 * 1024,
            send_window: 8 * 1024 * 1024,
            max_deliveries: 1024,
            gso: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_addresses() {
        for (text, host, port) in [
            ("quic://localhost:4433", "localhost", 4433),
            ("quic://example.com", "example.com", DEFAULT_PORT),
            ("example.com:9", "example.com", 9),
            ("motience://10.0.0.1:1/", "10.0.0.1", 1),
            ("quic://[::1]:5", "::1", 5),
            ("[::1]", "::1", DEFAULT_PORT),
        ] {
            assert_eq!(text.parse(), Ok(Server { host: host.into(), port }), "{text}");
        }
        for text in ["", "https://example.com", "quic://", "quic://a:b", "quic://a:70000", "quic://[::1", "quic://a/b", "[::1]x"] {
            assert!(text.parse::<Server>().is_err(), "{text}");
        }
    }
}
