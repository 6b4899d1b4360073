//! Statistics of a producer: its outbox, the outbox's file, the link and the transport.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{client::Transport, link::Report, outbox::Order};

/// State of the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    /// Logging in or connecting.
    #[default]
    Connecting,
    /// Records flow.
    Connected,
    /// The server goes away; records in flight are being acknowledged.
    Draining,
    /// Waiting before the next attempt.
    Waiting,
    /// Refused for good, or shut down.
    Stopped,
}

/// Counters since the start, and the state now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// State of the connection.
    pub state: LinkState,
    /// Records.
    pub outbox: OutboxStats,
    /// The outbox's file.
    pub disk: DiskStats,
    /// Packets and datagrams.
    pub link: LinkStats,
    /// Connections.
    pub transport: TransportStats,
}

/// Records of the outbox: counters since the start, then its content now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutboxStats {
    /// Records put into the outbox.
    pub enqueued: u64,
    /// Records handed to connections; a record that is sent again counts again.
    pub sent: u64,
    /// Records that are in the log.
    pub acked: u64,
    /// Records that the server refused.
    pub refused: u64,
    /// Records dropped to make room.
    pub dropped: u64,
    /// Records that a damaged file held and lost. Records of a file that could not be read at all are not counted.
    pub lost: u64,
    /// Records that had to wait, or were rejected, because the outbox was full or the disk failed.
    pub blocked: u64,
    /// Times that the log had records of this outbox that it never sent, because it was put back in time or copied. Each time it
    /// went on under a new producer epoch.
    pub copies_found: u64,
    /// Records in the outbox.
    pub records: u64,
    /// Bytes in the outbox.
    pub bytes: u64,
    /// Records that are not on disk yet, where there is a file.
    pub unsaved: u64,
    /// Abandoned sequence numbers that the server has not acknowledged yet.
    pub abandoned: u64,
    /// Age of the oldest record.
    pub oldest: Option<Duration>,
    /// Order in which a backlog is sent.
    pub order: Order,
}

/// The outbox's file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskStats {
    /// Bytes of the file; `None` where the outbox is in memory only.
    pub bytes: Option<u64>,
    /// Why the disk takes no records at present, in words.
    pub error: Option<String>,
}

/// Packets and datagrams of the connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkStats {
    /// Measured losses and the redundancy against them, over QUIC.
    pub report: Option<Report>,
    /// Round-trip time.
    pub rtt: Option<Duration>,
    /// Packets lost on this connection.
    pub lost_packets: u64,
    /// Packets sent on this connection.
    pub sent_packets: u64,
    /// Records sent as datagrams.
    pub latest_sent: u64,
    /// Records for datagrams that were not sent, because there was no connection or they were too long.
    pub latest_dropped: u64,
}

/// Connections: the present one, and counters since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TransportStats {
    /// Transport of the connection.
    pub current: Option<Transport>,
    /// The node at the other end.
    pub node: Option<String>,
    /// Guarantee of that node's acknowledgements.
    pub durability: Option<String>,
    /// Why there is no connection, in words.
    pub last_error: Option<String>,
    /// Connections after the first.
    pub reconnects: u64,
    /// Times that another port was tried because nothing was heard.
    pub rebinds: u64,
    /// Connections through the tunnel.
    pub fallbacks: u64,
    /// Changes from the tunnel back to QUIC.
    pub returns: u64,
    /// First flights with records that the server took.
    pub early_accepted: u64,
    /// First flights with records that the server did not take.
    pub early_refused: u64,
    /// Connections that ended because another one of the same device took over.
    pub superseded: u64,
    /// Supersessions in a row. More than one says that another device has the same name.
    pub rivalry: u32,
}
