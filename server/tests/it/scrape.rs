//! Every series of docs/metrics.md, scraped from nodes under load: what is documented is there, and what is there is documented.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use motience_proto::{
    model::ProducerId,
    wire::{Intent, Start},
};
use motience_testing::{Postgres, Redis};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::{
    harness::{Account, LIMIT, Node, PASSWORD, account, http, server, subscribe},
    quic::{acked, connect, event, record},
};

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// Name and kind of each series of the page.
fn documented() -> BTreeMap<String, String> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `motience_"));
    let row = |row: &str| {
        let mut cells = row.split('|').map(str::trim);
        let name = format!("motience_{}", cells.next()?.trim_end_matches('`'));
        Some((name, cells.next()?.to_owned()))
    };
    rows.filter_map(row).collect()
}

async fn scrape(node: &Node) -> String {
    http().get(format!("{}/metrics", node.at.operations.as_deref().unwrap())).send().await.unwrap().text().await.unwrap()
}

/// Name and kind of each series that has a value.
fn series(text: &str) -> BTreeMap<String, String> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let there = |name: &str| text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{', '_'])));
    kinds.filter(|(name, _)| there(name)).map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series}: {text}")).parse().unwrap()
}

/// A producer sends by HTTP and QUIC, and two consumers take it: one by QUIC, and one by a name under which it confirms next to nothing.
async fn load(node: &Node, stop: Arc<AtomicBool>) {
    let (ap, sm, dsm) = (node.at.ap.as_deref().unwrap(), node.at.sm.as_deref().unwrap(), node.at.dsm.as_deref().unwrap());
    let (producer, consumer) = (account(ap, "producer", "p").await, account(ap, "consumer", "c").await);
    subscribe(sm, &consumer, &producer).await;
    let wrong = json!({"username": "p", "password": format!("{PASSWORD}, and more")});
    assert_eq!(http().post(format!("{ap}/login")).json(&wrong).send().await.unwrap().status(), 401);
    let mut egress = connect(node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    egress.subscribe(ProducerId(producer.id), Start::Live, "").await.unwrap();
    let mut device = connect(node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    device.send(motience_device::client::Lane::Independent, record(1)).await.unwrap();
    acked(&mut device, 1..=1).await;
    confirm_first(dsm, &consumer, &producer).await;
    let reading = async {
        loop {
            event(&mut egress).await.unwrap();
        }
    };
    let sending = async {
        let mut n = 2;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..20 {
                device.send(motience_device::client::Lane::Independent, record(n)).await.unwrap();
                n += 1;
            }
            acked(&mut device, n - 20..=n - 1).await;
            let body = json!({"device_id": "h", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n}});
            let sent = http().post(format!("{dsm}/data")).bearer_auth(&producer.token).json(&body).send().await.unwrap();
            assert!(sent.status().is_success(), "{sent:?}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = reading => {}
        () = sending => {}
    }
}

/// Confirms the first record of the log under a name.
async fn confirm_first(dsm: &str, consumer: &Account, producer: &Account) {
    let url = format!("{dsm}/stream?from=earliest&token={}", consumer.token);
    let mut stream = http().get(url).header("accept", "application/x-ndjson").send().await.unwrap();
    let mut text = String::new();
    let cursor = loop {
        text.push_str(&String::from_utf8_lossy(&stream.chunk().await.unwrap().expect("the stream goes on")));
        let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        if let Some(cursor) = lines.filter(|line| line["data"].is_object()).find_map(|line| Some(line["cursor"].as_str()?.to_owned())) {
            break cursor;
        }
    };
    let body = json!({"cursors": {producer.id.to_string(): cursor}});
    let confirmed = http().post(format!("{dsm}/cursors/app")).bearer_auth(&consumer.token).json(&body).send().await.unwrap();
    assert_eq!(confirmed.status(), 204, "{}", confirmed.text().await.unwrap());
}

#[tokio::test]
async fn what_is_scraped_under_load_is_what_is_documented() {
    let (redis, postgres) = (Redis::durable().await, Postgres::start().await);
    let replica = postgres.replica().await;
    let (redis_url, database_url, replica_url) = (redis.url().to_owned(), postgres.url().to_owned(), replica.url().to_owned());
    let shared = [
        ("REDIS_URL", redis_url.as_str()),
        ("DATABASE_URL", database_url.as_str()),
        ("DATABASE_READ_URL", replica_url.as_str()),
        ("JWT_SECRET", "a secret that is long enough for this test"),
    ];
    let embedded = Node::start(server(), &[], &[("PERSIST", "true")]).await;
    let cluster = Node::start(server(), &[], &shared).await;
    let stop = Arc::new(AtomicBool::new(false));
    let watching = async {
        let documented = documented();
        assert!(documented.len() > 90, "{documented:?}");
        let deadline = Instant::now() + LIMIT;
        loop {
            let texts = [scrape(&embedded).await, scrape(&cluster).await];
            let found: BTreeMap<String, String> = texts.iter().flat_map(|text| series(text)).collect();
            for (name, kind) in found.iter().filter(|(name, _)| name.starts_with("motience_")) {
                let expected = documented.get(name).unwrap_or_else(|| panic!("{name} is not documented"));
                assert_eq!(kind, expected, "{name}");
            }
            let missing: Vec<&String> = documented.keys().filter(|name| !found.contains_key(*name)).collect();
            if missing.is_empty() {
                break texts;
            }
            assert!(Instant::now() < deadline, "not scraped: {missing:?}");
            sleep(Duration::from_millis(250)).await;
        }
    };
    let loads = async { tokio::join!(load(&embedded, Arc::clone(&stop)), load(&cluster, Arc::clone(&stop))) };
    let [embedded, cluster] = tokio::select! {
        texts = watching => texts,
        _ = loads => panic!("the load ended"),
    };
    for (text, durability) in [(&embedded, "file"), (&cluster, "redis")] {
        let append = format!("motience_append_seconds_count{{durability=\"{durability}\"}}");
        for series in [
            append.as_str(),
            "motience_delivery_seconds_count",
            "motience_database_seconds_count",
            "motience_database_wait_seconds_count",
            "motience_password_seconds_count{step=\"hash\"}",
            "motience_handshake_seconds_count{transport=\"quic\"}",
            "motience_http_first_byte_seconds_count{version=\"1\"}",
            "motience_quic_records_total{side=\"consumer\"}",
            "motience_quic_bytes_total{side=\"producer\"}",
        ] {
            assert!(value(text, series) > 0.0, "{series}");
        }
    }
    assert!(value(&embedded, "motience_log_commit_seconds_count") > 0.0 && value(&embedded, "motience_disk_free_bytes") > 0.0);
    assert!(value(&cluster, "motience_redis_seconds_count{wait=\"answer\"}") > 0.0);
    assert!(value(&cluster, "motience_redis_subscribed") == 1.0 && value(&cluster, "motience_redis_silent_seconds") < 10.0);
    assert_eq!(value(&embedded, "motience_sessions_ended_total{transport=\"quic\",reason=\"protocol\"}"), 0.0, "from the start");
}
