//! An outbox that goes back in time, and copies of one, against real servers: nothing is lost, no name is used for two records, and people
//! are told.

use std::{collections::HashMap, net::UdpSocket, path::Path, time::Duration};

use motience_certs::Trust;
use motience_device::{
    Credentials, Producer,
    backoff::Backoff,
    client,
    outbox::Storage,
    producer::{Config, Stats},
};
use motience_proto::{
    model::{DeviceId, ProducerId},
    wire::{Intent, Start},
};
use motience_testing::{Postgres, Redis};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    harness::{Account, LIMIT, Node, account, subscribe},
    quic::{ap, connect, event},
};

/// By which way the device comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Quic,
    Tunnel,
}

/// Where a device's server never answers.
fn deaf() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn config(node: &Node, file: &Path) -> Config {
    let server = node.at.quic.as_deref().unwrap().parse().unwrap();
    let trust = Trust::Ca(node.at.ca.clone().unwrap());
    let mut config = Config::new(client::Config::new(server, trust, DeviceId::new("d").unwrap()));
    config.policy.backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_millis(50) };
    config.policy.fenced = Duration::from_millis(200);
    config.outbox.commit_interval = Duration::from_millis(5);
    config.outbox.storage = Storage::Disk(file.to_owned());
    config
}

/// Starts on a file, takes records of these texts, and waits until all of the outbox is in the log.
async fn run(config: Config, producer: &Account, texts: &[String]) -> Stats {
    let device = Producer::start(config, Credentials::Token(producer.token.as_str().into())).unwrap();
    for text in texts {
        device.send(record(text)).await.unwrap();
    }
    timeout(LIMIT, device.flush(LIMIT)).await.unwrap().unwrap();
    device.shutdown(Duration::ZERO).await
}

fn record(text: &str) -> String {
    format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"text":"{text}"}}}}"#)
}

/// How often each text is in the log, once all that are expected are there. A name is never used for two.
async fn logged(node: &Node, producer: &Account, consumer: &Account, expected: &[String]) -> HashMap<String, usize> {
    let mut egress = connect(node, &consumer.token, "reader", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Earliest, "").await.unwrap();
    let (mut texts, mut names) = (HashMap::new(), HashMap::new());
    while !expected.iter().all(|text| texts.contains_key(text)) {
        let client::Event::Entries { entries, .. } = event(&mut egress).await.unwrap() else { continue };
        for entry in entries {
            let json: Value = serde_json::from_slice(&entry.message).unwrap();
            let text = json["data"]["text"].as_str().unwrap().to_owned();
            let known = names.entry(entry.record_id).or_insert_with(|| text.clone());
            assert_eq!(*known, text, "{} names two records", entry.record_id);
            *texts.entry(text).or_insert(0) += 1;
        }
    }
    texts
}

async fn accounts(node: &Node) -> (Account, Account) {
    let (producer, consumer) = (account(ap(node), "producer", "p").await, account(ap(node), "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    (producer, consumer)
}

/// One image, restored at every start. `connected`: the image was made after a connection, not before the first.
async fn restored(node: &Node, by: By, connected: bool) {
    let (producer, consumer) = accounts(node).await;
    let dir = tempfile::tempdir().unwrap();
    let (image, file) = (dir.path().join("image.redb"), dir.path().join("outbox.redb"));
    let mut config = config(node, &image);
    let mut texts: Vec<String> = Vec::new();
    if connected {
        texts.push("before the image".into());
        run(config.clone(), &producer, &texts).await;
    }
    // Records that the image holds are the same at each start.
    let (_silent, port) = deaf();
    let mut alone = config.clone();
    alone.client.server.port = port;
    let device = Producer::start(alone, Credentials::Token("t".into())).unwrap();
    for text in ["in the image", "in the image, too"] {
        device.send(record(text)).await.unwrap();
        texts.push(text.into());
    }
    device.shutdown(Duration::ZERO).await;

    config.outbox.storage = Storage::Disk(file.clone());
    if by == By::Tunnel {
        config.client.server.port = port;
        config.client.fallback = Some(node.at.wss1.as_deref().unwrap().replace("/producer", "").parse().unwrap());
    }
    for start in 0..5 {
        std::fs::copy(&image, &file).unwrap();
        // As many as the start before had, more, fewer.
        let own: Vec<String> = (0..[3, 3, 5, 2, 4][start]).map(|n| format!("start {start}, record {n}")).collect();
        let stats = run(config.clone(), &producer, &own).await;
        assert_eq!(stats.outbox.records, 0, "start {start}: {stats:?}");
        // The log knows the newest epoch of a device: it is told there what was sent under the image's own.
        assert!(start != 1 || stats.outbox.copies_found == 1, "start {start}: {stats:?}");
        texts.extend(own);
        let found = logged(node, &producer, &consumer, &texts).await;
        // Those that the image holds come again, under the names that they had.
        assert!(
            found.iter().all(|(text, count)| *count == 1 || text.starts_with("in the image")),
            "after start {start}, {by:?}: {found:?}"
        );
    }
}

#[tokio::test]
async fn an_image_restored_at_every_start_loses_nothing() {
    restored(&Node::embedded(&[]).await, By::Quic, false).await;
}

#[tokio::test]
async fn nor_does_one_that_was_made_after_a_connection() {
    restored(&Node::embedded(&[]).await, By::Quic, true).await;
}

#[tokio::test]
async fn nor_by_the_tunnel() {
    restored(&Node::embedded(&[]).await, By::Tunnel, true).await;
}

#[tokio::test]
async fn nor_in_redis() {
    let (redis, postgres) = (Redis::durable().await, Postgres::start().await);
    let secret = ("JWT_SECRET", "a secret that is long enough for this test");
    let node = Node::embedded(&[("REDIS_URL", &redis.url()), ("DATABASE_URL", &postgres.url()), secret]).await;
    restored(&node, By::Quic, true).await;
}

/// Two cards with one outbox, in two devices that are on.
#[tokio::test]
async fn copies_that_are_on_at_once_lose_nothing_and_are_told() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = accounts(&node).await;
    let dir = tempfile::tempdir().unwrap();
    let files = [dir.path().join("one.redb"), dir.path().join("two.redb")];
    let mut texts = vec!["before".to_owned()];
    run(config(&node, &files[0]), &producer, &texts).await;
    std::fs::copy(&files[0], &files[1]).unwrap();
    let devices = files.each_ref().map(|file| {
        let credentials = Credentials::Token(producer.token.as_str().into());
        Producer::start(config(&node, file), credentials).unwrap()
    });
    // Until each was thrown out several times, records come at both.
    let mut n = 0;
    while devices.iter().any(|device| device.stats().transport.superseded < 3) {
        for (at, device) in devices.iter().enumerate() {
            let text = format!("copy {at}, record {n}");
            timeout(LIMIT, device.send(record(&text))).await.unwrap().unwrap();
            texts.push(text);
        }
        n += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for device in &devices {
        timeout(LIMIT, device.flush(LIMIT)).await.unwrap().unwrap();
    }
    logged(&node, &producer, &consumer, &texts).await;
    let stats = devices.each_ref().map(Producer::stats);
    assert!(stats.iter().any(|stats| stats.outbox.copies_found > 0), "{stats:?}");
}
