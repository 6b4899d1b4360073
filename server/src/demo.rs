//! `motience-server demo`: the whole platform at work in one process, for whoever sees it for the first time.
//!
//! Nothing is simulated: a real agent reads this machine's sensors and streams them over QUIC with acknowledgements, and a real WebSocket
//! client receives them, both with accounts made through the documented API.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use motience_agent as agent;
use motience_backend::Backend;
use motience_certs::Trust;
use motience_device::producer::Stats;
use motience_proto::model::DeviceId;
use motience_runtime::{clock::Clock, descriptors, lifecycle::Shutdown};
use motience_settings::{env::Env, output::say};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, interval_at, sleep_until};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, Utf8Bytes},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admin,
    config::Config,
    server::{Addresses, Server},
    write_ready,
};

/// How often the demo's sensors are read: a chart moves before anyone looks twice.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Longest wait for one answer of the demo's own services.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How often a line is printed.
const SECOND: Duration = Duration::from_secs(1);
/// Readings in such a line.
const SHOWN: usize = 3;
/// Time for the agent to stop.
const AGENT_LIMIT: Duration = Duration::from_secs(3);

/// Options of the command line.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) seconds: Option<u64>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) any_ports: bool,
    pub(crate) ready_file: Option<PathBuf>,
}

/// Runs until Ctrl-C, or for so many seconds. Success only if records arrived.
pub(crate) async fn run(env: &Env, options: Options) -> anyhow::Result<ExitCode> {
    // Removed at the end, unless the folder was named.
    let (dir, _temporary) = match options.dir {
        Some(dir) => (dir, None),
        None => {
            let temporary = TempDir::with_prefix("motience-demo-")?;
            (temporary.path().to_owned(), Some(temporary))
        }
    };
    let env = embedded(env, &dir, options.any_ports);
    descriptors::prepare(0);
    let shutdown = Shutdown::new();
    shutdown.spawn_signals();
    let config = Config::from_env(&env, None)?;
    let server = Server::bind(config, Clock::system(), shutdown.clone()).await;
    let server = server.context("the demo cannot start (--any-ports takes whatever ports are free)")?;
    let at = server.addresses().clone();
    make_operator(server.backend()).await?;
    let serving = tokio::spawn(server.run());

    let cast = Cast::make(&at).await?;
    let agent = Agent::start(&at, &cast)?;
    let shown = async {
        print_places(&at, &cast)?;
        if let Some(file) = &options.ready_file {
            write_ready(file, &at)?;
        }
        let until = options.seconds.map(|s| Instant::now() + Duration::from_secs(s));
        watch(&at, &cast, until, &shutdown).await
    };
    // However it ends, what runs is ended before.
    let received = shown.await;
    let sent = agent.stop().await;
    shutdown.begin();
    serving.await.context("the server failed")?;
    let received = received?;
    say(format_args!("\n{sent} records acknowledged to the device, {received} received by the consumer."))?;
    Ok(if received > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The settings of the demo: everything embedded, whatever databases the environment names.
fn embedded(env: &Env, dir: &std::path::Path, any_ports: bool) -> Env {
    let inherited = |name: &str| env.get(name).map(str::to_owned);
    let path = |name: &str| dir.join(name).display().to_string();
    let mut demo = Env::from_pairs([("DATA_DIR", path("data")), ("CERTS_DIR", path("certs")), ("NODE_NAME", "demo".to_owned())]);
    for name in PORTS {
        if let Some(port) = if any_ports { Some("0".to_owned()) } else { inherited(name) } {
            demo = demo.with(name, port);
        }
    }
    // A demo is for this machine, unless told otherwise.
    demo.with("BIND_ADDRESS", inherited("BIND_ADDRESS").unwrap_or_else(|| "localhost".to_owned())).with("PERSIST", "true")
}

const PORTS: [&str; 9] =
    ["AP_PORT", "SM_PORT", "DSM_PORT", "WSS1_PORT", "WSS2_PORT", "WSS1_UI_PORT", "WSS2_UI_PORT", "QUIC_PORT", "OPERATIONS_PORT"];

/// The password of all demo accounts.
const PASSWORD: &str = "demo-pass-123";

/// The operator, whom no registration makes.
async fn make_operator(backend: &Backend) -> anyhow::Result<()> {
    let made = admin::create(&backend.store, &backend.hasher, &backend.auth, "demo-admin".to_owned(), PASSWORD.into()).await;
    match made {
        Err(e) if !matches!(e.downcast_ref(), Some(admin::Refused::Taken(_))) => Err(e),
        // In a folder that was used before, it is there already.
        _ => Ok(()),
    }
}

/// The two accounts of the demo that stream.
struct Cast {
    producer: String,
    consumer: String,
    password: String,
    consumer_token: String,
}

#[derive(Deserialize)]
struct Login {
    access_token: String,
    user_id: i64,
}

impl Cast {
    /// Registers, logs in and subscribes, as any client would.
    async fn make(at: &Addresses) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().timeout(ANSWER_LIMIT).build()?;
        let (ap, sm) = (place(&at.ap)?, place(&at.sm)?);
        let password = PASSWORD.to_owned();
        let mut logins = Vec::new();
        for role in ["producer", "consumer"] {
            let body = json!({"username": format!("demo-{role}"), "password": password, "role": role});
            let registered = http.post(format!("{ap}/register")).json(&body).send().await?;
            // In a folder that was used before, the accounts are there already.
            if !registered.status().is_success() && registered.status() != reqwest::StatusCode::CONFLICT {
                bail!("the demo's {role} cannot be registered: {}", registered.text().await?);
            }
            let login = http.post(format!("{ap}/login")).json(&body).send().await?.error_for_status()?;
            logins.push(login.json::<Login>().await?);
        }
        let [producer, consumer] = &logins[..] else { bail!("two accounts were made") };
        let wish = json!({"producer_id": producer.user_id});
        http.post(format!("{sm}/subscribe")).bearer_auth(&consumer.access_token).json(&wish).send().await?.error_for_status()?;
        Ok(Self {
            producer: "demo-producer".to_owned(),
            consumer: "demo-consumer".to_owned(),
            password,
            consumer_token: consumer.access_token.clone(),
        })
    }
}

/// The device agent, as its own program runs it.
struct Agent {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<Stats, agent::Error>>,
}

impl Agent {
    fn start(at: &Addresses, cast: &Cast) -> anyhow::Result<Self> {
        let trust = at.ca.clone().map_or(Trust::Platform, Trust::Ca);
        let device = DeviceId::new("demo-device").context("the demo's device id")?;
        let mut config = agent::Config::new(
            device,
            cast.producer.clone(),
            SecretString::from(cast.password.clone()),
            place(&at.ap)?.to_owned(),
            place(&at.quic)?.parse()?,
        );
        config.trust = trust;
        config.sensors = vec![agent::config::Sensor::system(SAMPLE_EVERY)];
        config.grace = AGENT_LIMIT;
        let stop = CancellationToken::new();
        let task = tokio::spawn(agent::run(config, stop.clone()));
        Ok(Self { stop, task })
    }

    /// Lets it finish what it has; how many records were acknowledged.
    async fn stop(self) -> u64 {
        self.stop.cancel();
        match self.task.await {
            Ok(Ok(stats)) => stats.outbox.acked,
            Ok(Err(e)) => {
                eprintln!("the agent ended: {e}");
                0
            }
            Err(e) => {
                eprintln!("the agent failed: {e}");
                0
            }
        }
    }
}

/// The records that a WebSocket consumer has received, for a line a second.
#[derive(Default)]
struct Summary {
    seconds: u64,
    /// In this second, and in all.
    records: u64,
    received: u64,
    /// The last record.
    newest: Option<Utf8Bytes>,
}

impl Summary {
    fn take(&mut self, record: Utf8Bytes) {
        (self.records, self.received) = (self.records + 1, self.received + 1);
        self.newest = Some(record);
    }

    /// The line of the second that is over.
    fn line(&mut self) -> String {
        self.seconds += 1;
        let records = std::mem::take(&mut self.records);
        let newest = self.newest.as_deref().map(readings).unwrap_or_default();
        format!("  {:>4} s  {records:>3} records/s  {:>6} in all{newest}", self.seconds, self.received)
    }
}

/// The first numbers of a record's data, as they are read.
fn readings(record: &str) -> String {
    let record: Value = serde_json::from_str(record).unwrap_or_default();
    let data = record["data"].as_object();
    let numbers = data.into_iter().flatten().filter_map(|(name, value)| Some((name, value.as_f64()?))).filter(|(_, value)| *value < 1e6);
    numbers.take(SHOWN).map(|(name, value)| format!("  {name} {value:.1}")).collect()
}

/// Prints a line a second of what a WebSocket consumer receives. How many records that were.
async fn watch(at: &Addresses, cast: &Cast, until: Option<Instant>, shutdown: &Shutdown) -> anyhow::Result<u64> {
    let url = format!("{}?token={}", place(&at.wss2)?, cast.consumer_token);
    let (mut socket, _) = connect_async(url).await.context("the demo's consumer cannot connect")?;
    let end = async {
        match until {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    let mut summary = Summary::default();
    let mut second = interval_at(Instant::now() + SECOND, SECOND);
    loop {
        tokio::select! {
            () = &mut end => break,
            () = shutdown.soft().cancelled() => break,
            _ = second.tick() => if say(summary.line()).is_err() {
                break;
            },
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => summary.take(text),
                Some(Ok(_)) => {}
                Some(Err(e)) => bail!("the demo's consumer was cut: {e}"),
                None => bail!("the demo's consumer was closed"),
            },
        }
    }
    // The server is going down too; a goodbye that is not heard is no loss.
    let _ = socket.close(None).await;
    Ok(summary.received)
}

fn print_places(at: &Addresses, cast: &Cast) -> io::Result<()> {
    let show = |what: &str, place: &Option<String>| say(format_args!("  {what:<22} {}", place.as_deref().unwrap_or("-")));
    say("Motience is up: a device streams this machine's metrics over QUIC, a consumer receives them over WebSocket.\n")?;
    show("Console", &at.consumer_page)?;
    show("  also at", &at.dsm.as_deref().map(|dsm| format!("{dsm}/console/")))?;
    say(format_args!("  {:<22} {}, {} or demo-admin", "Log in as", cast.consumer, cast.producer))?;
    say(format_args!("  {:<22} {}\n", "Password", cast.password))?;
    show("Producer page", &at.producer_page)?;
    for (what, base) in [("Accounts API", &at.ap), ("Subscriptions API", &at.sm), ("Data API", &at.dsm)] {
        show(what, &base.as_deref().map(|b| format!("{b}/api-docs")))?;
    }
    show("HTTPS and HTTP/3", &at.https)?;
    show("WebTransport", &at.webtransport)?;
    show("WebSocket consumers", &at.wss2)?;
    show("WebSocket producers", &at.wss1)?;
    show("QUIC (motience/1)", &at.quic)?;
    show("Readiness and metrics", &at.operations.as_deref().map(|at| format!("{at}/ready, {at}/metrics")))?;
    say("\n  Ctrl-C ends it.\n")?;
    let console = at.consumer_page.as_deref().unwrap_or("-");
    say(format_args!("Open {console} and log in as {} with the password {}.\n", cast.consumer, cast.password))
}

fn place(address: &Option<String>) -> anyhow::Result<&str> {
    address.as_deref().context("the demo has every role")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_of_a_second() {
        let mut summary = Summary::default();
        assert_eq!(summary.line(), "     1 s    0 records/s       0 in all");
        for n in 0..4 {
            summary.take(json!({"data": {"cpu_percent": 12.34, "disk_free_bytes": 50e9, "load_1": n, "name": "x"}}).to_string().into());
        }
        assert_eq!(summary.line(), "     2 s    4 records/s       4 in all  cpu_percent 12.3  load_1 3.0");
        assert_eq!(summary.line(), "     3 s    0 records/s       4 in all  cpu_percent 12.3  load_1 3.0");
    }
}
