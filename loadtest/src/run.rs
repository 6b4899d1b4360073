//! `loadtest run`: devices send, consumers receive.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use motience_device::client::Lane;
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;

use crate::{
    accounts::{Account, Accounts},
    consumers::Consumer,
    devices::{Device, Pace, schedule},
    egress::{Egress, Target},
    measure::{Live, Seen},
    payload::TestClock,
    process,
    report::{Idle, Report},
    server::{Addresses, Own},
};

/// How long records may still arrive after the last acknowledgement.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(20);
/// Connections made at once.
const CONNECTING: usize = 32;

/// Whom consumers are subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Follow {
    /// The n-th consumer follows the n-th account.
    One,
    /// Every consumer follows every account.
    All,
}

/// Which lane devices send on.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LaneName {
    /// One stream.
    Ordered,
    /// A stream for each group.
    Independent,
}

/// Options of `loadtest run`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Devices, each with a QUIC connection of its own.
    #[arg(long, default_value_t = 10)]
    devices: usize,
    /// Records a second of all devices together; 0: as fast as they go.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Consumers.
    #[arg(long, default_value_t = 10)]
    consumers: usize,
    /// The egress that they read.
    #[arg(long, alias = "exit", value_enum, default_value = "plain")]
    egress: Egress,
    /// How long to send.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Whom each consumer follows.
    #[arg(long, value_enum, default_value = "one")]
    follow: Follow,
    /// Records a device may have under way, where it sends as fast as it goes.
    #[arg(long, default_value_t = 256)]
    in_flight: u64,
    /// Bytes of a record.
    #[arg(long, default_value_t = 150)]
    size: usize,
    /// The lane records take.
    #[arg(long, value_enum, default_value = "ordered")]
    lane: LaneName,
    /// Accounts that the devices, and the consumers, share.
    #[arg(long, default_value_t = 50)]
    accounts: usize,
    /// Connect and send nothing: what an idle connection costs.
    #[arg(long)]
    idle: bool,
    /// A server that is already there: the file it wrote by `--ready-file`. Otherwise one is started.
    #[arg(long)]
    server: Option<PathBuf>,
    /// The process whose cost is measured, for a server that is already there.
    #[arg(long, requires = "server")]
    server_pid: Option<u32>,
    /// The program to start, where it is not beside this one.
    #[arg(long, conflicts_with = "server")]
    server_program: Option<PathBuf>,
    /// A setting for the started server, as NAME=value; may be given often.
    #[arg(long, value_parser = variable)]
    set: Vec<(String, String)>,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Options {
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
            idle: false,
            server: None,
            server_pid: None,
            server_program: None,
            set: Vec::new(),
            json: None,
        }
    }
}

/// A setting as it is written on the command line: `NAME=value`.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as NAME=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Runs the scenario. `Ok(false)`: it ran, and records were lost or doubled or something was cut.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    if options.devices + options.consumers == 0 {
        bail!("nothing to do: give --devices or --consumers");
    }
    let (own, addresses) = match &options.server {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
            let addresses: Addresses = serde_json::from_str(&text).context("that is no server's ready file")?;
            (None, Addresses { pid: options.server_pid, ..addresses })
        }
        None => {
            let own = Own::start(options.server_program.clone(), &options.set).await?;
            let addresses = own.addresses.clone();
            (Some(own), addresses)
        }
    };
    let outcome = if options.idle {
        idle(&options, &addresses).await
    } else {
        flow(&options, &addresses).await.and_then(|report| {
            report.print();
            options.json.as_deref().map_or(Ok(()), |file| report.write(file))?;
            Ok(report.good())
        })
    };
    if let Some(own) = own {
        own.stop().await?;
    }
    outcome
}

struct Cast {
    producers: Vec<Account>,
    consumers: Vec<Account>,
}

impl Cast {
    /// Whom the account of a consumer follows.
    fn followed(&self, follow: Follow, consumer: usize) -> impl Iterator<Item = &Account> {
        let one = (follow == Follow::One).then_some(consumer % self.producers.len().max(1));
        self.producers.iter().enumerate().filter(move |(j, _)| one.is_none_or(|one| one == *j)).map(|(_, producer)| producer)
    }
}

async fn cast(options: &Options, addresses: &Addresses) -> Result<Cast> {
    let accounts = Accounts::new(addresses)?;
    let producers = accounts.make("producer", options.accounts.min(options.devices)).await?;
    let consumers = accounts.make("consumer", options.accounts.min(options.consumers)).await?;
    let cast = Cast { producers, consumers };
    for (i, consumer) in cast.consumers.iter().enumerate() {
        for producer in cast.followed(options.follow, i) {
            accounts.subscribe(consumer, producer).await?;
        }
    }
    Ok(cast)
}

async fn connect_devices(options: &Options, first: usize, addresses: &Addresses, producers: &[Account]) -> Result<Vec<Device>> {
    let connect = |i: usize| {
        let i = first + i;
        let (quic, ca, account) = (addresses.quic.clone(), addresses.ca.clone(), producers[i % producers.len()].clone());
        async move { Device::connect(&quic, ca, i as u32, &account).await }
    };
    gather(options.devices, connect).await
}

async fn connect_consumers(options: &Options, addresses: &Addresses, cast: &Cast) -> Result<Vec<Consumer>> {
    let connect = |i: usize| {
        let account = i % cast.consumers.len();
        let followed = cast.followed(options.follow, account).map(|producer| producer.id).collect();
        let (egress, target) = (options.egress, Target::at(options.egress, addresses, &cast.consumers[account], followed));
        async move { Consumer::connect(egress, &target).await }
    };
    gather(options.consumers, connect).await
}

/// Makes `count` connections, some at a time, in order.
async fn gather<T, F>(count: usize, connect: impl Fn(usize) -> F) -> Result<Vec<T>>
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

/// Devices send, consumers receive.
pub(crate) async fn flow(options: &Options, addresses: &Addresses) -> Result<Report> {
    let cast = cast(options, addresses).await?;
    let devices = connect_devices(options, 0, addresses, &cast.producers).await?;
    let consumers = connect_consumers(options, addresses, &cast).await?;
    let (clock, live, stop) = (TestClock::start(), Arc::new(Live::default()), CancellationToken::new());
    let reading: Vec<_> = consumers.into_iter().map(|c| c.read(clock, Arc::clone(&live), stop.clone())).collect();
    let pace = Pace {
        in_flight: options.in_flight.max(1),
        size: options.size,
        lane: match options.lane {
            LaneName::Ordered => Lane::Ordered,
            LaneName::Independent => Lane::Independent,
        },
        duration: Duration::from_secs_f64(options.seconds),
    };
    let cpu_before = addresses.pid.map(process::cpu).transpose()?;
    let began = Instant::now();
    let bar = progress(options.seconds);
    let schedules: Vec<_> = if options.rate > 0.0 {
        schedule(devices.len(), options.rate, pace.duration).into_iter().map(Some).collect()
    } else {
        devices.iter().map(|_| None).collect()
    };
    let sending: Vec<_> =
        devices.into_iter().zip(schedules).map(|(device, schedule)| device.send(pace, schedule, clock, Arc::clone(&live))).collect();
    let watching = tokio::spawn(watch(bar.clone(), Arc::clone(&live), began));
    let mut sent = Vec::new();
    for device in sending {
        sent.push(device.await?);
    }
    // What was acknowledged is in the log; it has to arrive.
    let follows = follows(options, &sent, cast.producers.len(), cast.consumers.len());
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
        devices: options.devices,
        consumers: options.consumers,
        rate: options.rate,
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

/// For each consumer, the devices whose records it must receive.
fn follows(options: &Options, sent: &[crate::devices::Sent], producers: usize, consumers: usize) -> Vec<Vec<crate::devices::Sent>> {
    (0..options.consumers)
        .map(|i| {
            let account = i % consumers;
            let follows = |device: u32| options.follow == Follow::All || device as usize % producers == account % producers;
            sent.iter().filter(|s| follows(s.device)).copied().collect()
        })
        .collect()
}

async fn idle(options: &Options, addresses: &Addresses) -> Result<bool> {
    let pid = addresses.pid.context("the memory of a server that is already there is measured with --server-pid")?;
    let cast = cast(options, addresses).await?;
    let (live, stop) = (Arc::new(Live::default()), CancellationToken::new());
    let (clock, settle) = (TestClock::start(), async || time::sleep(Duration::from_secs(2)).await);
    let (mut devices, mut readers, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    // Two equal waves: what the second adds is what connections cost, without what all of them share.
    for _ in 0..2 {
        let wave = Options { devices: options.devices / 2, consumers: options.consumers / 2, ..options.clone() };
        let first = devices.len();
        for device in connect_devices(&wave, first, addresses, &cast.producers).await? {
            devices.push(device.idle(Arc::clone(&live), stop.clone()));
        }
        for consumer in connect_consumers(&wave, addresses, &cast).await? {
            readers.push(consumer.read(clock, Arc::clone(&live), stop.clone()));
        }
        settle().await;
        memory.push(process::resident(pid)?);
    }
    stop.cancel();
    for device in devices {
        device.await?;
    }
    for reader in readers {
        reader.await?;
    }
    let (half, all) = (memory[0], memory[1]);
    let idle = Idle { devices: options.devices / 2, consumers: options.consumers / 2, half, all, failures: live.failures() };
    idle.print();
    Ok(idle.failures.is_empty())
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
        let acknowledged = live.acknowledged.load(std::sync::atomic::Ordering::Relaxed);
        bar.set_message(format!("{acknowledged} acknowledged, {delivered} delivered, {rate:.0}/s"));
    }
}
