//! Plans, as this node knows them: read from the store at the start, on each change, and every half minute; and the node's share of the
//! rates that the nodes of a cluster have together.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use motience_cluster::Reports;
use motience_limits::quota::{Assigned, Assignments, Bucket, Quotas};
use motience_log::Log;
use motience_proto::model::plan::DEFAULT_PLAN;
use motience_store::{self as store, Store};
use tokio::time::{sleep, timeout};

/// Shortest pause between two ticks, and how much longer it may be: nodes must not always ask in one order.
const TICK: Duration = Duration::from_millis(40);
const JITTER: u64 = 20;
/// Longest wait for a lease. After it the node goes by its own share.
const LEASE_LIMIT: Duration = Duration::from_millis(200);
/// Leases asked for at once.
const AT_ONCE: usize = 64;

/// Reads all plans and whose they are.
pub(super) async fn load(store: &Store, quotas: &Quotas) -> Result<(), store::Error> {
    let mut accounts: HashMap<_, Assigned> = HashMap::new();
    for assigned in store.assigned_plans().await? {
        let account = accounts.entry(assigned.user).or_default();
        match assigned.organisation {
            Some(id) => account.organisation = Some((id.into(), assigned.limits)),
            None => account.own = Some(assigned.limits),
        }
    }
    let default = store.plans().await?.into_iter().find(|(name, _)| name == DEFAULT_PLAN).map(|(_, limits)| limits);
    quotas.assign(Assignments { accounts, default });
    Ok(())
}

/// Fills the buckets in use, by the clock or by what the nodes share, for as long as it is polled.
pub(super) async fn fill(quotas: Quotas, log: Log, reports: Reports) {
    let mut nodes = 1;
    loop {
        let begun = Instant::now();
        sleep(TICK + Duration::from_millis(fastrand::u64(0..JITTER))).await;
        let active = quotas.active();
        if active.is_empty() {
            quotas.used().await;
            continue;
        }
        if !quotas.are_shared() {
            active.iter().for_each(|bucket| bucket.refill(begun.elapsed()));
            continue;
        }
        let leasing = stream::iter(active).map(|bucket| lease(&log, bucket)).buffer_unordered(AT_ONCE);
        let refused: Vec<Arc<Bucket>> = leasing.filter_map(std::future::ready).collect().await;
        let live = reports.live_nodes().len();
        // Without Redis no reports come either: the number counts that was true before.
        if refused.is_empty() || live > nodes {
            nodes = live.max(1);
        }
        refused.iter().for_each(|bucket| bucket.refill_alone(begun.elapsed(), nodes));
    }
}

/// Leases what a bucket needs; the bucket again where that fails.
async fn lease(log: &Log, bucket: Arc<Bucket>) -> Option<Arc<Bucket>> {
    let wanted = bucket.ask();
    if wanted == 0 {
        return None;
    }
    let rate = bucket.rate().saturating_mul(motience_limits::quota::PARTS.unsigned_abs());
    match timeout(LEASE_LIMIT, log.lease_slice(bucket.name(), wanted, rate)).await {
        Ok(Ok(Some((granted, total)))) => {
            bucket.granted(granted, total);
            None
        }
        _ => {
            metrics::counter!("motience_quota_leases_failed_total").increment(1);
            Some(bucket)
        }
    }
}
