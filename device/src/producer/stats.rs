//! What a producer has done, and how its connection is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{client::Way, link::Report, outbox::Order};

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
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// The connection.
    pub state: LinkState,
    /// Records taken into the outbox.
    pub taken: u64,
    /// Records handed to connections, resent ones counted each time.
    pub sent: u64,
    /// Records that are in the log.
    pub acked: u64,
    /// Records that the server refused.
    pub refused: u64,
    /// Records dropped to make room.
    pub dropped: u64,
    /// Records that were in the outbox when it was opened and are gone, for its file was damaged. At least so many: those
    /// of a file that told nothing any more are not counted.
    pub lost: u64,
    /// Records that were not taken at once, or not at all, for the outbox was full or the disk failed.
    pub blocked: u64,
    /// Records in the outbox.
    pub outbox_records: u64,
    /// Bytes in the outbox.
    pub outbox_bytes: u64,
    /// Records in the outbox that are not on disk yet, where there is one.
    pub outbox_unsaved: u64,
    /// Numbers of which the server does not know yet that they will not come.
    pub outbox_skipped: u64,
    /// Age of the oldest record in the outbox.
    pub outbox_oldest: Option<Duration>,
    /// In which order a backlog is sent.
    pub outbox_order: Order,
    /// Bytes of the outbox's file; `None`: it is in memory only.
    pub disk_bytes: Option<u64>,
    /// Why the disk takes no records just now, in words.
    pub disk_error: Option<String>,
    /// Connections after the first.
    pub reconnects: u64,
    /// Times that another port was tried because nothing was heard.
    pub rebinds: u64,
    /// Times that the log had records of this outbox that it never sent: it was put back in time, or there is a copy of it. It went
    /// on under a new epoch each time.
    pub copies_found: u64,
    /// Connections that ended because another one of the same device took over.
    pub superseded: u64,
    /// Those of them in a row; more than one: another device has the same name.
    pub rivalry: u32,
    /// What carries the connection.
    pub way: Option<Way>,
    /// What is known of the link's losses and done about them, over QUIC.
    pub link: Option<Report>,
    /// Connections that went through the tunnel.
    pub fallbacks: u64,
    /// Changes from the tunnel to QUIC.
    pub returns: u64,
    /// First flights with records that the server took, and that it did not.
    pub early_accepted: u64,
    /// See `early_accepted`.
    pub early_refused: u64,
    /// Records sent as datagrams.
    pub latest_sent: u64,
    /// Records for datagrams that were not sent: there was no connection for them, or they were too long.
    pub latest_dropped: u64,
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
