//! `order=device`: what arrived in the log as a lossy link let it, delivered as the device numbered it.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use motience_device::client::{Lane, Session};
use motience_proto::{
    model::Seq,
    wire::{Intent, Record},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Error, Message},
};

use crate::{
    gateway::{Pair, Socket, consume, next_json, pair},
    quic::{acked, connect},
};

/// Sends records one by one, so that they stand in the log in this order.
pub(crate) async fn log(device: &mut Session, numbers: impl IntoIterator<Item = u64>) {
    log_of("d", device, numbers).await;
}

/// A record of another device.
async fn log_of(name: &str, device: &mut Session, numbers: impl IntoIterator<Item = u64>) {
    for n in numbers {
        let json = format!(r#"{{"device_id":"{name}","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
        device.send(Lane::Independent, Record { seq: Seq(n), json: json.into() }).await.unwrap();
        acked(device, n..=n).await;
    }
}

async fn say(socket: &mut Socket, message: &Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// The next records: number, offset, and the offset in the cursor.
async fn next(socket: &mut Socket, count: usize) -> Vec<(u64, u64, u64)> {
    let mut records = Vec::new();
    while records.len() < count {
        let message: Value = next_json(socket).await;
        let number = message["data"]["n"].as_u64().unwrap_or_else(|| panic!("{message}"));
        let cursor = message["cursor"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        records.push((number, message["offset"].as_u64().unwrap(), cursor));
    }
    records
}

#[tokio::test]
async fn records_are_put_into_the_devices_order_and_cursors_never_lie_beyond_one_held_back() {
    let Pair { node, producer, consumer } = pair(&[("ORDER_WAIT", "1m")]).await;
    let mut egress = consume(&node, &consumer, "&v=2&order=device").await;
    let mut plain = consume(&node, &consumer, "&v=2").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    log(&mut device, [1, 3, 4, 2, 5]).await;
    assert_eq!(next(&mut plain, 5).await, [(1, 1, 1), (3, 2, 2), (4, 3, 3), (2, 4, 4), (5, 5, 5)]);
    assert_eq!(next(&mut egress, 5).await, [(1, 1, 1), (2, 4, 1), (3, 2, 2), (4, 3, 4), (5, 5, 5)]);
}

#[tokio::test]
async fn a_record_that_never_comes_is_waited_for_once_and_a_resume_has_no_hole() {
    let Pair { node, producer, consumer } = pair(&[("ORDER_WAIT", "300ms")]).await;
    let mut egress = consume(&node, &consumer, "&v=2&order=device&durable=app").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    log(&mut device, [1, 3]).await;
    let begun = Instant::now();
    assert_eq!(next(&mut egress, 1).await, [(1, 1, 1)]);
    assert_eq!(next(&mut egress, 1).await, [(3, 2, 2)]);
    assert!(begun.elapsed() < Duration::from_secs(20), "the wait is over long before");
    log(&mut device, [4, 2]).await;
    assert_eq!(next(&mut egress, 2).await, [(4, 3, 3), (2, 4, 4)]);
}

#[tokio::test]
async fn a_durable_cursor_stops_before_what_is_held_back() {
    let Pair { node, producer, consumer } = pair(&[("ORDER_WAIT", "1m")]).await;
    let mut egress = consume(&node, &consumer, "&v=2&order=device&durable=app").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    // A second sender's record comes out while the first one's third is held back.
    log(&mut device, [1, 3]).await;
    let mut other = connect(&node, &producer.token, "e", Intent::Produce, 8).await.unwrap();
    log_of("e", &mut other, [1]).await;
    let first = next_json(&mut egress).await;
    let epoch = first["cursor"].as_str().unwrap().split('-').next().unwrap().to_owned();
    assert_eq!(next(&mut egress, 1).await, [(1, 3, 1)]);
    // A careless consumer confirms what it saw by its offset.
    let confirm = json!({"type": "confirm", "cursors": {producer.id.to_string(): format!("{epoch}-3")}});
    say(&mut egress, &confirm).await;
    say(&mut egress, &json!({"type": "ping"})).await;
    assert_eq!(next_json(&mut egress).await["type"], "pong");
    egress.close(None).await.unwrap();
    while egress.next().await.is_some() {}
    let mut again = consume(&node, &consumer, "&v=2&durable=app").await;
    assert_eq!(next(&mut again, 2).await, [(3, 2, 2), (1, 3, 3)]);
}

#[tokio::test]
async fn an_order_that_does_not_exist_or_lacks_v2_is_refused() {
    let Pair { node, consumer, .. } = pair(&[]).await;
    for query in ["&v=2&order=sideways", "&order=device"] {
        let refused = connect_async(format!("{}?token={}{query}", node.at.wss2.as_deref().unwrap(), consumer.token)).await;
        let Err(Error::Http(answer)) = refused else { panic!("{query} is refused") };
        assert_eq!(answer.status(), 400);
        let problem: Value = serde_json::from_slice(answer.body().as_deref().unwrap()).unwrap();
        assert_eq!(problem["field"], "order");
    }
    let mut egress = consume(&node, &consumer, "&order=log").await;
    say(&mut egress, &json!({"type": "ping"})).await;
    assert_eq!(next_json(&mut egress).await["type"], "pong");
}
