//! The log in Redis where Redis, its operator or a stranger does what it should not.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

mod cluster;
mod erasing;
mod layout;
mod reports;
mod room;
mod sending;
mod sentinel;
mod sessions;
mod sharing;
mod steps;
mod tls;
mod trust;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use motience_backend::{self as backend, Backend, Config};
use motience_log::{self as log, AppendBatch, AppendRecord, Log, Sender, SessionName};
use motience_proto::model::{DeviceId, LogEpoch, LogKey, Offset, ProducerEpoch, ProducerId, Seq};
use motience_runtime::clock::Clock;
use motience_settings::env::Env;
use motience_store as store;

const LIMIT: Duration = Duration::from_secs(20);
const P: LogKey = LogKey::numbered(ProducerId(1));

/// A node over SQLite in memory and the Redis at `url`.
async fn node(url: &str, settings: &[(&str, &str)]) -> Arc<Backend> {
    try_node(url, settings).await.unwrap()
}

async fn try_node(url: &str, settings: &[(&str, &str)]) -> Result<Arc<Backend>, backend::Error> {
    open(url, settings, false).await
}

/// Opens a node; `strict`: as in production.
async fn open(url: &str, settings: &[(&str, &str)], strict: bool) -> Result<Arc<Backend>, backend::Error> {
    let env =
        Env::from_pairs([("DATABASE_URL", "postgres://unused"), ("JWT_SECRET", "0123456789abcdef0123456789abcdef"), ("REDIS_URL", url)]);
    let env = settings.iter().fold(env, |env, (name, value)| env.with(name, *value));
    let mut config = Config::from_env(&env).unwrap();
    // Nodes that meet at one Redis are one installation.
    let port = url.rsplit(':').next().unwrap_or_default().replace(|c: char| !c.is_ascii_digit(), "");
    let path = std::env::temp_dir().join(format!("motience-test-{}-{port}", std::process::id())).join("accounts.db");
    config.store = store::Config::SqliteFile { path };
    config.redis.as_mut().unwrap().strict = strict;
    Backend::open(config, Clock::system()).await
}

/// Prefix of a log's keys.
async fn keys(node: &Backend, key: LogKey) -> String {
    format!("m:{}:{{{key}}}", node.store.installation().await.unwrap())
}

/// A device that keeps to the protocol of an outbox, and nothing else.
struct Device {
    log: LogKey,
    sender: Sender,
    log_epoch: LogEpoch,
    fence: motience_proto::model::Fence,
    seen: motience_proto::model::RangeSet,
    /// As long as it is connected.
    held: Option<log::Hold>,
}

impl Device {
    async fn new(log: &Log, key: LogKey, name: &str) -> Self {
        let name = SessionName::device(&DeviceId::new(name).unwrap());
        let sender = Sender { name, producer_epoch: ProducerEpoch(7), owner: 1 };
        let opened = log.open(key, &sender).await.unwrap();
        Self { log: key, sender, log_epoch: opened.log_epoch, fence: opened.fence, seen: opened.seen, held: Some(opened.held) }
    }

    /// Its part of an append: those of `seqs` that it does not know to be in.
    fn batch(&self, seqs: &[u64]) -> AppendBatch {
        let mut seen = self.seen.clone();
        let records = seqs.iter().filter(|seq| !self.seen.contains(**seq)).map(|&seq| AppendRecord {
            seq: Seq(seq),
            id: Some(format!("{}-{seq}", self.sender.name).into()),
            message: Bytes::from(format!("{{\"n\":{seq}}}")),
        });
        let records: Vec<AppendRecord> = records.collect();
        seqs.iter().for_each(|&seq| {
            seen.insert(seq);
        });
        AppendBatch {
            name: self.sender.name.clone(),
            log_epoch: self.log_epoch,
            fence: self.fence,
            producer_epoch: self.sender.producer_epoch,
            seen,
            records,
        }
    }

    /// Learns what is in after a write of unknown outcome.
    async fn reopen(&mut self, log: &Log) -> Result<(), log::Error> {
        let opened = log.reopen(self.log, &self.sender, self.log_epoch).await?;
        (self.log_epoch, self.fence, self.seen, self.held) = (opened.log_epoch, opened.fence, opened.seen, Some(opened.held));
        Ok(())
    }
}

/// Writes for several devices at once, as an appender does, and has them take what became of it for granted.
async fn write(log: &Log, devices: &mut [Device], seqs: &[u64]) -> Result<(), log::Error> {
    let batches: Vec<AppendBatch> = devices.iter().map(|device| device.batch(seqs)).collect();
    let outcomes = log.append(devices[0].log, &batches).await?;
    for ((outcome, batch), device) in outcomes.into_iter().zip(batches).zip(devices) {
        outcome?;
        device.seen = batch.seen;
    }
    Ok(())
}

/// All of a log: sender's number and message, in order; the offsets are looked at.
async fn all(log: &Log, key: LogKey) -> Vec<(u64, String)> {
    let (mut found, mut at) = (Vec::new(), Offset(0));
    loop {
        let read = log.read(key, at, 1 << 20).await.unwrap();
        for batch in &read.batches {
            for (offset, record_id, message) in batch.after(at) {
                assert_eq!(offset, at.next(), "offsets have no hole");
                found.push((record_id.seq.0, String::from_utf8_lossy(message).into_owned()));
                at = offset;
            }
        }
        if read.batches.is_empty() {
            assert_eq!(log.bounds(key).await.unwrap().last, at);
            return found;
        }
    }
}

/// Whether each of `seqs` is in as often as there are devices, and nothing else is.
fn each_once(found: &[(u64, String)], devices: usize, seqs: std::ops::RangeInclusive<u64>) {
    let mut numbers: Vec<u64> = found.iter().map(|(seq, _)| *seq).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, seqs.flat_map(|seq| std::iter::repeat_n(seq, devices)).collect::<Vec<_>>());
}
