//! Measurements that nothing brings about: how full queues, pools and disks are, and who sends most.

use std::{path::PathBuf, time::Duration};

use motience_auth::Hasher;
use motience_cluster::Reports;
use motience_relay::Relay;
use motience_runtime::{
    disk,
    telemetry::{RANKED, rank},
};
use motience_store::Store;

/// How often they are made.
const EVERY: Duration = Duration::from_secs(5);

pub(crate) struct Meter {
    pub(crate) store: Store,
    pub(crate) relay: Relay,
    pub(crate) hasher: Hasher,
    pub(crate) reports: Reports,
    /// The folder that the node keeps files in.
    pub(crate) folder: Option<PathBuf>,
}

impl Meter {
    pub(crate) async fn run(self) {
        loop {
            self.look();
            self.store.measure().await;
            tokio::time::sleep(EVERY).await;
        }
    }

    fn look(&self) {
        let (groups, bytes) = self.relay.waiting();
        metrics::gauge!("motience_append_queue_groups").set(groups as f64);
        metrics::gauge!("motience_append_queue_bytes").set(bytes as f64);
        metrics::gauge!("motience_password_queue").set(self.hasher.waiting() as f64);
        if let Some(silent) = self.relay.log().silent_for() {
            metrics::gauge!("motience_redis_silent_seconds").set(silent.as_secs_f64());
        }
        if let Some(free) = self.folder.as_deref().and_then(disk::free) {
            metrics::gauge!("motience_disk_free_bytes").set(free as f64);
        }
        self.rank();
    }

    fn rank(&self) {
        let mut producers = self.reports.own_streams();
        producers.retain(|stream| stream.rate > 0.0);
        producers.sort_by(|a, b| b.rate.total_cmp(&a.rate));
        producers.truncate(RANKED);
        rank("motience_producer_rate", producers.into_iter().map(|stream| (vec![stream.producer.to_string()], stream.rate)).collect());
        let devices = self.reports.devices.busiest(RANKED);
        rank(
            "motience_device_rate",
            devices.into_iter().map(|(producer, device, rate)| (vec![producer.to_string(), device], rate)).collect(),
        );
    }
}
