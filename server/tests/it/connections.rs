//! Live connections as operators see them, and the end of one of them: on every transport, and on whichever node has it.

use std::{collections::BTreeSet, time::Duration};

use axum::http::Method;
use motience_device::client::Lane;
use motience_proto::wire::{CloseCode, Intent};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    gateway::{Pair, consume, pair, produce},
    h3,
    harness::{LIMIT, Shared, account, http},
    keys::{self, closed, rest},
    operators::root,
    quic::{acked, closed_with, connect, record_of},
    tunnel, webtransport,
};

/// An operator and the service that it asks.
struct Operator {
    dsm: String,
    token: String,
}

impl Operator {
    async fn ask(&self, query: &str) -> Value {
        let url = reqwest::Url::parse_with_params(&format!("{}/connections", self.dsm), [("query", query)]).unwrap();
        let answer = http().get(url).bearer_auth(&self.token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// Asks until so many connections match.
    async fn until(&self, query: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let told = self.ask(query).await;
            if told["total"] == count {
                return told["connections"].as_array().unwrap().clone();
            }
            assert!(Instant::now() < deadline, "{query}: {told}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn end(&self, id: &str) -> u16 {
        http().delete(format!("{}/connections/{id}", self.dsm)).bearer_auth(&self.token).send().await.unwrap().status().as_u16()
    }

    /// Ends the only connection that matches.
    async fn end_only(&self, query: &str) {
        let found = self.until(query, 1).await;
        assert_eq!(self.end(found[0]["id"].as_str().unwrap()).await, 204);
    }
}

#[tokio::test]
async fn every_way_in_is_listed_and_one_connection_of_it_ends() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let operator =
        Operator { dsm: node.at.dsm.clone().unwrap(), token: root(node.dir.path(), &[], node.at.ap.as_deref().unwrap()).await.token };
    let mut device = connect(&node, &producer.token, "pump-7", Intent::Produce, 7).await.unwrap();
    device.send(Lane::Independent, record_of("pump-7", 1)).await.unwrap();
    acked(&mut device, 1..=1).await;
    let shown = operator.until("PUMP", 1).await;
    let expected = json!({
        "id": shown[0]["id"], "node": shown[0]["node"], "user_id": producer.id, "username": "p", "role": "producer", "device_id": "pump-7",
        "transport": "quic", "address": "127.0.0.1", "since": shown[0]["since"], "records": 1,
    });
    assert_eq!(shown, [expected]);
    let mut reader = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    let mut in_tunnel = tunnel::open(&node).await;
    in_tunnel.enter(tunnel::hello(&producer.token, "through", 7)).await;
    let session = webtransport::Client::hello(&node, &consumer.token).await;
    let down = keys::stream(&node, &consumer.token, "text/event-stream").await;
    let mut up = TcpStream::connect(operator.dsm.strip_prefix("http://").unwrap()).await.unwrap();
    let (token, line) = (&producer.token, "{\"type\":\"ping\"}\n");
    let head = format!(
        "POST /data HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\ncontent-type: application/x-ndjson\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    up.write_all(format!("{head}{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.unwrap();
    let (mut wss1, mut wss2) = (produce(&node, &producer).await, consume(&node, &consumer, "&v=2").await);
    let all = operator.until("", 8).await;
    let ways: BTreeSet<String> =
        all.iter().map(|one| format!("{} {}", one["role"].as_str().unwrap(), one["transport"].as_str().unwrap())).collect();
    let expected = ["consumer http", "consumer quic", "consumer webtransport", "consumer websocket", "producer http", "producer quic"];
    assert_eq!(ways, expected.into_iter().chain(["producer tunnel", "producer websocket"]).map(str::to_owned).collect());

    let soon = async |what: &str, ended: &mut (dyn Future<Output = ()> + Unpin)| {
        timeout(Duration::from_secs(1), ended).await.unwrap_or_else(|_| panic!("{what} ends within a second"));
    };
    let end = async |way: (&str, &str)| {
        let one = all.iter().find(|one| (one["role"].as_str().unwrap(), one["transport"].as_str().unwrap()) == way).unwrap();
        assert_eq!(operator.end(one["id"].as_str().unwrap()).await, 204);
    };
    end(("producer", "quic")).await;
    soon("a device", &mut Box::pin(async { assert_eq!(closed_with(&mut device).await, CloseCode::RateLimited) })).await;
    end(("consumer", "quic")).await;
    soon("a native consumer", &mut Box::pin(async { assert_eq!(closed_with(&mut reader).await, CloseCode::RateLimited) })).await;
    end(("producer", "tunnel")).await;
    let told = (4106, "an operator ended this connection".to_owned());
    soon("a tunnel", &mut Box::pin(async { assert_eq!(in_tunnel.closed().await, told) })).await;
    end(("consumer", "webtransport")).await;
    let told = (4429, "an operator ended this connection".to_owned());
    soon("a session", &mut Box::pin(async { assert_eq!(session.closed().await, told) })).await;
    end(("consumer", "http")).await;
    soon("a stream down", &mut Box::pin(async { assert!(rest(down).await.contains("ended_by_operator")) })).await;
    end(("producer", "http")).await;
    let mut answer = String::new();
    soon("an upload", &mut Box::pin(async { assert!(up.read_to_string(&mut answer).await.is_ok()) })).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"ended_by_operator\""), "{answer}");
    end(("producer", "websocket")).await;
    soon("a producer's socket", &mut Box::pin(async { assert_eq!(closed(&mut wss1).await, 1013) })).await;
    // One of eight was left, and stays until it is meant.
    operator.until("", 1).await;
    end(("consumer", "websocket")).await;
    soon("a consumer's socket", &mut Box::pin(async { assert_eq!(closed(&mut wss2).await, 1013) })).await;

    for (id, status) in [("0123456789abcdef", 404), ("nobody", 404)] {
        assert_eq!(operator.end(id).await, status);
    }
    let acts = http().get(format!("{}/acts", node.at.sm.as_deref().unwrap())).bearer_auth(&operator.token).send().await.unwrap();
    let acts: Vec<Value> = acts.json().await.unwrap();
    let ends: Vec<_> = acts.iter().filter(|act| act["act"] == "connection.end").collect();
    assert_eq!(ends.len(), 8);
    let first = ends.last().unwrap();
    assert_eq!((&first["detail"]["device"], &first["detail"]["transport"]), (&json!("pump-7"), &json!("quic")));
    assert_eq!(first["object"], format!("connection:{}", shown[0]["id"].as_str().unwrap()));
    // Whoever was ended may come back.
    connect(&node, &producer.token, "pump-7", Intent::Produce, 8).await.unwrap();
    // Others than operators see nothing.
    let other = http().get(format!("{}/connections", operator.dsm)).bearer_auth(&consumer.token).send().await.unwrap();
    assert_eq!(other.status(), 403);
    let other = http().request(Method::DELETE, format!("{}/connections/0123456789abcdef", operator.dsm)).bearer_auth(&consumer.token);
    assert_eq!(other.send().await.unwrap().status(), 403);
    // HTTP/3 itself says nothing of who it is of, so it is none of them.
    let _idle = h3::Client::connect(&node).await;
    assert!(operator.ask("").await["total"].as_u64().unwrap() <= 1);
}

#[tokio::test]
async fn any_node_lists_the_connections_of_all_and_ends_those_of_another() {
    let shared = Shared::start().await;
    let (one, mut two) = (shared.node("one", "ap,dsm,ingest").await, shared.node("two", "ap,dsm,ingest").await);
    let ap = one.at.ap.as_deref().unwrap();
    let operator = Operator { dsm: one.at.dsm.clone().unwrap(), token: root(one.dir.path(), &shared.variables(), ap).await.token };
    let producer = account(ap, "producer", "p").await;
    let mut here = connect(&one, &producer.token, "here", Intent::Produce, 7).await.unwrap();
    let mut there = connect(&two, &producer.token, "there", Intent::Produce, 7).await.unwrap();
    let found = operator.until("", 2).await;
    let places: BTreeSet<(&str, &str)> =
        found.iter().map(|one| (one["device_id"].as_str().unwrap(), one["node"].as_str().unwrap())).collect();
    assert_eq!(places, BTreeSet::from([("here", "one"), ("there", "two")]));
    assert_eq!(operator.until("two", 1).await[0]["device_id"], "there", "by the name of the node");
    operator.end_only("there").await;
    let code = timeout(Duration::from_secs(1), closed_with(&mut there)).await.expect("within a second, on the other node");
    assert_eq!(code, CloseCode::RateLimited);
    here.send(Lane::Independent, record_of("here", 1)).await.unwrap();
    acked(&mut here, 1..=1).await;
    // A node that does not answer is named, so that nobody takes a part of the list for all of it.
    two.signal("STOP");
    let told = operator.ask("").await;
    assert_eq!((&told["silent"], &told["total"]), (&json!(["two"]), &json!(1)));
    two.signal("CONT");
    two.process.kill().await.unwrap();
}
