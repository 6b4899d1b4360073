//! One round: one system sends its records over one emulated link.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use motience_loadtest::link::{Counts, Direction};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};

use super::{
    bench::Bench,
    consumers::{Arrivals, Source},
    plan::{Cell, Condition, Plan},
    senders::{Sender, Target},
    telemetry::Sensor,
};
use crate::common::{devices::schedule, payload::TestClock};

/// How long records may still arrive after the last was due.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(15);
/// How long records may still arrive where lost records stay lost.
const SETTLE_LATEST: Duration = Duration::from_secs(1);

/// Measurements of a round, without those of the warm-up.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    pub(super) cell: Cell,
    pub(super) seed: u64,
    /// Records that were due.
    pub(super) due: u64,
    /// Those that never arrived.
    pub(super) undelivered: u64,
    /// Arrivals beyond the first.
    pub(super) doubled: u64,
    /// Traffic of the device while the records were due.
    pub(super) up: Counts,
    /// Traffic of the server.
    pub(super) down: Counts,
    /// Latencies in microseconds, by the second in which the records were due.
    #[serde(skip)]
    pub(super) blocks: Vec<Vec<u32>>,
}

/// Runs it.
pub(super) async fn run(bench: &Bench, cell: Cell, seed: u64, plan: &Plan) -> Result<Round> {
    let device = format!("pump-{:05}-{:02}", fastrand::u32(..100_000), seed % 100);
    let all = Duration::from_secs_f64(plan.warm_up + plan.seconds);
    let count = (all.as_secs_f64() * f64::from(cell.rate)).round() as u64;
    let clock = TestClock::start();
    let arrivals = Arrivals::new(clock, count);

    // Connections are made over a calm link: what is compared is what comes after.
    bench.link.change(Condition::Random(0).profile());
    let source = Source::new(cell.system, bench, &device);
    let consumer = bench.server.run(source.connect()).await?;
    let reading = bench.server.spawn(consumer.read(device.clone(), Arc::clone(&arrivals)));
    let target = Target::new(cell.system, bench, &device, plan.congestion)?;
    let sender = bench
        .device
        .run({
            let device = device.clone();
            async move { target.connect(&device).await }
        })
        .await?;

    bench.link.begin(cell.condition.profile(), seed);
    let start = Instant::now();
    let sensor = Sensor::new(&device, seed);
    let sending = bench.device.spawn(send(sender, sensor, schedule(1, f64::from(cell.rate), all).remove(0)));
    sleep_until((start + Duration::from_secs_f64(plan.warm_up)).into()).await;
    let before = [Direction::Up, Direction::Down].map(|d| bench.link.counts(d));
    sleep_until((start + all).into()).await;
    let after = [Direction::Up, Direction::Down].map(|d| bench.link.counts(d));

    // A sender that is held up far behind its schedule is waited for, too.
    let limit = Instant::now() + if cell.system.reliable() { SETTLE_LIMIT } else { SETTLE_LATEST };
    while arrivals.arrived() < count && Instant::now() < limit && !reading.is_finished() {
        sleep(Duration::from_millis(5)).await;
    }
    if reading.is_finished() {
        reading.await??;
        bail!("the consumer ended before its time");
    }
    reading.abort();
    let began = if sending.is_finished() {
        let (sender, began) = sending.await??;
        bench.link.change(Condition::Random(0).profile());
        bench.device.spawn(sender.end()).await?;
        began
    } else {
        // Its own backlog is longer than the wait: it is cut, and what it did not send counts as undelivered.
        sending.abort();
        start
    };
    let first = (plan.warm_up * f64::from(cell.rate)).round() as u64 + 1;
    let (blocks, undelivered) = latencies(&arrivals, clock.at(began), cell.rate, first, count);
    Ok(Round {
        cell,
        seed,
        due: count - first + 1,
        undelivered,
        doubled: arrivals.doubled(),
        up: after[0].since(before[0]),
        down: after[1].since(before[1]),
        blocks,
    })
}

/// Sends a record each time that one is due. Returns the sender, and when the first was due.
async fn send(mut sender: Sender, mut sensor: Sensor, mut schedule: mpsc::Receiver<Instant>) -> Result<(Sender, Instant)> {
    let (mut number, mut first) = (0, None);
    while let Some(due) = schedule.recv().await {
        let first = *first.get_or_insert(due);
        number += 1;
        sender.send(sensor.record(number, (due - first).as_micros() as u64)).await?;
    }
    Ok((sender, first.context("no record was due")?))
}

/// Latencies of the records `first..=last` by second, and how many never arrived.
fn latencies(arrivals: &Arrivals, began: u64, rate: u32, first: u64, last: u64) -> (Vec<Vec<u32>>, u64) {
    let (mut blocks, mut missing) = (Vec::new(), 0);
    let numbers: Vec<u64> = (first..=last).collect();
    for second in numbers.chunks(rate as usize) {
        let mut block = Vec::with_capacity(second.len());
        for number in second {
            let due = began + (number - 1) * 1_000_000_000 / u64::from(rate);
            match arrivals.of(*number) {
                Some(at) => block.push(u32::try_from(at.saturating_sub(due) / 1000).unwrap_or(u32::MAX)),
                None => missing += 1,
            }
        }
        blocks.push(block);
    }
    (blocks, missing)
}
