//! The reports of a node: everything that is counted here, looked at every two seconds and told to the other nodes.

use std::sync::Arc;

use motience_log::Log;
use motience_proto::model::LogKey;
use motience_runtime::clock::Clock;
use parking_lot::Mutex;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use crate::{
    DeviceStats, Devices, Event, Most, NodeStats, Nodes, StreamStats, Streams, broadcast,
    day::{Day, Minute},
    window::LOOK_EVERY,
};

/// Counters of this node, and the reports of the others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reports {
    /// Live producers.
    pub streams: Arc<Streams>,
    /// Nodes.
    pub nodes: Arc<Nodes>,
    /// Devices.
    pub devices: Arc<Devices>,
    day: Arc<Mutex<Day>>,
    clock: Clock,
}

impl Reports {
    /// Counts for the node called `node`, which starts now and remembers at most so many devices.
    pub fn new(node: &str, most: Most, clock: Clock) -> Self {
        Self {
            streams: Arc::new(Streams::new(node.to_owned())),
            nodes: Arc::new(Nodes::new(node.to_owned(), clock.now())),
            devices: Arc::new(Devices::new(node.to_owned(), clock.clone(), most)),
            day: Arc::default(),
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
            _ => {}
        }
    }

    /// Producers that have sent lately, on any node.
    pub fn live_streams(&self) -> Vec<StreamStats> {
        self.streams.snapshot(self.clock.now())
    }

    /// All nodes that were heard of lately, this one among them.
    pub fn live_nodes(&self) -> Vec<NodeStats> {
        self.nodes.snapshot(self.clock.now())
    }

    /// The rates of all nodes over the last day, by minutes, the newest last: as far as this node has heard.
    pub fn day(&self) -> Vec<Minute> {
        self.day.lock().minutes()
    }

    /// A producer's devices, on any node.
    pub fn devices_of(&self, key: LogKey) -> Vec<DeviceStats> {
        let now = self.clock.now();
        self.devices.of(key, |node| self.nodes.is_alive(node, now))
    }

    /// Devices of all producers with `query` in their names, in whichever case; at most so many, by name.
    pub fn find_devices(&self, query: &str, most: usize) -> Vec<(LogKey, DeviceStats)> {
        let now = self.clock.now();
        self.devices.search(&query.to_lowercase(), most, |node| self.nodes.is_alive(node, now))
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
            let events = self.look();
            for event in events.iter().filter(|_| log.is_shared()) {
                if let Err(e) = broadcast(log, event).await {
                    debug!(error = %e, "this node's reports could not be told to the others");
                    break;
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes a look at everything; returns the reports that are due.
    fn look(&self) -> Vec<Event> {
        let now = self.clock.now();
        let mut events = vec![Event::Node { report: self.nodes.look() }];
        self.day.lock().look(&self.nodes.snapshot(now), now);
        events.extend(self.streams.look(now));
        events.extend(self.devices.look());
        self.devices.prune(now);
        events
    }
}
