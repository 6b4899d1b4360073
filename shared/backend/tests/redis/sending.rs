//! Sending through a node whose Redis fails over.

use std::{ops::RangeInclusive, time::Duration};

use motience_backend::Backend;
use motience_log::SessionName;
use motience_proto::model::{DeviceId, LogKey, ProducerEpoch, Seq};
use tokio::time::{Instant, sleep, timeout};

/// A failover takes seconds, and Sentinels take their time until they make a former master a replica: above all one that the machine has held
/// up, which does nothing for half a minute.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Sends as a device does: where the node gives up, it connects again and sends what is not known to be in.
pub(crate) async fn send(node: &Backend, log: LogKey, seqs: RangeInclusive<u64>) {
    let began = Instant::now();
    // When each reason was first met after another.
    let mut met: Vec<(Duration, String)> = Vec::new();
    while let Err(e) = try_send(node, log, seqs.clone()).await {
        let why = e.to_string();
        if met.last().is_none_or(|(_, last)| *last != why) {
            met.push((began.elapsed(), why));
        }
        assert!(began.elapsed() < LIMIT, "{met:#?}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn try_send(node: &Backend, log: LogKey, seqs: RangeInclusive<u64>) -> Result<(), motience_relay::Error> {
    let device = SessionName::device(&DeviceId::new("d").unwrap());
    let publisher = node.relay.publisher(log, device, ProducerEpoch(1)).await?;
    let seen = publisher.seen();
    for n in seqs.filter(|n| !seen.contains(*n)) {
        let mut group = publisher.group();
        let json = format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
        group.push(Seq(n), json.into()).unwrap();
        let ticket = group.submit().await?;
        timeout(LIMIT, publisher.committed(ticket)).await.unwrap()?;
    }
    Ok(())
}
