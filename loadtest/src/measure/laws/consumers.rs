//! `loadtest laws --consumers`: what many consumers of one producer cost, each of an account of its own over WebSocket: to connect, to hold, and to give each of
//! them a record, where records come one by one and where they come in batches.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use motience_device::client::Lane;
use motience_proto::model::Role;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Options, node::Node, people};
use crate::common::{
    accounts::{Account, Accounts},
    devices::{Device, Pace, schedule},
    egress::{Connection, Egress, Incoming, Start, Target},
    flow::gather,
    payload::{Mark, TestClock, mark, record},
    seen::Live,
};

/// How long connections are left alone before their memory is measured.
const SETTLE: Duration = Duration::from_secs(3);
/// Records given out in a second, to all consumers together, where records come one by one.
const STEADY: f64 = 5000.0;
/// Records given out in all where they come in batches, and most records of a batch.
const FLOOD: usize = 2_000_000;
const BATCH: usize = 100;
/// Bytes of a record.
const SIZE: usize = 150;
/// Highest latency recorded, in microseconds.
const MAX_LATENCY: u64 = ARRIVAL_LIMIT.as_secs() * 1_000_000;
/// Longest wait for what was sent to be given out.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(300);

/// Measures each number of consumers, and prints a table.
pub(super) async fn run(options: &Options) -> Result<()> {
    say!("{:>9} | {:>34} | {:>34} | {:>23}", "", "connected", "one by one", "in batches");
    say!(
        "{:>9} | {:>10} {:>12} {:>10} | {:>10} {:>10} {:>12} | {:>12} {:>10}",
        "consumers",
        "seconds",
        "ms CPU/each",
        "KiB/each",
        "p50 ms",
        "p99 ms",
        "CPU-s/M",
        "given/s",
        "CPU-s/M"
    );
    for &consumers in &options.consumers {
        measure(options, consumers).await?;
    }
    Ok(())
}

async fn measure(options: &Options, consumers: usize) -> Result<()> {
    // All of them come from one address.
    let node = Node::start(options, &[("HTTP_MAX_CONNECTIONS_PER_ADDRESS", "100000")]).await?;
    let accounts = node.accounts()?;
    let producer = accounts.make("producer", 1).await?.remove(0);
    let people = followers(&node, &producer, consumers).await?;

    let (memory, cpu, began) = (node.resident()?, node.cpu()?, Instant::now());
    let connections = gather(consumers, |n| {
        let target = Target::at(Egress::Wss2, &node.own.addresses, &people[n], vec![producer.id]);
        async move {
            let mut connection = Connection::open(Egress::Wss2, &target, &Start::Live).await?;
            connection.answers().await.map(|()| connection)
        }
    })
    .await?;
    let (connecting, cpu) = (began.elapsed(), node.cpu()?.saturating_sub(cpu));
    sleep(SETTLE).await;
    let memory = node.resident()?.saturating_sub(memory);

    let (audience, tasks, stop) = (Arc::new(Audience::new(consumers)), TaskTracker::new(), CancellationToken::new());
    for connection in connections {
        let (audience, stop) = (Arc::clone(&audience), stop.clone());
        tasks.spawn(async move { stop.run_until_cancelled(audience.hear(connection)).await });
    }
    let steady = steady(options, &node, &producer, &audience).await?;
    let flood = flood(&node, &accounts, &producer, &audience).await?;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    node.own.stop().await?;
    let at = |q| steady.latency.value_at_quantile(q) as f64 / 1e3;
    say!(
        "{consumers:>9} | {:>10.2} {:>12.2} {:>10.1} | {:>10.1} {:>10.1} {:>12.1} | {:>12.0} {:>10.1}",
        connecting.as_secs_f64(),
        cpu.as_secs_f64() * 1e3 / consumers as f64,
        memory as f64 / 1024.0 / consumers as f64,
        at(0.5),
        at(0.99),
        steady.cpu_per_million(),
        flood.given as f64 / flood.over.as_secs_f64(),
        flood.cpu_per_million()
    );
    Ok(())
}

/// Accounts that are subscribed to the producer.
async fn followers(node: &Node, producer: &Account, count: usize) -> Result<Vec<Account>> {
    let mut database = node.database().await?;
    people::make(&mut database, Role::Consumer, count, "none").await?;
    sqlx::query("INSERT INTO subscriptions (consumer_id, producer_id) SELECT id, $1 FROM users WHERE starts_with(username, $2)")
        .bind(producer.id)
        .bind(people::prefix(Role::Consumer))
        .execute(&mut database)
        .await?;
    sqlx::query("ANALYZE").execute(&mut database).await?;
    people::logged_in(node, &mut database, &people::prefix(Role::Consumer)).await
}

/// Records given out, and the cost.
struct Given {
    given: u64,
    over: Duration,
    cpu: Duration,
    /// Microseconds from when a record was due to its arrival.
    latency: Histogram<u64>,
}

impl Given {
    /// Processor seconds of the node for a million records given out.
    fn cpu_per_million(&self) -> f64 {
        self.cpu.as_secs_f64() / self.given as f64 * 1e6
    }
}

/// A device sends one record after the other, so slowly that the node is idle between them.
async fn steady(options: &Options, node: &Node, producer: &Account, audience: &Audience) -> Result<Given> {
    let (addresses, live) = (&node.own.addresses, Arc::new(Live::default()));
    let device = Device::connect(&addresses.quic, addresses.ca.clone(), 0, producer).await?;
    let duration = Duration::from_secs(options.seconds);
    let pace = Pace { in_flight: 1, size: SIZE, lane: Lane::Ordered, duration };
    let (cpu, began) = (node.cpu()?, Instant::now());
    let dues = schedule(1, STEADY / audience.consumers as f64, duration).pop();
    let sent = device.send(pace, dues, audience.clock, live.clone()).await?;
    if let Some(failure) = live.failures().first() {
        bail!("{failure}");
    }
    audience.has(sent.sent).await?;
    let (over, cpu) = (began.elapsed(), node.cpu()?.saturating_sub(cpu));
    Ok(audience.given(over, cpu))
}

/// The producer sends batch after batch, until so many are given out in all.
async fn flood(node: &Node, accounts: &Accounts, producer: &Account, audience: &Audience) -> Result<Given> {
    let records = (FLOOD / audience.consumers).max(1);
    let (cpu, began) = (node.cpu()?, Instant::now());
    for first in (0..records).step_by(BATCH) {
        let some = (first..records.min(first + BATCH)).map(|n| {
            let json = record(Mark { device: 1, number: n as u64 + 1, due: audience.clock.now() }, SIZE);
            serde_json::from_slice::<Box<RawValue>>(&json)
        });
        accounts.post(producer, &some.collect::<Result<Vec<_>, _>>()?).await?;
    }
    audience.has(records as u64).await?;
    let (over, cpu) = (began.elapsed(), node.cpu()?.saturating_sub(cpu));
    Ok(audience.given(over, cpu))
}

/// All consumers together. Each of them must hear every record once, in order.
struct Audience {
    consumers: usize,
    clock: TestClock,
    heard: AtomicU64,
    latency: Mutex<Histogram<u64>>,
    wrong: Mutex<Option<String>>,
}

impl Audience {
    fn new(consumers: usize) -> Self {
        let latency = Histogram::new_with_bounds(1, MAX_LATENCY, 3).expect("constant bounds are valid");
        Self { consumers, clock: TestClock::start(), heard: AtomicU64::new(0), latency: Mutex::new(latency), wrong: Mutex::default() }
    }

    /// Reads one consumer's connection until its end.
    async fn hear(&self, mut connection: Connection) {
        let mut last = [0; 2];
        let wrong = loop {
            let text = match connection.next().await {
                Ok(Incoming::Message(text)) => text,
                Ok(Incoming::End(why)) => break format!("a consumer's connection has ended: {why}"),
                Err(e) => break format!("a consumer cannot read: {e:#}"),
            };
            let Some(Mark { device, number, due }) = mark(&text) else { continue };
            let Some(last) = last.get_mut(device as usize).filter(|last| **last + 1 == number) else {
                break format!("record {number} of device {device} came out of turn");
            };
            *last = number;
            self.latency.lock().saturating_record(self.clock.now().saturating_sub(due) / 1000);
            self.heard.fetch_add(1, Ordering::Relaxed);
        };
        self.wrong.lock().get_or_insert(wrong);
    }

    /// Returns once each consumer has heard so many records since the last [`Audience::given`].
    async fn has(&self, records: u64) -> Result<()> {
        let (all, began) = (records * self.consumers as u64, Instant::now());
        loop {
            let heard = self.heard.load(Ordering::Relaxed);
            if let Some(wrong) = &*self.wrong.lock() {
                bail!("{wrong}");
            }
            if heard == all {
                return Ok(());
            }
            if began.elapsed() > ARRIVAL_LIMIT {
                bail!("{heard} of {all} records have come");
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Counts of what was heard, which begin anew.
    fn given(&self, over: Duration, cpu: Duration) -> Given {
        let mut latency = self.latency.lock();
        let taken = latency.clone();
        latency.reset();
        Given { given: self.heard.swap(0, Ordering::Relaxed), over, cpu, latency: taken }
    }
}
