//! `loadtest handover`: a device changes between networks and loses them, and each of its records must be delivered once all the same.
//!
//! Another address, a NAT that forgets, a firewall that swallows UDP, a long outage, a path whose large packets vanish; and
//! what a connection costs that has nothing to send.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use motience_certs::Trust;
use motience_device::{
    Credentials, Producer, client,
    client::{Lane, Transport},
    producer::{self, Stats},
};
use motience_loadtest::link::{Block, Direction, Impairment, Profile, SERVER};
use motience_proto::model::DeviceId;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{client_async, tungstenite::Message};

use super::{bench::Bench, plan::DELAY, telemetry::number};

/// Between two records.
const INTERVAL: Duration = Duration::from_millis(20);
/// How long the link is calm before and after what is tried.
const CALM: Duration = Duration::from_secs(2);
/// How soon a device must deliver by the gateway once UDP is swallowed.
const FALLBACK_LIMIT: Duration = Duration::from_secs(3);
/// How soon it must be back on QUIC: the first attempt comes after ten seconds, the second after twenty more.
const RETURN_LIMIT: Duration = Duration::from_secs(40);
/// Longest wait for the last records.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
/// How long there is nothing to send: a little over three times the time between keep-alives.
const IDLE: Duration = Duration::from_secs(47);
/// Packets each way in that time: for each of three keep-alives the packet, its acknowledgement, and a probe where a busy machine was late.
/// A connection that talks without need sends dozens.
const KEEP_ALIVES: u64 = 9;
/// Bytes of a small packet, IP header included.
const SMALL: u64 = 100;
/// Bytes of a record that fills packets.
const LARGE: usize = 3000;
/// The largest packet that gets through the hole: less than QUIC found at first, and what every path must carry.
const HOLE: u16 = 1300;
/// The name in the servers' certificate.
const NAME: &str = "localhost";

/// Options of `loadtest handover`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Only this; may be given often.
    #[arg(long, value_enum)]
    only: Vec<Trial>,
    /// Seconds that the outage lasts.
    #[arg(long, default_value_t = 60)]
    outage: u64,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The server to start, where it is not beside this program.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

/// Change of the device's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Trial {
    /// One uplink comes up and the other one goes down, twice.
    Address,
    /// The NAT gives its flow another port, twice.
    Nat,
    /// UDP is swallowed while records are under way, and works again later.
    Udp,
    /// UDP is swallowed from the start.
    UdpFirst,
    /// Nothing gets through for a while.
    Outage,
    /// Large packets vanish.
    Mtu,
    /// There is nothing to send.
    Idle,
}

/// Outcome of a trial.
#[derive(Clone, Debug, Serialize)]
struct Outcome {
    trial: Trial,
    records: u64,
    lost: u64,
    doubled: u64,
    /// Longest time between two arrivals, in seconds.
    longest_gap: f64,
    /// From the moment UDP was swallowed to the next arrival, in seconds.
    fallback: Option<f64>,
    /// From the moment it worked again to QUIC.
    back: Option<f64>,
    reconnects: u64,
    early: u64,
    /// Packets and bytes, up and down, of a connection that has nothing to send for [`IDLE`].
    idle: Option<[(u64, u64); 2]>,
}

/// Runs it. `Ok(false)`: a record was lost or doubled, or a time limit was not kept.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    let trials = if options.only.is_empty() { Trial::value_variants().to_vec() } else { options.only.clone() };
    let mut all = Vec::new();
    let mut good = true;
    for trial in trials {
        let outcome = tokio::select! {
            outcome = run_one(trial, &options) => outcome.with_context(|| format!("{trial:?}"))?,
            _ = tokio::signal::ctrl_c() => bail!("stopped before the end"),
        };
        let holds = outcome.holds();
        good &= holds;
        say!("{}{}", outcome.line(), if holds { "" } else { "   FALLS SHORT" });
        all.push(outcome);
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&all)?).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    Ok(good)
}

impl Outcome {
    fn holds(&self) -> bool {
        let in_time = |time: Option<f64>, limit: Duration| time.is_none_or(|time| time <= limit.as_secs_f64());
        // The address or the port changes, and the connection stays.
        let stays = !matches!(self.trial, Trial::Address | Trial::Nat | Trial::Mtu) || self.reconnects == 0;
        let small = |(packets, bytes): (u64, u64)| packets <= KEEP_ALIVES && bytes <= packets * SMALL;
        let quiet = self.idle.is_none_or(|idle| idle.into_iter().all(small));
        self.lost == 0 && self.doubled == 0 && stays && quiet && in_time(self.fallback, FALLBACK_LIMIT) && in_time(self.back, RETURN_LIMIT)
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{:<9} {:>5} records, {} lost, {} doubled, longest gap {:>5.2} s, {} reconnects",
            self.trial.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default(),
            self.records,
            self.lost,
            self.doubled,
            self.longest_gap,
            self.reconnects
        );
        if let Some(fallback) = self.fallback {
            line += &format!(", by the gateway after {fallback:.2} s");
        }
        if let Some(back) = self.back {
            line += &format!(", back on QUIC after {back:.1} s");
        }
        if let Some([up, down]) = self.idle {
            let idle = IDLE.as_secs();
            line += &format!(", {} packets ({} bytes) up and {} ({} bytes) down in {idle} idle s", up.0, up.1, down.0, down.1);
        }
        if self.early > 0 {
            line += &format!(", {} first flights with records", self.early);
        }
        line
    }
}

async fn run_one(trial: Trial, options: &Options) -> Result<Outcome> {
    let bench = Bench::start(&[], options.server_program.clone(), &[("WSS_TLS", "true")]).await?;
    let device = "mobile-00001-01";
    let arrivals = Arc::new(Mutex::new(Arrivals::default()));
    let reading = consume(&bench, device, Arc::clone(&arrivals)).await?;
    if trial == Trial::UdpFirst {
        bench.link.block(Block::Udp);
    }
    let began = Instant::now();
    let mut mobile = MobileDevice::start(&bench, device, if trial == Trial::Mtu { LARGE } else { 0 }).await?;
    sleep(CALM).await;
    let seen = go_through(trial, &bench, &mut mobile, options).await?;
    let (records, stats) = mobile.finish().await?;
    let limit = Instant::now() + SETTLE_LIMIT;
    while arrivals.lock().count() < records && Instant::now() < limit {
        sleep(Duration::from_millis(20)).await;
    }
    reading.abort();
    let arrivals = arrivals.lock();
    let blocked = if trial == Trial::UdpFirst { Some(began) } else { seen.blocked.map(|at| at + DELAY * 2) };
    Ok(Outcome {
        trial,
        records,
        lost: records.saturating_sub(arrivals.count()),
        doubled: arrivals.doubled,
        longest_gap: arrivals.longest_gap(),
        fallback: blocked.and_then(|at| arrivals.after(at)),
        back: seen.back.map(|took| took.as_secs_f64()),
        reconnects: stats.transport.reconnects,
        early: stats.transport.early_accepted,
        idle: seen.idle,
    })
}

/// Observations of one trial, beside the records that arrived.
#[derive(Default)]
struct Seen {
    /// When UDP was blocked under a device that was connected.
    blocked: Option<Instant>,
    /// How long the way back to QUIC took.
    back: Option<Duration>,
    /// Packets and bytes of an idle device, up and down.
    idle: Option<[(u64, u64); 2]>,
}

/// Puts a connected device through its trial.
async fn go_through(trial: Trial, bench: &Bench, mobile: &mut MobileDevice, options: &Options) -> Result<Seen> {
    let mut seen = Seen::default();
    match trial {
        Trial::Address => {
            for uplink in [1, 0] {
                bench.link.use_uplink(uplink)?;
                sleep(CALM).await;
            }
        }
        Trial::Nat => {
            for _ in 0..2 {
                bench.link.rebind();
                sleep(CALM).await;
            }
        }
        Trial::Udp => {
            bench.link.block(Block::Udp);
            seen.blocked = Some(Instant::now());
            mobile.until("the fallback", FALLBACK_LIMIT * 3, |stats| stats.transport.current == Some(Transport::Tunnel)).await?;
            sleep(CALM).await;
            bench.link.block(Block::Nothing);
            let back = mobile.until("QUIC again", RETURN_LIMIT * 2, |stats| stats.transport.current == Some(Transport::Quic));
            seen.back = Some(back.await?);
            sleep(CALM).await;
        }
        Trial::UdpFirst => {
            mobile.until("the fallback", FALLBACK_LIMIT * 3, |stats| stats.transport.current == Some(Transport::Tunnel)).await?;
            sleep(CALM).await;
        }
        Trial::Outage => {
            bench.link.block(Block::Everything);
            sleep(Duration::from_secs(options.outage)).await;
            bench.link.block(Block::Nothing);
            mobile.until("the connection", SETTLE_LIMIT, |stats| stats.outbox.records < 100).await?;
            sleep(CALM).await;
        }
        Trial::Idle => {
            mobile.pause().await;
            // Everything is acknowledged, and every acknowledgement too.
            sleep(CALM).await;
            seen.idle = Some(traffic_of(bench, IDLE).await);
        }
        Trial::Mtu => {
            let hole = Impairment { mtu: Some(HOLE), ..Impairment::calm(DELAY) };
            bench.link.change(Profile::both(hole));
            sleep(CALM * 5).await;
        }
    }
    Ok(seen)
}

/// Packets and bytes of the next while, up and down.
async fn traffic_of(bench: &Bench, time: Duration) -> [(u64, u64); 2] {
    let counts = || [Direction::Up, Direction::Down].map(|way| bench.link.counts(way));
    let before = counts();
    sleep(time).await;
    let after = counts();
    [0, 1].map(|way| after[way].since(before[way])).map(|counts| (counts.packets, counts.bytes))
}

/// A device that sends a record every [`INTERVAL`].
struct MobileDevice {
    producer: Arc<Producer>,
    stop: Arc<AtomicBool>,
    sending: JoinHandle<Result<u64>>,
}

impl MobileDevice {
    /// `padding`: bytes that its records are longer.
    async fn start(bench: &Bench, device: &'static str, padding: usize) -> Result<Self> {
        let (quic, gateway, ca) = (bench.motience.quic()?, bench.motience.wss1()?, bench.motience.ca()?);
        let token = bench.motience.producer.token.clone();
        let producer = bench.device.run(async move {
            let mut client = client::Config::new(format!("{SERVER}:{quic}").parse()?, Trust::Ca(ca), DeviceId::new(device)?);
            client.server_name = Some(NAME.into());
            client.fallback = Some(format!("wss://{SERVER}:{gateway}").parse()?);
            Ok(Arc::new(Producer::start(producer::Config::new(client), Credentials::Token(token.into()))?))
        });
        let producer = producer.await?;
        let stop = Arc::new(AtomicBool::new(false));
        let sending = bench.device.spawn(send(Arc::clone(&producer), device, padding, Arc::clone(&stop)));
        Ok(Self { producer, stop, sending })
    }

    /// Waits until the device says so. Returns how long it took.
    async fn until(&mut self, what: &str, limit: Duration, holds: impl Fn(&Stats) -> bool) -> Result<Duration> {
        let began = Instant::now();
        while !holds(&self.producer.stats()) {
            ensure!(began.elapsed() < limit, "{what} did not come within {} s: {:?}", limit.as_secs(), self.producer.stats());
            sleep(Duration::from_millis(10)).await;
        }
        Ok(began.elapsed())
    }

    /// Sends no more.
    async fn pause(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Past the limit the counts will tell.
        let _ = self.producer.flush(SETTLE_LIMIT).await;
    }

    /// Sends no more, and waits until everything is acknowledged. Returns how many records there were.
    async fn finish(self) -> Result<(u64, Stats)> {
        self.stop.store(true, Ordering::Relaxed);
        let records = self.sending.await??;
        self.producer.flush(SETTLE_LIMIT).await.with_context(|| format!("not everything is acknowledged: {:?}", self.producer.stats()))?;
        Ok((records, self.producer.stats()))
    }
}

async fn send(producer: Arc<Producer>, device: &str, padding: usize, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        sent += 1;
        // Of random letters: it must not become small on its way.
        let padding: String = std::iter::repeat_with(fastrand::alphanumeric).take(padding).collect();
        let json = format!(
            r#"{{"device_id":"{device}","timestamp":"2026-11-23T12:00:00Z","data":{{"seq":{sent},"level":{:.2},"padding":"{padding}"}}}}"#,
            fastrand::f64() * 100.0
        );
        producer.enqueue(Lane::Independent, json).await.context("the outbox took no more")?;
    }
    Ok(sent)
}

/// Records in the order of their arrival.
#[derive(Debug, Default)]
struct Arrivals {
    seen: std::collections::HashSet<u64>,
    at: Vec<Instant>,
    doubled: u64,
}

impl Arrivals {
    fn put(&mut self, number: u64) {
        if self.seen.insert(number) {
            self.at.push(Instant::now());
        } else {
            self.doubled += 1;
        }
    }

    fn count(&self) -> u64 {
        self.seen.len() as u64
    }

    fn longest_gap(&self) -> f64 {
        self.at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default().as_secs_f64()
    }

    /// Seconds from then to the first arrival after it.
    fn after(&self, then: Instant) -> Option<f64> {
        self.at.iter().find(|at| **at > then).map(|at| (*at - then).as_secs_f64())
    }
}

/// Follows the producer at the server's side of the link.
async fn consume(bench: &Bench, device: &'static str, arrivals: Arc<Mutex<Arrivals>>) -> Result<JoinHandle<()>> {
    let url = format!("{}?token={}", bench.motience.consumer_url(), bench.motience.consumer.token);
    let (tls, port) = (Arc::clone(&bench.tls), bench.motience.wss2()?);
    let connecting = bench.server.run(async move {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        let stream = TlsConnector::from(tls).connect(ServerName::try_from(NAME).context("a fixed name")?, tcp).await?;
        let (socket, _) = client_async(url, stream).await.context("the consumer was refused")?;
        Ok(socket)
    });
    let mut socket = connecting.await?;
    Ok(bench.server.spawn(async move {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Text(text) = message
                && let Some(number) = number(&text, device)
            {
                arrivals.lock().put(number);
            }
        }
    }))
}
