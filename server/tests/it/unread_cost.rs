//! Cost of a client that reads nothing, on each egress: while it catches up with a log and while it is live, with long records and with
//! short ones. Resident memory counts what the allocator keeps to itself too.
#![cfg(target_os = "linux")]

use std::{any::Any, time::Duration};

use futures_util::SinkExt as _;
use motience_proto::{
    model::{Order, ProducerId},
    wire::{Frame, Intent, Start, Subscribe},
};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    gateway::{Pair, pair},
    harness::{LIMIT, http},
    unread::{PATIENT, Raw, get_stream, memory, websocket},
    webtransport,
};

/// Connections that are there before any is measured, and those that are.
const FIRST: usize = 8;
const EACH: usize = 40;
/// More than a log keeps.
const FLOOD: usize = 20 << 20;
/// Bytes that a connection may cost; 512 KiB were measured at the most. When each waiting reader of a file took a thread, it was 6 MiB.
const MOST: u64 = 1 << 20;
/// Of a session of WebTransport, whose client takes a mebibyte into its windows before it stops: 960 KiB were measured.
const MOST_WEBTRANSPORT: u64 = 2 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Egress {
    Sse,
    Lines,
    V1,
    V2,
    Native,
    WebTransport,
}

type Held = Box<dyn Any + Send>;

async fn open(pair: &Pair, egress: Egress, earliest: bool) -> Held {
    let Pair { node, producer, consumer } = pair;
    let from = if earliest { "earliest" } else { "live" };
    match egress {
        Egress::Sse => Box::new(get_stream(node, consumer, "text/event-stream", &format!("?from={from}")).await),
        Egress::Lines => Box::new(get_stream(node, consumer, "application/x-ndjson", &format!("?from={from}")).await),
        Egress::V1 => Box::new(websocket(&format!("{}?token={}", node.at.wss2.as_deref().unwrap(), consumer.token), None).await),
        Egress::V2 => {
            let mut socket = websocket(&format!("{}?token={}&v=2", node.at.wss2.as_deref().unwrap(), consumer.token), None).await;
            if earliest {
                let resume = json!({"type": "resume", "cursors": {producer.id.to_string(): "earliest"}});
                socket.send(Message::text(resume.to_string())).await.unwrap();
            }
            Box::new(socket)
        }
        Egress::Native => {
            let mut raw = Raw::enter(node, &consumer.token, Intent::Consume, (64 << 10, 16)).await;
            let start = if earliest { Start::Earliest } else { Start::Live };
            let follow = Subscribe {
                producer: ProducerId(producer.id),
                start,
                cursor_name: String::new(),
                selection: String::new(),
                order: Order::Log,
            };
            raw.say(&[Frame::Subscribe(follow)]).await;
            Box::new(raw)
        }
        Egress::WebTransport => Box::new(webtransport::unread(node, consumer, producer, from).await),
    }
}

/// Posts as many records of this length as a log keeps, and more.
async fn flood(pair: &Pair, length: usize) {
    let record = json!({"device_id": "d", "timestamp": 1, "data": {"text": "x".repeat(length)}});
    let many = vec![record; (900 << 10) / (length + 100)];
    for _ in 0..FLOOD / (900 << 10) {
        let post = http().post(format!("{}/data", pair.node.at.dsm.as_deref().unwrap())).bearer_auth(&pair.producer.token);
        assert_eq!(post.json(&many).send().await.unwrap().status(), 200);
    }
}

/// Resident memory, once it has stood still for a second.
async fn at_rest(pair: &Pair) -> u64 {
    let (mut last, mut since, deadline) = (memory(&pair.node), Instant::now(), Instant::now() + LIMIT);
    while since.elapsed() < Duration::from_secs(1) {
        sleep(Duration::from_millis(50)).await;
        let now = memory(&pair.node);
        if now.abs_diff(last) > 256 << 10 {
            (last, since) = (now, Instant::now());
        }
        assert!(Instant::now() < deadline, "its memory does not come to rest");
    }
    memory(&pair.node)
}

/// Bytes for each connection.
async fn cost(egress: Egress, length: usize, live: bool) -> u64 {
    let settings = [&PATIENT[..], &[("MAX_CONNECTIONS_PER_ACCOUNT", "200"), ("LOG_RETENTION_BYTES", "16MiB")]].concat();
    let pair = pair(&settings).await;
    // The log puts survivors of full segments together, and holds a whole segment in memory for that: it has done so before anything is measured.
    for _ in 0..3 {
        flood(&pair, length).await;
    }
    let mut held = Vec::new();
    let mut before = 0;
    for count in [FIRST, EACH] {
        before = at_rest(&pair).await;
        if !live && held.is_empty() {
            flood(&pair, length).await;
        }
        for _ in 0..count {
            held.push(open(&pair, egress, !live).await);
        }
        if live {
            flood(&pair, length).await;
        }
    }
    at_rest(&pair).await.saturating_sub(before) / EACH as u64
}

async fn costs_little(egress: Egress) {
    let mut all = Vec::new();
    for (length, live) in [(60_000, false), (900, false), (60_000, true), (900, true)] {
        // The first form of consumers has no cursor, and is live alone.
        if live || egress != Egress::V1 {
            let each = cost(egress, length, live).await;
            println!("{egress:?}, records of {length} bytes, {}: {} KiB", if live { "live" } else { "catching up" }, each >> 10);
            all.push(each);
        }
    }
    let most = if egress == Egress::WebTransport { MOST_WEBTRANSPORT } else { MOST };
    assert!(all.iter().all(|&each| each <= most), "{egress:?} costs {all:?} bytes");
}

#[tokio::test]
async fn an_unread_stream_of_events_costs_little() {
    costs_little(Egress::Sse).await;
}

#[tokio::test]
async fn an_unread_stream_of_lines_costs_little() {
    costs_little(Egress::Lines).await;
}

#[tokio::test]
async fn an_unread_websocket_costs_little() {
    costs_little(Egress::V1).await;
}

#[tokio::test]
async fn an_unread_websocket_with_cursors_costs_little() {
    costs_little(Egress::V2).await;
}

#[tokio::test]
async fn an_unread_native_consumer_costs_little() {
    costs_little(Egress::Native).await;
}

#[tokio::test]
async fn an_unread_webtransport_session_costs_little() {
    costs_little(Egress::WebTransport).await;
}
