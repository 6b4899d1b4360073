//! What a producer has done, and how its connection is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Logging in or connecting.
    #[default]
    Connecting,
    /// Records flow.
    Connected,
    /// The server goes away; what is under way is being settled.
    Draining,
    /// Waiting before the next attempt.
    Waiting,
    /// Refused for good, or shut down.
    Stopped,
}

/// Counters since the start, and the state now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The connection.
    pub state: LinkState,
    /// Records handed to connections, resent ones counted each time.
    pub sent: u64,
    /// Records that are in the log.
    pub acked: u64,
    /// Records that the server refused.
    pub refused: u64,
    /// Records dropped to make room.
    pub dropped: u64,
    /// Records in the outbox.
    pub outbox_records: u64,
    /// Bytes in the outbox.
    pub outbox_bytes: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// The node at the other end.
    pub node: Option<String>,
    /// What an acknowledgement means there.
    pub durability: Option<String>,
    /// Why the connection is not there, in words.
    pub last_error: Option<String>,
    /// Round-trip time.
    pub rtt: Option<Duration>,
    /// Packets lost on this connection.
    pub lost_packets: u64,
    /// Packets sent on this connection.
    pub sent_packets: u64,
}
