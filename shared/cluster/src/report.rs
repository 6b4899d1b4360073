//! Reports of nodes, producers and devices, which a node makes every two seconds: broadcast on the cluster bus, or kept for whoever asks.

use std::{collections::BTreeMap, net::IpAddr};

use motience_proto::model::{LogId, LogKey, ProducerId, Role, Transport, UserId, times::ClockFault};
use serde::{Deserialize, Serialize};

/// One live producer as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// The producer.
    pub producer: ProducerId,
    /// Id of the log; nodes of the first release do not say, and mean the one that bears its number.
    #[serde(default)]
    pub log: Option<LogId>,
    /// Records taken in by this node since it started.
    pub records: u64,
    /// Thousandths of a record for each second, over the last seconds.
    pub millirate: u64,
    /// Milliseconds since 1970 of the last record.
    pub last_record_ms: i64,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeReport {
    /// Name of the node, NODE_NAME.
    pub node: String,
    /// The version of the program.
    pub version: String,
    /// Roles that it has.
    pub roles: Vec<String>,
    /// Milliseconds since 1970 of its start.
    pub started_ms: i64,
    /// Durability of its log: the meaning of an acknowledgement.
    pub durability: String,
    /// Open connections.
    pub connections: Connections,
    /// Records it took in since it started.
    pub records_in: u64,
    /// Records it handed to consumers since it started.
    pub records_out: u64,
    /// Thousandths of a record taken in each second, over the last seconds.
    pub millirate_in: u64,
    /// Thousandths of a record handed out in each second, over the last seconds.
    pub millirate_out: u64,
    /// Whether it reads the reports of devices where they are kept; an older node knows only those that it is told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reads_devices: bool,
    /// Likewise for the reports of producers.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reads_streams: bool,
}

/// Open connections of a node, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// motience/1 over QUIC, devices and consumers.
    pub quic: u64,
    /// WebTransport sessions.
    pub webtransport: u64,
    /// WebSocket producers.
    pub producers: u64,
    /// WebSocket consumers.
    pub consumers: u64,
    /// Devices that come through the gateway's tunnel.
    pub tunnels: u64,
    /// HTTP/3.
    pub http3: u64,
}

impl Connections {
    /// All of them.
    pub fn total(&self) -> u64 {
        let Self { quic, webtransport, producers, consumers, tunnels, http3 } = self;
        [quic, webtransport, producers, consumers, tunnels, http3].into_iter().fold(0, |all, some| all.saturating_add(*some))
    }
}

/// One device as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// Producer that the device belongs to.
    pub producer: ProducerId,
    /// The producer's log; nodes of the first release do not say, and mean the one that bears its number.
    #[serde(default)]
    pub log: Option<LogId>,
    /// Name of the device within the account.
    pub device: String,
    /// Whether it has a connection to this node.
    pub connected: bool,
    /// Transport of its last connection or request.
    pub transport: Transport,
    /// Milliseconds since 1970 of the last sign of it.
    pub seen_ms: i64,
    /// Records taken in from it by this node since that started.
    pub records: u64,
    /// Thousandths of a record for each second, over the last seconds.
    pub millirate: u64,
    /// Millionths of its packets that are lost, as it says itself.
    #[serde(default)]
    pub loss_ppm: Option<u64>,
    /// Microseconds of a round trip.
    #[serde(default)]
    pub rtt_us: Option<u64>,
    /// Records that wait in its outbox, as it says itself.
    #[serde(default)]
    pub backlog: Option<u64>,
    /// How often its address changed under an open connection.
    #[serde(default)]
    pub address_changes: u64,
    /// Fault of its clock, by the time of its last record.
    #[serde(default)]
    pub clock: Option<ClockFault>,
    /// Records taken in by this node whose time cannot be right.
    #[serde(default)]
    pub misdated: u64,
}

/// How much of its plan an organisation uses on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanUseReport {
    /// Id of the organisation.
    pub organisation: String,
    /// Connections that are open, without those of devices.
    #[serde(default)]
    pub connections: u64,
    /// Thousandths for each second, over the last ten seconds, by the name of the limit.
    #[serde(default)]
    pub millirates: BTreeMap<String, u64>,
}

/// One live connection, as the node that has it answers for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Its id, which no other connection of any node has.
    pub connection: String,
    /// Account that it is of.
    pub user: UserId,
    /// The account's name.
    pub username: String,
    /// The account's role.
    pub role: Role,
    /// The device's name for itself, where it has one.
    #[serde(default)]
    pub device: Option<String>,
    /// Transport of the connection.
    pub transport: Transport,
    /// The address that it counts for.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Milliseconds since 1970 of its beginning.
    pub since_ms: i64,
    /// Records that went through it.
    #[serde(default)]
    pub records: u64,
}

impl StreamReport {
    /// Key of the log that the report is about.
    pub fn key(&self) -> LogKey {
        key(self.producer, self.log)
    }
}

impl DeviceReport {
    /// Key of the log that has the device's records.
    pub fn key(&self) -> LogKey {
        key(self.producer, self.log)
    }
}

fn key(producer: ProducerId, log: Option<LogId>) -> LogKey {
    log.map_or(LogKey::numbered(producer), |log| LogKey { producer, log })
}
