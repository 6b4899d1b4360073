//! How much of the plans of organisations is in use: what the limiters of this node count, told to all nodes.

use std::collections::HashMap;

use motience_cluster::{LOOK_EVERY, PlanCounts, Reports, broadcast};
use motience_limits::permits::Permits;
use motience_log::Log;
use tokio::time::sleep;
use tracing::debug;

/// Looks again and again, for as long as it is polled.
pub(super) async fn run(reports: Reports, permits: Permits, log: Log) {
    loop {
        for event in reports.plan_use.look(&counts(&permits)).iter().filter(|_| log.is_shared()) {
            if let Err(e) = broadcast(&log, event).await {
                debug!(error = %e, "the use of plans could not be told to the other nodes");
                break;
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

fn counts(permits: &Permits) -> HashMap<String, PlanCounts> {
    let mut counts: HashMap<String, PlanCounts> = HashMap::new();
    for (organisation, totals) in permits.quotas().taken() {
        counts.entry(organisation.to_string()).or_default().totals = totals;
    }
    for (organisation, connections) in permits.connections_of_organisations() {
        counts.entry(organisation.to_string()).or_default().connections = connections as u64;
    }
    counts
}
