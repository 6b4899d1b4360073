//! Plans on every way in: whoever goes beyond it hears so in the words of its protocol, what is acknowledged is in the log, and a
//! neighbour notices nothing.

use std::{collections::BTreeSet, path::Path, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use motience_device::client::{Error, Event, Lane};
use motience_proto::{
    model::Seq,
    wire::{CloseCode, Frame, Intent, Record},
};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    gateway::produce,
    harness::{Account, LIMIT, Node, account, http},
    operators, quic, tunnel, webtransport,
};

/// Records a second of the plan.
const RATE: u64 = 10;

async fn plan(dir: &Path, arguments: &[&str]) {
    let done = operators::run(dir, &[], &[&["plan"], arguments].concat(), "").await;
    assert_eq!(done.0, 0, "{done:?}");
}

/// A node with these producers, each on a plan of its own name with these limits.
async fn node(limits: &[(&str, &str, &str)]) -> (Node, Vec<Account>) {
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

async fn post(node: &Node, account: &Account, records: &[Value]) -> Response {
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

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers().get(name).unwrap_or_else(|| panic!("{name} is missing")).to_str().unwrap()
}

#[tokio::test]
async fn beyond_its_rate_a_producer_hears_so_on_every_transport_and_loses_nothing_that_was_acknowledged() {
    let of_records = ["http", "lines", "socket", "tunnel", "webtransport", "device"].map(|name| (name, "--records-per-second", "10"));
    let others = [("asks", "--requests-per-second", "2"), ("bytes", "--bytes-per-second", "100000")];
    let (node, accounts) = node(&[&of_records[..], &others[..]].concat()).await;
    let [over_http, over_lines, over_socket, over_tunnel, over_webtransport, over_quic, asks, bytes] = &accounts[..] else { panic!() };
    let neighbour = account(quic::ap(&node), "producer", "neighbour").await;
    // A batch of any size passes while there is a token: the rest is a debt, here of twenty seconds.
    let flood: Vec<Value> = (1..=200).map(record).collect();

    let sent = post(&node, over_http, &flood).await;
    assert_eq!(sent.status(), 200);
    let refused = post(&node, over_http, &[record(201)]).await;
    assert_eq!((refused.status(), header(&refused, "ratelimit-policy")), (429.try_into().unwrap(), "\"account-records\";q=10;w=1"));
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((10..=20).contains(&wait) && header(&refused, "ratelimit") == format!("\"account-records\";r=0;t={wait}"), "{wait}");
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "rate_limited");
    assert!(problem["detail"].as_str().unwrap().starts_with("The plan of this account allows 10 records a second"), "{problem}");
    assert_eq!(logged(&node, over_http, 200).await, (1..=200).collect());

    // A body of lines: taken until the rate is met.
    let padded = |n: u64| json!({"device_id": "d", "timestamp": 1, "data": {"n": n, "pad": "x".repeat(2000)}});
    let lines: String = (1..=1000).map(|n| format!("{}\n", padded(n))).collect();
    let request = http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&over_lines.token);
    let refused = request.header("content-type", "application/x-ndjson").body(lines).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), header(&refused, "ratelimit-policy")), (429, "\"account-records\";q=10;w=1"));
    let problem: Value = refused.json().await.unwrap();
    let accepted = problem["accepted"].as_u64().unwrap();
    assert!((1..1000).contains(&accepted) && problem["last_line"] == accepted && problem["outcome"].is_null(), "{problem}");
    assert_eq!(logged(&node, over_lines, accepted as usize).await, (1..=accepted).collect());

    let mut socket = produce(&node, over_socket).await;
    let (mut acked, mut error, mut n) = (0, None, 0);
    while error.is_none() {
        n += 1;
        socket.send(Message::text(record(n).to_string())).await.unwrap();
        let Message::Text(text) = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap() else { panic!("no reply") };
        let reply: Value = serde_json::from_str(&text).unwrap();
        if reply["type"] == "ack" { acked += 1 } else { error = Some(reply) }
    }
    assert_eq!((error.unwrap()["code"].as_str(), acked, n), (Some("rate_limited"), n - 1, n));
    assert_eq!(crate::keys::closed(&mut socket).await, 1013);
    assert!(acked >= RATE && logged(&node, over_socket, acked as usize).await.is_superset(&(1..=acked).collect()));

    let mut client = webtransport::Client::hello(&node, &over_webtransport.token).await;
    assert_eq!(client.lines.next().await["type"], "welcome");
    let mut acked = 0;
    let error = loop {
        let reply = client.ask(&record(acked + 1)).await;
        if reply["type"] != "ack" {
            break reply;
        }
        acked += 1;
    };
    assert_eq!(error["code"], "rate_limited", "{error}");
    let (code, why) = client.closed().await;
    assert!(code == 4429 && why.contains("allows 10 records a second"), "{code} {why}");
    assert!(acked >= RATE && logged(&node, over_webtransport, acked as usize).await.is_superset(&(1..=acked).collect()));

    // A device is read no faster than the rate at first, and is told once it would have to wait too long.
    let own = |n: u64| Record { seq: Seq(n), json: record(n).to_string().into() };
    let mut tunnel = tunnel::open(&node).await;
    tunnel.enter(tunnel::hello(&over_tunnel.token, "d", 1)).await;
    tunnel.send((1..=200).map(|n| Frame::Record(own(n)))).await;
    crate::harness::acked(1..=200, async || tunnel.frame().await).await;
    tunnel.send([Frame::Record(own(201))]).await;
    let (code, why) = tunnel.closed().await;
    assert!(code == 4106 && why.contains("come back in"), "{code} {why}");
    assert_eq!(logged(&node, over_tunnel, 200).await.len(), 200);

    let mut session = quic::connect(&node, &over_quic.token, "d", Intent::Produce, 1).await.unwrap();
    let begun = Instant::now();
    session.send(Lane::Ordered, own(1)).await.unwrap();
    quic::acked(&mut session, 1..=1).await;
    for n in 2..=30 {
        session.send(Lane::Ordered, own(n)).await.unwrap();
        quic::acked(&mut session, n..=n).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(1800), "thirty records at ten a second: {:?}", begun.elapsed());
    // Another way in of the same account makes a debt of twenty seconds, for which no device waits.
    let indebted = async {
        while post(&node, over_quic, &flood).await.status() != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, indebted).await.expect("a token comes");
    session.send(Lane::Ordered, own(31)).await.unwrap();
    let (code, why) = loop {
        match quic::event(&mut session).await {
            Ok(Event::Acked(ranges)) => assert!(!ranges.contains(31), "beyond the rate nothing is acknowledged"),
            Ok(other) => panic!("{other:?}"),
            Err(Error::Closed { code, reason }) => break (code, reason),
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(code == CloseCode::RateLimited && why.contains("come back in"), "{code:?} {why}");
    assert!(logged(&node, over_quic, 200).await.is_superset(&(1..=30).collect()));

    let ask = async || {
        let url = format!("{}/streams", node.at.dsm.as_deref().unwrap());
        http().get(url).bearer_auth(&asks.token).send().await.unwrap()
    };
    let mut answers = vec![ask().await, ask().await, ask().await];
    assert_eq!(answers.iter().map(|answer| answer.status().as_u16()).collect::<Vec<_>>(), [200, 200, 429]);
    assert_eq!(header(&answers.remove(2), "ratelimit-policy"), "\"account-requests\";q=2;w=1");

    let large = json!({"device_id": "d", "timestamp": 1, "data": "x".repeat(60_000)});
    assert_eq!(post(&node, bytes, &vec![large; 5]).await.status(), 200);
    let refused = post(&node, bytes, &[record(1)]).await;
    assert_eq!((refused.status().as_u16(), header(&refused, "ratelimit-policy")), (429, "\"account-bytes\";q=100000;w=1"));

    assert_eq!(post(&node, &neighbour, &flood).await.status(), 200);
    assert_eq!(post(&node, &neighbour, &flood).await.status(), 200, "nobody else notices");
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
