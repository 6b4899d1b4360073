//! Records over HTTP, live streams: what the flow tests over sockets leave out.

use motience_proto::model::Offset;
use serde_json::json;

use super::*;

#[tokio::test]
async fn records_are_taken_whole_in_part_and_together() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let (consumer, _) = platform.account(Role::Consumer, "c").await;
    platform
        .services
        .backend
        .store
        .subscribe(consumer.id.consumer(), producer.id.producer(), Visibility::Open, platform.services.backend.clock.now())
        .await
        .unwrap();
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
    assert_eq!(log.bounds(producer.log_key()).await.unwrap().last, Offset(0));
    post(json!([{}, {}, {}])).await.json(200);
    assert_eq!(log.bounds(producer.log_key()).await.unwrap().last, Offset(3));
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

/// The records in a producer's log.
async fn logged(platform: &Platform, producer: &User) -> Vec<Value> {
    let read = platform.services.backend.relay.log().read(producer.log_key(), Offset(0), 1 << 20).await.unwrap();
    let messages = read.batches.iter().flat_map(|batch| batch.entries().iter().map(|entry| entry.message.clone()).collect::<Vec<_>>());
    messages.map(|message| serde_json::from_slice(&message).unwrap()).collect()
}

#[tokio::test]
async fn an_object_means_the_same_in_a_body_and_on_a_line() {
    for sent in [
        r#"{"temperature":1}"#,
        r#"{"type":"data","payload":{"temperature":1}}"#,
        r#"{"type":"data","id":5,"device_id":"a","timestamp":7,"payload":{"temperature":1}}"#,
        r#"{"device_id":"a","timestamp":7,"temperature":1}"#,
        r#"{"type":"data","device_id":"a","timestamp":7,"data":{"temperature":1},"location":"here"}"#,
        r#"{"device_id":"a","timestamp":7,"data":{"temperature":1},"location":{"lat":1},"battery":3}"#,
        r#"{"type":"ping","id":1}"#,
        r#"{"type":"data","payload":{"t":1},"battery":3}"#,
        r#"{"type":"data","id":[],"payload":{"t":1}}"#,
        r#"{"type":"dance"}"#,
        r#"{"device_id":"a","timestamp":7,"data":1,"type":"gap"}"#,
    ] {
        let mut outcomes = Vec::new();
        for (kind, body) in [
            ("application/json", sent.to_owned()),
            ("application/json", format!("\u{feff}[{sent}]")),
            ("application/x-ndjson", sent.to_owned()),
        ] {
            let platform = platform(&[]).await;
            let (producer, token) = platform.account(Role::Producer, "p").await;
            let answer = platform.dsm(Method::POST, "/data", Some(&token), Sent::Text(kind, &body)).await;
            let told: Value = serde_json::from_str(&answer.text()).unwrap();
            outcomes.push((answer.status, told["code"].clone(), logged(&platform, &producer).await));
        }
        assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{sent}: {outcomes:?}");
        let kept = serde_json::to_string(&outcomes[0].2).unwrap();
        for word in ["here", "lat", "battery"] {
            assert!(outcomes[0].0 != 200 || sent.contains(word) == kept.contains(word), "{sent}: {kept}");
        }
    }
}

#[tokio::test]
async fn what_is_sent_again_under_its_name_is_stored_once() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let post = async |key: Option<&str>, kind, body: &str| {
        let mut request = request(Method::POST, "/data", Some(&token), Sent::Text(kind, body));
        if let Some(key) = key {
            request.headers_mut().insert("idempotency-key", key.parse().unwrap());
        }
        send(&platform.dsm, request).await
    };
    for _ in 0..2 {
        assert_eq!(post(None, "application/json", r#"{"type":"data","id":"n-1","payload":{"t":1}}"#).await.json(200)["accepted"], 1);
        assert_eq!(post(Some("k"), "application/json", r#"[{"t":2},{"t":3}]"#).await.json(200)["accepted"], 2);
        assert_eq!(post(Some("l"), "application/x-ndjson", "{\"t\":4}\n{\"t\":5}\n").await.json(200)["accepted"], 2);
        assert_eq!(post(None, "application/json", r#"{"t":6}"#).await.json(200)["accepted"], 1);
    }
    let readings: Vec<Value> = logged(&platform, &producer).await.into_iter().map(|message| message["data"]["t"].clone()).collect();
    assert_eq!(readings, [1, 2, 3, 4, 5, 6, 6]);
    post(Some(&"k".repeat(108)), "application/json", "{}").await.problem(422, "invalid_field");
}

#[tokio::test]
async fn clocks_that_cannot_be_right_are_shown_and_their_records_kept() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let path = format!("/devices/{}", producer.id);
    let shown = async || {
        let devices = platform.dsm(Method::GET, &path, Some(&token), Sent::Nothing).await.json(200);
        devices.as_array().unwrap().iter().map(|d| (d["clock"].clone(), d["misdated"].clone())).collect::<Vec<_>>()
    };
    let post = async |timestamp: Value| {
        let body = Sent::Json(json!({"device_id": "d", "timestamp": timestamp, "data": 1}));
        platform.dsm(Method::POST, "/data", Some(&token), body).await.json(200);
    };
    // The platform's clock stands at the beginning of 2026.
    for (timestamp, clock, misdated) in [
        (json!(1_767_225_600_u64), json!("seconds"), 1),
        (json!(1_767_225_600_000_u64), json!(null), 1),
        (json!("2026-01-01 00:59:00"), json!(null), 1),
        (json!("2026-01-01T01:00:01Z"), json!("ahead"), 2),
    ] {
        post(timestamp).await;
        assert_eq!(shown().await, [(clock, json!(misdated))]);
    }
    assert_eq!(logged(&platform, &producer).await.len(), 4);
}
