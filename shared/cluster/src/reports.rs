//! The reports of a node: everything that is counted here, looked at every two seconds and told to the other nodes.
//!
//! Reports of nodes are broadcast. Those of producers and devices, of which there are many and which few look at, are kept in the log's server,
//! where a node reads them when somebody asks; they are broadcast too while there are nodes of an earlier version.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use motience_log::{Error, Log};
use motience_proto::model::LogKey;
use motience_runtime::clock::{Clock, from_millis, millis};
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    DeviceReport, DeviceStats, Devices, Event, Most, NodeReport, NodeStats, Nodes, PlanUse, PlanUsed, StreamReport, StreamStats, Streams,
    broadcast,
    day::{Day, Minute},
    reads::{Read, Reads},
    streams::LIVE_FOR,
    window::LOOK_EVERY,
};

/// Logs whose reports are written or read at once.
const AT_ONCE: usize = 64;
/// Devices in one event, for nodes of an earlier version.
const TOLD_AT_ONCE: usize = 250;
/// How long the reports of all devices that were read serve whoever looks for a device.
const SERVE_FOR: Duration = Duration::from_secs(5);
/// Between the names of node and device: neither has one in it.
const BETWEEN: char = '\n';

/// Counters of this node, and the reports of the others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reports {
    /// Live producers.
    pub streams: Arc<Streams>,
    /// Nodes.
    pub nodes: Arc<Nodes>,
    /// Devices.
    pub devices: Arc<Devices>,
    /// Plans of organisations.
    pub plan_use: Arc<PlanUse>,
    day: Arc<Mutex<Day>>,
    /// When the reports of the devices of each log were read last, those of all logs, and those of producers.
    devices_read: Reads,
    all_read: Read,
    streams_read: Read,
    clock: Clock,
}

impl Reports {
    /// Counts for the node called `node`, which starts now and remembers at most so many devices.
    pub fn new(node: &str, most: Most, clock: Clock) -> Self {
        Self {
            streams: Arc::new(Streams::new(node.to_owned())),
            nodes: Arc::new(Nodes::new(node.to_owned(), clock.now())),
            devices: Arc::new(Devices::new(node.to_owned(), clock.clone(), most)),
            plan_use: Arc::new(PlanUse::new(node.to_owned())),
            day: Arc::default(),
            devices_read: Reads::default(),
            all_read: Read::default(),
            streams_read: Read::default(),
            clock,
        }
    }

    /// Counts records that went into the log.
    pub fn count_in(&self, key: LogKey, records: u64) {
        self.streams.count(key, records, self.clock.now());
        self.nodes.count_in(records);
    }

    /// Counts records that went out to a consumer.
    pub fn count_out(&self, records: u64) {
        self.nodes.count_out(records);
    }

    /// Takes a report from the bus; other events are not for this.
    pub fn apply(&self, event: &Event) {
        match event {
            Event::Streams { node, streams } => self.streams.apply(node, streams),
            Event::Node { report } => self.nodes.apply(report, self.clock.now()),
            Event::Devices { node, devices } => self.devices.apply(node, devices, self.clock.now()),
            Event::PlansUsed { node, used } => self.plan_use.apply(node, used, self.clock.now()),
            _ => {}
        }
    }

    /// Producers that have sent lately, on any node. While the log is away, as far as it is known.
    pub async fn live_streams(&self, log: &Log) -> Vec<StreamStats> {
        self.streams_read.unless_within(LOOK_EVERY, self.read_streams(log)).await;
        self.streams.snapshot(self.clock.now())
    }

    /// Producers that have sent lately to this node.
    pub fn own_streams(&self) -> Vec<StreamStats> {
        self.streams.own(self.clock.now())
    }

    /// All nodes that were heard of lately, this one among them.
    pub fn live_nodes(&self) -> Vec<NodeStats> {
        self.nodes.snapshot(self.clock.now())
    }

    /// The rates of all nodes over the last day, by minutes, the newest last: as far as this node has heard.
    pub fn day(&self) -> Vec<Minute> {
        self.day.lock().minutes()
    }

    /// A producer's devices, on any node. While the log is away, as far as it is known.
    pub async fn devices_of(&self, log: &Log, key: LogKey) -> Vec<DeviceStats> {
        self.wanted_devices_of(log, key, usize::MAX, |_| true).await
    }

    /// Those of them that are `wanted` by their names; at most so many, by name.
    pub async fn wanted_devices_of(&self, log: &Log, key: LogKey, most: usize, wanted: impl Fn(&str) -> bool) -> Vec<DeviceStats> {
        self.renew_devices(log, key).await;
        let now = self.clock.now();
        self.devices.of(key, most, wanted, |node| self.nodes.is_alive(node, now))
    }

    /// How many devices of these logs are connected, on any node.
    pub async fn connected_devices(&self, log: &Log, keys: impl IntoIterator<Item = LogKey>) -> usize {
        let counts = stream::iter(keys).map(async |key| self.devices_of(log, key).await.iter().filter(|device| device.connected).count());
        counts.buffer_unordered(AT_ONCE).fold(0, async |sum, count| sum + count).await
    }

    /// How much of its plan an organisation uses, on all nodes together.
    pub fn plan_used(&self, organisation: &str) -> PlanUsed {
        self.plan_use.of(organisation, self.clock.now())
    }

    /// Devices of all producers with `query` in their names, in whichever case; at most so many, by name.
    pub async fn find_devices(&self, log: &Log, query: &str, most: usize) -> Vec<(LogKey, DeviceStats)> {
        self.all_read.unless_within(SERVE_FOR, self.read_all_devices(log)).await;
        let now = self.clock.now();
        self.devices.search(&query.to_lowercase(), most, |node| self.nodes.is_alive(node, now))
    }

    /// Learns what the other nodes have reported of a log's devices.
    async fn read_devices(&self, log: &Log, key: LogKey) {
        let reports = match log.reports(key).await {
            Ok(reports) => reports,
            Err(e) => return debug!(error = %e, "the reports of other nodes cannot be read"),
        };
        let now = self.clock.now();
        for (name, report) in reports {
            let Some((node, _)) = name.split_once(BETWEEN) else { continue };
            if node == self.devices.node() {
                continue;
            }
            // Of another make, or of a version that nobody can read yet.
            let Ok((at, mut report)) = serde_json::from_slice::<(i64, DeviceReport)>(&report) else { continue };
            report.seen_ms = report.seen_ms.min(millis(now));
            if report.key() == key {
                self.devices.apply(node, &[report], from_millis(at).min(now));
            }
        }
    }

    /// Learns it unless that was done since they may have reported more.
    async fn renew_devices(&self, log: &Log, key: LogKey) {
        self.devices_read.of(key).unless_within(LOOK_EVERY, self.read_devices(log, key)).await;
    }

    /// Learns it of all logs.
    async fn read_all_devices(&self, log: &Log) {
        match log.reported().await {
            Ok(keys) => stream::iter(keys).for_each_concurrent(AT_ONCE, |key| self.renew_devices(log, key)).await,
            Err(e) => debug!(error = %e, "the reports of other nodes cannot be read"),
        }
    }

    /// Learns what the other nodes have reported of their producers.
    async fn read_streams(&self, log: &Log) {
        let others = self.live_nodes().into_iter().map(|node| node.report.node).filter(|node| node != self.devices.node());
        stream::iter(others).for_each_concurrent(AT_ONCE, |node| self.read_streams_of(log, node)).await;
    }

    async fn read_streams_of(&self, log: &Log, node: String) {
        let report = match log.node_report(&node).await {
            Ok(report) => report.unwrap_or_default(),
            Err(e) => return debug!(node, error = %e, "the reports of a node cannot be read"),
        };
        // One of another make is of a version that nobody can read yet.
        if let Ok(streams) = serde_json::from_slice::<Vec<StreamReport>>(&report) {
            self.streams.apply(&node, &streams);
        }
    }

    /// Looks at the counters until `stop`, and broadcasts them where there may be other nodes.
    pub fn start(&self, log: Log, tasks: &TaskTracker, stop: CancellationToken) {
        self.nodes.set_durability(log.durability());
        let reports = self.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(reports.run(&log)).await;
        });
    }

    async fn run(&self, log: &Log) {
        loop {
            // Before the first pause, so that the others know of a new node at once.
            let (node, streams, devices) = self.look();
            if log.is_shared() {
                self.tell(log, node, streams, devices).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn tell(&self, log: &Log, node: NodeReport, streams: Vec<StreamReport>, devices: Vec<DeviceReport>) {
        let (now, mut events) = (self.clock.now(), vec![Event::Node { report: node }]);
        if self.nodes.any_is_told(|node| node.reads_streams, now) {
            events.extend(self.streams.events(&streams));
        }
        if self.nodes.any_is_told(|node| node.reads_devices, now) {
            let told = |some: &[DeviceReport]| Event::Devices { node: self.devices.node().to_owned(), devices: some.to_vec() };
            events.extend(devices.chunks(TOLD_AT_ONCE).map(told));
        }
        for event in events {
            if let Err(e) = broadcast(log, &event).await {
                debug!(error = %e, "this node's reports could not be told to the others");
                return;
            }
        }
        if let Err(e) = self.note_streams(log, &streams).await {
            debug!(error = %e, "this node's reports of producers could not be written");
        }
        if let Err(e) = self.note_devices(log, devices).await {
            debug!(error = %e, "this node's reports of devices could not be written");
        }
    }

    /// Writes the reports of producers for the other nodes to read, in the place of those before.
    async fn note_streams(&self, log: &Log, streams: &[StreamReport]) -> Result<(), Error> {
        let text = serde_json::to_vec(streams).map_err(|e| Error::Damaged(e.to_string()))?;
        log.note_node(self.devices.node(), &text, LIVE_FOR).await
    }

    /// Writes the reports of devices for the other nodes to read.
    async fn note_devices(&self, log: &Log, devices: Vec<DeviceReport>) -> Result<(), Error> {
        let (node, now) = (self.devices.node(), millis(self.clock.now()));
        let mut by_log: HashMap<LogKey, Vec<(String, Vec<u8>)>> = HashMap::new();
        for report in devices {
            let text = serde_json::to_vec(&(now, &report)).map_err(|e| Error::Damaged(e.to_string()))?;
            by_log.entry(report.key()).or_default().push((format!("{node}{BETWEEN}{}", report.device), text));
        }
        let mut writing =
            stream::iter(by_log).map(|(key, reports)| async move { log.note_reports(key, &reports).await }).buffer_unordered(AT_ONCE);
        while let Some(written) = writing.next().await {
            written?;
        }
        Ok(())
    }

    /// Takes a look at everything; returns the reports that are due: of the node, of producers, and of devices.
    fn look(&self) -> (NodeReport, Vec<StreamReport>, Vec<DeviceReport>) {
        let now = self.clock.now();
        let node = self.nodes.look();
        self.day.lock().look(&self.nodes.snapshot(now), now);
        let devices = self.devices.look();
        self.devices.prune(now);
        self.devices_read.prune();
        (node, self.streams.reports(now), devices)
    }
}
