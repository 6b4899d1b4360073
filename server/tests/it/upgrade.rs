//! Upgrades: nodes restarted one by one under load, and what earlier states of the tree have written.
//!
//! `server/tests/fixtures` holds files of earlier states: a data folder, and a cluster's dump with its append-only file. `WRITE_FIXTURE=NAME` and
//! `--run-ignored` write those of the present state; older ones stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use motience_certs::Trust;
use motience_device::{Credentials, Producer, backoff::Backoff, client, producer::Config};
use motience_proto::{
    model::{DeviceId, ProducerId},
    wire::{Intent, Start},
};
use motience_testing::{Postgres, Redis, port_settings};
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    harness::{Account, Addresses, LIMIT, Node, PASSWORD, account, gateway, http, server, subscribe},
    quic::{acked, connect, event, record},
};

/// The secret of all nodes here: a throw-away one, which signs nothing outside of these tests.
pub(crate) const SECRET: (&str, &str) = ("JWT_SECRET", "a secret that is long enough for this test");
/// Records of a fixture by each way.
const RECORDS: u64 = 20;

/// The programs of one version.
pub(crate) struct Version {
    pub(crate) server: PathBuf,
    pub(crate) gateway: PathBuf,
}

impl Version {
    /// That of the tree.
    pub(crate) fn present() -> Self {
        Self { server: server().to_owned(), gateway: gateway() }
    }
}

/// A node that is started again on its ports.
pub(crate) struct Member {
    node: Option<Node>,
    program: PathBuf,
    arguments: &'static [&'static str],
    variables: Vec<(String, String)>,
}

impl Member {
    async fn start(program: PathBuf, arguments: &'static [&'static str], variables: &[(&str, &str)]) -> Self {
        let mut variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let names = ["AP", "SM", "DSM", "WSS1", "WSS2", "WSS1_UI", "WSS2_UI", "QUIC", "OPERATIONS"];
        variables.extend(port_settings(names));
        let mut member = Self { node: None, program, arguments, variables };
        let node = Node::start(&member.program, member.arguments, &member.settings()).await;
        member.node = Some(node);
        member
    }

    fn settings(&self) -> Vec<(&str, &str)> {
        self.variables.iter().map(|(name, value)| (&name[..], &value[..])).collect()
    }

    pub(crate) fn node(&self) -> &Node {
        self.node.as_ref().unwrap()
    }

    /// As a supervisor does it: SIGTERM, the end, a start, with this program.
    async fn restart(&mut self, program: PathBuf) {
        self.program = program;
        let mut node = self.node.take().unwrap();
        node.signal("TERM");
        assert_eq!(node.ended().await, 0, "it ends in good order");
        self.node = Some(node.again(&self.program, self.arguments, &self.settings()).await);
    }
}

/// Everything that a consumer received, and when.
#[derive(Default)]
struct Received {
    /// Device and number of each record.
    records: BTreeMap<(String, u64), u32>,
    last: Option<Instant>,
    longest: Duration,
    notices: Vec<Value>,
}

/// A consumer that goes on at its cursors, at whichever gateway answers.
async fn follow(gateways: [String; 2], token: String, producers: [i64; 2], received: Arc<Mutex<Received>>) {
    let mut cursors: BTreeMap<String, Value> = producers.map(|producer| (producer.to_string(), "earliest".into())).into();
    for turn in 0.. {
        let resume: String = json!(cursors).to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
        let at = format!("{}?token={token}&v=2&resume={resume}", gateways[turn % 2]);
        let Ok((mut socket, _)) = connect_async(at).await else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            let mut received = received.lock();
            if message["type"].is_string() {
                received.notices.push(message);
                continue;
            }
            cursors.insert(message["producer_id"].as_str().unwrap().to_owned(), message["cursor"].clone());
            let record = (message["device_id"].as_str().unwrap().to_owned(), message["data"]["n"].as_u64().unwrap());
            *received.records.entry(record).or_default() += 1;
            let since = received.last.replace(Instant::now()).map_or(Duration::ZERO, |last| last.elapsed());
            received.longest = received.longest.max(since);
        }
    }
}

/// A device that sends a record every ten milliseconds until it is told to stop. Returns how many.
async fn send(at: Addresses, account: &Account, name: &str, stop: &AtomicBool) -> u64 {
    let server = at.quic.unwrap().parse().unwrap();
    let mut config = Config::new(client::Config::new(server, Trust::Ca(at.ca.unwrap()), DeviceId::new(name).unwrap()));
    config.policy.backoff = Backoff { base: Duration::from_millis(20), max: Duration::from_millis(100) };
    let device = Producer::start(config, Credentials::Token(account.token.as_str().into())).unwrap();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let record = format!(r#"{{"device_id":"{name}","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
        timeout(LIMIT, device.send(record)).await.unwrap().unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    timeout(LIMIT, device.flush(LIMIT)).await.unwrap().unwrap();
    device.shutdown(Duration::ZERO).await;
    n
}

#[tokio::test]
async fn nodes_that_are_restarted_one_by_one_under_load_lose_and_double_nothing() {
    roll(&Version::present(), &Version::present(), async |_: Rolling<'_>| {}).await;
}

/// The platform while its nodes are restarted.
pub(crate) struct Rolling<'r> {
    /// Two servers, then two gateways.
    pub(crate) members: &'r [Member; 4],
    /// The devices `d0` and `d1` of the two send all the time.
    pub(crate) producers: &'r [Account; 2],
    pub(crate) database_url: &'r str,
}

/// Starts two servers and two gateways of one version, restarts them under load one by one as nodes of another, and has `between` look each time. Records
/// arrive, each once.
pub(crate) async fn roll(old: &Version, new: &Version, between: impl AsyncFn(Rolling<'_>)) {
    let (redis, postgres) = (Redis::durable().await, Postgres::start().await);
    let (redis_url, database_url) = (redis.url(), postgres.url());
    // Certificates are shared, as behind one name.
    let certs = TempDir::new().unwrap();
    let certs_dir = certs.path().to_str().unwrap();
    let unlimited = [("RATE_LIMIT_REGISTER", "off"), ("RATE_LIMIT_LOGIN", "off")];
    let places = [("REDIS_URL", &*redis_url), ("DATABASE_URL", &*database_url), ("CERTS_DIR", certs_dir), SECRET];
    let variables = [&places[..], &unlimited].concat();
    let server = || Member::start(old.server.clone(), &["--roles", "ap,sm,dsm,ingest"], &variables);
    let gateway = || Member::start(old.gateway.clone(), &[], &variables);
    let first = server().await;
    let (second, one, two) = tokio::join!(server(), gateway(), gateway());
    let mut members = [first, second, one, two];
    let at = members[0].node().at.clone();
    let ap = at.ap.as_deref().unwrap();
    let producers = [account(ap, "producer", "p0").await, account(ap, "producer", "p1").await];
    let consumer = account(ap, "consumer", "c").await;
    for producer in &producers {
        subscribe(at.sm.as_deref().unwrap(), &consumer, producer).await;
    }
    let gateways = [2, 3].map(|member: usize| members[member].node().at.wss2.clone().unwrap());
    let received: [Arc<Mutex<Received>>; 2] = std::array::from_fn(|_| Arc::default());
    let mut following = Vec::new();
    for (n, received) in received.iter().enumerate() {
        let mut gateways = gateways.clone();
        gateways.rotate_left(n);
        let follow = follow(gateways, consumer.token.clone(), producers.each_ref().map(|producer| producer.id), Arc::clone(received));
        following.push(tokio::spawn(follow));
    }
    let stop = AtomicBool::default();
    let [first, second] = [0, 1].map(|member: usize| members[member].node().at.clone());
    let working = async {
        // After the second, nodes of both kinds are of both versions.
        for member in [0, 2, 1, 3] {
            let before = received[0].lock().records.len();
            let program = if member < 2 { &new.server } else { &new.gateway };
            members[member].restart(program.clone()).await;
            // Records flow again before the next one.
            let deadline = Instant::now() + LIMIT;
            while received.iter().any(|received| received.lock().records.len() < before + 50) {
                assert!(Instant::now() < deadline, "records arrive");
                sleep(Duration::from_millis(10)).await;
            }
            between(Rolling { members: &members, producers: &producers, database_url: &database_url }).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let sending = (send(first, &producers[0], "d0", &stop), send(second, &producers[1], "d1", &stop));
    let (sent0, sent1, ()) = tokio::join!(sending.0, sending.1, working);
    for received in &received {
        let deadline = Instant::now() + LIMIT;
        while (received.lock().records.len() as u64) < sent0 + sent1 {
            assert!(Instant::now() < deadline, "{} of {}", received.lock().records.len(), sent0 + sent1);
            sleep(Duration::from_millis(10)).await;
        }
        let received = received.lock();
        assert!(received.records.values().all(|times| *times == 1), "doubled: {:?}", received.records);
        assert!(received.notices.is_empty(), "{:?}", received.notices);
        println!("{} records, each once; longest pause of the consumer: {:?}", received.records.len(), received.longest);
    }
    following.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The first state whose fixtures have an organisation, a key and limits of what is kept.
const WITH_ORGANISATIONS: u32 = 20;
/// Bytes that the producer of a fixture wants kept.
const KEPT: u64 = 1 << 20;

/// Writes the content of every fixture: records of two devices by two ways, a named cursor, history; an organisation, a key, and what is kept.
async fn write(node: &Node) {
    let at = &node.at;
    let (ap, dsm) = (at.ap.as_deref().unwrap(), at.dsm.as_deref().unwrap());
    let (producer, consumer) = (account(ap, "producer", "p").await, account(ap, "consumer", "c").await);
    subscribe(at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut device = connect(node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    for n in 1..=RECORDS {
        device.send(client::Lane::Ordered, record(n)).await.unwrap();
    }
    acked(&mut device, 1..=RECORDS).await;
    device.finish().await;
    let lines: String =
        (1..=RECORDS).map(|n| format!("{{\"device_id\":\"h\",\"timestamp\":\"2025-01-29T11:35:00Z\",\"data\":{{\"n\":{n}}}}}\n")).collect();
    let posted = http().post(format!("{dsm}/data")).bearer_auth(&producer.token).header("content-type", "application/x-ndjson").body(lines);
    assert_eq!(posted.send().await.unwrap().status(), 200);
    let mut egress = connect(node, &consumer.token, "reader", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Earliest, "").await.unwrap();
    let cursor = loop {
        if let client::Event::Cursor(moved) = event(&mut egress).await.unwrap() {
            break moved.cursor;
        }
    };
    let cursor = json!({"cursors": {producer.id.to_string(): format!("{}-{RECORDS}", cursor.log_epoch)}});
    let confirmed = http().post(format!("{dsm}/cursors/app")).bearer_auth(&consumer.token).json(&cursor).send().await.unwrap();
    assert!(confirmed.status().is_success(), "{}", confirmed.text().await.unwrap());
    for (method, url, body) in [
        (Method::POST, format!("{ap}/organisations"), json!({"name": "acme"})),
        (Method::POST, format!("{ap}/keys"), json!({"name": "of the fixture", "scopes": ["publish"]})),
        (Method::PUT, format!("{dsm}/retention/{}", producer.id), json!({"log_bytes": KEPT})),
    ] {
        let done = http().request(method, &url).bearer_auth(&producer.token).json(&body).send().await.unwrap();
        assert!(done.status().is_success(), "{url}: {}", done.text().await.unwrap());
    }
    let metrics = format!("{}/metrics", at.operations.as_deref().unwrap());
    let deadline = Instant::now() + LIMIT;
    let kept = format!("motience_history_rows_total {}", 2 * RECORDS);
    while !http().get(&metrics).send().await.unwrap().text().await.unwrap().lines().any(|line| line == kept) {
        assert!(Instant::now() < deadline, "history is written");
        sleep(Duration::from_millis(20)).await;
    }
}

/// All of it is there, and work goes on. `name`: the fixture, which ends in the last step of its state.
async fn check(node: &Node, name: &str) {
    let at = &node.at;
    let (ap, dsm) = (at.ap.as_deref().unwrap(), at.dsm.as_deref().unwrap());
    let login = async |username: &str| {
        let login = http().post(format!("{ap}/login")).json(&json!({"username": username, "password": PASSWORD})).send().await.unwrap();
        assert_eq!(login.status(), 200, "{username} may log in");
        let login: Value = login.json().await.unwrap();
        (login["user_id"].as_i64().unwrap(), login["access_token"].as_str().unwrap().to_owned())
    };
    let ((producer, producer_token), (_, consumer_token)) = (login("p").await, login("c").await);
    let get = async |path: String| -> Value {
        http().get(format!("{dsm}{path}")).bearer_auth(&consumer_token).send().await.unwrap().json().await.unwrap()
    };
    let cursors = get("/cursors".to_owned()).await;
    assert!(cursors.to_string().contains(&format!("-{RECORDS}\"")) && cursors.to_string().contains("app"), "{cursors}");
    let mut device = connect(node, &producer_token, "d", Intent::Produce, 7).await.unwrap();
    device.send(client::Lane::Ordered, record(RECORDS + 1)).await.unwrap();
    acked(&mut device, RECORDS + 1..=RECORDS + 1).await;
    let mut egress = connect(node, &consumer_token, "reader", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer), Start::Earliest, "").await.unwrap();
    let mut found = BTreeSet::new();
    while found.len() < 2 * RECORDS as usize + 1 {
        let client::Event::Entries { entries, .. } = event(&mut egress).await.unwrap() else { continue };
        for entry in entries {
            let json: Value = serde_json::from_slice(&entry.message).unwrap();
            let record = (json["device_id"].as_str().unwrap().to_owned(), json["data"]["n"].as_u64().unwrap());
            assert!(found.insert(record), "once: {json}");
        }
    }
    assert!(found.contains(&("d".to_owned(), RECORDS + 1)) && found.contains(&("h".to_owned(), RECORDS)), "{found:?}");
    let state: u32 = name.chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap();
    if state >= WITH_ORGANISATIONS {
        let own = async |url: String| -> Value { http().get(url).bearer_auth(&producer_token).send().await.unwrap().json().await.unwrap() };
        assert_eq!(own(format!("{ap}/organisations")).await[0]["name"], "acme");
        assert_eq!(own(format!("{ap}/keys")).await[0]["name"], "of the fixture");
        assert_eq!(own(format!("{dsm}/retention/{producer}")).await["own"]["log_bytes"], KEPT);
    }
    let history = get(format!("/history/{producer}?limit=1000")).await;
    assert_eq!(history.as_array().unwrap_or_else(|| panic!("{history}")).len(), 2 * RECORDS as usize + 1, "{history}");
}

/// Settings of a fixture's node: records are kept, however old the fixture has become.
const SETTINGS: [(&str, &str); 4] = [("PERSIST", "true"), ("LOG_RETENTION", "36500d"), ("CERTS_DIR", "certs"), SECRET];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The fixtures whose names begin so, each unpacked in a folder of its own.
fn unpacked(kind: &str) -> Vec<(String, TempDir)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with(kind) && name.ends_with(".tar.gz") {
            let dir = TempDir::new().unwrap();
            tar(Command::new("tar").arg("-xzf").arg(&path).arg("-C").arg(dir.path()));
            found.push((name, dir));
        }
    }
    assert!(!found.is_empty());
    found
}

fn pack(kind: &str, dir: &Path, what: &[&str]) {
    let name = format!("{kind}-{}.tar.gz", std::env::var("WRITE_FIXTURE").expect("WRITE_FIXTURE names the state of the tree"));
    let whose = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name"];
    tar(Command::new("tar").args(whose).arg("-czf").arg(fixtures().join(name)).arg("-C").arg(dir).args(what));
}

fn tar(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

#[tokio::test]
async fn data_folders_of_earlier_states_are_opened() {
    for (name, dir) in unpacked("data-") {
        println!("{name}");
        check(&Node::start_in(dir, server(), &[], &SETTINGS).await, &name).await;
    }
}

#[tokio::test]
async fn dumps_and_append_only_files_of_earlier_states_are_opened() {
    for (name, dir) in unpacked("cluster-") {
        println!("{name}");
        let (redis, postgres) = (Redis::restored(dir.path()).await, Postgres::start().await);
        postgres.restore(&dir.path().join("accounts.dump")).await;
        let (redis, database) = (redis.url(), postgres.url());
        let settings = [&SETTINGS[..], &[("REDIS_URL", &redis), ("DATABASE_URL", &database)]].concat();
        check(&Node::start(server(), &[], &settings).await, &name).await;
    }
}

#[tokio::test]
#[ignore = "writes the fixtures of the present state: WRITE_FIXTURE=NAME"]
async fn fixtures_are_written() {
    let mut node = Node::start(server(), &[], &SETTINGS).await;
    write(&node).await;
    node.signal("TERM");
    assert_eq!(node.ended().await, 0);
    pack("data", node.dir.path(), &["data"]);
    let (redis, postgres, dir) = (Redis::durable().await, Postgres::start().await, TempDir::new().unwrap());
    let (redis_url, database) = (redis.url(), postgres.url());
    let node = Node::start(server(), &[], &[&SETTINGS[..], &[("REDIS_URL", &redis_url), ("DATABASE_URL", &database)]].concat()).await;
    write(&node).await;
    postgres.dump(&dir.path().join("accounts.dump")).await;
    redis.back_up(dir.path()).await;
    pack("cluster", dir.path(), &["accounts.dump", "appendonlydir"]);
}
