//! The size of a platform and of its machines, as options of the command.

use clap::{Args, ValueEnum};
use serde::Serialize;

/// To which node a consumer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Placement {
    /// Any, as a balancer does that knows nothing of producers.
    Random,
    /// The node of the producers that it follows: those that are followed together have one node.
    ByProducer,
}

/// Options of the size. Without them it is a million devices, or as small as the measurement needs.
#[derive(Args, Clone, Debug)]
pub(super) struct Scale {
    /// Devices, each with a QUIC connection [default: 1000000].
    #[arg(long)]
    pub(super) devices: Option<u64>,
    /// Seconds between two times at which a device sends [default: 10].
    #[arg(long)]
    pub(super) every: Option<f64>,
    /// Records that it sends each time.
    #[arg(long, default_value_t = 1)]
    pub(super) batch: u64,
    /// Bytes of a record.
    #[arg(long, default_value_t = 150)]
    pub(super) bytes: u64,
    /// Producers [default: 10000].
    #[arg(long)]
    pub(super) producers: Option<u64>,
    /// Consumers, each with a WebSocket connection [default: 100000].
    #[arg(long)]
    pub(super) consumers: Option<u64>,
    /// Producers that each consumer follows [default: 10].
    #[arg(long)]
    pub(super) follows: Option<u64>,
    /// Nodes [default: 20].
    #[arg(long)]
    pub(super) nodes: Option<u64>,
    /// To which node a consumer comes.
    #[arg(long, value_enum, default_value = "random")]
    pub(super) placement: Placement,
    /// Servers of Redis.
    #[arg(long, default_value_t = 1)]
    pub(super) redis: u64,
    /// Bytes that are kept of each producer's log (LOG_RETENTION_BYTES).
    #[arg(long, default_value_t = 64 << 20)]
    pub(super) retention_bytes: u64,
    /// Hours that a record is kept in the log (LOG_RETENTION).
    #[arg(long, default_value_t = 24.0)]
    pub(super) retention_hours: f64,
    /// Keep no history (PERSIST=false).
    #[arg(long)]
    pub(super) no_history: bool,
    /// Seconds that an access token is good for (JWT_EXPIRES_IN).
    #[arg(long, default_value_t = 3600.0)]
    pub(super) token_seconds: f64,
    /// Microseconds from a node to Redis and back.
    #[arg(long, default_value_t = 300.0)]
    pub(super) rtt_us: f64,
}

impl Scale {
    /// The size, where `base` has what was not given.
    pub(super) fn size(&self, base: &Size) -> Size {
        let or = |given: Option<u64>, base: f64| given.map_or(base, |given| given as f64);
        Size {
            devices: or(self.devices, base.devices),
            every: self.every.unwrap_or(base.every),
            batch: self.batch as f64,
            bytes: self.bytes as f64,
            producers: or(self.producers, base.producers),
            consumers: or(self.consumers, base.consumers),
            follows: or(self.follows, base.follows),
            nodes: or(self.nodes, base.nodes),
            placement: self.placement,
            redis: self.redis as f64,
            retention_bytes: self.retention_bytes as f64,
            retention: self.retention_hours * 3600.0,
            history: base.history && !self.no_history,
            token: self.token_seconds,
            rtt: self.rtt_us * 1e-6,
        }
    }
}

/// The size of a platform. Times are in seconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Size {
    pub(super) devices: f64,
    pub(super) every: f64,
    pub(super) batch: f64,
    pub(super) bytes: f64,
    pub(super) producers: f64,
    pub(super) consumers: f64,
    pub(super) follows: f64,
    pub(super) nodes: f64,
    pub(super) placement: Placement,
    pub(super) redis: f64,
    pub(super) retention_bytes: f64,
    pub(super) retention: f64,
    pub(super) history: bool,
    pub(super) token: f64,
    pub(super) rtt: f64,
}

impl Size {
    /// A million devices.
    pub(super) fn million() -> Self {
        Self {
            devices: 1e6,
            every: 10.0,
            batch: 1.0,
            bytes: 150.0,
            producers: 1e4,
            consumers: 1e5,
            follows: 10.0,
            nodes: 20.0,
            placement: Placement::Random,
            redis: 1.0,
            retention_bytes: 67_108_864.0,
            retention: 86400.0,
            history: true,
            token: 3600.0,
            rtt: 300e-6,
        }
    }

    /// So many times smaller, on as many nodes.
    #[must_use]
    pub(super) fn smaller(&self, by: f64) -> Self {
        let part = |of: f64| (of / by).round().max(1.0);
        Self { devices: part(self.devices), producers: part(self.producers), consumers: part(self.consumers), ..self.clone() }
    }
}

/// Machines that the platform runs on, and its limits.
#[derive(Args, Clone, Debug, Serialize)]
pub(super) struct Machines {
    /// Processors of a node.
    #[arg(long, default_value_t = 8.0)]
    pub(super) node_cores: f64,
    /// Memory of a node, in GiB.
    #[arg(long, default_value_t = 16.0)]
    pub(super) node_memory: f64,
    /// Network of a node, each way, in Gbit/s.
    #[arg(long, default_value_t = 10.0)]
    pub(super) node_network: f64,
    /// Memory of a server of Redis, in GiB.
    #[arg(long, default_value_t = 64.0)]
    pub(super) redis_memory: f64,
    /// Network of a server of Redis, each way, in Gbit/s.
    #[arg(long, default_value_t = 10.0)]
    pub(super) redis_network: f64,
    /// Processors of PostgreSQL.
    #[arg(long, default_value_t = 16.0)]
    pub(super) postgres_cores: f64,
    /// QUIC connections of a node (QUIC_MAX_CONNECTIONS).
    #[arg(long, default_value_t = 50_000.0)]
    pub(super) quic_connections: f64,
    /// WebSocket connections of a node (WSS_MAX_CONNECTIONS).
    #[arg(long, default_value_t = 20_000.0)]
    pub(super) websockets: f64,
    /// The part of a processor, of memory or of a network that may be in use, in percent, where the command says how many of them are needed.
    #[arg(long, default_value_t = 70.0)]
    pub(super) full: f64,
}

impl Default for Machines {
    fn default() -> Self {
        Self {
            node_cores: 8.0,
            node_memory: 16.0,
            node_network: 10.0,
            redis_memory: 64.0,
            redis_network: 10.0,
            postgres_cores: 16.0,
            quic_connections: 50_000.0,
            websockets: 20_000.0,
            full: 70.0,
        }
    }
}
