//! A producer sets how much is kept, within what the platform keeps.

use std::time::Duration;

use motience_proto::model::PlanLimits;
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
    let class = |label: &str, age: u64| json!({"label": label, "value": "camera", "history_age_seconds": age});
    for wrong in [
        json!({"log_age_seconds": 5}),
        json!({"log_bytes": 5}),
        json!({"history_age_seconds": 0}),
        json!({"classes": [class("kind", 5)]}),
        json!({"classes": [class("", 600)]}),
        json!({"classes": vec![class("kind", 600); 17]}),
    ] {
        ask(&p, Some(wrong)).await.problem(422, "invalid_field");
    }
    let wish = json!({"log_age_seconds": 86_400, "log_bytes": 65_536, "history_age_seconds": 86_400, "classes": [class("kind", 600)]});
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
    assert_eq!(
        (of(&back), &back["own"]["classes"]),
        (of(&before), &json!([class("kind", 600)])),
        "classes stay where nothing is said of them"
    );
    assert_eq!(ask(&p, Some(json!({"classes": []}))).await.json(200)["own"]["classes"], json!([]));
    let acts = platform.sm(Method::GET, "/acts", Some(&p), Sent::Nothing).await.json(200);
    assert_eq!(acts.as_array().unwrap().iter().filter(|act| act["act"] == "producer.retention").count(), 3);
}

#[tokio::test]
async fn an_operator_bounds_what_a_producer_may_choose_and_a_plan_what_it_has() {
    let platform = platform(&[
        ("LOG_RETENTION", "1h"),
        ("LOG_RETENTION_BYTES", "1MiB"),
        ("RETENTION_LEAST", "10m"),
        ("LOG_RETENTION_MOST", "2h"),
        ("LOG_RETENTION_MOST_BYTES", "2MiB"),
        ("HISTORY_RETENTION", "1d"),
        ("HISTORY_RETENTION_MOST", "2d"),
    ])
    .await;
    let (producer, p) = platform.account(Role::Producer, "p").await;
    let path = format!("/retention/{}", producer.id);
    let ask = async |wish: Option<Value>| {
        let (method, body) = wish.map_or((Method::GET, Sent::Nothing), |wish| (Method::PUT, Sent::Json(wish)));
        platform.dsm(method, &path, Some(&p), body).await
    };
    ask(Some(json!({"log_age_seconds": 599}))).await.problem(422, "invalid_field");
    let of = |kept: &Value| [&kept["log_age_seconds"], &kept["log_bytes"], &kept["history_age_seconds"]].map(Value::as_u64);
    let wish = json!({"log_age_seconds": 10_000, "log_bytes": 10 << 20, "history_age_seconds": 10 * 86_400});
    let chosen = ask(Some(wish)).await.json(200);
    assert_eq!(of(&chosen), [Some(7200), Some(2 << 20), Some(2 * 86_400)]);
    let backend = &platform.services.backend;
    let keep = backend.relay.log().retentions().of(producer.id.producer());
    assert_eq!((keep.age.as_secs(), keep.bytes), (7200, 2 << 20), "the log is told");
    assert_eq!((&chosen["history_rows"], &chosen["history_cut"]), (&Value::Null, &Value::Null));

    let plan = PlanLimits { log_bytes: Some(100_000), history_rows: Some(50), ..PlanLimits::default() };
    backend.store.set_plan("small", &plan, backend.clock.now()).await.unwrap();
    backend.store.give_plan(producer.id, Some("small")).await.unwrap();
    backend.quotas_changed().await;
    let bounded = ask(None).await.json(200);
    assert_eq!((&bounded["log_bytes"], &bounded["history_rows"]), (&json!(100_000), &json!(50)));
    assert_eq!(backend.relay.log().retentions().of(producer.id.producer()).bytes, 100_000);
}

#[tokio::test]
async fn what_an_organisation_keeps_together_is_shown_with_what_is_in_use() {
    let platform = platform(&[]).await;
    let (owner, o) = platform.account(Role::Producer, "o").await;
    let (other, p) = platform.account(Role::Producer, "p").await;
    let made = platform.ap(Method::POST, "/organisations", Some(&o), Sent::Json(json!({"name": "acme"}))).await.json(201);
    let id = made["id"].as_str().unwrap();
    let backend = &platform.services.backend;
    assert!(backend.store.own_account(id, other.id).await.unwrap());
    for token in [&o, &p] {
        let record = json!({"device_id": "d", "timestamp": "2026-01-01T00:00:00Z", "data": "x".repeat(1000)});
        platform.dsm(Method::POST, "/data", Some(token), Sent::Json(json!([record]))).await.json(200);
    }
    let plan = async || platform.ap(Method::GET, &format!("/organisations/{id}/plan"), Some(&o), Sent::Nothing).await.json(200);
    let kept = async || platform.dsm(Method::GET, &format!("/retention/{}", owner.id), Some(&o), Sent::Nothing).await.json(200);
    assert_eq!((&plan().await["used"]["total_log_bytes"], &kept().await["total_log_bytes"]), (&Value::Null, &Value::Null));
    let limits = PlanLimits { total_log_bytes: Some(10_000), total_history_rows: Some(70), ..PlanLimits::default() };
    backend.store.set_plan("together", &limits, backend.clock.now()).await.unwrap();
    assert!(backend.store.give_organisation_plan(id, Some("together")).await.unwrap());
    backend.quotas_changed().await;
    let (shown, kept) = (plan().await, kept().await);
    assert_eq!(shown["limits"], json!({"total_log_bytes": 10_000, "total_history_rows": 70}));
    let used = shown["used"]["total_log_bytes"].as_f64().unwrap();
    assert!((2000.0..3000.0).contains(&used), "{shown}");
    assert_eq!(shown["used"]["total_history_rows"], 0.0);
    assert_eq!((&kept["total_log_bytes"], &kept["total_history_rows"], &kept["history_rows"]), (&json!(10_000), &json!(70), &json!(70)));
    // Its own thousand bytes and what nobody has taken yet.
    let share = kept["log_bytes"].as_f64().unwrap();
    assert!((share - (10_000.0 - used / 2.0)).abs() < 1.0, "{kept}");
}
