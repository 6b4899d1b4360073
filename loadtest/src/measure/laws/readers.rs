//! `loadtest laws --readers`: what consumers cost that read one producer's old records beside each other, out of a log in Redis.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::timeout;

use super::{Options, node::Node};
use crate::common::{
    egress::{Connection, Egress, Incoming, Start, Target},
    redis::calls,
};

/// Records of one request.
const AT_ONCE: usize = 1000;
/// Longest wait for a record.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures each number of readers, at a node that has not read the log before.
pub(super) async fn run(options: &Options) -> Result<()> {
    say!("{:>7} | {:>12} {:>9} | {:>12} | {:>14}", "readers", "records/s", "seconds", "Redis calls", "node CPU-s/M");
    let mut node = Node::start(options, &[]).await?;
    let accounts = node.accounts()?;
    let producer = accounts.make("producer", 1).await?.remove(0);
    let consumer = accounts.make("consumer", 1).await?.remove(0);
    accounts.subscribe(&consumer, &producer).await?;
    let records = options.records;
    for first in (0..records).step_by(AT_ONCE) {
        let some = (first..records.min(first + AT_ONCE))
            .map(|n| json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n, "text": "x".repeat(60)}}));
        accounts.post(&producer, &some.collect::<Vec<_>>()).await?;
    }
    for &readers in &options.readers {
        node = node.start_another(options, &[]).await?.0;
        let target = Target::at(Egress::Wss2, &node.own.addresses, &consumer, vec![producer.id]);
        let (before, cpu, begun) = (calls(&node.redis).await?, node.cpu()?, Instant::now());
        try_join_all((0..readers).map(|_| read(&target, records))).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = node.cpu()?.saturating_sub(cpu).as_secs_f64();
        let (read, calls) = ((readers * records) as f64, calls(&node.redis).await? - before);
        say!("{readers:>7} | {:>12.0} {seconds:>9.2} | {calls:>12} | {:>14.2}", read / seconds, cpu / read * 1e6);
    }
    node.own.stop().await
}

/// Reads from the oldest record to the last.
async fn read(target: &Target, records: usize) -> Result<()> {
    let mut connection = Connection::open(Egress::Wss2, target, &Start::After(Default::default())).await?;
    let mut left = records;
    while left > 0 {
        match timeout(LIMIT, connection.next()).await.context("no record in time")?? {
            Incoming::Message(text) if Incoming::notice(&text).is_none() => left -= 1,
            Incoming::Message(_) => {}
            Incoming::End(why) => bail!("a reader's connection has ended: {why}"),
        }
    }
    Ok(())
}
