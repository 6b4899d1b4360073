//! One link with every server behind it: what one round after the other is run on.

use std::{
    fs::OpenOptions,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use motience_certs::Trust;
use motience_loadtest::link::{Link, Namespace, SERVER};
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
    runtime::Runtime,
    time::{Instant, sleep},
};

use super::plan::{Condition, System};
use crate::common::{
    accounts::{Account, Accounts},
    server::{Addresses, Own},
};

/// Ports in the server's namespace, where nothing else runs.
pub(super) const MQTT: u16 = 1883;
pub(super) const MQTT_TLS: u16 = 8883;
pub(super) const NODE_IN: u16 = 9001;
pub(super) const NODE_OUT: u16 = 9002;
const REDIS: u16 = 6379;

/// Longest wait for a server to be up.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A link, and the servers behind it.
pub(super) struct Bench {
    pub(super) motience: Motience,
    pub(super) tls: Arc<ClientConfig>,
    _children: Vec<Child>,
    pub(super) device: Inside,
    pub(super) server: Inside,
    pub(super) link: Link,
    _dir: TempDir,
}

/// The Motience server with an account for the device and one for the consumer.
pub(super) struct Motience {
    own: Own,
    pub(super) producer: Account,
    pub(super) consumer: Account,
}

impl Motience {
    pub(super) fn quic(&self) -> Result<u16> {
        port(&self.own.addresses.quic)
    }

    pub(super) fn wss1(&self) -> Result<u16> {
        port(&self.own.addresses.wss1)
    }

    pub(super) fn wss2(&self) -> Result<u16> {
        port(&self.own.addresses.wss2)
    }

    /// At the server's side.
    pub(super) fn consumer_url(&self) -> &str {
        &self.own.addresses.wss2
    }

    pub(super) fn ca(&self) -> Result<PathBuf> {
        self.own.addresses.ca.clone().context("the server tells no CA")
    }
}

/// A runtime all of whose tasks live in a namespace.
pub(super) struct Inside(Option<Runtime>);

impl Inside {
    fn new(namespace: &Namespace) -> Result<Self> {
        Ok(Self(Some(namespace.runtime(1)?)))
    }

    /// Runs it there.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        self.spawn(work).await?
    }

    /// Runs it there in the background.
    pub(super) fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
        self.0.as_ref().expect("taken only when dropped").spawn(work)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // One that is dropped in a task must not wait for its threads.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bench {
    /// Starts what the systems need, and the Motience server with these settings.
    pub(super) async fn start(systems: &[System], program: Option<PathBuf>, variables: &[(&str, &str)]) -> Result<Self> {
        let link = Link::new(Condition::Random(0).profile(), 1)?;
        let (device, server) = (Inside::new(link.device())?, Inside::new(link.server())?);
        let dir = TempDir::new()?;
        let outside = [("BIND_ADDRESS", "0.0.0.0")];
        let outside: Vec<_> = outside.iter().chain(variables).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let own = Own::start_inside(link.server(), program, &outside).await?;
        let addresses = own.addresses.clone();
        let (producer, consumer) = server.run(async move { cast(&addresses).await }).await?;
        let motience = Motience { own, producer, consumer };
        let tls = Arc::new(motience_certs::client::tcp_config(&Trust::Ca(motience.ca()?), &[])?);
        let mut children = Vec::new();
        if systems.contains(&System::Mqtt) {
            children.push(mosquitto(link.server(), dir.path(), &motience.ca()?)?);
            server.run(until_open(MQTT, "mosquitto")).await?;
        }
        if systems.contains(&System::Node) {
            let port = REDIS.to_string();
            let redis = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
            children.push(child(link.server(), dir.path(), "redis-server", &redis)?);
            server.run(until_open(REDIS, "redis-server")).await?;
            let [incoming, outgoing] = [NODE_IN, NODE_OUT].map(|port| port.to_string());
            children.push(child(link.server(), dir.path(), "node", &[&chain()?, &port, &incoming, &outgoing])?);
            server.run(until_open(NODE_OUT, "node")).await?;
        }
        Ok(Self { motience, tls, _children: children, device, server, link, _dir: dir })
    }
}

async fn cast(addresses: &Addresses) -> Result<(Account, Account)> {
    let accounts = Accounts::new(addresses)?;
    let (mut producers, mut consumers) = (accounts.make("producer", 1).await?, accounts.make("consumer", 1).await?);
    let (producer, consumer) = (producers.remove(0), consumers.remove(0));
    accounts.subscribe(&consumer, &producer).await?;
    Ok((producer, consumer))
}

/// A broker that keeps nothing on disk, holds nothing back, and sends small packets at once: as fast as it can be set up.
fn mosquitto(namespace: &Namespace, dir: &Path, ca: &Path) -> Result<Child> {
    let [chain, key] = ["server.pem", "server.key"].map(|name| ca.with_file_name(name));
    let config = format!(
        "user root\nallow_anonymous true\npersistence false\nset_tcp_nodelay true\nmax_inflight_messages 0\nmax_queued_messages 0\nlog_type error\n\
         listener {MQTT} 127.0.0.1\nlistener {MQTT_TLS} {SERVER}\ncertfile {}\nkeyfile {}\n",
        chain.display(),
        key.display()
    );
    let file = dir.join("mosquitto.conf");
    std::fs::write(&file, config)?;
    child(namespace, dir, "mosquitto", &["-c", &file.to_string_lossy()])
}

/// The Node.js chain in `loadtest/peers`.
fn chain() -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    if !folder.join("node_modules").exists() {
        bail!("the Node.js chain is not installed: run `npm ci` in {}", folder.display());
    }
    Ok(folder.join("chain.js").to_string_lossy().into_owned())
}

fn child(namespace: &Namespace, dir: &Path, program: &str, arguments: &[&str]) -> Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(dir.join(format!("{program}.log")))?;
    let mut command = Command::from(namespace.command(program));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    command.spawn().with_context(|| format!("{program} cannot be started"))
}

async fn until_open(port: u16, name: &'static str) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
        if Instant::now() > deadline {
            bail!("{name} does not answer on port {port}: is it installed?");
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The port of `host:port` or of a URL.
fn port(address: &str) -> Result<u16> {
    let host = address.rsplit_once("://").map_or(address, |(_, rest)| rest);
    let host = host.split('/').next().unwrap_or(host);
    host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).with_context(|| format!("{address} names no port"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn ports_are_found_in_addresses_and_urls() {
        assert_eq!(super::port("localhost:4433").unwrap(), 4433);
        assert_eq!(super::port("ws://localhost:8080/producer").unwrap(), 8080);
        assert!(super::port("localhost").is_err());
    }
}
