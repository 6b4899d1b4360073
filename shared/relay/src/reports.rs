//! What a node tells the others of itself, every two seconds: streams have their own, nodes and devices share this.

use std::sync::Arc;

use motience_log::Event;
use motience_runtime::clock::Clock;
use tracing::debug;

use super::{Relay, devices::Devices, nodes::Nodes, streams::Streams, window::LOOK_EVERY};

/// Everything that is counted here and told to the others.
#[derive(Clone, Debug)]
pub struct Reports {
    /// Live producers.
    pub streams: Arc<Streams>,
    /// Nodes.
    pub nodes: Arc<Nodes>,
    /// Devices.
    pub devices: Arc<Devices>,
}

impl Reports {
    /// Takes another node's report.
    pub fn apply(&self, event: &Event, clock: &Clock) {
        match event {
            Event::Streams { .. } => self.streams.apply(event),
            Event::Node { .. } => self.nodes.apply(event, clock.now()),
            Event::Devices { .. } => self.devices.apply(event, clock.now()),
            _ => {}
        }
    }
}

/// Looks at the counters, and tells the other nodes where there may be any.
pub(super) fn start(relay: &Relay) {
    let (reports, log) = (relay.0.reports.clone(), relay.0.log.clone());
    let (clock, stop) = (relay.0.clock.clone(), relay.0.stop.clone());
    relay.0.tasks.spawn(async move {
        let telling = async {
            loop {
                // First, so that the others know of a new node at once.
                reports.nodes.look();
                let mut events = vec![Event::Node { report: reports.nodes.report(log.durability()) }];
                events.extend(reports.devices.look());
                reports.devices.prune(clock.now());
                for event in events.iter().filter(|_| log.is_shared()) {
                    if let Err(e) = log.broadcast(event).await {
                        debug!(error = %e, "this node's state could not be told to the others");
                        break;
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        stop.run_until_cancelled(telling).await;
    });
}
