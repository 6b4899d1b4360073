//! The promises of delivery, seen from outside: crashes, cursors that the server keeps, consumers that do not read.

use futures_util::SinkExt as _;
use motience_device::client::{Event, Lane, Session};
use motience_proto::{
    model::{Cursor, ProducerId},
    wire::{Entry, Intent, Record, Start},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    gateway::{Pair, Socket, consume, next_json, pair, produce, record},
    harness::{Node, account, http, subscribe},
    quic::{acked, ap, connect, event, record as numbered},
};

/// A node that is started again must know the tokens it gave out.
const SECRET: (&str, &str) = ("JWT_SECRET", "a secret of tests, long enough to pass");

async fn send(device: &mut Session, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers.clone() {
        device.send(Lane::Ordered, numbered(n)).await.unwrap();
    }
    acked(device, numbers).await;
}

/// The next `count` entries of a follow, and the cursor behind them.
async fn entries(session: &mut Session, count: usize) -> (Vec<Entry>, Cursor) {
    let (mut got, mut place) = (Vec::new(), Cursor::default());
    while got.len() < count {
        match event(session).await.unwrap() {
            Event::Cursor(said) => place = said.cursor,
            Event::Entries { entries, .. } => got.extend(entries),
            Event::Followed { refusal, .. } => assert_eq!(refusal, ""),
            other => panic!("{other:?}"),
        }
    }
    place.offset = got.last().map_or(place.offset, |entry| entry.offset);
    (got, place)
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.record_id.seq.0).collect()
}

#[tokio::test]
async fn a_killed_node_has_what_it_acknowledged_and_readers_go_on() {
    let node = Node::embedded(&[SECRET]).await;
    let (producer, consumer) = (account(ap(&node), "producer", "p").await, account(ap(&node), "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let p = ProducerId(producer.id);
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    send(&mut device, 1..=100).await;
    let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(p, Start::Earliest, "").await.unwrap();
    let (first, mut place) = entries(&mut egress, 100).await;
    assert_eq!(numbers(&first), (1..=100).collect::<Vec<_>>());
    place.offset.0 -= 10;
    drop((device, egress));

    let node = node.crash(&[SECRET]).await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    assert_eq!(device.welcome().seen.to_string(), "1-100");
    send(&mut device, 101..=110).await;
    let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(p, Start::After(place), "").await.unwrap();
    let (rest, again) = entries(&mut egress, 20).await;
    assert_eq!(numbers(&rest), (91..=110).collect::<Vec<_>>(), "each once, behind the cursor");
    assert_ne!(again.log_epoch, place.log_epoch, "a log that was killed says so");
}

#[tokio::test]
async fn a_native_cursor_that_the_server_keeps_moves_when_it_is_confirmed() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = (account(ap(&node), "producer", "p").await, account(ap(&node), "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let p = ProducerId(producer.id);
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    send(&mut device, 1..=10).await;
    let mut expected = 1;
    for confirmed in [4, 4, 10] {
        let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
        egress.subscribe(p, Start::Earliest, "books").await.unwrap();
        let (got, mut place) = entries(&mut egress, 11 - expected as usize).await;
        assert_eq!(numbers(&got), (expected..=10).collect::<Vec<_>>());
        place.offset.0 = confirmed;
        egress.confirm(p, place).await.unwrap();
        cursor_stands_at(&node, &consumer.token, &place.to_string()).await;
        egress.finish().await;
        expected = confirmed + 1;
    }
    let mut nameless = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    nameless.subscribe(p, Start::Live, "no blanks please").await.unwrap();
    let Event::Followed { refusal, .. } = event(&mut nameless).await.unwrap() else { panic!("an answer") };
    assert_eq!(refusal, "invalid_cursor_name");
}

#[tokio::test]
async fn a_websocket_consumer_goes_on_where_it_confirmed() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut ingress = produce(&node, &producer).await;
    let mut egress = consume(&node, &consumer, "&v=2&durable=books").await;
    let mut cursor = String::new();
    for n in 0..10 {
        ingress.send(record(n, 1)).await.unwrap();
        let message = next_json(&mut egress).await;
        assert_eq!(message["data"]["n"], n);
        if n == 6 {
            cursor = message["cursor"].as_str().unwrap().to_owned();
        }
    }
    say(&mut egress, json!({"type": "confirm", "cursors": {producer.id.to_string(): cursor}})).await;
    cursor_stands_at(&node, &consumer.token, &cursor).await;
    drop(egress);
    let mut again = consume(&node, &consumer, "&v=2&durable=books").await;
    for n in 7..10 {
        assert_eq!(next_json(&mut again).await["data"]["n"], n);
    }
    let mut other = consume(&node, &consumer, "&v=2").await;
    say(&mut other, json!({"type": "confirm", "cursors": {producer.id.to_string(): cursor}})).await;
    assert_eq!(next_json(&mut other).await["code"], "not_durable");
    say(&mut other, json!({"type": "resume", "cursors": {producer.id.to_string(): "earliest"}})).await;
    for n in 0..10 {
        assert_eq!(next_json(&mut other).await["data"]["n"], n);
    }
}

#[tokio::test]
async fn a_record_that_a_websocket_producer_names_twice_is_written_once() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let mut egress = consume(&node, &consumer, "").await;
    let mut ingress = produce(&node, &producer).await;
    for (seq, id) in [(1, "a"), (2, "a"), (3, "b")] {
        say(&mut ingress, json!({"type": "data", "id": id, "payload": {"n": seq}})).await;
        assert_eq!(next_json(&mut ingress).await, json!({"type": "ack", "seq": seq, "id": id, "subscriberCount": 1}));
    }
    // After a break nobody knows whether the last one arrived: the same name again settles it.
    drop(ingress);
    let mut ingress = produce(&node, &producer).await;
    for id in ["b", "c"] {
        say(&mut ingress, json!({"type": "data", "id": id, "payload": {"n": id}})).await;
        assert_eq!(next_json(&mut ingress).await["id"], id);
    }
    for n in [json!(1), json!(3), json!("c")] {
        assert_eq!(next_json(&mut egress).await["data"]["n"], n);
    }
    say(&mut ingress, json!({"type": "data", "id": "x".repeat(200), "payload": {"n": 1}})).await;
    assert_eq!(next_json(&mut ingress).await["code"], "invalid_id");
}

#[tokio::test]
async fn who_reads_nothing_delays_nobody_and_misses_nothing() {
    const RECORDS: u64 = 30_000;
    let Pair { node, producer, consumer } = pair(&[("RING_BYTES", "64KiB"), ("LOG_RETENTION_BYTES", "64MiB")]).await;
    let mut slow = consume(&node, &consumer, "&v=2").await;
    let mut quick = consume(&node, &consumer, "&v=2").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    let sender = tokio::spawn(async move {
        for n in 1..=RECORDS {
            let json = format!(r#"{{"device_id":"d","timestamp":1,"data":{{"n":{n},"pad":"{n:0>500}"}}}}"#);
            device.send(Lane::Ordered, Record { json: json.into(), ..numbered(n) }).await.unwrap();
        }
        acked(&mut device, 1..=RECORDS).await;
    });
    // Far more than sockets and rings hold.
    for reader in [&mut quick, &mut slow] {
        for n in 1..=RECORDS {
            assert_eq!(next_json(reader).await["offset"], n);
        }
    }
    sender.await.unwrap();
}

async fn say(socket: &mut Socket, message: Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// Waits until the kept cursor says so, as its owner sees it.
pub(crate) async fn cursor_stands_at(node: &Node, token: &str, cursor: &str) {
    let deadline = tokio::time::Instant::now() + crate::harness::LIMIT;
    loop {
        let answer = http().get(format!("{}/cursors", node.at.dsm.as_deref().unwrap())).bearer_auth(token).send().await.unwrap();
        let kept: Value = answer.json().await.unwrap();
        if kept[0]["cursor"] == cursor && kept[0]["name"] == "books" {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{cursor} is not kept: {kept}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
