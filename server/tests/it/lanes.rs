//! Agreements of the device library and the server beyond plain records: compact forms, datagrams, first flights, sockets.

use motience_device::client::{Connector, Event, Lane, Session};
use motience_proto::{
    model::{ProducerEpoch, ProducerId, Seq},
    wire::{Intent, Record, Start},
};
use secrecy::SecretString;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    harness::{Account, LIMIT, Node, account, http, subscribe},
    quic::{acked, ap, connect, connector, event, following, record, record_of},
};

/// A weather station's reading, about 150 bytes.
fn reading(n: u64) -> String {
    format!(
        r#"{{"device_id":"d","timestamp":"2025-01-29T11:{:02}:{:02}.{:03}Z","data":{{"temperature":{}.{},"humidity":{},"pressure":1013.{:02},"wind":{{"speed":3.{},"direction":{}}}}}}}"#,
        n / 60 % 60,
        n % 60,
        n % 1000,
        15 + n % 10,
        n % 10,
        40 + n % 50,
        n % 100,
        n % 7,
        n % 360
    )
}

/// A node, its producer, and a native consumer that follows it.
async fn follow(variables: &[(&str, &str)]) -> (Node, Account, Session) {
    let node = Node::embedded(variables).await;
    let producer = account(ap(&node), "producer", "p").await;
    let consumer = account(ap(&node), "consumer", "c").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Live, "").await.unwrap();
    following(&mut egress, producer.id).await;
    (node, producer, egress)
}

async fn entries(egress: &mut Session, count: usize) -> Vec<motience_proto::wire::Entry> {
    let mut found = Vec::new();
    while found.len() < count {
        let Event::Entries { entries, .. } = event(egress).await.unwrap() else { panic!("entries only") };
        found.extend(entries);
    }
    found
}

async fn metric(node: &Node, name: &str) -> f64 {
    let text = http().get(format!("{}/metrics", node.at.operations.as_deref().unwrap())).send().await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default()
}

#[tokio::test]
async fn compact_records_arrive_as_the_very_same_text() {
    let (node, producer, mut egress) = follow(&[]).await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    let mut plain = 0;
    for n in 1..=300 {
        let json = reading(n);
        plain += json.len() as u64;
        device.send(Lane::Ordered, Record { seq: Seq(n), json: json.into() }).await.unwrap();
        // One after the other, so that the template is accepted early.
        acked(&mut device, n..=n).await;
    }
    let own = format!(r#""producer_id":"{}","#, producer.id);
    for entry in entries(&mut egress, 300).await {
        let message = String::from_utf8(entry.message.to_vec()).unwrap();
        assert_eq!(message.replacen(&own, "", 1), reading(entry.record_id.seq.0));
    }
    let sent = device.report().unwrap().first_bytes;
    assert!(sent < plain / 3, "{sent} bytes for {plain}");
}

#[tokio::test]
async fn datagrams_reach_consumers_and_are_counted() {
    let (node, producer, mut egress) = follow(&[]).await;
    let device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    for n in 1..=5 {
        assert!(device.send_latest(reading(n).into()));
        let [entry] = &entries(&mut egress, 1).await[..] else { panic!("one at a time") };
        let message: Value = serde_json::from_slice(&entry.message).unwrap();
        assert_eq!(message["data"]["humidity"], 40 + n);
    }
    assert!(!device.send_latest(vec![b' '; 100_000].into()), "no packet holds it");
    assert!((metric(&node, "motience_latest_received_total").await - 5.0).abs() < 0.5);
    assert!(metric(&node, "motience_latest_missing_total").await < 0.5);
}

#[tokio::test]
async fn records_travel_in_the_first_flight_of_a_device_that_comes_back() {
    let (node, producer, mut egress) = follow(&[]).await;
    let (connector, token) = (connector(&node, "d"), SecretString::from(producer.token.as_str()));
    let open = async |connector: &Connector, early: &[Record]| {
        timeout(LIMIT, connector.produce(&token, ProducerEpoch(7), early, false)).await.unwrap().unwrap()
    };
    let mut first = open(&connector, &[]).await;
    first.send(Lane::Independent, record(1)).await.unwrap();
    acked(&mut first, 1..=1).await;
    first.finish().await;
    assert!(connector.first_flight() >= 2);

    let mut second = open(&connector, &[record(2), record(3)]).await;
    assert_eq!((second.early(), connector.early()), (2, (1, 0)));
    acked(&mut second, 2..=3).await;
    second.send(Lane::Independent, record(4)).await.unwrap();
    acked(&mut second, 4..=4).await;
    let numbers: Vec<u64> = entries(&mut egress, 4).await.iter().map(|entry| entry.record_id.seq.0).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[tokio::test]
async fn connections_keep_their_socket_when_their_address_changes() {
    let (node, producer, _exit) = follow(&[("QUIC_SOCKETS", "3")]).await;
    let token = SecretString::from(producer.token.as_str());
    let mut devices = Vec::new();
    // Enough of them that all sockets are in use.
    for n in 0..12 {
        let connector = connector(&node, &format!("d{n}"));
        let session = timeout(LIMIT, connector.connect(&token, Intent::Produce, ProducerEpoch(1))).await.unwrap().unwrap();
        devices.push((connector, session));
    }
    for n in 1..=3 {
        for (at, (connector, session)) in devices.iter_mut().enumerate() {
            session.send(Lane::Independent, record_of(&format!("d{at}"), n)).await.unwrap();
            acked(session, n..=n).await;
            connector.rebind().unwrap();
        }
    }
}
