//! The workloads: who sends how much to whom, and the figures of one run.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, task::JoinSet, time::timeout};

use super::{
    systems::{Server, System},
    wire::{Channel, Receiver, Sender},
};
use crate::common::{devices::schedule, payload, process};

/// Bytes of a record.
const SIZE: usize = 146;
/// How long records may still arrive after the last was sent.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Records a second of the steady workload, of all producers together.
const STEADY: f64 = 5000.0;

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Workload {
    /// 100 producers, each with one record under way, and a consumer for each.
    A,
    /// 50 producers, each with 64 records under way, and a consumer for each.
    B,
    /// One producer with 256 records under way, and 50 consumers that each get all of them.
    C,
    /// 5,000 records a second over 50 producers, and a consumer for each: how late they are.
    L,
}

impl Workload {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::A, Self::B, Self::C, Self::L];

    /// As reports name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::L => "L",
        }
    }

    /// In words.
    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::A => "100 producers, each with one record under way, and a consumer for each",
            Self::B => "50 producers, each with 64 records under way, and a consumer for each",
            Self::C => "one producer with 256 records under way, and 50 consumers that each get all of them; deliveries are counted",
            Self::L => "5,000 records a second over 50 producers, and a consumer for each; latency from when a record was due",
        }
    }

    /// Whether a system can be asked for it: each reader of a Redis stream reads for itself, which is no fan-out.
    pub(super) fn suits(self, system: System) -> bool {
        self != Self::C || system != System::RedisXadd
    }

    /// Pairs of a producer and a consumer; one producer where all consumers are its own.
    pub(super) fn pairs(self) -> usize {
        match self {
            Self::A => 100,
            Self::B | Self::L => 50,
            Self::C => 1,
        }
    }

    fn consumers(self) -> usize {
        if self == Self::C { 50 } else { 1 }
    }

    fn under_way(self) -> u64 {
        match self {
            Self::A => 1,
            Self::B => 64,
            Self::C => 256,
            Self::L => u64::MAX,
        }
    }
}

/// Figures of a run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    /// Records delivered each second.
    pub(super) rate: f64,
    /// Processor seconds of the server for a million records delivered.
    pub(super) cpu: f64,
    /// Microseconds from when a record was due, where that was measured: half of them, and 99 of 100.
    pub(super) latency: Option<[u64; 2]>,
    /// Records that were sent and did not arrive.
    pub(super) lost: u64,
    /// Arrivals that are more than were sent.
    pub(super) doubled: u64,
}

/// One run of a workload.
pub(super) struct Run {
    pub(super) workload: Workload,
    /// Tells its channels from those of the runs before.
    pub(super) number: usize,
    pub(super) time: Duration,
}

impl Run {
    /// Puts a system through it. The generator has a thread of its own, one for every system.
    pub(super) async fn of(self, server: Arc<Server>) -> Result<Figures> {
        let generator = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(self.generate(&server))
        });
        generator.await.context("the generator ended before its time")?
    }

    async fn generate(&self, server: &Server) -> Result<Figures> {
        let pid = server.pid();
        server.prepare(self.number).await?;
        let (mut lanes, mut senders, mut receivers) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..self.workload.pairs() {
            let channel = Channel { run: self.number, pair, fan: self.workload == Workload::C };
            let lane = Arc::new(Lane::new(self.workload.under_way(), self.workload.consumers()));
            for consumer in 0..self.workload.consumers() {
                receivers.push((server.receiver(&channel).await?, consumer, Arc::clone(&lane)));
            }
            senders.push(server.sender(&channel).await?);
            lanes.push(lane);
        }
        let mut receiving = JoinSet::new();
        for (receiver, consumer, lane) in receivers {
            receiving.spawn(receive(receiver, consumer, lane));
        }
        let (before, began) = (process::cpu(pid)?, Instant::now());
        let mut sending = JoinSet::new();
        let mut schedules = match self.workload {
            Workload::L => schedule(senders.len(), STEADY, self.time).into_iter().map(Some).collect(),
            _ => Vec::from_iter(senders.iter().map(|_| None)),
        };
        for ((sender, lane), schedule) in senders.into_iter().zip(&lanes).zip(schedules.drain(..)) {
            let (lane, end) = (Arc::clone(lane), began + self.time);
            sending.spawn(async move {
                match schedule {
                    Some(schedule) => steady(sender, &lane, schedule).await,
                    None => flood(sender, &lane, end).await,
                }
            });
        }
        // Senders stay open until everything has arrived.
        let mut open = Vec::new();
        while let Some(sent) = sending.join_next().await {
            open.push(sent??);
        }
        let settled = async {
            for lane in &lanes {
                lane.settled().await;
            }
        };
        let late = timeout(SETTLE_LIMIT, settled).await.is_err();
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), process::cpu(pid)?.saturating_sub(before).as_secs_f64());
        if let Some(Ok(Err(error))) = receiving.try_join_next().filter(|_| late) {
            return Err(error.context("a consumer was cut"));
        }
        receiving.shutdown().await;
        drop(open);
        server.clear(self.number).await?;
        let delivered: u64 = lanes.iter().map(|lane| lane.delivered()).sum();
        let lost = lanes.iter().map(|lane| lane.missing()).sum();
        let doubled = lanes.iter().map(|lane| lane.surplus()).sum();
        let latency = (self.workload == Workload::L).then(|| latency(&lanes)).transpose()?;
        Ok(Figures { rate: delivered as f64 / seconds, cpu: cpu / (delivered as f64 / 1e6), latency, lost, doubled })
    }
}

fn latency(lanes: &[Arc<Lane>]) -> Result<[u64; 2]> {
    let mut all = Histogram::<u64>::new(3)?;
    for lane in lanes {
        for late in lane.late.lock().iter() {
            all.record((*late).max(1))?;
        }
    }
    Ok([0.5, 0.99].map(|quantile| all.value_at_quantile(quantile)))
}

/// The way of one producer's records: how many were sent, and how many each consumer has.
struct Lane {
    under_way: u64,
    sent: AtomicU64,
    arrived: Vec<AtomicU64>,
    changed: Notify,
    /// When the records that are under way were due. Every system keeps the order of one producer's records.
    due: Mutex<VecDeque<Instant>>,
    /// Microseconds that each record was late.
    late: Mutex<Vec<u64>>,
}

impl Lane {
    fn new(under_way: u64, consumers: usize) -> Self {
        Self {
            under_way,
            sent: AtomicU64::new(0),
            arrived: (0..consumers).map(|_| AtomicU64::new(0)).collect(),
            changed: Notify::new(),
            due: Mutex::default(),
            late: Mutex::default(),
        }
    }

    /// Records that every consumer has.
    fn slowest(&self) -> u64 {
        self.arrived.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    fn delivered(&self) -> u64 {
        self.arrived.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    fn missing(&self) -> u64 {
        let sent = self.sent.load(Ordering::Relaxed);
        self.arrived.iter().map(|count| sent.saturating_sub(count.load(Ordering::Relaxed))).sum()
    }

    fn surplus(&self) -> u64 {
        let sent = self.sent.load(Ordering::Relaxed);
        self.arrived.iter().map(|count| count.load(Ordering::Relaxed).saturating_sub(sent)).sum()
    }

    /// How many more may be sent now.
    fn room(&self) -> u64 {
        self.under_way.saturating_sub(self.sent.load(Ordering::Relaxed).saturating_sub(self.slowest()))
    }

    fn arrive(&self, consumer: usize, count: u64) {
        self.arrived[consumer].fetch_add(count, Ordering::Relaxed);
        let now = Instant::now();
        let mut due = self.due.lock();
        if !due.is_empty() {
            let mut late = self.late.lock();
            for at in (0..count).map_while(|_| due.pop_front()) {
                late.push(u64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u64::MAX));
            }
        }
        drop(due);
        self.changed.notify_one();
    }

    async fn settled(&self) {
        while self.missing() > 0 {
            self.changed.notified().await;
        }
    }
}

/// Keeps as many records under way as there may be.
async fn flood(mut sender: Sender, lane: &Lane, end: Instant) -> Result<Sender> {
    let mut batch: Vec<Bytes> = Vec::new();
    while Instant::now() < end {
        let room = lane.room();
        if room == 0 {
            let left = end.saturating_duration_since(Instant::now());
            if timeout(left, lane.changed.notified()).await.is_err() {
                break;
            }
            continue;
        }
        batch.clear();
        let sent = lane.sent.load(Ordering::Relaxed);
        batch.extend((1..=room).map(|n| record(sent + n)));
        lane.sent.fetch_add(room, Ordering::Relaxed);
        sender.send(&batch).await?;
    }
    Ok(sender)
}

/// Sends each record when it is due.
async fn steady(mut sender: Sender, lane: &Lane, mut schedule: tokio::sync::mpsc::Receiver<Instant>) -> Result<Sender> {
    while let Some(due) = schedule.recv().await {
        lane.due.lock().push_back(due);
        let sent = lane.sent.fetch_add(1, Ordering::Relaxed);
        sender.send(&[record(sent + 1)]).await?;
    }
    Ok(sender)
}

async fn receive(mut receiver: Receiver, consumer: usize, lane: Arc<Lane>) -> Result<()> {
    loop {
        let count = receiver.receive().await?;
        lane.arrive(consumer, count);
    }
}

fn record(number: u64) -> Bytes {
    payload::record(payload::Mark { device: 1, number, due: 0 }, SIZE)
}
