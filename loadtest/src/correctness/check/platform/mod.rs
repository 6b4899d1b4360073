//! The platform under test: the nodes and what they stand on, the devices and consumers, and the links between them.

mod members;
mod node;
mod process;
mod redis;
mod servers;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use motience_testing::Postgres;
use tokio::sync::Mutex;

pub(crate) use members::{Consumer, Device, NetworkPath};
pub(crate) use node::Node;
pub(crate) use redis::Redis;
pub(crate) use servers::Servers;

use super::{
    history::{Event, Kind, Writer},
    options::Options,
    proxy::{Link, Pipe},
    schedule::Logs,
};
use crate::common::{
    accounts::{Account, Accounts},
    egress::Egress,
    server,
};

/// Devices of one producer.
const SHARING: u32 = 2;

/// See the module.
pub(crate) struct Platform {
    pub(crate) harness: Writer,
    pub(crate) nodes: Vec<Mutex<Node>>,
    pub(crate) redis: Option<Mutex<Redis>>,
    /// Servers with replicas.
    pub(crate) servers: Option<Mutex<Servers>>,
    pub(crate) postgres: Option<Mutex<Postgres>>,
    pub(crate) devices: Vec<Mutex<Device>>,
    pub(crate) consumers: Vec<Mutex<Consumer>>,
    /// Where the QUIC endpoints of the nodes are, by the node's place in `nodes`.
    pub(crate) endpoints: Vec<(usize, SocketAddr)>,
    /// The database of an embedded node.
    pub(crate) sqlite: PathBuf,
    pub(crate) accounts: Accounts,
}

/// The programs that are started.
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    /// Only where it is there.
    pub(crate) gateway: Option<PathBuf>,
}

impl Platform {
    pub(crate) async fn start(options: &Options, programs: &Programs, dir: &Path) -> Result<Self> {
        let (redis, servers) = match options.cluster {
            None => (None, None),
            Some(Logs::Redis) => (Some(Redis::start(&dir.join("redis")).await?), None),
            Some(Logs::RedisCluster) => (None, Some(Servers::cluster().await)),
            Some(Logs::Sentinel) => (None, Some(Servers::behind_sentinel().await)),
        };
        let postgres = if options.cluster.is_some() { Some(Postgres::start().await) } else { None };
        let mut common = common(dir);
        if let Some(redis) = &redis {
            common.push(("REDIS_URL".into(), redis.url()));
        }
        if let Some(servers) = &servers {
            common.push(("REDIS_URL".into(), servers.url()));
            common.push(("REDIS_REPLICAS".into(), "1".into()));
        }
        if let Some(postgres) = &postgres {
            common.push(("DATABASE_URL".into(), postgres.url()));
        }
        if let Some(mutation) = &options.mutation {
            common.push((motience_mutation::VARIABLE.into(), mutation.clone()));
        }
        let names: &[&str] = if options.cluster.is_some() { &["node-0", "node-1"] } else { &["node-0"] };
        let mut nodes = Vec::new();
        // One after the other: the first makes the tables and the certificates.
        for name in names {
            nodes.push(start_node(name, &programs.server, dir, &common).await?);
        }
        if let (true, Some(gateway)) = (options.cluster.is_some(), &programs.gateway) {
            nodes.push(start_node("gateway", gateway, dir, &common).await?);
        }
        let quic = |(i, node): (usize, &Node)| Some(server::address(node.at.quic.as_ref()?).map(|at| (i, at)));
        let endpoints = nodes.iter().enumerate().filter_map(quic).collect::<Result<Vec<(usize, SocketAddr)>>>()?;
        let first = &nodes[0].at;
        let addresses = server::Addresses {
            // The check's producers are native ones.
            wss1: String::new(),
            ap: first.ap.clone().context("a node without accounts")?,
            sm: first.sm.clone().context("a node without subscriptions")?,
            quic: first.quic.clone().context("a node without QUIC")?,
            wss2: first.wss2.clone().context("a node without WebSockets")?,
            dsm: first.dsm.clone().context("a node without the data service")?,
            ca: first.ca.clone(),
            pid: None,
        };
        let sqlite = nodes[0].dir.join("data/motience.db");
        let accounts = Accounts::new(&addresses)?;
        let mut platform = Self {
            harness: Writer::open(&dir.join("harness"))?,
            nodes: nodes.into_iter().map(Mutex::new).collect(),
            redis: redis.map(Mutex::new),
            servers: servers.map(Mutex::new),
            postgres: postgres.map(Mutex::new),
            devices: Vec::new(),
            consumers: Vec::new(),
            endpoints,
            sqlite,
            accounts,
        };
        platform.start_clients(options, dir, addresses.ca).await?;
        Ok(platform)
    }

    /// Makes accounts, subscriptions and links, and starts the processes of devices and consumers.
    async fn start_clients(&mut self, options: &Options, dir: &Path, ca: Option<PathBuf>) -> Result<()> {
        let producers = self.accounts.make("producer", options.devices.div_ceil(SHARING) as usize).await?;
        let consumers = self.accounts.make("consumer", options.consumers as usize).await?;
        let followed: Vec<i64> = producers.iter().map(|account| account.id).collect();
        for device in 0..options.devices {
            let account = &producers[(device / SHARING) as usize];
            // The last device's outbox is small and drops the oldest.
            let drops = device > 0 && device + 1 == options.devices;
            self.harness.put(Event::Device { device, producer: account.id, drops });
        }
        for (consumer, account) in (0..).zip(&consumers) {
            self.harness.put(Event::Consumer { consumer, kind: kind(consumer), producers: followed.clone() });
            for producer in &producers {
                self.accounts.subscribe(account, producer).await?;
                self.harness.put(Event::Subscribed { consumer, producer: producer.id });
            }
        }
        let (mut gateways, mut services) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            let node = node.lock().await;
            gateways.extend(node.at.wss2.as_deref().map(server::address).transpose()?);
            services.extend(node.at.dsm.as_deref().map(server::address).transpose()?);
        }
        for (consumer, account) in (0..).zip(&consumers) {
            let path = match kind(consumer) {
                Kind::Json(Egress::Wss2) => NetworkPath::Pipe(Pipe::open(gateways.clone()).await?),
                Kind::Json(Egress::Sse | Egress::Ndjson) => NetworkPath::Pipe(Pipe::open(services.clone()).await?),
                Kind::Native | Kind::Json(_) => NetworkPath::Link(self.link(consumer).await?),
            };
            let plan = members::consumer_plan(dir, consumer, kind(consumer), account, &path, ca.clone(), followed.clone());
            self.consumers.push(Mutex::new(Consumer::start(plan, path, account.clone(), options)?));
        }
        for device in 0..options.devices {
            let link = self.link(device).await?;
            let account: &Account = &producers[(device / SHARING) as usize];
            let plan = members::device_plan(dir, device, account, &link, ca.clone(), options);
            self.devices.push(Mutex::new(Device::start(plan, link, options)?));
        }
        Ok(())
    }

    async fn link(&self, number: u32) -> Result<Link> {
        let (_, target) = self.endpoints[number as usize % self.endpoints.len()];
        Link::open(target).await
    }

    /// The rows of `data_history`.
    pub(crate) async fn stored(&self) -> Result<Vec<super::verify::Row>> {
        match &self.postgres {
            Some(postgres) => super::stored::postgres(&postgres.lock().await.url()).await,
            None => super::stored::sqlite(&self.sqlite).await,
        }
    }
}

/// By turns; the last of as many as there are unless told otherwise, the slow one, has a socket whose buffers fill.
fn kind(consumer: u32) -> Kind {
    const KINDS: [Kind; 6] = [
        Kind::Native,
        Kind::Json(Egress::Wss2),
        Kind::Json(Egress::Sse),
        Kind::Json(Egress::WebTransport),
        Kind::Json(Egress::Ndjson3),
        Kind::Json(Egress::Ndjson),
    ];
    KINDS[consumer as usize % KINDS.len()]
}

/// Settings of all nodes.
fn common(dir: &Path) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = [
        ("BIND_ADDRESS", "127.0.0.1"),
        ("JWT_SECRET", "a secret that all nodes of this check share"),
        // Clients of a check hold one token for as long as it runs.
        ("JWT_EXPIRES_IN", "24h"),
        ("PERSIST", "true"),
        // Wider than any run: no gap is retention's doing.
        ("LOG_RETENTION", "24h"),
        ("LOG_RETENTION_BYTES", "4GiB"),
        ("MAX_CONNECTIONS_PER_ACCOUNT", "1000"),
        ("MAX_UNAUTHENTICATED_PER_ADDRESS", "1000"),
        ("WSS_PING_INTERVAL", "2s"),
        ("STREAM_COMMENT_INTERVAL", "2s"),
        ("QUIC_IDLE_TIMEOUT", "4s"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    variables.push(("CERTS_DIR".into(), dir.join("certs").display().to_string()));
    variables.extend(server::without_rates());
    variables
}

async fn start_node(name: &str, program: &Path, dir: &Path, common: &[(String, String)]) -> Result<Node> {
    let dir = dir.join(name);
    let mut variables = common.to_vec();
    variables.push(("NODE_NAME".into(), name.to_owned()));
    variables.push(("DATA_DIR".into(), dir.join("data").display().to_string()));
    Node::start(name, program, &dir, variables).await
}
