//! A flow: devices send records, consumers receive them, and everything that happens is counted.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use motience_device::client::Lane;
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

use super::{
    accounts::{Account, Accounts},
    consumers::Consumer,
    devices::{Device, Pace, Sent, schedule},
    egress::{Egress, Target},
    payload::TestClock,
    process,
    report::Report,
    seen::{Live, Seen},
    server::Addresses,
};

/// How long records may still arrive after the last acknowledgement.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);
/// Connections made at once.
const CONNECTING: usize = 32;

/// Subscriptions of the consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Follow {
    /// The n-th consumer follows the n-th account.
    One,
    /// Every consumer follows every account.
    All,
}

/// The lane that devices send on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LaneName {
    /// One stream.
    Ordered,
    /// A stream for each group.
    Independent,
}

/// Size and pace of a flow.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flow {
    /// Devices, each with a QUIC connection of its own.
    #[arg(long, default_value_t = 10)]
    pub(crate) devices: usize,
    /// Records a second of all devices together; 0: as fast as they go.
    #[arg(long, default_value_t = 1000.0)]
    pub(crate) rate: f64,
    /// Consumers.
    #[arg(long, default_value_t = 10)]
    pub(crate) consumers: usize,
    /// The egress that they read.
    #[arg(long, alias = "exit", value_enum, default_value = "plain")]
    pub(crate) egress: Egress,
    /// How long to send.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// The accounts that each consumer follows.
    #[arg(long, value_enum, default_value = "one")]
    pub(crate) follow: Follow,
    /// Records of a device in flight, where it sends as fast as it goes.
    #[arg(long, default_value_t = 256)]
    pub(crate) in_flight: u64,
    /// Bytes of a record.
    #[arg(long, default_value_t = 150)]
    pub(crate) size: usize,
    /// The lane records take.
    #[arg(long, value_enum, default_value = "ordered")]
    pub(crate) lane: LaneName,
    /// Accounts that the devices, and the consumers, share.
    #[arg(long, default_value_t = 50)]
    pub(crate) accounts: usize,
}

impl Flow {
    /// Devices of one account, and consumers of another that follows it by an egress.
    pub(crate) fn fan(egress: Egress, devices: usize, consumers: usize, rate: f64, seconds: f64) -> Self {
        Self { devices, consumers, accounts: 1, egress, ..Self::pairs(1, rate, seconds) }
    }

    /// As many devices as consumers of a few accounts, each consumer following one of them.
    pub(crate) fn shared(count: usize, accounts: usize, rate: f64, seconds: f64) -> Self {
        Self { accounts: accounts.min(count), ..Self::pairs(count, rate, seconds) }
    }

    /// As many devices as consumers, each consumer following one account.
    pub(crate) fn pairs(count: usize, rate: f64, seconds: f64) -> Self {
        Self {
            devices: count,
            rate,
            consumers: count,
            egress: Egress::Plain,
            seconds,
            follow: Follow::One,
            in_flight: 256,
            size: 150,
            lane: LaneName::Ordered,
            accounts: count,
        }
    }

    /// Runs the flow against a server.
    pub(crate) async fn run(&self, addresses: &Addresses) -> Result<Report> {
        if self.devices + self.consumers == 0 {
            bail!("nothing to do: give --devices or --consumers");
        }
        let participants = self.participants(addresses).await?;
        self.run_with(addresses, &participants).await
    }

    /// Runs the flow of accounts that are there already.
    pub(crate) async fn run_with(&self, addresses: &Addresses, participants: &Participants) -> Result<Report> {
        let devices = self.devices(0, addresses, participants).await?;
        let consumers = self.consumers(addresses, participants).await?;
        let (clock, live, stop) = (TestClock::start(), Arc::new(Live::default()), CancellationToken::new());
        let reading: Vec<_> = consumers.into_iter().map(|c| c.read(clock, Arc::clone(&live), stop.clone())).collect();
        let cpu_before = addresses.pid.map(process::cpu).transpose()?;
        let began = Instant::now();
        let bar = progress(self.seconds);
        let watching = tokio::spawn(watch(bar.clone(), Arc::clone(&live), began));
        let sent = self.send(devices, clock, &live).await?;
        // Acknowledged records are in the log; they have to arrive.
        let follows = self.expected(&sent, participants);
        let expected: u64 = follows.iter().map(|f| f.iter().map(|s| s.sent).sum::<u64>()).sum();
        let deadline = Instant::now() + ARRIVAL_LIMIT;
        while live.delivered() < expected && Instant::now() < deadline {
            time::sleep(Duration::from_millis(5)).await;
        }
        let took = began.elapsed();
        let cpu = match (addresses.pid.map(process::cpu).transpose()?, cpu_before) {
            (Some(after), Some(before)) => Some(after.saturating_sub(before)),
            _ => None,
        };
        watching.abort();
        bar.finish_and_clear();
        stop.cancel();
        let (mut all, mut lost, mut doubled) = (Seen::new(), 0, 0);
        for (reader, follows) in reading.into_iter().zip(&follows) {
            let seen = reader.await?;
            lost += follows.iter().map(|s| seen.missing(s.device, s.sent)).sum::<u64>();
            doubled += seen.doubled;
            all.latency.add(&seen.latency)?;
        }
        Ok(Report {
            devices: self.devices,
            consumers: self.consumers,
            rate: self.rate,
            sent: sent.iter().map(|s| s.sent).sum(),
            acknowledged: sent.iter().map(|s| s.acknowledged).sum(),
            delivered: live.delivered(),
            lost,
            doubled,
            seconds: took.as_secs_f64(),
            server_cpu_seconds: cpu.map(|c| c.as_secs_f64()),
            latency: all.latency,
            failures: live.failures(),
        })
    }

    /// Sends from all devices. Returns what each of them did.
    async fn send(&self, devices: Vec<Device>, clock: TestClock, live: &Arc<Live>) -> Result<Vec<Sent>> {
        let pace = Pace {
            in_flight: self.in_flight.max(1),
            size: self.size,
            lane: match self.lane {
                LaneName::Ordered => Lane::Ordered,
                LaneName::Independent => Lane::Independent,
            },
            duration: Duration::from_secs_f64(self.seconds),
        };
        let schedules: Vec<_> = if self.rate > 0.0 {
            schedule(devices.len(), self.rate, pace.duration).into_iter().map(Some).collect()
        } else {
            devices.iter().map(|_| None).collect()
        };
        let sending: Vec<_> =
            devices.into_iter().zip(schedules).map(|(device, schedule)| device.send(pace, schedule, clock, Arc::clone(live))).collect();
        let mut sent = Vec::new();
        for device in sending {
            sent.push(device.await?);
        }
        Ok(sent)
    }

    /// Makes the accounts and the subscriptions.
    pub(crate) async fn participants(&self, addresses: &Addresses) -> Result<Participants> {
        let accounts = Accounts::new(addresses)?;
        let producers = accounts.make("producer", self.accounts.min(self.devices)).await?;
        let consumers = accounts.make("consumer", self.accounts.min(self.consumers)).await?;
        let participants = Participants { producers, consumers };
        for (i, consumer) in participants.consumers.iter().enumerate() {
            for producer in participants.followed(self.follow, i) {
                accounts.subscribe(consumer, producer).await?;
            }
        }
        Ok(participants)
    }

    /// Connects the devices, numbered from `first`.
    pub(crate) async fn devices(&self, first: usize, addresses: &Addresses, participants: &Participants) -> Result<Vec<Device>> {
        let producers = &participants.producers;
        let connect = |i: usize| {
            let i = first + i;
            let (quic, ca, account) = (addresses.quic.clone(), addresses.ca.clone(), producers[i % producers.len()].clone());
            async move { Device::connect(&quic, ca, i as u32, &account).await }
        };
        gather(self.devices, connect).await
    }

    /// Connects the consumers.
    pub(crate) async fn consumers(&self, addresses: &Addresses, participants: &Participants) -> Result<Vec<Consumer>> {
        let connect = |i: usize| {
            let account = i % participants.consumers.len();
            let followed = participants.followed(self.follow, account).map(|producer| producer.id).collect();
            let (egress, target) = (self.egress, Target::at(self.egress, addresses, &participants.consumers[account], followed));
            async move { Consumer::connect(egress, &target).await }
        };
        gather(self.consumers, connect).await
    }

    /// For each consumer, the devices whose records it must receive.
    fn expected(&self, sent: &[Sent], participants: &Participants) -> Vec<Vec<Sent>> {
        let (producers, consumers) = (participants.producers.len(), participants.consumers.len());
        (0..self.consumers)
            .map(|i| {
                let account = i % consumers;
                let follows = |device: u32| self.follow == Follow::All || device as usize % producers == account % producers;
                sent.iter().filter(|s| follows(s.device)).copied().collect()
            })
            .collect()
    }
}

/// The accounts of a flow.
pub(crate) struct Participants {
    producers: Vec<Account>,
    consumers: Vec<Account>,
}

impl Participants {
    /// The accounts of the devices.
    pub(crate) fn producers(&self) -> &[Account] {
        &self.producers
    }

    /// The accounts of the consumers.
    pub(crate) fn consumers(&self) -> &[Account] {
        &self.consumers
    }

    /// The producers that the account of a consumer follows.
    fn followed(&self, follow: Follow, consumer: usize) -> impl Iterator<Item = &Account> {
        let one = (follow == Follow::One).then_some(consumer % self.producers.len().max(1));
        self.producers.iter().enumerate().filter(move |(j, _)| one.is_none_or(|one| one == *j)).map(|(_, producer)| producer)
    }
}

/// Makes `count` connections, some at a time, in order.
pub(crate) async fn gather<T, F>(count: usize, connect: impl Fn(usize) -> F) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let mut made: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let mut connecting = JoinSet::new();
    let mut next = 0;
    while next < count || !connecting.is_empty() {
        while next < count && connecting.len() < CONNECTING {
            let (at, connection) = (next, connect(next));
            connecting.spawn(async move { connection.await.map(|c| (at, c)) });
            next += 1;
        }
        if let Some(done) = connecting.join_next().await {
            let (at, connection) = done??;
            made[at] = Some(connection);
        }
    }
    Ok(made.into_iter().flatten().collect())
}

fn progress(seconds: f64) -> ProgressBar {
    let bar = ProgressBar::new((seconds * 10.0) as u64);
    let style = ProgressStyle::with_template("{elapsed_precise} [{bar:30}] {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

async fn watch(bar: ProgressBar, live: Arc<Live>, began: Instant) {
    let mut last = (0, Instant::now());
    loop {
        time::sleep(Duration::from_millis(200)).await;
        let (delivered, now) = (live.delivered(), Instant::now());
        let rate = (delivered - last.0) as f64 / (now - last.1).as_secs_f64();
        last = (delivered, now);
        bar.set_position((began.elapsed().as_secs_f64() * 10.0) as u64);
        let acknowledged = live.acknowledged.load(Ordering::Relaxed);
        bar.set_message(format!("{acknowledged} acknowledged, {delivered} delivered, {rate:.0}/s"));
    }
}
