//! Pages of lists: bounded in bytes, and followed by `Link` they give each entry once.

use motience_proto::model::Transport;
use serde_json::json;

use super::*;

/// Bytes of a page here.
const PAGE: usize = 4096;

/// Follows a list from part to part: all its entries, and how many parts there were.
async fn all(router: &Router, path: &str, query: &str, token: &str, most: usize) -> (Vec<Value>, usize) {
    let (mut entries, mut parts, mut query) = (Vec::new(), 0, query.to_owned());
    loop {
        let answer = send(router, request(Method::GET, &format!("{path}{query}"), Some(token), Sent::Nothing)).await;
        let part = answer.json(200);
        let part = part.as_array().unwrap();
        assert!(answer.body.len() <= most || part.len() == 1, "{} bytes of {path}{query}", answer.body.len());
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        entries.extend(part.iter().cloned());
        parts += 1;
        let Some(link) = answer.headers.get(header::LINK) else { return (entries, parts) };
        query = link.to_str().unwrap().strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        assert!(!part.is_empty() && parts < 1000, "{query}");
    }
}

/// Checks a list of `count` entries, whose order is that of `key`.
async fn check(router: &Router, path: &str, token: &str, count: usize, key: impl Fn(&Value) -> String) {
    let (entries, parts) = all(router, path, "", token, PAGE).await;
    assert_eq!(entries.len(), count, "{path}");
    assert!(parts > 1, "{path} has one part");
    let keys: std::collections::BTreeSet<String> = entries.iter().map(key).collect();
    assert_eq!(keys.len(), count, "{path}: each once");
    let (by_seven, parts) = all(router, path, "?limit=7", token, PAGE).await;
    assert_eq!(by_seven, entries, "{path}");
    assert!(parts >= count / 7, "{path}: {parts} parts");
}

#[tokio::test]
async fn every_list_is_cut_at_its_bytes_and_goes_on_after() {
    const MANY: usize = 60;
    let platform = platform(&[("HTTP_MAX_PAGE_BYTES", "4KiB")]).await;
    let (producer, producer_token) = platform.account(Role::Producer, "p").await;
    let (consumer, consumer_token) = platform.account(Role::Consumer, "c").await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let store = &platform.services.backend.store;
    store.subscribe(consumer.id.consumer(), producer.id.producer(), Visibility::Open, platform.services.backend.clock.now()).await.unwrap();
    let devices = &platform.services.backend.reports.devices;
    let mut here = Vec::new();
    for n in 1..MANY {
        // A name that is longer as JSON than it is.
        let (other, _) = platform.account(Role::Producer, &format!("p{n}{}", "\"".repeat(100))).await;
        let (another, _) = platform.account(Role::Consumer, &format!("c{n}{}", "\"".repeat(100))).await;
        store
            .subscribe(consumer.id.consumer(), other.id.producer(), Visibility::Open, platform.services.backend.clock.now())
            .await
            .unwrap();
        store
            .subscribe(another.id.consumer(), producer.id.producer(), Visibility::Open, platform.services.backend.clock.now())
            .await
            .unwrap();
        here.push(devices.enter(producer.log_key(), &format!("d&{n:02}"), Transport::Quic));
        let one = json!({"device_id": "d", "timestamp": 1, "data": {"n": n}});
        let publisher = platform.services.backend.relay.ephemeral_publisher(other.log_key()).await.unwrap();
        let ticket = publisher.submit(one.to_string().into()).await.unwrap();
        publisher.committed(ticket).await.unwrap();
    }
    let id = |entry: &Value| entry["id"].to_string();
    check(&platform.ap, "/producers", &producer_token, MANY, id).await;
    check(&platform.ap, "/consumers", &producer_token, MANY, id).await;
    check(&platform.ap, "/accounts", &admin, 2 * MANY + 1, id).await;
    check(&platform.sm, &format!("/subscriptions/{}", consumer.id), &consumer_token, MANY, id).await;
    check(&platform.sm, &format!("/subscribers/{}", producer.id), &producer_token, MANY, id).await;
    check(&platform.dsm, &format!("/devices/{}", producer.id), &producer_token, MANY - 1, |entry| entry["device_id"].to_string()).await;
    check(&platform.dsm, "/streams", &producer_token, MANY - 1, |entry| entry["producer_id"].to_string()).await;
}

#[tokio::test]
async fn history_is_cut_at_its_bytes_however_large_its_records_are() {
    let platform = platform(&[("HTTP_MAX_PAGE_BYTES", "200KiB")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let publisher = platform.services.backend.relay.ephemeral_publisher(producer.log_key()).await.unwrap();
    let long = "x".repeat(40_000);
    for n in 0..20 {
        let pad = if n % 3 == 0 { "" } else { &long };
        let one = json!({"device_id": "d", "timestamp": 1, "data": {"n": n, "pad": pad}});
        let ticket = publisher.submit(one.to_string().into()).await.unwrap();
        publisher.committed(ticket).await.unwrap();
    }
    let (records, parts) = all(&platform.dsm, &format!("/history/{}", producer.id), "", &token, 200 << 10).await;
    let numbers: Vec<u64> = records.iter().map(|record| record["data"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    assert!(parts > 2, "{parts} parts");
}

#[tokio::test]
async fn history_is_read_where_a_record_may_be_larger_than_a_page() {
    let platform = platform(&[("HTTP_MAX_PAGE_BYTES", "64KiB"), ("MAX_RECORD_BYTES", "1MiB")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let publisher = platform.services.backend.relay.ephemeral_publisher(producer.log_key()).await.unwrap();
    for n in 0..3 {
        let one = json!({"device_id": "d", "timestamp": 1, "data": {"n": n, "pad": "x".repeat(100_000)}});
        let ticket = publisher.submit(one.to_string().into()).await.unwrap();
        publisher.committed(ticket).await.unwrap();
    }
    let (records, _) = all(&platform.dsm, &format!("/history/{}", producer.id), "", &token, 1 << 20).await;
    assert_eq!(records.iter().map(|record| record["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
}
