//! Records over HTTP, live streams: what the flow tests over sockets leave out.

use motience_shared::model::Offset;
use serde_json::json;

use super::*;

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
