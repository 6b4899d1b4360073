//! PostgreSQL and Redis, servers and gateways as processes of their own: a record that enters at any node reaches
//! consumers at all.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::{
    harness::{LIMIT, Node, Shared, account, gateway, http, npm_flow, server, subscribe},
    quic,
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Two servers, two gateways, and what they share.
struct Cluster {
    servers: [Node; 2],
    gateways: [Node; 2],
    shared: Shared,
}

impl Cluster {
    async fn start() -> Self {
        let shared = Shared::start().await;
        let server = async |name| shared.node(name, "ap,sm,dsm,ingest").await;
        let servers = [server("one").await, server("two").await];
        let gateway = async || Node::start(&gateway(), &[], &shared.variables()).await;
        let gateways = [gateway().await, gateway().await];
        Self { servers, gateways, shared }
    }
}

async fn consume(gateway: &Node, token: &str) -> Socket {
    connect_async(format!("{}?token={token}", gateway.at.wss2.as_deref().unwrap())).await.unwrap().0
}

async fn next(socket: &mut Socket) -> Value {
    loop {
        match timeout(LIMIT, socket.next()).await.expect("a message in time").unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

fn record(n: usize) -> String {
    format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#)
}

#[tokio::test]
async fn the_documented_flow_over_separate_processes() {
    let cluster = Cluster::start().await;
    let (a, b) = (&cluster.servers[0].at, &cluster.servers[1].at);
    // Accounts at one node, subscriptions and data at the other, producers and consumers at different gateways.
    let told = npm_flow(
        a.ap.as_deref().unwrap(),
        b.sm.as_deref().unwrap(),
        b.dsm.as_deref().unwrap(),
        cluster.gateways[0].at.wss1.as_deref().unwrap(),
        cluster.gateways[1].at.wss2.as_deref().unwrap(),
    )
    .await;
    assert!(told.ends_with("flow complete\n"), "{told}");
}

#[tokio::test]
async fn a_record_that_enters_anywhere_arrives_everywhere() {
    let cluster = Cluster::start().await;
    let [one, two] = &cluster.servers;
    let ap = one.at.ap.as_deref().unwrap();
    let producer = account(ap, "producer", "p").await;
    let consumer = account(ap, "consumer", "c").await;
    subscribe(two.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egresses = [consume(&cluster.gateways[0], &consumer.token).await, consume(&cluster.gateways[1], &consumer.token).await];

    // Over each gateway's WebSocket, each server's HTTP, and each server's QUIC.
    let mut n = 0;
    for gateway in &cluster.gateways {
        let (mut socket, _) = connect_async(format!("{}?token={}", gateway.at.wss1.as_deref().unwrap(), producer.token)).await.unwrap();
        socket.send(Message::text(record(n))).await.unwrap();
        assert_eq!(next(&mut socket).await["subscriberCount"], 1);
        n += 1;
    }
    for server in &cluster.servers {
        let posted = http()
            .post(format!("{}/data", server.at.dsm.as_deref().unwrap()))
            .bearer_auth(&producer.token)
            .header("content-type", "application/json")
            .body(record(n))
            .send()
            .await
            .unwrap();
        assert_eq!(posted.status(), 200);
        n += 1;
    }
    for server in &cluster.servers {
        let device = format!("quic-{n}");
        quic::send(server, &producer, &device, &record(n).replace(r#""d""#, &format!("\"{device}\""))).await;
        n += 1;
    }
    for egress in &mut egresses {
        for expected in 0..n {
            assert_eq!(next(egress).await["data"]["n"], expected, "in order, each once");
        }
    }
}

/// Waits until the gateway has failed to write, and tries again.
async fn retried(gateway: &Node) {
    let metrics = format!("{}metrics", gateway.at.producer_page.as_deref().unwrap());
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let text = http().get(&metrics).send().await.unwrap().text().await.unwrap();
        if text.lines().any(|line| line.starts_with("motience_append_retries_total") && !line.ends_with(" 0")) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the write is not tried: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn readiness_tells_what_is_away_and_delivery_survives_a_restart_of_redis() {
    let mut cluster = Cluster::start().await;
    let ap = cluster.servers[0].at.ap.clone().unwrap();
    let producer = account(&ap, "producer", "p").await;
    let consumer = account(&ap, "consumer", "c").await;
    subscribe(cluster.servers[0].at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = consume(&cluster.gateways[0], &consumer.token).await;
    let (mut ingress, _) =
        connect_async(format!("{}?token={}", cluster.gateways[1].at.wss1.as_deref().unwrap(), producer.token)).await.unwrap();
    ingress.send(Message::text(record(0))).await.unwrap();
    assert_eq!(next(&mut egress).await["data"]["n"], 0);
    assert_eq!(next(&mut ingress).await["type"], "ack");

    cluster.shared.redis.stop().await;
    let operations = cluster.servers[0].at.operations.clone().unwrap();
    let ready = http().get(format!("{operations}/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    assert!(ready.text().await.unwrap().contains("log"));
    // Sent while Redis is away: acknowledged once it is back.
    ingress.send(Message::text(record(1))).await.unwrap();
    retried(&cluster.gateways[1]).await;
    cluster.shared.redis.start_again().await;
    assert_eq!(next(&mut ingress).await["type"], "ack");
    assert_eq!(next(&mut egress).await["data"]["n"], 1);

    cluster.shared.postgres.stop().await;
    let ready = http().get(format!("{operations}/ready")).send().await.unwrap();
    assert_eq!(ready.status(), 503);
    // A dependency that is away is a 503 with Retry-After, never a 500.
    let login = http().post(format!("{ap}/login")).json(&serde_json::json!({"username": "p", "password": "pass123"})).send().await.unwrap();
    assert_eq!(login.status(), 503);
    assert!(login.headers().contains_key("retry-after"));
}

/// An answer over a connection that is closed after it: its status, and its body.
async fn answer(mut socket: TcpStream) -> (u16, Value) {
    let mut text = String::new();
    timeout(LIMIT, socket.read_to_string(&mut text)).await.expect("an answer in time").unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    let json = &text[text.find("\r\n\r\n").unwrap()..];
    (status, serde_json::from_str(&json[json.find('{').unwrap()..=json.rfind('}').unwrap()]).unwrap())
}

#[tokio::test]
async fn records_of_unknown_outcome_are_sent_again_under_their_key_and_stored_once() {
    let shared = Shared::start().await;
    let variables: Vec<_> = shared.variables().into_iter().chain([("APPEND_LIMIT", "1s")]).collect();
    let node = Node::start(server(), &[], &variables).await;
    let producer = account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    let at = node.at.dsm.as_deref().unwrap().trim_start_matches("http://");
    let begin = async || {
        let mut socket = TcpStream::connect(at).await.unwrap();
        let head = format!(
            "POST /data HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {}\r\ncontent-type: application/x-ndjson\r\nidempotency-key: k\r\n\
             transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
            producer.token
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket
    };
    let line = async |socket: &mut TcpStream, n: u64| {
        let line = format!("{}\n", record(n as usize));
        socket.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
    };
    let length = async || {
        let keys = shared.redis.command("KEYS *:log").await;
        let key = keys.lines().find(|line| line.ends_with(":log")).map(|line| line.trim().to_owned());
        match key {
            Some(key) => shared.redis.command(&format!("XLEN {key}")).await,
            None => String::new(),
        }
    };
    let mut socket = begin().await;
    line(&mut socket, 1).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !length().await.starts_with(":1") {
        assert!(tokio::time::Instant::now() < deadline, "the first line is not stored");
    }
    shared.redis.pause();
    line(&mut socket, 2).await;
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let (status, problem) = answer(socket).await;
    assert_eq!((status, &problem["code"], &problem["outcome"]), (503, &"log_away".into(), &"unknown".into()), "{problem}");
    assert_eq!((&problem["accepted"], &problem["last_line"]), (&1.into(), &1.into()), "{problem}");
    assert!(problem["retry"].as_str().unwrap().starts_with("Send the same again"), "{problem}");
    shared.redis.resume();
    let (mut status, mut told) = (0, Value::Null);
    while status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "{status} {told}");
        let mut socket = begin().await;
        line(&mut socket, 1).await;
        line(&mut socket, 2).await;
        socket.write_all(b"0\r\n\r\n").await.unwrap();
        (status, told) = answer(socket).await;
    }
    assert_eq!(told["accepted"], 2);
    assert!(length().await.starts_with(":2"), "{}", length().await);
}

/// Two tabs renew one login at once, each at another node: both get the same pair, and the login lives on.
#[tokio::test]
async fn a_login_that_is_renewed_at_two_nodes_at_once_lives_on() {
    let cluster = Cluster::start().await;
    let [one, two] = cluster.servers.each_ref().map(|server| server.at.ap.clone().unwrap());
    let body = serde_json::json!({"username": "p", "password": "pass123", "role": "producer"});
    assert_eq!(http().post(format!("{one}/register")).json(&body).send().await.unwrap().status(), 201);
    let mut pair: Value = http().post(format!("{one}/login")).json(&body).send().await.unwrap().json().await.unwrap();
    for _ in 0..10 {
        let renew = async |ap: &str| {
            let answer =
                http().post(format!("{ap}/refresh")).json(&serde_json::json!({"refresh_token": pair["refresh_token"]})).send().await;
            let answer = answer.unwrap();
            assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
            answer.json::<Value>().await.unwrap()
        };
        let (first, second) = tokio::join!(renew(&one), renew(&two));
        assert_eq!((&first["refresh_token"], &first["access_token"]), (&second["refresh_token"], &second["access_token"]));
        assert_ne!(first["refresh_token"], pair["refresh_token"]);
        pair = first;
    }
    let verified = http().get(format!("{two}/verify")).bearer_auth(pair["access_token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(verified.status(), 200);
}
