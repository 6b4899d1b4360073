//! Records over HTTP, the history, live streams: what the flow tests over sockets leave out.

use motience_shared::{
    model::{DeviceId, LogEpoch, Offset},
    store::HistoryRow,
};
use serde_json::{json, value::RawValue};
use time::{Duration as Span, OffsetDateTime};

use super::*;

async fn keep(platform: &Platform, producer: &User, rows: u64) {
    let first = datetime!(2025-01-29 11:35:00 UTC);
    let row = |n: u64| HistoryRow {
        producer: producer.id.producer(),
        epoch: LogEpoch(1),
        offset: Offset(n),
        device: DeviceId::new("d").unwrap(),
        timestamp: first + Span::seconds(n as i64),
        received_at: OffsetDateTime::UNIX_EPOCH,
        data: RawValue::from_string(n.to_string()).unwrap(),
    };
    platform.services.backend.store.append_history(&(1..=rows).map(row).collect::<Vec<_>>()).await.unwrap();
}

#[tokio::test]
async fn records_are_taken_whole_in_part_and_together() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let (consumer, _) = platform.account(Role::Consumer, "c").await;
    platform.services.backend.store.subscribe(consumer.id.consumer(), producer.id.producer()).await.unwrap();
    let whole = json!({"device_id": "rpi_001", "timestamp": "2025-01-29T11:35:00Z", "data": {"temperature": 24.3}});
    for (body, accepted) in [
        (whole.clone(), 1),
        (json!({"temperature": 24.3}), 1),
        (json!({"data": [1, 2]}), 1),
        (json!([whole, {"temperature": 1}]), 2),
        (json!([]), 0),
    ] {
        let answer = platform.dsm(Method::POST, "/api/data", Some(&token), Sent::Json(body)).await;
        assert_eq!(answer.json(200), json!({"accepted": accepted, "subscriberCount": 1}));
    }
    let streams = platform.dsm(Method::GET, "/streams", Some(&token), Sent::Nothing).await.json(200);
    assert_eq!((&streams[0]["producer_id"], &streams[0]["username"]), (&json!(producer.id.to_string()), &json!("p")));
    assert_eq!(streams[0]["records"], 5);
}

#[tokio::test]
async fn of_an_array_with_a_bad_record_nothing_is_taken() {
    let platform = platform(&[("DATA_MAX_RECORDS", "3"), ("MAX_RECORD_BYTES", "200")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let post = async |body: Value| platform.dsm(Method::POST, "/data", Some(&token), Sent::Json(body)).await;
    let problem = post(json!([{"t": 1}, {"data": 1, "timestamp": "x"}])).await.problem(422, "invalid_timestamp");
    assert!(problem["error"].as_str().unwrap().starts_with("Record 1: "), "{problem}");
    assert_eq!(problem["field"], "timestamp");
    post(json!([{"t": 1}, 7])).await.problem(422, "not_an_object");
    post(json!([{"t": 1}, {"t": "x".repeat(200)}])).await.problem(413, "too_large");
    post(json!([{}, {}, {}, {}])).await.problem(413, "too_many_records");
    post(json!({"data": 1, "producer_id": "9"})).await.problem(422, "unknown_field");
    let log = platform.services.backend.relay.log();
    assert_eq!(log.head(producer.id.producer()).await.unwrap().last, Offset(0));
    post(json!([{}, {}, {}])).await.json(200);
    assert_eq!(log.head(producer.id.producer()).await.unwrap().last, Offset(3));
}

#[tokio::test]
async fn the_body_of_data_has_a_limit_of_its_own() {
    let platform = platform(&[("HTTP_MAX_BODY_BYTES", "1KiB"), ("DATA_MAX_BODY_BYTES", "4KiB")]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    for (length, status) in [(2000, 200), (5000, 413)] {
        let answer = platform.dsm(Method::POST, "/data", Some(&token), Sent::Json(json!({"t": "x".repeat(length)}))).await;
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    let body = Sent::Json(json!({"username": "x".repeat(2000)}));
    platform.ap(Method::POST, "/login", None, body).await.problem(413, "body_too_large");
    // Who may not send anyway is told so first, and a body that is not declared as JSON is not read as such.
    platform.dsm(Method::POST, "/data", None, Sent::Json(json!({}))).await.problem(401, "no_token");
    platform.dsm(Method::POST, "/data", Some(&token), Sent::Text("text/plain", "{}")).await.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn the_history_is_read_in_parts_by_following_its_links() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    keep(&platform, &producer, 10).await;
    let mut seen = Vec::new();
    let path = format!("/api/history/{}", producer.id);
    let mut query = "?limit=3&from=2025-01-29T12:35:02%2B01:00&to=2025-01-29T11:35:09Z".to_owned();
    loop {
        let answer = platform.dsm(Method::GET, &format!("{path}{query}"), Some(&token), Sent::Nothing).await;
        for kept in answer.json(200).as_array().unwrap() {
            assert_eq!(kept["producer_id"], producer.id.to_string());
            assert_eq!(kept["device_id"], "d");
            seen.push(kept["data"].as_u64().unwrap());
        }
        let Some(link) = answer.headers.get(header::LINK) else { break };
        // Relative to this very address, so it holds under the alias too.
        query = link.to_str().unwrap().strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
        assert!(query.starts_with('?'), "{query}");
    }
    assert_eq!(seen, (2..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_history_is_for_the_producer_and_its_active_subscribers() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let (_, rival) = platform.account(Role::Producer, "q").await;
    let (consumer, reader) = platform.account(Role::Consumer, "c").await;
    keep(&platform, &producer, 1).await;
    let path = format!("/history/{}", producer.id);
    let read = async |token: &str| platform.dsm(Method::GET, &path, Some(token), Sent::Nothing).await;
    assert_eq!(read(&token).await.json(200).as_array().unwrap().len(), 1);
    read(&rival).await.problem(403, "forbidden");
    read(&reader).await.problem(403, "forbidden");
    let store = &platform.services.backend.store;
    store.subscribe(consumer.id.consumer(), producer.id.producer()).await.unwrap();
    read(&reader).await.json(200);
    store.unsubscribe(consumer.id.consumer(), producer.id.producer()).await.unwrap();
    read(&reader).await.problem(403, "forbidden");
    for (query, field) in [("from=yesterday", "from"), ("to=2025-01-29", "to"), ("limit=0", "limit"), ("after=-1", "after")] {
        let answer = platform.dsm(Method::GET, &format!("{path}?{query}"), Some(&token), Sent::Nothing).await;
        assert_eq!(answer.problem(422, "invalid_field")["field"], field);
    }
}
