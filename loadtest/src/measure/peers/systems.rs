//! The systems: their programs, started on free ports of the loopback with folders of their own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::{
    motience, nats,
    redis::{self, Mode},
    wire::{Channel, Receiver, Sender},
};
use crate::common::{
    accounts::{Account, Accounts},
    mqtt,
    server::Own,
};

/// Longest wait for a program to be up.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A system that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[value(rename_all = "kebab-case")]
pub(super) enum System {
    /// Redis, PUBLISH: no log.
    RedisPublish,
    /// Redis, XADD and XREAD: a log in memory.
    RedisXadd,
    /// NATS core: no log.
    Nats,
    /// NATS JetStream, on file; not synced for each message.
    Jetstream,
    /// Mosquitto, QoS 1: nothing on file.
    Mosquitto,
    /// rumqttd, QoS 1: a log in memory.
    Rumqttd,
    /// Motience, WebSocket in and out, the log in memory.
    MotienceMemory,
    /// Motience, WebSocket in and out, each acknowledgement synced to disk.
    MotienceFile,
    /// Motience, QUIC in and WebSocket out, each acknowledgement synced to disk.
    MotienceQuic,
}

impl System {
    /// All that Debian and this project have programs for. rumqttd comes from crates.io and is measured when it is asked for.
    pub(super) const ALL: [Self; 8] = [
        Self::RedisPublish,
        Self::RedisXadd,
        Self::Nats,
        Self::Jetstream,
        Self::Mosquitto,
        Self::MotienceMemory,
        Self::MotienceFile,
        Self::MotienceQuic,
    ];

    /// As reports name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RedisPublish => "Redis PUBLISH (no log)",
            Self::RedisXadd => "Redis XADD (memory)",
            Self::Nats => "NATS core (no log)",
            Self::Jetstream => "JetStream (file, not synced for each)",
            Self::Mosquitto => "Mosquitto QoS 1 (no file)",
            Self::Rumqttd => "rumqttd QoS 1 (memory)",
            Self::MotienceMemory => "Motience WebSocket, memory",
            Self::MotienceFile => "Motience WebSocket, file (synced)",
            Self::MotienceQuic => "Motience QUIC in, file (synced)",
        }
    }

    fn is_motience(self) -> bool {
        matches!(self, Self::MotienceMemory | Self::MotienceFile | Self::MotienceQuic)
    }
}

/// All systems of a comparison, running.
pub(super) struct Bench {
    servers: Vec<(System, Arc<Server>)>,
}

impl Bench {
    /// Starts them; each Motience with accounts for so many pairs.
    pub(super) async fn start(systems: &[System], pairs: usize, program: Option<PathBuf>) -> Result<Self> {
        let mut servers: Vec<(System, Arc<Server>)> = Vec::new();
        for system in systems {
            eprintln!("starting {}", system.name());
            let server = if system.is_motience() {
                Server::motience(*system, pairs, program.clone()).await?
            } else {
                Server::program(*system).await?
            };
            servers.push((*system, Arc::new(server)));
        }
        Ok(Self { servers })
    }

    pub(super) fn server(&self, system: System) -> Result<Arc<Server>> {
        let found = self.servers.iter().find(|(started, _)| *started == system);
        found.map(|(_, server)| Arc::clone(server)).with_context(|| format!("{} was not started", system.name()))
    }
}

/// A running system.
pub(super) struct Server {
    system: System,
    address: SocketAddr,
    pid: u32,
    motience: Option<Motience>,
    _process: Option<Child>,
    _dir: Option<TempDir>,
}

/// A Motience server with its accounts.
struct Motience {
    own: Own,
    /// A producer and its consumer.
    pairs: Vec<(Account, Account)>,
    /// A producer and the account of its many consumers.
    fan: (Account, Account),
}

impl Server {
    async fn motience(system: System, pairs: usize, program: Option<PathBuf>) -> Result<Self> {
        let durability = if system == System::MotienceMemory { "memory" } else { "file" };
        let own = Own::start(program, &[("LOG_DURABILITY".to_owned(), durability.to_owned())]).await?;
        let accounts = Accounts::new(&own.addresses)?;
        // One more, whose producer has many consumers.
        let count = pairs + 1;
        let (producers, consumers) = (accounts.make("producer", count).await?, accounts.make("consumer", count).await?);
        let mut pairs: Vec<(Account, Account)> = producers.into_iter().zip(consumers).collect();
        for (producer, consumer) in &pairs {
            accounts.subscribe(consumer, producer).await?;
        }
        let fan = pairs.pop().context("there is one pair at least")?;
        let pid = own.addresses.pid.context("a server of our own has a process")?;
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        Ok(Self { system, address, pid, motience: Some(Motience { own, pairs, fan }), _process: None, _dir: None })
    }

    async fn program(system: System) -> Result<Self> {
        let dir = TempDir::new()?;
        let port = free_port()?;
        let (program, package, arguments) = command_of(system, port, &dir)?;
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let process = Command::new(program)
            .args(arguments)
            // Not everybody has the administrator's programs in PATH.
            .env("PATH", path)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{program} cannot be started: {package}, or choose others with --systems"))?;
        let address = (Ipv4Addr::LOCALHOST, port).into();
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).await.is_err() {
            if Instant::now() > deadline {
                bail!("{program} does not answer within {} s", START_LIMIT.as_secs());
            }
            sleep(Duration::from_millis(20)).await;
        }
        let pid = process.id().with_context(|| format!("{program} ended at once"))?;
        Ok(Self { system, address, pid, motience: None, _process: Some(process), _dir: Some(dir) })
    }

    /// The process whose cost is measured.
    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Makes what a run needs.
    pub(super) async fn prepare(&self, run: usize) -> Result<()> {
        if self.system != System::Jetstream {
            return Ok(());
        }
        let stream = stream_of(run);
        let config = serde_json::json!({"name": stream, "subjects": [format!("run{run}.*")], "storage": "file", "retention": "limits"});
        nats::request(self.address, &format!("$JS.API.STREAM.CREATE.{stream}"), &config.to_string()).await
    }

    /// Removes what a run left.
    pub(super) async fn clear(&self, run: usize) -> Result<()> {
        match self.system {
            System::Jetstream => nats::request(self.address, &format!("$JS.API.STREAM.DELETE.{}", stream_of(run)), "").await,
            System::RedisXadd => redis::command(self.address, &["FLUSHALL"]).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn sender(&self, channel: &Channel) -> Result<Sender> {
        let topic = channel.topic();
        Ok(match (self.system, &self.motience) {
            (System::MotienceQuic, Some(motience)) => {
                Sender::Quic(Box::new(motience::Quic::connect(&motience.own.addresses, &motience.pair(channel).0)?))
            }
            (_, Some(motience)) => {
                Sender::WebSocket(motience::WebSocket::connect(&motience.own.addresses, &motience.pair(channel).0).await?)
            }
            (System::RedisPublish, None) => Sender::Redis(redis::Sender::connect(self.address, &topic, Mode::Publish).await?),
            (System::RedisXadd, None) => Sender::Redis(redis::Sender::connect(self.address, &topic, Mode::Stream).await?),
            (System::Mosquitto | System::Rumqttd, None) => Sender::Mqtt(self.mqtt("p", &topic).await?.publisher(&mqtt_topic(&topic))),
            (system, None) => Sender::Nats(nats::Sender::connect(self.address, &topic, system == System::Jetstream).await?),
        })
    }

    pub(super) async fn receiver(&self, channel: &Channel) -> Result<Receiver> {
        let topic = channel.topic();
        Ok(match (self.system, &self.motience) {
            (_, Some(motience)) => {
                let (producer, consumer) = motience.pair(channel);
                Receiver::Motience(Box::new(motience::Consumer::connect(&motience.own.addresses, consumer, producer).await?))
            }
            (System::RedisPublish, None) => Receiver::Redis(redis::Receiver::connect(self.address, &topic, Mode::Publish).await?),
            (System::RedisXadd, None) => Receiver::Redis(redis::Receiver::connect(self.address, &topic, Mode::Stream).await?),
            (System::Mosquitto | System::Rumqttd, None) => {
                let mut client = self.mqtt("c", &topic).await?;
                client.subscribe(&mqtt_topic(&topic)).await?;
                Receiver::Mqtt(client)
            }
            (System::Jetstream, None) => Receiver::Nats(nats::Receiver::of_stream(self.address, &stream_of(channel.run), &topic).await?),
            (_, None) => Receiver::Nats(nats::Receiver::subscribe(self.address, &topic).await?),
        })
    }

    async fn mqtt(&self, side: &str, topic: &str) -> Result<mqtt::Client<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        // Each connection has a name of its own, for a second one of a name ends the first.
        mqtt::Client::connect(stream, &format!("{side}-{topic}-{:08x}", fastrand::u32(..))).await
    }
}

impl Motience {
    fn pair(&self, channel: &Channel) -> &(Account, Account) {
        if channel.fan { &self.fan } else { &self.pairs[channel.pair] }
    }
}

fn stream_of(run: usize) -> String {
    format!("RUN{run}")
}

fn mqtt_topic(topic: &str) -> String {
    topic.replace('.', "/")
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A system's program, how it is installed, and its arguments. Each is set up to be as fast as it can be.
fn command_of(system: System, port: u16, dir: &TempDir) -> Result<(&'static str, &'static str, Vec<String>)> {
    let number = port.to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let folder = dir.path().to_string_lossy().into_owned();
    let config = dir.path().join("config");
    Ok(match system {
        System::RedisPublish | System::RedisXadd => (
            "redis-server",
            "apt-get install redis-server",
            words(&["--port", &number, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]),
        ),
        System::Nats => ("nats-server", "apt-get install nats-server", words(&["-a", "127.0.0.1", "-p", &number])),
        System::Jetstream => {
            ("nats-server", "apt-get install nats-server", words(&["-a", "127.0.0.1", "-p", &number, "-js", "-sd", &folder]))
        }
        System::Mosquitto => {
            let text = format!(
                "user root\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nmax_inflight_messages 0\n\
                 max_queued_messages 0\nlog_type error\nlistener {port} 127.0.0.1\n"
            );
            std::fs::write(&config, text)?;
            ("mosquitto", "apt-get install mosquitto", words(&["-c", &config.to_string_lossy()]))
        }
        System::Rumqttd => {
            let text = format!(
                "id = 0\n[router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 200\nmax_segment_size = 104857600\n\
                 max_segment_count = 10\n[v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 1\n\
                 [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 20480\nmax_inflight_count = 100\n"
            );
            let config = config.with_extension("toml");
            std::fs::write(&config, text)?;
            ("rumqttd", "cargo install rumqttd", words(&["-c", &config.to_string_lossy(), "-q"]))
        }
        _ => bail!("{} is started by its own means", system.name()),
    })
}
