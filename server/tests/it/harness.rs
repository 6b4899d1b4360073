//! Starting nodes as processes, and talking to them.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use motience_proto::{model::RangeSet, wire::Frame};
use motience_testing::{Postgres, Redis};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// Longest wait for anything a test waits for.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

const PORTS: [&str; 9] = ["AP", "SM", "DSM", "WSS1", "WSS2", "WSS1_UI", "WSS2_UI", "QUIC", "OPERATIONS"];

/// Where a node listens, as its ready file says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) ap: Option<String>,
    pub(crate) sm: Option<String>,
    pub(crate) dsm: Option<String>,
    pub(crate) quic: Option<String>,
    pub(crate) https: Option<String>,
    pub(crate) webtransport: Option<String>,
    pub(crate) wss1: Option<String>,
    pub(crate) wss2: Option<String>,
    pub(crate) producer_page: Option<String>,
    pub(crate) consumer_page: Option<String>,
    pub(crate) operations: Option<String>,
    pub(crate) ca: Option<PathBuf>,
}

/// A running node; killed when dropped.
pub(crate) struct Node {
    pub(crate) at: Addresses,
    pub(crate) process: Child,
    pub(crate) dir: TempDir,
}

impl Node {
    /// Starts a program on free ports in a folder of its own, and waits until it listens.
    pub(crate) async fn start(program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_in(TempDir::new().unwrap(), program, arguments, variables).await
    }

    /// Kills an embedded server as a crash would, and starts it again on what it left.
    pub(crate) async fn crash(mut self, variables: &[(&str, &str)]) -> Self {
        self.process.kill().await.unwrap();
        std::fs::remove_file(self.dir.path().join("ready.json")).unwrap();
        Self::start_in(self.dir, server(), &[], variables).await
    }

    /// Stops an embedded server in good order, and starts it again once `meanwhile` has been at its folder.
    pub(crate) async fn restarted(mut self, variables: &[(&str, &str)], meanwhile: impl AsyncFnOnce(&Path)) -> Self {
        self.signal("TERM");
        self.ended().await;
        meanwhile(self.dir.path()).await;
        self.restarted_on(variables).await
    }

    /// Starts an embedded server that was stopped again, on whatever is in its folder now.
    pub(crate) async fn restarted_on(self, variables: &[(&str, &str)]) -> Self {
        self.again(server(), &[], variables).await
    }

    /// Starts a program that was stopped again, in its folder.
    pub(crate) async fn again(self, program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        std::fs::remove_file(self.dir.path().join("ready.json")).unwrap();
        Self::start_in(self.dir, program, arguments, variables).await
    }

    /// Starts a program in this folder and waits until it listens.
    pub(crate) async fn start_in(dir: TempDir, program: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let ready = dir.path().join("ready.json");
        let mut command = command(program, dir.path());
        command.arg("--ready-file").arg(&ready).args(arguments).envs(variables.iter().copied());
        let (process, at) = Self::spawned(&mut command, &ready).await;
        Self { at, process, dir }
    }

    /// Starts a command and waits for its ready file.
    pub(crate) async fn spawned(command: &mut Command, ready: &Path) -> (Child, Addresses) {
        let mut process = command.spawn().unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"));
        let deadline = Instant::now() + LIMIT;
        let at = loop {
            if let Ok(text) = std::fs::read_to_string(ready) {
                break serde_json::from_str(&text).unwrap();
            }
            if let Some(status) = process.try_wait().unwrap() {
                panic!("{command:?} ended before it was ready: {status}");
            }
            assert!(Instant::now() < deadline, "{command:?} was not ready in time");
            sleep(Duration::from_millis(20)).await;
        };
        (process, at)
    }

    /// A server with every role and everything embedded.
    pub(crate) async fn embedded(variables: &[(&str, &str)]) -> Self {
        Self::start(server(), &[], variables).await
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.process.id().expect("the process runs");
        let sent = std::process::Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the process to end by itself: its exit code.
    pub(crate) async fn ended(&mut self) -> i32 {
        let status = timeout(LIMIT, self.process.wait()).await.expect("the process ends in time").unwrap();
        status.code().expect("it was not killed")
    }
}

/// The server under test.
/// A Redis and a PostgreSQL that nodes share.
pub(crate) struct Shared {
    pub(crate) redis: Redis,
    pub(crate) postgres: Postgres,
    urls: [String; 2],
}

impl Shared {
    pub(crate) async fn start() -> Self {
        let (redis, postgres) = (Redis::durable().await, Postgres::start().await);
        let urls = [redis.url(), postgres.url()];
        Self { redis, postgres, urls }
    }

    /// The settings that have a node take part.
    pub(crate) fn variables(&self) -> [(&str, &str); 3] {
        let [redis, database] = &self.urls;
        [("REDIS_URL", redis), ("DATABASE_URL", database), ("JWT_SECRET", "a secret that all nodes of this test share")]
    }

    /// Starts a server. The first one applies the migrations.
    pub(crate) async fn node(&self, name: &str, roles: &str) -> Node {
        let [redis, database, secret] = self.variables();
        Node::start(server(), &["--roles", roles], &[redis, database, secret, ("NODE_NAME", name)]).await
    }
}

pub(crate) fn server() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_motience-server"))
}

/// The standalone gateway, built beside it by the same `cargo` run over the workspace.
pub(crate) fn gateway() -> PathBuf {
    beside("motience-gateway")
}

/// The device agent, likewise.
pub(crate) fn agent() -> PathBuf {
    beside("motience-device")
}

fn beside(name: &str) -> PathBuf {
    let program = server().with_file_name(name);
    assert!(program.exists(), "{name} is not built: run the tests over the whole workspace, or `cargo build --workspace` first");
    program
}

/// A command with only the variables a node of these tests needs.
pub(crate) fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("RUST_LOG", std::env::var("TEST_LOG").unwrap_or_else(|_| "warn".into()))
        .env("BIND_ADDRESS", "127.0.0.1")
        .env("DATA_DIR", dir.join("data"))
        .env("CERTS_DIR", dir.join("certs"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for port in PORTS {
        command.env(format!("{port}_PORT"), "0");
    }
    command
}

/// A logged-in account.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) id: i64,
    pub(crate) username: String,
    pub(crate) token: String,
}

/// The password of every test account: the seed's own.
pub(crate) const PASSWORD: &str = "pass123";

pub(crate) fn http() -> reqwest::Client {
    motience_certs::install_provider();
    reqwest::Client::builder().timeout(LIMIT).build().unwrap()
}

pub(crate) async fn account(ap: &str, role: &str, username: &str) -> Account {
    let http = http();
    let body = json!({"username": username, "password": PASSWORD, "role": role});
    let registered = http.post(format!("{ap}/register")).json(&body).send().await.unwrap();
    assert_eq!(registered.status(), 201, "{}", registered.text().await.unwrap());
    let login: Value = http.post(format!("{ap}/login")).json(&body).send().await.unwrap().json().await.unwrap();
    Account {
        id: login["user_id"].as_i64().unwrap(),
        username: username.to_owned(),
        token: login["access_token"].as_str().unwrap().to_owned(),
    }
}

pub(crate) async fn subscribe(sm: &str, consumer: &Account, producer: &Account) {
    let answer = http()
        .post(format!("{sm}/subscribe"))
        .bearer_auth(&consumer.token)
        .json(&json!({"producer_id": producer.id}))
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success());
}

/// Runs a program to its end and gives its standard output; its failure is the test's.
pub(crate) async fn output(mut command: Command) -> String {
    let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).output();
    let output = timeout(LIMIT, run).await.expect("it ends in time").unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{:?}: {}\n{out}\n{err}", command, output.status);
    out
}

/// The folder with the npm clients, installed.
pub(crate) fn clients() -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    assert!(dir.join("node_modules/ws").exists(), "the npm clients are not installed: run `npm ci` in server/tests/clients");
    dir
}

/// The documented flow, spoken by the `ws` package.
pub(crate) async fn npm_flow(ap: &str, sm: &str, dsm: &str, wss1: &str, wss2: &str) -> String {
    let mut command = Command::new("node");
    let at = json!({"ap": ap, "sm": sm, "dsm": dsm, "wss1": wss1, "wss2": wss2});
    command.arg(clients().join("flow.mjs")).arg(at.to_string());
    output(command).await
}

/// Waits until all of `numbers` are acknowledged by a peer's frames, and nothing else.
pub(crate) async fn acked(numbers: RangeInclusive<u64>, mut frame: impl AsyncFnMut() -> Frame) {
    let mut ranges = RangeSet::new();
    while !numbers.clone().all(|n| ranges.contains(n)) {
        match frame().await {
            Frame::Ack(ack) => ack.ranges.iter().for_each(|range| ranges.insert_range(range)),
            other => panic!("{other:?}"),
        }
    }
    assert!(ranges.iter().all(|range| numbers.contains(range.start()) && numbers.contains(range.end())));
}
