//! `loadtest fairness`: what a device that sends as fast as it can leaves to a bulk TCP flow at a shared bottleneck, beside
//! what another TCP flow would leave.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use motience_certs::Trust;
use motience_device::{Credentials, Producer, client, client::Lane, link::Controller, outbox::Policy, producer};
use motience_loadtest::link::{Impairment, Profile, Rate, SERVER};
use motience_proto::model::DeviceId;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::{bench::Bench, plan::DELAY, telemetry::Sensor};

/// The bottleneck.
const MBIT: u64 = 10;
/// Where the bulk flows go.
const PORT: u16 = 9100;
/// Bytes written at once.
const CHUNK: usize = 64 * 1024;
/// Time that does not count: both flows have to find their share first.
const WARM_UP: Duration = Duration::from_secs(5);

/// Controllers of a device.
const CONTROLLERS: [Controller; 4] = [Controller::DelayGated, Controller::Bbr, Controller::Cubic, Controller::NewReno];

/// Options of `loadtest fairness`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// Seconds that count, for each rival.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Rounds for each rival.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Write the result to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The server to start, where it is not beside this program.
    #[arg(long)]
    server_program: Option<PathBuf>,
}

/// The other flow at the bottleneck.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
enum Rival {
    Nobody,
    Tcp,
    Device(Controller),
}

/// Mbit/s of payload.
#[derive(Clone, Debug, Serialize)]
struct Shares {
    rival: Rival,
    bulk: f64,
    rival_takes: f64,
}

/// Runs it. `Ok(false)`: some device leaves less than nine tenths of what another TCP flow leaves.
pub(crate) async fn run(options: Options) -> Result<bool> {
    motience_certs::install_provider();
    let bench = Bench::start(&[], options.server_program.clone(), &[]).await?;
    let queue = MBIT * 1_000_000 / 8 * 2 * DELAY.as_millis() as u64 / 1000;
    let up = Impairment { rate: Some(Rate { bits: MBIT * 1_000_000, queue }), ..Impairment::calm(DELAY) };
    bench.link.change(Profile { up, down: Impairment::calm(DELAY) });
    let rivals = [Rival::Nobody, Rival::Tcp].into_iter().chain(CONTROLLERS.into_iter().map(Rival::Device));
    say!(
        "{MBIT} Mbit/s, {} ms round trip, a queue of {queue} bytes; a bulk TCP flow beside a rival, Mbit/s of payload",
        2 * DELAY.as_millis()
    );
    let mut all = Vec::new();
    for rival in rivals {
        let (mut bulk, mut rival_takes) = (0.0, 0.0);
        for _ in 0..options.rounds {
            let took = tokio::select! {
                took = beside(&bench, &rival, Duration::from_secs_f64(options.seconds)) => took?,
                _ = tokio::signal::ctrl_c() => bail!("stopped before the end"),
            };
            bulk += took.0 / f64::from(options.rounds);
            rival_takes += took.1 / f64::from(options.rounds);
        }
        say!("  {:<24} bulk {bulk:>5.2}   rival {rival_takes:>5.2}", format!("{rival:?}"));
        all.push(Shares { rival, bulk, rival_takes });
    }
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_vec_pretty(&all)?).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    let fair = all.iter().find(|s| s.rival == Rival::Tcp).map_or(0.0, |s| s.bulk);
    Ok(all.iter().filter(|s| matches!(s.rival, Rival::Device(_))).all(|s| s.bulk >= fair * 0.9))
}

/// Mbit/s of the bulk flow and of its rival.
async fn beside(bench: &Bench, rival: &Rival, counted: Duration) -> Result<(f64, f64)> {
    let bulk = flow(bench, PORT).await?;
    let (other, device): (Option<Flow>, Option<Flood>) = match rival {
        Rival::Nobody => (None, None),
        Rival::Tcp => (Some(flow(bench, PORT + 1).await?), None),
        Rival::Device(controller) => (None, Some(flood(bench, *controller).await?)),
    };
    let taken = || other.as_ref().map(Flow::bytes).or(device.as_ref().map(Flood::bytes)).unwrap_or(0);
    sleep(WARM_UP).await;
    let before = (bulk.bytes(), taken());
    sleep(counted).await;
    let rate = |bytes: u64| bytes as f64 * 8.0 / 1e6 / counted.as_secs_f64();
    let rates = (rate(bulk.bytes() - before.0), rate(taken() - before.1));
    drop((bulk, other));
    let refused = device.as_ref().map_or(0, |device| device.producer.stats().outbox.refused);
    if let Some(device) = device {
        device.end().await;
    }
    // Who sends nothing leaves everything to others, which says nothing.
    ensure!(refused == 0, "the server refused {refused} records of the device, which so took nothing");
    // Packets that are still in the queue leave it.
    sleep(Duration::from_secs(1)).await;
    Ok(rates)
}

/// A bulk TCP flow; ends when dropped.
struct Flow {
    received: Arc<AtomicU64>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Flow {
    fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn flow(bench: &Bench, port: u16) -> Result<Flow> {
    let listener = bench.server.run(async move { Ok(TcpListener::bind((SERVER, port)).await?) }).await?;
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    let taking = bench.server.spawn(async move {
        let Ok((mut stream, _)) = listener.accept().await else { return };
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            count.fetch_add(length as u64, Ordering::Relaxed);
        }
    });
    let mut stream = bench.device.run(async move { Ok(TcpStream::connect((SERVER, port)).await?) }).await?;
    stream.set_zero_linger()?;
    let giving = bench.device.spawn(async move {
        let chunk = vec![0; CHUNK];
        while stream.write_all(&chunk).await.is_ok() {}
    });
    Ok(Flow { received, tasks: [taking, giving] })
}

/// A device that sends as fast as it can.
struct Flood {
    producer: Arc<Producer>,
    size: u64,
    task: tokio::task::JoinHandle<()>,
}

impl Flood {
    fn bytes(&self) -> u64 {
        self.producer.stats().outbox.acked * self.size
    }

    async fn end(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

async fn flood(bench: &Bench, controller: Controller) -> Result<Flood> {
    let (port, ca, token) = (bench.motience.quic()?, bench.motience.ca()?, bench.motience.producer.token.clone());
    let name = format!("flood-{controller}");
    let device = DeviceId::new(&name)?;
    let producer = bench
        .device
        .run(async move {
            let mut client = client::Config::new(format!("{SERVER}:{port}").parse()?, Trust::Ca(ca), device);
            client.server_name = Some("localhost".into());
            client.link.controller = controller;
            let mut config = producer::Config::new(client);
            // Little enough that what is counted as acknowledged is what passes the bottleneck now.
            config.outbox.records = 4000;
            config.outbox.policy = Policy::Block;
            let producer = Producer::start(config, Credentials::Token(token.into()))?;
            producer.connected().await?;
            Ok(Arc::new(producer))
        })
        .await?;
    let sending = Arc::clone(&producer);
    // A device may send records of its own only.
    let mut sensor = Sensor::new(&name, 1);
    let size = Sensor::new(&name, 1).record(1, 0).len() as u64;
    let task = bench.device.spawn(async move {
        for number in 1.. {
            if sending.enqueue(Lane::Independent, sensor.record(number, number)).await.is_err() {
                return;
            }
        }
    });
    Ok(Flood { producer, size, task })
}
