//! Costs of the embedded log, measured by hand: `cargo run --release -p motience-log --example embedded_log -- [RATE] [PRODUCERS] [SECONDS]`.
//!
//! Producers append one record of 166 bytes at a time, so many a second in all (0: as fast as they can), in memory and in a file. Told are processor
//! time, bytes handed to the kernel and written in blocks for each byte of record, and how long appends took.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "a program for people")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use motience_log::{AppendBatch, AppendRecord, Engine as _, Records as _, Retention, Sender, SessionName, Sessions as _, embedded::Log};
use motience_proto::model::{DeviceId, LogId, LogKey, ProducerEpoch, ProducerId, Seq};
use motience_runtime::clock::Clock;

/// Bytes handed to the kernel, and written in blocks.
fn io() -> [u64; 2] {
    let text = std::fs::read_to_string("/proc/self/io").unwrap();
    ["wchar:", "write_bytes:"].map(|name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse().unwrap())
}

/// Processor seconds of this process.
fn processor() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn message(producer: u64, n: u64) -> Bytes {
    let mut text = format!(
        "{{\"producer_id\":\"{producer}\",\"device_id\":\"device-{producer}\",\"timestamp\":\"2026-11-26T12:{:02}:{:02}.{:03}Z\",\"data\":{{\"reading\":{n}",
        n / 6000 % 60,
        n / 100 % 60,
        n % 1000
    );
    while text.len() < 164 {
        text.push('7');
    }
    text.push_str("}}");
    text.into()
}

async fn produce(log: Log, producer: u64, pace: Option<Duration>, end: Instant) -> Vec<Duration> {
    let key = LogKey { producer: ProducerId(producer.cast_signed()), log: LogId(fastrand::u64(..)) };
    let name = SessionName::device(&DeviceId::new(&format!("device-{producer}")).unwrap());
    let sender = Sender { name, producer_epoch: ProducerEpoch(fastrand::u64(1..1 << 53)), owner: fastrand::u64(..) };
    let mut opened = log.open(key, &sender, None).await.unwrap();
    let (mut times, from) = (Vec::new(), fastrand::u64(1..1 << 40));
    let begun = Instant::now();
    for n in 0.. {
        if let Some(pace) = pace {
            tokio::time::sleep_until((begun + pace * n).into()).await;
        }
        if Instant::now() > end {
            break;
        }
        let seq = from + u64::from(n);
        opened.seen.insert(seq);
        let batch = AppendBatch {
            name: sender.name.clone(),
            log_epoch: opened.log_epoch,
            fence: opened.fence,
            producer_epoch: sender.producer_epoch,
            seen: opened.seen.clone(),
            records: vec![AppendRecord { seq: Seq(seq), id: None, message: message(producer, u64::from(n)) }],
        };
        let at = Instant::now();
        log.append(key, &[batch]).await.unwrap().pop().unwrap().unwrap();
        times.push(at.elapsed());
    }
    times
}

async fn run(name: &str, log: Log, rate: u32, producers: u32, seconds: u64) {
    let (before, used, end) = (io(), processor(), Instant::now() + Duration::from_secs(seconds));
    let pace = (rate > 0).then(|| Duration::from_secs(1) * producers / rate);
    let tasks: Vec<_> = (0..producers).map(|producer| tokio::spawn(produce(log.clone(), u64::from(producer) + 1, pace, end))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap());
    }
    let (after, used) = (io(), processor() - used);
    times.sort();
    let (records, at) = (times.len() as f64, |part: f64| times[(times.len() as f64 * part) as usize]);
    let [given, blocks] = [0, 1].map(|i| (after[i] - before[i]) as f64 / records / 166.0);
    println!(
        "{name}: {:.0}/s, {:.1} CPU-s/M, bytes for each byte of record {given:.2} given, {blocks:.2} in blocks, p50 {:?} p99 {:?} p99.9 {:?} most {:?}",
        records / seconds as f64,
        used / records * 1e6,
        at(0.5),
        at(0.99),
        at(0.999),
        times[times.len() - 1]
    );
    log.close().await;
}

#[tokio::main]
async fn main() {
    let number = |at: usize, default: u32| std::env::args().nth(at).map_or(default, |n| n.parse().unwrap());
    let (rate, producers, seconds) = (number(1, 5000), number(2, 50), u64::from(number(3, 10)));
    let keep = Retention::default;
    let dir = tempfile::tempdir_in(std::env::args().nth(4).as_deref().map_or(Path::new("."), Path::new)).unwrap();
    run("memory", Log::in_memory(keep(), Clock::system(), Arc::new(|_| {})), rate, producers, seconds).await;
    run("file", Log::in_file(dir.path(), keep(), Clock::system(), Arc::new(|_| {})).unwrap(), rate, producers, seconds).await;
}
