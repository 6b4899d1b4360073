//! Figures of a size that fill no part: loads that are bounded, sums that accumulate, bursts.

use serde::Serialize;

use super::{
    constants::Constants,
    rates::{CHECKS, Rates},
    size::{Machines, Size},
};

/// Processors of a node that hash no passwords (PASSWORD_HASHES).
const LEFT_FREE: f64 = 1.0;

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fact {
    pub(super) id: &'static str,
    pub(super) name: &'static str,
    pub(super) value: f64,
    pub(super) unit: &'static str,
}

/// All of them.
pub(super) fn facts(size: &Size, machines: &Machines, c: &Constants) -> Vec<Fact> {
    let rates = Rates::of(size, c);
    let fact = |id, name, value, unit| Fact { id, name, value, unit };
    let (lost, left) = (size.devices / size.nodes, (size.nodes - 1.0).max(1.0));
    let handshakes = (lost * c.handshake.get() + size.consumers / size.nodes * c.handshake_consumer.get()) / (left * machines.node_cores);
    let hashes = size.nodes * (machines.node_cores - LEFT_FREE).max(1.0);
    vec![
        fact("appends", "writes to the logs", rates.appends, "1/s"),
        fact("reached", "nodes that a record reaches", rates.reached, "nodes"),
        fact("deliveries", "deliveries to consumers", rates.deliveries * size.batch, "1/s"),
        fact("checked_every", "each followed log is compared every", (rates.followed / CHECKS).max(1.0), "s"),
        fact("device_told_every", "each device is reported every", size.devices / rates.reports, "s"),
        fact("streams", "reports of producers into Redis", rates.stream_bytes(c) / 1e6, "MB/s"),
        fact("history_day", "history of a day", rates.rows * 86400.0 * c.history_row.get() / 1e12, "TB"),
        fact("tokens", "rows of refresh tokens", (size.devices + size.consumers) * (1.0 + 3600.0 / size.token), "rows"),
        fact("token_bytes", "their size", (size.devices + size.consumers) * (1.0 + 3600.0 / size.token) * c.token_row.get() / 1e9, "GB"),
        fact("node_lost", "a node is lost: handshakes keep the others busy for", handshakes, "s"),
        fact("cold_start", "all come with passwords: argon2 takes", size.devices * c.argon2.get() / hashes, "s"),
    ]
}
