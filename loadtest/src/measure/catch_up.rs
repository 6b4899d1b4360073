//! `loadtest laws --readers`: what consumers cost that read one producer's old records beside each other, out of a log in Redis.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::future::try_join_all;
use motience_testing::{Postgres, Redis};
use serde_json::json;
use tokio::time::timeout;

use crate::common::{
    accounts::Accounts,
    egress::{Connection, Egress, Incoming, Start, Target},
    process,
    redis::calls,
    server::Own,
};

/// Records of one request.
const AT_ONCE: usize = 1000;
/// Longest wait for a record.
const LIMIT: Duration = Duration::from_secs(60);

/// Measures each number of readers, at a node that has not read the log before.
pub(super) async fn run(server: Option<PathBuf>, set: &[(String, String)], records: usize, readers: &[usize]) -> Result<()> {
    say!("{:>7} | {:>12} {:>9} | {:>12} | {:>14}", "readers", "records/s", "seconds", "Redis calls", "node CPU-s/M");
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    let secret = format!("{:032x}", fastrand::u128(..));
    let own = [("REDIS_URL", redis.url()), ("DATABASE_URL", postgres.url()), ("JWT_SECRET", secret)];
    let settings = [&own.map(|(name, value)| (name.to_owned(), value))[..], set].concat();
    let node = Own::start(server.clone(), &settings).await?;
    let accounts = Accounts::new(&node.addresses)?;
    let producer = accounts.make("producer", 1).await?.remove(0);
    let consumer = accounts.make("consumer", 1).await?.remove(0);
    accounts.subscribe(&consumer, &producer).await?;
    for first in (0..records).step_by(AT_ONCE) {
        let some = (first..records.min(first + AT_ONCE))
            .map(|n| json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n, "text": "x".repeat(60)}}));
        accounts.post(&producer, &some.collect()).await?;
    }
    node.stop().await?;
    for &readers in readers {
        let node = Own::start(server.clone(), &settings).await?;
        let pid = node.addresses.pid.context("the server is a process of this machine")?;
        let target = Target::at(Egress::Wss2, &node.addresses, &consumer, vec![producer.id]);
        let (before, cpu, begun) = (calls(&redis).await?, process::cpu(pid)?, Instant::now());
        try_join_all((0..readers).map(|_| read(&target, records))).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let cpu = process::cpu(pid)?.saturating_sub(cpu).as_secs_f64();
        let (read, calls) = ((readers * records) as f64, calls(&redis).await? - before);
        say!("{readers:>7} | {:>12.0} {seconds:>9.2} | {calls:>12} | {:>14.2}", read / seconds, cpu / read * 1e6);
        node.stop().await?;
    }
    Ok(())
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
