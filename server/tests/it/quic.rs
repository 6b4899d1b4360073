//! motience/1 over real sockets, by the native client.

use std::time::Duration;

use futures_util::SinkExt as _;
use motience_certs::Trust;
use motience_device::client::{Config, Connector, Error, Event, Lane, Session};
use motience_proto::{
    model::{DeviceId, ProducerEpoch, ProducerId, RangeSet, Seq},
    wire::{CloseCode, Intent, Record, Start},
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Account, LIMIT, Node, PASSWORD, account, agent, http, subscribe};

pub(crate) fn connector(node: &Node, device: &str) -> Connector {
    Connector::new(config(node, device)).unwrap()
}

pub(crate) fn config(node: &Node, device: &str) -> Config {
    let server = node.at.quic.as_deref().unwrap().parse().unwrap();
    Config::new(server, Trust::Ca(node.at.ca.clone().unwrap()), DeviceId::new(device).unwrap())
}

pub(crate) async fn connect(node: &Node, token: &str, device: &str, intent: Intent, epoch: u64) -> Result<Session, Error> {
    timeout(LIMIT, connector(node, device).connect(&SecretString::from(token), intent, ProducerEpoch(epoch))).await.unwrap()
}

pub(crate) async fn event(session: &mut Session) -> Result<Event, Error> {
    timeout(LIMIT, session.next()).await.expect("an event in time")
}

pub(crate) fn record(n: u64) -> Record {
    record_of("d", n)
}

/// A connector of another device.
pub(crate) fn record_of(device: &str, n: u64) -> Record {
    let json = format!(r#"{{"device_id":"{device}","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
    Record { seq: Seq(n), json: json.into() }
}

/// Waits until all of `numbers` are acknowledged.
pub(crate) async fn acked(session: &mut Session, numbers: std::ops::RangeInclusive<u64>) {
    let mut ranges = RangeSet::new();
    while !numbers.clone().all(|n| ranges.contains(n)) {
        match event(session).await.unwrap() {
            Event::Acked(more) => more.iter().for_each(|r| ranges.insert_range(r)),
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until the follow of `producer` has begun. The answer and the first cursor come on streams of their own, in either order.
pub(crate) async fn following(session: &mut Session, producer: i64) {
    let (mut answered, mut begun) = (false, false);
    while !(answered && begun) {
        match event(session).await.unwrap() {
            Event::Followed { producer: which, refusal } => {
                assert_eq!((which, refusal.as_str()), (ProducerId(producer), ""));
                answered = true;
            }
            Event::Cursor(said) => {
                assert_eq!(said.producer, ProducerId(producer));
                begun = true;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Sends one record and waits until it is acknowledged.
pub(crate) async fn send(node: &Node, producer: &Account, device: &str, json: &str) {
    let mut session = connect(node, &producer.token, device, Intent::Produce, 1).await.unwrap();
    session.send(Lane::Independent, Record { seq: Seq(1), json: json.to_owned().into() }).await.unwrap();
    acked(&mut session, 1..=1).await;
    session.finish().await;
}

pub(crate) async fn closed_with(session: &mut Session) -> CloseCode {
    loop {
        match event(session).await {
            Ok(_) => {}
            Err(Error::Closed { code, .. }) => return code,
            Err(other) => panic!("{other:?}"),
        }
    }
}

pub(crate) fn ap(node: &Node) -> &str {
    node.at.ap.as_deref().unwrap()
}

#[tokio::test]
async fn records_on_both_lanes_reach_a_native_consumer_once() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let consumer = account(ap(&node), "consumer", "c").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Live, "").await.unwrap();
    following(&mut egress, producer.id).await;

    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    assert_eq!(device.welcome().durability, "file");
    for n in 1..=500 {
        device.send(if n % 2 == 0 { Lane::Ordered } else { Lane::Independent }, record(n)).await.unwrap();
        if n % 10 == 0 {
            // A retry of a running request changes nothing.
            device.send(Lane::Independent, record(n)).await.unwrap();
        }
    }
    acked(&mut device, 1..=500).await;

    let mut seen = RangeSet::new();
    let mut next_offset = 1;
    while seen.prefix() < 500 {
        let Event::Entries { entries, .. } = event(&mut egress).await.unwrap() else { panic!("entries only") };
        for entry in entries {
            assert_eq!(entry.offset.0, next_offset, "offsets have no holes");
            next_offset += 1;
            let message: Value = serde_json::from_slice(&entry.message).unwrap();
            assert_eq!((entry.record_id.producer_epoch, entry.record_id.seq.0), (ProducerEpoch(7), message["data"]["n"].as_u64().unwrap()));
            assert_eq!(message["producer_id"], producer.id.to_string());
            assert!(seen.insert(message["data"]["n"].as_u64().unwrap()), "each once");
        }
    }
    assert_eq!(next_offset, 501);
}

#[tokio::test]
async fn a_device_that_comes_back_takes_over_and_learns_what_is_in() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let mut first = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    for n in [1, 2, 5] {
        first.send(Lane::Ordered, record(n)).await.unwrap();
    }
    let mut ranges = RangeSet::new();
    while ranges.to_string() != "1-2,5" {
        let Event::Acked(more) = event(&mut first).await.unwrap() else { panic!("acknowledgements only") };
        more.iter().for_each(|r| ranges.insert_range(r));
    }
    let second = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    assert_eq!(second.welcome().seen.to_string(), "1-2,5");
    assert!(second.welcome().fence > first.welcome().fence);
    assert_eq!(closed_with(&mut first).await, CloseCode::Fenced);
    let reborn = connect(&node, &producer.token, "d", Intent::Produce, 8).await.unwrap();
    assert!(reborn.welcome().seen.is_empty());
}

#[tokio::test]
async fn a_bad_record_is_refused_by_name_and_the_rest_goes_on() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    device.send(Lane::Ordered, Record { seq: Seq(1), json: r#"{"producer_id":"9","data":1}"#.into() }).await.unwrap();
    device.send(Lane::Ordered, record(2)).await.unwrap();
    let (mut refused, mut accepted) = (false, false);
    while !(refused && accepted) {
        match event(&mut device).await.unwrap() {
            Event::Refused(r) => {
                assert_eq!((r.seq, r.code.as_str()), (Seq(1), "unknown_field"));
                refused = true;
            }
            Event::Acked(ranges) => {
                assert_eq!(ranges.to_string(), "2");
                accepted = true;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_device_speaks_for_itself_only() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let consumer = account(ap(&node), "consumer", "c").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = crate::gateway::consume(&node, &consumer, "").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    // In a datagram there is nobody to be told.
    assert!(device.send_latest(record_of("e", 9).json));
    for (seq, of) in [(1, "e"), (2, "d")] {
        device.send(Lane::Ordered, Record { seq: Seq(seq), ..record_of(of, seq) }).await.unwrap();
    }
    let (mut refused, mut accepted) = (false, false);
    while !(refused && accepted) {
        match event(&mut device).await.unwrap() {
            Event::Refused(r) => {
                assert_eq!((r.seq, r.code.as_str()), (Seq(1), "wrong_device"));
                refused = true;
            }
            Event::Acked(ranges) => accepted |= ranges.contains(2),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(crate::gateway::next_json(&mut egress).await["device_id"], "d");

    // Where the operator says so, a device may carry others' records.
    let gateway = Node::embedded(&[("STRICT_NATIVE_DEVICE", "false")]).await;
    let producer = account(ap(&gateway), "producer", "p").await;
    send(&gateway, &producer, "d", std::str::from_utf8(&record_of("e", 1).json).unwrap()).await;
}

#[tokio::test]
async fn an_account_of_one_device_speaks_for_that_one_on_every_way_in() {
    let node = Node::embedded(&[("STRICT_DEVICE", "true")]).await;
    let body = json!({"username": "one", "password": PASSWORD, "role": "producer", "device_id": "d"});
    let made: Value = http().post(format!("{}/register", ap(&node))).json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(made["strict_device"], true);
    let login: Value = http().post(format!("{}/login", ap(&node))).json(&body).send().await.unwrap().json().await.unwrap();
    let producer =
        Account { id: made["id"].as_i64().unwrap(), username: "one".to_owned(), token: login["access_token"].as_str().unwrap().to_owned() };
    send(&node, &producer, "d", std::str::from_utf8(&record(1).json).unwrap()).await;
    match connect(&node, &producer.token, "e", Intent::Produce, 1).await {
        Err(Error::Closed { code, reason }) => {
            assert!(code == CloseCode::Forbidden && reason.starts_with("wrong_device"), "{code:?} {reason}");
        }
        other => panic!("{other:?}"),
    }
    let mut socket = crate::gateway::produce(&node, &producer).await;
    for (json, code) in [
        (r#"{"device_id":"e","timestamp":1,"data":1}"#, Some("wrong_device")),
        (r#"{"type":"data","device_id":"e","payload":{"t":1}}"#, Some("wrong_device")),
        (r#"{"type":"data","payload":{"t":1}}"#, None),
    ] {
        socket.send(Message::text(json)).await.unwrap();
        assert_eq!(crate::gateway::next_json(&mut socket).await["code"].as_str(), code, "{json}");
        for kind in ["application/json", "application/x-ndjson"] {
            let post = http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&producer.token);
            let answer = post.header("content-type", kind).body(json).send().await.unwrap();
            assert_eq!(answer.status(), if code.is_some() { 403 } else { 200 }, "{kind} {json}");
            assert_eq!(answer.json::<Value>().await.unwrap()["code"].as_str(), code, "{kind} {json}");
        }
    }
}

#[tokio::test]
async fn who_may_not_come_in_is_told_why() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let consumer = account(ap(&node), "consumer", "c").await;
    for (token, intent, expected) in [
        ("nonsense", Intent::Produce, CloseCode::Unauthenticated),
        (consumer.token.as_str(), Intent::Produce, CloseCode::Forbidden),
        (producer.token.as_str(), Intent::Consume, CloseCode::Forbidden),
    ] {
        match connect(&node, token, "d", intent, 1).await {
            Err(Error::Closed { code, .. }) => assert_eq!(code, expected),
            other => panic!("{other:?}"),
        }
    }
    // A consumer without a subscription is let in, and told that it may not follow.
    let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Earliest, "").await.unwrap();
    let Event::Followed { refusal, .. } = event(&mut egress).await.unwrap() else { panic!("an answer") };
    assert_eq!(refusal, "not_subscribed");
}

#[tokio::test]
async fn a_token_is_renewed_in_band_and_its_end_ends_the_connection() {
    let node = Node::embedded(&[("JWT_EXPIRES_IN", "3s")]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    assert!(device.welcome().token_expires_in <= 3);
    let body = json!({"username": "p", "password": PASSWORD});
    let login: Value = http().post(format!("{}/login", ap(&node))).json(&body).send().await.unwrap().json().await.unwrap();
    device.renew(&SecretString::from(login["access_token"].as_str().unwrap())).await.unwrap();
    assert!(matches!(event(&mut device).await.unwrap(), Event::TokenAccepted(_)));
    assert_eq!(closed_with(&mut device).await, CloseCode::Unauthenticated);
}

#[tokio::test]
async fn a_draining_node_asks_devices_to_leave() {
    let mut node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    device.send(Lane::Ordered, record(1)).await.unwrap();
    acked(&mut device, 1..=1).await;
    node.signal("TERM");
    assert_eq!(event(&mut device).await.unwrap(), Event::Drain);
    // Records that come while the node drains are still taken.
    device.send(Lane::Ordered, record(2)).await.unwrap();
    acked(&mut device, 2..=2).await;
    device.finish().await;
    assert_eq!(node.ended().await, 0);
}

#[tokio::test]
async fn the_agent_streams_this_machine_and_stops_cleanly() {
    let node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let consumer = account(ap(&node), "consumer", "c").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Live, "").await.unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let mut running = Command::new(agent());
    running
        .current_dir(dir.path())
        .env_clear()
        .env("DEVICE_ID", "rpi_001")
        .env("USERNAME", &producer.username)
        .env("PASSWORD", PASSWORD)
        .env("AUTH_URL", ap(&node))
        .env("SERVER_URL", format!("quic://{}", node.at.quic.as_deref().unwrap()))
        .env("SEND_INTERVAL_SECS", "1")
        .env("RUST_LOG", "warn")
        .env("STATE_DIR", dir.path())
        .arg("--ca")
        .arg(node.at.ca.as_deref().unwrap())
        .kill_on_drop(true);
    let mut running = running.spawn().unwrap();
    let message: Value = loop {
        if let Event::Entries { entries, .. } = event(&mut egress).await.unwrap() {
            break serde_json::from_slice(&entries[0].message).unwrap();
        }
    };
    assert_eq!(message["device_id"], "rpi_001");
    assert!(message["data"].as_object().unwrap().len() > 2, "real readings: {message}");
    let pid = running.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = timeout(Duration::from_secs(20), running.wait()).await.expect("it stops in time").unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn under_load_a_peer_first_proves_its_address() {
    // A threshold of none is load all the time.
    let node = Node::embedded(&[("QUIC_RETRY_ABOVE", "0")]).await;
    let producer = account(ap(&node), "producer", "p").await;
    send(&node, &producer, "d", r#"{"device_id":"d","timestamp":1,"data":1}"#).await;
    let operations = node.at.operations.as_deref().unwrap();
    let metrics = http().get(format!("{operations}/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.lines().any(|l| l.starts_with("motience_quic_retries_total") && !l.ends_with(" 0")), "{metrics}");
}

#[tokio::test]
async fn a_certificate_is_read_again_on_sighup() {
    let dir = tempfile::TempDir::new().unwrap();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let now = motience_runtime::clock::Clock::system().now();
    let (old, new) = (motience_certs::dev::ensure(&old, now).unwrap(), motience_certs::dev::ensure(&new, now).unwrap());
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let install = |from: &motience_certs::dev::DevCerts| {
        std::fs::copy(&from.chain, &chain).unwrap();
        std::fs::copy(&from.key, &key).unwrap();
    };
    install(&old);
    let node = Node::embedded(&[("TLS_CERT", chain.to_str().unwrap()), ("TLS_KEY", key.to_str().unwrap())]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let trusting = async |ca: &std::path::Path| {
        let server = node.at.quic.as_deref().unwrap().parse().unwrap();
        let config = Config::new(server, Trust::Ca(ca.to_owned()), DeviceId::new("d").unwrap());
        let token = SecretString::from(producer.token.as_str());
        timeout(LIMIT, Connector::new(config).unwrap().connect(&token, Intent::Produce, ProducerEpoch(1))).await.unwrap()
    };
    assert!(trusting(&old.ca).await.is_ok());
    assert!(matches!(trusting(&new.ca).await, Err(Error::Tls(_))));
    install(&new);
    node.signal("HUP");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while trusting(&new.ca).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "the new certificate is not served");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(trusting(&old.ca).await, Err(Error::Tls(_))));
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_the_drain() {
    let mut node = Node::embedded(&[]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let mut stays = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    node.signal("TERM");
    assert_eq!(event(&mut stays).await.unwrap(), Event::Drain);
    node.signal("TERM");
    assert_eq!(node.ended().await, 1);
}

#[tokio::test]
async fn a_flood_of_subscribes_is_ended() {
    let node = Node::embedded(&[("RATE_LIMIT_CONTROL", "10/h")]).await;
    let ap = node.at.ap.as_deref().unwrap();
    let (producer, consumer) = (account(ap, "producer", "p").await, account(ap, "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = connect(&node, &consumer.token, "c", Intent::Consume, 0).await.unwrap();
    for _ in 0..6 {
        // The connection may be closed by the last ones.
        let _ = egress.subscribe(ProducerId(producer.id), Start::Live, "").await;
        let _ = egress.unsubscribe(ProducerId(producer.id)).await;
    }
    let ended = loop {
        match event(&mut egress).await {
            Ok(_) => {}
            Err(ended) => break ended,
        }
    };
    assert!(matches!(ended, Error::Closed { code: CloseCode::RateLimited, .. }), "{ended:?}");
}
