//! A producer sets how much is kept, within what the platform keeps.

use std::time::Duration;

use serde_json::json;

use super::*;

#[tokio::test]
async fn a_producer_keeps_less_than_the_platform_and_not_more() {
    let platform = platform(&[("LOG_RETENTION", "1h"), ("LOG_RETENTION_BYTES", "1MiB"), ("HISTORY_RETENTION", "30d")]).await;
    let (producer, p) = platform.account(Role::Producer, "p").await;
    let (_, q) = platform.account(Role::Producer, "q").await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let path = format!("/retention/{}", producer.id);
    let ask = async |token: &str, wish: Option<Value>| {
        let (method, body) = wish.map_or((Method::GET, Sent::Nothing), |wish| (Method::PUT, Sent::Json(wish)));
        platform.dsm(method, &path, Some(token), body).await
    };
    let of = |kept: &Value| [&kept["log_age_seconds"], &kept["log_bytes"], &kept["history_age_seconds"]].map(Value::as_u64);
    let before = ask(&p, None).await.json(200);
    assert_eq!((of(&before), &before["first_cut"]), ([Some(3600), Some(1 << 20), Some(30 * 86_400)], &Value::Null));
    ask(&q, None).await.problem(403, "wrong_role");
    for wrong in [json!({"log_age_seconds": 5}), json!({"log_bytes": 5}), json!({"history_age_seconds": 0})] {
        ask(&p, Some(wrong)).await.problem(422, "invalid_field");
    }
    let wish = json!({"log_age_seconds": 86_400, "log_bytes": 65_536, "history_age_seconds": 86_400});
    let set = ask(&admin, Some(wish.clone())).await.json(200);
    assert_eq!((of(&set), &set["own"]), ([Some(3600), Some(65_536), Some(86_400)], &wish));
    // The log is trimmed by it, and says which bound comes first.
    let record = |n: usize| json!({"device_id": "d", "timestamp": "2026-01-01T00:00:00Z", "data": {"text": "x".repeat(1000), "n": n}});
    for _ in 0..30 {
        let records: Vec<Value> = (0..10).map(record).collect();
        platform.dsm(Method::POST, "/data", Some(&p), Sent::Json(json!(records))).await.json(200);
        platform.time.advance(Duration::from_secs(30));
    }
    let log = platform.services.backend.relay.log();
    let bounds = log.bounds(producer.log_key()).await.unwrap();
    assert!((40..100).contains(&(bounds.last.0 - bounds.first.0)), "{bounds:?}");
    assert_eq!(ask(&p, None).await.json(200)["first_cut"]["bound"], "bytes");
    let back = ask(&p, Some(json!({}))).await.json(200);
    assert_eq!(of(&back), of(&before));
    let acts = platform.sm(Method::GET, "/acts", Some(&p), Sent::Nothing).await.json(200);
    assert_eq!(acts.as_array().unwrap().iter().filter(|act| act["act"] == "producer.retention").count(), 2);
}
