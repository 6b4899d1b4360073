//! Plans as they come and go, and as nodes share them. `quota_ways.rs` tries each limit on each way in.

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures_util::SinkExt as _;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    gateway::produce,
    harness::{Account, LIMIT, Node, account, http},
    operators, quic,
};

pub(crate) async fn plan(dir: &Path, arguments: &[&str]) {
    let done = operators::run(dir, &[], &[&["plan"], arguments].concat(), "").await;
    assert_eq!(done.0, 0, "{done:?}");
}

/// A node with these producers, each on a plan of its own name with these limits.
pub(crate) async fn node(limits: &[(&str, &str, &str)]) -> (Node, Vec<Account>) {
    let node = Node::embedded(&[]).await;
    let mut accounts = Vec::new();
    for (name, ..) in limits {
        accounts.push(account(quic::ap(&node), "producer", name).await);
    }
    let node = node
        .restarted(&[], async |dir| {
            for (name, limit, rate) in limits {
                plan(dir, &["set", name, limit, rate]).await;
                plan(dir, &["give", name, "--username", name]).await;
            }
        })
        .await;
    (node, accounts)
}

fn record(n: u64) -> Value {
    json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n}})
}

pub(crate) async fn post(node: &Node, account: &Account, records: &[Value]) -> Response {
    http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&account.token).json(records).send().await.unwrap()
}

/// Numbers of the records that an account reads from the beginning of the logs that are open to it, up to the first `count`.
pub(crate) async fn logged(node: &Node, producer: &Account, count: usize) -> BTreeSet<u64> {
    let url = format!("{}/stream?from=earliest&token={}", node.at.dsm.as_deref().unwrap(), producer.token);
    let mut answer = http().get(url).header("accept", "application/x-ndjson").send().await.unwrap();
    let (mut text, mut found) = (String::new(), BTreeSet::new());
    while found.len() < count {
        text += std::str::from_utf8(&timeout(LIMIT, answer.chunk()).await.unwrap().unwrap().unwrap()).unwrap();
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let rest = text.split_off(whole);
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        found.extend(lines.filter_map(|line| line["data"]["n"].as_u64()));
        text = rest;
    }
    found
}

pub(crate) fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).unwrap_or_else(|| panic!("{name} is missing")).to_str().unwrap()
}

#[tokio::test]
async fn a_plan_holds_for_live_connections_as_soon_as_it_is_given_and_no_more_once_it_is_taken() {
    let node = Node::embedded(&[]).await;
    let producer = account(quic::ap(&node), "producer", "p").await;
    let mut socket = produce(&node, &producer).await;
    let mut n = 0;
    let mut send = async |socket: &mut crate::gateway::Socket| {
        n += 1;
        socket.send(Message::text(record(n).to_string())).await.unwrap();
        crate::gateway::next_json(socket).await["type"] == "ack"
    };
    assert!(send(&mut socket).await);
    plan(node.dir.path(), &["set", "slow", "--records-per-second", "1"]).await;
    plan(node.dir.path(), &["give", "slow", "--username", "p"]).await;
    let limited = async { while send(&mut socket).await {} };
    timeout(LIMIT, limited).await.expect("the plan comes into force");
    plan(node.dir.path(), &["take", "--username", "p"]).await;
    let flood: Vec<Value> = (1..=50).map(record).collect();
    let free = async {
        let mut passed = 0;
        while passed < 3 {
            passed = if post(&node, &producer, &flood).await.status() == 200 { passed + 1 } else { 0 };
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, free).await.expect("the plan ends");
    assert_eq!(operators::run(node.dir.path(), &[], &["plan", "give", "none", "--username", "p"], "").await.0, 3);
    let listed = operators::run(node.dir.path(), &[], &["plan", "list"], "").await;
    assert_eq!(listed.1, "slow\t{\"records_per_second\":1}\n");
    plan(node.dir.path(), &["set", "slow", "--total-log-bytes", "1000", "--total-history-rows", "50"]).await;
    let listed = operators::run(node.dir.path(), &[], &["plan", "list"], "").await;
    assert_eq!(listed.1, "slow\t{\"total_log_bytes\":1000,\"total_history_rows\":50}\n");
}

/// Requests that three nodes let through in `time`, while each is asked as fast as it answers.
async fn answered(nodes: &[Node; 3], token: &str, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let ask = async |node: &Node| {
        let (url, client) = (format!("{}/account/sessions", quic::ap(node)), http());
        let mut passed = 0;
        while Instant::now() < end {
            let answer = client.get(&url).bearer_auth(token).send().await.unwrap();
            passed += u64::from(answer.status() == 200);
            sleep(Duration::from_millis(5)).await;
        }
        passed
    };
    let [one, two, three] = nodes;
    let (one, two, three) = tokio::join!(ask(one), ask(two), ask(three));
    assert!(one > 0 && two > 0 && three > 0, "each node has a share: {one}, {two}, {three}");
    one + two + three
}

#[tokio::test]
async fn three_nodes_share_a_rate_also_while_redis_is_away() {
    let (mut redis, postgres) = (motience_testing::Redis::durable().await, motience_testing::Postgres::start().await);
    let (redis_url, database_url) = (redis.url().to_owned(), postgres.url().to_owned());
    let variables = [
        ("REDIS_URL", redis_url.as_str()),
        ("DATABASE_URL", database_url.as_str()),
        ("JWT_SECRET", "a secret that all nodes of this test share"),
        ("RATE_LIMIT_REQUESTS", "off"),
    ];
    let start = async || Node::start(crate::harness::server(), &["--roles", "ap,sm,dsm"], &variables).await;
    let nodes = [start().await, start().await, start().await];
    let producer = account(quic::ap(&nodes[0]), "producer", "p").await;
    for arguments in [&["plan", "set", "shared", "--requests-per-second", "60"][..], &["plan", "give", "shared", "--username", "p"]] {
        let done = operators::run(nodes[0].dir.path(), &variables, arguments, "").await;
        assert!(done.0 == 0 && done.1.contains("on every node"), "{done:?}");
    }
    let limited = async { while answered(&nodes, &producer.token, Duration::from_millis(500)).await > 90 {} };
    timeout(LIMIT, limited).await.expect("the plan comes into force");
    // The shared bucket adds what it holds: half a second's worth.
    let right = 60 * 5;
    let passed = answered(&nodes, &producer.token, Duration::from_secs(5)).await;
    assert!(passed >= right * 9 / 10 && passed <= right * 11 / 10 + 30, "{passed} for {right}");
    redis.stop().await;
    let passed = answered(&nodes, &producer.token, Duration::from_secs(5)).await;
    assert!(passed >= right * 8 / 10 && passed <= right * 11 / 10 + 30, "{passed} for {right} without Redis");
}

#[tokio::test]
async fn what_removes_records_first_is_shown_before_it_does() {
    let node = Node::embedded(&[("LOG_RETENTION_BYTES", "1MiB")]).await;
    let producer = account(quic::ap(&node), "producer", "p").await;
    let done = operators::run(node.dir.path(), &[], &["admin", "create", "--username", "root"], "a password for it\n").await;
    assert_eq!(done.0, 0, "{done:?}");
    let login = json!({"username": "root", "password": "a password for it"});
    let login = http().post(format!("{}/login", quic::ap(&node))).json(&login).send().await.unwrap().json::<Value>().await.unwrap();
    let dsm = node.at.dsm.as_deref().unwrap();
    let get = async |url: String, token: &str| http().get(url).bearer_auth(token).send().await.unwrap().json::<Value>().await.unwrap();
    let large: Vec<Value> = (0..10).map(|n| json!({"device_id": "d", "timestamp": 1, "data": {"n": n, "pad": "x".repeat(2000)}})).collect();
    let shown = async {
        loop {
            // So much comes that the log holds no day of it.
            assert_eq!(post(&node, &producer, &large).await.status(), 200);
            let cuts = get(format!("{dsm}/platform"), login["access_token"].as_str().unwrap()).await["cuts"].clone();
            if cuts[0]["bound"] == "bytes" {
                break cuts[0].clone();
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let cut = timeout(LIMIT, shown).await.expect("the cut is shown");
    assert_eq!(cut["producer_id"], producer.id.to_string());
    assert!(cut["seconds"].as_u64().unwrap() < 86_400, "{cut}");
    let operations = node.at.operations.as_deref().unwrap();
    let ready = get(format!("{operations}/ready"), "").await;
    assert_eq!((&ready["first_cut"]["bound"], &ready["first_cut"]["producer_id"]), (&json!("bytes"), &json!(producer.id.to_string())));
    let own = get(format!("{dsm}/retention/{}", producer.id), &producer.token).await;
    assert_eq!(own["first_cut"]["bound"], "bytes");
    let name = format!("motience_retention_cut_seconds{{producer=\"{}\",bound=\"bytes\"}}", producer.id);
    crate::unread::until_metric(&node, &name, |left| left > 0.0).await;
}
