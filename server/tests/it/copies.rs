//! Outboxes that were copied: put back in time, and at work twice. Each record that either accepted is in the log once all the same.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use motience_certs::Trust;
use motience_device::{
    Credentials, Producer,
    client::{self, Event},
    outbox::Storage,
    producer::Config,
};
use motience_proto::{
    model::{DeviceId, ProducerId},
    wire::{Intent, Start},
};
use serde_json::Value;
use tokio::time::sleep;

use crate::{
    gateway::{Pair, pair},
    harness::{Account, Addresses, LIMIT, Node},
    quic::{connect, event, send},
};

fn device(at: &Addresses, producer: &Account, outbox: &Path) -> Producer {
    let trust = at.ca.clone().map_or(Trust::Platform, Trust::Ca);
    let server = at.quic.as_deref().unwrap().parse().unwrap();
    let mut config = Config::new(client::Config::new(server, trust, DeviceId::new("d").unwrap()));
    config.outbox.storage = Storage::Disk(outbox.to_owned());
    config.outbox.commit_interval = Duration::from_millis(5);
    config.policy.fenced = Duration::from_millis(200);
    config.policy.backoff.max = Duration::from_millis(100);
    Producer::start(config, Credentials::Token(producer.token.clone().into())).unwrap()
}

/// Takes records, each with a name of its own.
async fn take(producer: &Producer, who: &str, count: usize) {
    for n in 0..count {
        producer.send(format!(r#"{{"device_id":"d","timestamp":1,"data":{{"who":"{who}-{n}"}}}}"#)).await.unwrap();
    }
}

/// Each of these is in the log once, and nothing else is.
async fn each_once(node: &Node, consumer: &Account, producer: &Account, expected: &[(&str, usize)]) {
    send(node, producer, "last", r#"{"device_id":"last","timestamp":1,"data":{"who":"last"}}"#).await;
    let mut egress = connect(node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Earliest, "").await.unwrap();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    while !found.contains_key("last") {
        if let Event::Entries { entries, .. } = event(&mut egress).await.unwrap() {
            for entry in entries {
                let message: Value = serde_json::from_slice(&entry.message).unwrap();
                *found.entry(message["data"]["who"].as_str().unwrap().to_owned()).or_default() += 1;
            }
        }
    }
    found.remove("last");
    let expected = expected.iter().flat_map(|(who, count)| (0..*count).map(move |n| (format!("{who}-{n}"), 1)));
    assert_eq!(found, expected.collect());
}

#[tokio::test]
async fn an_outbox_that_is_put_back_loses_nothing_and_doubles_nothing() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let file = node.dir.path().join("outbox.redb");
    let copy = node.dir.path().join("copy.redb");
    let one = device(&node.at, &producer, &file);
    take(&one, "before", 10).await;
    one.flush(LIMIT).await.unwrap();
    one.shutdown(Duration::ZERO).await;
    fs::copy(&file, &copy).unwrap();

    let on = device(&node.at, &producer, &file);
    take(&on, "on", 24).await;
    on.flush(LIMIT).await.unwrap();
    on.shutdown(Duration::ZERO).await;

    fs::copy(&copy, &file).unwrap();
    let again = device(&node.at, &producer, &file);
    take(&again, "again", 24).await;
    again.flush(LIMIT).await.unwrap();
    let stats = again.shutdown(Duration::ZERO).await;
    assert_eq!((stats.outbox.copies_found, stats.outbox.records), (1, 0));
    each_once(&node, &consumer, &producer, &[("again", 24), ("before", 10), ("on", 24)]).await;
}

#[tokio::test]
async fn two_devices_with_one_outbox_are_told_and_lose_nothing() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let files = ["one.redb", "two.redb"].map(|name| node.dir.path().join(name));
    let first = device(&node.at, &producer, &files[0]);
    take(&first, "before", 3).await;
    first.flush(LIMIT).await.unwrap();
    first.shutdown(Duration::ZERO).await;
    fs::copy(&files[0], &files[1]).unwrap();
    let one = device(&node.at, &producer, &files[0]);
    take(&one, "one", 10).await;
    one.flush(LIMIT).await.unwrap();
    let two = device(&node.at, &producer, &files[1]);
    take(&two, "two", 10).await;
    two.flush(LIMIT).await.unwrap();
    while one.stats().transport.rivalry < 2 || two.stats().transport.rivalry < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    // Both go on by turns.
    for (who, device) in [("late-one", &one), ("late-two", &two)] {
        take(device, who, 10).await;
        device.flush(LIMIT).await.unwrap();
    }
    assert!(two.stats().outbox.copies_found >= 1);
    drop((one, two));
    let expected = [("before", 3), ("late-one", 10), ("late-two", 10), ("one", 10), ("two", 10)];
    each_once(&node, &consumer, &producer, &expected).await;
}
