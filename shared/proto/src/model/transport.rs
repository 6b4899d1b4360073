//! Transports of records between a device or a consumer and a node.

use serde::{Deserialize, Serialize};

/// Transport of a connection. Reports of devices and metrics spell it in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// motience/1 over QUIC.
    Quic,
    /// motience/1 through the gateway's tunnel.
    Tunnel,
    /// The platform's WebSocket endpoints.
    WebSocket,
    /// WebTransport.
    WebTransport,
    /// `POST /data`.
    Http,
}

impl Transport {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tunnel => "tunnel",
            Self::WebSocket => "websocket",
            Self::WebTransport => "webtransport",
            Self::Http => "http",
        }
    }
}
