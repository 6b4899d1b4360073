//! Real nodes over one real Redis and PostgreSQL, with devices that send lone records and consumers that follow several producers each.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use fastrand::Rng;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use motience_device::client::Lane;
use motience_testing::{Postgres, Redis};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Options,
    size::Size,
    taken::{Taken, Use},
};
use crate::common::{
    accounts::{Account, Accounts},
    consumers::Consumer,
    devices::{Device, Pace, schedule},
    egress::{Egress, Target},
    payload::TestClock,
    seen::Live,
    server::{Own, secret, shared},
};

/// How long records may still arrive after the last acknowledgement.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);
/// How long connections are left alone before something is measured.
const SETTLE: Duration = Duration::from_secs(2);
/// Connections made at once.
const CONNECTING: usize = 16;

/// The platform.
pub(super) struct Bench {
    pub(super) redis: Redis,
    pub(super) postgres: Postgres,
    pub(super) nodes: Vec<Own>,
    pub(super) producers: Vec<Account>,
    /// Accounts of consumers; each follows producers of its own.
    groups: Vec<Account>,
    size: Size,
}

/// Where devices and consumers of a flow are.
pub(super) struct Places {
    /// The node of each device.
    pub(super) devices: Vec<usize>,
    /// The node of each consumer; the first consumers are of the first accounts.
    pub(super) consumers: Vec<usize>,
}

impl Places {
    /// Any node for each.
    pub(super) fn random(size: &Size, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut any = |how_many: f64| (0..how_many as usize).map(|_| rng.usize(..size.nodes as usize)).collect();
        Self { devices: any(size.devices), consumers: any(size.consumers) }
    }
}

/// A flow that has ended, and its cost.
pub(super) struct Flowed {
    pub(super) used: Use,
    pub(super) records: f64,
    pub(super) delivered: f64,
}

impl Bench {
    pub(super) async fn start(options: &Options, size: &Size) -> Result<Self> {
        ensure!(size.producers % size.follows == 0.0, "the producers have to be a multiple of those that a consumer follows");
        let (redis, postgres) = (Redis::start().await, Postgres::start().await);
        let settings = [shared(&redis, postgres.url(), &secret()), options.set.clone()].concat();
        let mut nodes = Vec::new();
        for number in 0..size.nodes as usize {
            let name = ("NODE_NAME".to_owned(), format!("node-{number}"));
            nodes.push(Own::start(options.server_program.clone(), &[&[name], &settings[..]].concat()).await?);
        }
        let accounts = Accounts::new(&nodes[0].addresses)?;
        let producers = accounts.make("producer", size.producers as usize).await?;
        let groups = accounts.make("consumer", (size.producers / size.follows) as usize).await?;
        for (group, producers) in groups.iter().zip(producers.chunks(size.follows as usize)) {
            for producer in producers {
                accounts.subscribe(group, producer).await?;
            }
        }
        Ok(Self { redis, postgres, nodes, producers, groups, size: size.clone() })
    }

    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        self.nodes.iter().map(|node| node.addresses.pid.context("a node is a process of this machine")).collect()
    }

    /// The cost of everything while nothing is sent.
    pub(super) async fn idle(&self, seconds: f64) -> Result<Use> {
        let pids = self.pids()?;
        sleep(SETTLE).await;
        let before = Taken::now(&self.redis, &pids).await?;
        sleep(Duration::from_secs_f64(seconds)).await;
        Ok(before.until(&Taken::now(&self.redis, &pids).await?))
    }

    /// Devices send so many records a second of all together, evenly spread; or, without a rate, one after the other as fast as each is acknowledged.
    pub(super) async fn flow(&self, places: &Places, producers: usize, rate: Option<f64>, seconds: f64) -> Result<Flowed> {
        let (clock, live, stop) = (TestClock::start(), Arc::new(Live::default()), CancellationToken::new());
        let consumers = places.consumers.iter().enumerate().map(|(number, node)| self.consumer(number, *node));
        let consumers: Vec<Consumer> = stream::iter(consumers).buffered(CONNECTING).try_collect().await?;
        let reading: Vec<_> = consumers.into_iter().map(|consumer| consumer.read(clock, Arc::clone(&live), stop.clone())).collect();
        let devices = places.devices.iter().enumerate().map(|(number, node)| self.device(number, producers, *node));
        let devices: Vec<Device> = stream::iter(devices).buffered(CONNECTING).try_collect().await?;
        sleep(SETTLE).await;

        let pids = self.pids()?;
        let duration = Duration::from_secs_f64(seconds);
        let pace = Pace { in_flight: 1, size: self.size.bytes as usize, lane: Lane::Ordered, duration };
        let before = Taken::now(&self.redis, &pids).await?;
        let mut due: Vec<_> = match rate {
            Some(rate) => schedule(devices.len(), rate, duration).into_iter().map(Some).collect(),
            None => devices.iter().map(|_| None).collect(),
        };
        let sending: Vec<_> = devices.into_iter().map(|device| device.send(pace, due.remove(0), clock, Arc::clone(&live))).collect();
        let mut sent = Vec::new();
        for device in sending {
            sent.push(device.await?.acknowledged);
        }
        let follow = |producer: usize| {
            let group = producer / self.size.follows as usize;
            (0..places.consumers.len()).filter(|number| number % self.groups.len() == group).count() as u64
        };
        let wanted: u64 = sent.iter().enumerate().map(|(number, sent)| sent * follow(number % producers)).sum();
        let deadline = Instant::now() + ARRIVAL_LIMIT;
        while live.delivered() < wanted && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        let used = before.until(&Taken::now(&self.redis, &pids).await?);
        stop.cancel();
        for reader in reading {
            reader.await?;
        }
        let (delivered, failures) = (live.delivered(), live.failures());
        ensure!(failures.is_empty(), "this flow is not to be measured: {failures:?}");
        ensure!(delivered == wanted, "{delivered} of {wanted} deliveries came");
        Ok(Flowed { used, records: live.acknowledged.load(Ordering::Relaxed) as f64, delivered: delivered as f64 })
    }

    async fn device(&self, number: usize, producers: usize, node: usize) -> Result<Device> {
        let at = &self.nodes[node].addresses;
        Device::connect(&at.quic, at.ca.clone(), number as u32, &self.producers[number % producers]).await
    }

    async fn consumer(&self, number: usize, node: usize) -> Result<Consumer> {
        let target = Target::at(Egress::Plain, &self.nodes[node].addresses, &self.groups[number % self.groups.len()], Vec::new());
        Consumer::connect(Egress::Plain, &target).await
    }

    /// Ends the nodes.
    pub(super) async fn stop(self) -> Result<()> {
        for node in self.nodes {
            node.stop().await?;
        }
        Ok(())
    }
}
