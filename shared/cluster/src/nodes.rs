//! Nodes: connections and records of this one, counted here, and the last reports of the others.

use std::{
    cell::Cell,
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use motience_runtime::{clock::from_millis, telemetry::Sampler};
use parking_lot::Mutex;
use time::OffsetDateTime;
use tracing::warn;

use crate::{Connections, NodeReport, window::Window};

/// A node that has said nothing for this long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// A node that has said nothing for this long is not believed to have its connections still.
const BELIEVE_FOR: Duration = Duration::from_secs(10);
/// Other nodes that are remembered.
const MOST: usize = 1000;
/// Parts of a counter, so that the cores do not take its cache line from each other for every batch.
const SHARDS: usize = 8;

/// Kind of an open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// motience/1 over QUIC.
    Quic,
    /// A WebTransport session.
    WebTransport,
    /// A WebSocket producer.
    Producer,
    /// A WebSocket consumer.
    Consumer,
    /// A device in the gateway's tunnel.
    Tunnel,
    /// HTTP/3.
    Http3,
}

/// Counters of this node, and the last report of each other one.
pub struct Nodes {
    node: String,
    started_at: OffsetDateTime,
    roles: Mutex<Vec<String>>,
    durability: Mutex<String>,
    open: [AtomicU64; 6],
    records_in: Counter,
    records_out: Counter,
    rates: Mutex<(Window, Window)>,
    elsewhere: Mutex<HashMap<String, (NodeReport, OffsetDateTime)>>,
}

/// A node, and when it was heard of last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// Its own report.
    pub report: NodeReport,
    /// When it started.
    pub started_at: OffsetDateTime,
    /// When the report came, by this node's clock.
    pub seen_at: OffsetDateTime,
}

/// An open connection; counted until dropped.
pub struct Open {
    nodes: Arc<Nodes>,
    kind: Kind,
}

impl Nodes {
    /// Counts for the node called `node`, which starts now.
    pub fn new(node: String, now: OffsetDateTime) -> Self {
        Self {
            node,
            started_at: now,
            roles: Mutex::default(),
            durability: Mutex::default(),
            open: Default::default(),
            records_in: Counter::default(),
            records_out: Counter::default(),
            rates: Mutex::default(),
            elsewhere: Mutex::default(),
        }
    }

    /// Sets the roles of this node.
    pub fn set_roles<R: Into<String>>(&self, roles: impl IntoIterator<Item = R>) {
        *self.roles.lock() = roles.into_iter().map(Into::into).collect();
    }

    /// Sets the meaning of an acknowledgement here.
    pub(crate) fn set_durability(&self, durability: String) {
        *self.durability.lock() = durability;
    }

    /// Counts a connection until the guard is dropped.
    pub fn open(self: &Arc<Self>, kind: Kind) -> Open {
        self.open[kind as usize].fetch_add(1, Relaxed);
        Open { nodes: Arc::clone(self), kind }
    }

    /// Counts records that went into the log.
    pub(crate) fn count_in(&self, records: u64) {
        self.records_in.add(records);
    }

    /// Counts records that went out to a consumer.
    pub(crate) fn count_out(&self, records: u64) {
        self.records_out.add(records);
    }

    /// Looks at the counters, for the rates; returns this node's report.
    pub(crate) fn look(&self) -> NodeReport {
        {
            let mut rates = self.rates.lock();
            rates.0.look(self.records_in.total());
            rates.1.look(self.records_out.total());
        }
        self.report()
    }

    fn report(&self) -> NodeReport {
        let open = |kind: Kind| self.open[kind as usize].load(Relaxed);
        let rates = self.rates.lock();
        NodeReport {
            node: self.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            roles: self.roles.lock().clone(),
            started_ms: self.started_ms(),
            durability: self.durability.lock().clone(),
            connections: Connections {
                quic: open(Kind::Quic),
                webtransport: open(Kind::WebTransport),
                producers: open(Kind::Producer),
                consumers: open(Kind::Consumer),
                tunnels: open(Kind::Tunnel),
                http3: open(Kind::Http3),
            },
            records_in: self.records_in.total(),
            records_out: self.records_out.total(),
            millirate_in: rates.0.millirate(),
            millirate_out: rates.1.millirate(),
            reads_devices: true,
            reads_streams: true,
        }
    }

    /// Takes a node's report.
    pub(crate) fn apply(&self, report: &NodeReport, now: OffsetDateTime) {
        if report.node == self.node {
            return self.namesake(report);
        }
        let mut elsewhere = self.elsewhere.lock();
        if elsewhere.len() < MOST || elsewhere.contains_key(&report.node) {
            elsewhere.insert(report.node.clone(), (report.clone(), now));
        }
    }

    /// Notices another node of the same name, by when it started: each takes the other's reports for its own, and devices count twice.
    fn namesake(&self, report: &NodeReport) {
        static SAMPLER: Sampler = Sampler::new(Duration::from_secs(60));
        if report.started_ms == self.started_ms() {
            return;
        }
        metrics::counter!("motience_node_name_conflicts_total").increment(1);
        if SAMPLER.pass("NODE_NAME").is_some() {
            warn!(node = self.node, "another node has the same NODE_NAME: give each its own");
        }
    }

    fn started_ms(&self) -> i64 {
        self.started_at.unix_timestamp() * 1000 + i64::from(self.started_at.millisecond())
    }

    /// All nodes, by name.
    pub(crate) fn snapshot(&self, now: OffsetDateTime) -> Vec<NodeStats> {
        let mut elsewhere = self.elsewhere.lock();
        elsewhere.retain(|_, (_, heard)| now - *heard < FORGET_AFTER);
        let others = elsewhere.values().cloned().chain([(self.report(), now)]);
        let stats = |(report, seen_at): (NodeReport, _)| NodeStats { started_at: from_millis(report.started_ms), report, seen_at };
        let mut all: Vec<NodeStats> = others.map(stats).collect();
        all.sort_by(|a, b| a.report.node.cmp(&b.report.node));
        all
    }

    /// Whether there is a node that has to be told, being of a version that does not read such reports.
    pub(crate) fn any_is_told(&self, reads: impl Fn(&NodeReport) -> bool, now: OffsetDateTime) -> bool {
        self.elsewhere.lock().values().any(|(report, heard)| now - *heard < FORGET_AFTER && !reads(report))
    }

    /// Whether a node reported so lately that its connections are believed.
    pub(crate) fn is_alive(&self, node: &str, now: OffsetDateTime) -> bool {
        node == self.node || self.elsewhere.lock().get(node).is_some_and(|(_, heard)| now - *heard < BELIEVE_FOR)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.nodes.open[self.kind as usize].fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("node", &self.node).finish_non_exhaustive()
    }
}

/// A total that many threads add to.
#[derive(Debug, Default)]
struct Counter([Shard; SHARDS]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(AtomicU64);

impl Counter {
    fn add(&self, n: u64) {
        self.0[own_shard()].0.fetch_add(n, Relaxed);
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.load(Relaxed)).sum()
    }
}

fn own_shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed) % SHARDS);
    }
    OWN.with(Cell::get)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    #[test]
    fn a_node_counts_itself() {
        let nodes = Arc::new(Nodes::new("a".into(), at(100)));
        nodes.set_roles(["ap", "sm"]);
        let (device, _tunnel) = (nodes.open(Kind::Quic), nodes.open(Kind::Tunnel));
        nodes.count_in(20);
        nodes.count_out(40);
        nodes.look();
        let all = nodes.snapshot(at(105));
        let report = &all[0].report;
        assert_eq!((all[0].started_at, all[0].seen_at, report.roles.len()), (at(100), at(105), 2));
        assert_eq!(report.connections, Connections { quic: 1, tunnels: 1, ..Connections::default() });
        assert_eq!((report.records_in, report.records_out, report.millirate_in, report.millirate_out), (20, 40, 2000, 4000));
        drop(device);
        assert_eq!(nodes.snapshot(at(105))[0].report.connections.quic, 0);
    }

    #[test]
    fn another_node_of_the_same_name_is_noticed() {
        motience_runtime::telemetry::start_metrics();
        let conflicts = || motience_runtime::telemetry::render().contains("\nmotience_node_name_conflicts_total 1\n");
        let nodes = Nodes::new("twin".into(), at(100));
        // Its own report comes back to each node.
        nodes.apply(&nodes.report(), at(101));
        assert!(!conflicts());
        nodes.apply(&Nodes::new("twin".into(), at(90)).report(), at(101));
        assert!(conflicts());
    }

    #[test]
    fn a_silent_node_is_disbelieved_and_then_forgotten() {
        let nodes = Nodes::new("a".into(), at(100));
        for n in 0..2 * MOST {
            nodes.apply(&NodeReport { node: format!("n{n}"), ..NodeReport::default() }, at(100));
        }
        nodes.apply(&NodeReport { node: "a".into(), ..NodeReport::default() }, at(100));
        assert_eq!(nodes.snapshot(at(100)).len(), 1 + MOST);
        assert!(nodes.any_is_told(|report| report.reads_devices, at(100)), "these say nothing of it");
        assert!(nodes.is_alive("n0", at(109)) && !nodes.is_alive("n0", at(110)) && nodes.is_alive("a", at(999)));
        assert!(!nodes.any_is_told(|report| report.reads_devices, at(160)));
        assert_eq!(nodes.snapshot(at(160)).len(), 1);
        nodes.apply(&NodeReport { node: "b".into(), reads_devices: true, ..NodeReport::default() }, at(160));
        assert!(!nodes.any_is_told(|report| report.reads_devices, at(160)));
    }
}
