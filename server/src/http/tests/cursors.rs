//! Named cursors over HTTP: a consumer sees and forgets its own.

use motience_proto::model::{ConsumerId, Cursor, CursorName, LogEpoch, Offset, ProducerId};
use serde_json::json;

use super::*;

async fn confirm(platform: &Platform, consumer: ConsumerId, name: &str, producer: i64, offset: u64) {
    let cursor = Cursor { log_epoch: LogEpoch(77), offset: Offset(offset) };
    let (store, now) = (&platform.services.backend.store, platform.services.backend.clock.now());
    store.confirm(consumer, &CursorName::new(name).unwrap(), ProducerId(producer), cursor, now).await.unwrap();
}

#[tokio::test]
async fn a_consumer_sees_and_forgets_its_own_cursors() {
    let platform = platform(&[]).await;
    let (consumer, token) = platform.account(Role::Consumer, "c").await;
    let (other, other_token) = platform.account(Role::Consumer, "d").await;
    let (_, producer_token) = platform.account(Role::Producer, "p").await;
    for (name, producer) in [("app", 12), ("app", 3), ("b.2", 3)] {
        confirm(&platform, consumer.id.consumer(), name, producer, 42).await;
    }
    confirm(&platform, other.id.consumer(), "app", 3, 9).await;

    let get = async |path: &str, token: &str| platform.dsm(Method::GET, path, Some(token), Sent::Nothing).await;
    let all = get("/cursors", &token).await;
    assert!(!all.headers.contains_key(header::LINK));
    let all = all.json(200);
    assert_eq!(all[0], json!({"name": "app", "producerId": "3", "cursor": "77-42", "updatedAt": "2026-01-01T00:00:00Z"}));
    let places = |list: &Value| -> Vec<String> {
        list.as_array()
            .unwrap()
            .iter()
            .map(|one| format!("{}:{}", one["name"].as_str().unwrap(), one["producerId"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(places(&all), ["app:3", "app:12", "b.2:3"]);
    assert_eq!(places(&get("/cursors", &other_token).await.json(200)), ["app:3"]);

    // In parts, by following the links.
    let (mut seen, mut query) = (Vec::new(), "?limit=2".to_owned());
    loop {
        let answer = get(&format!("/api/cursors{query}"), &token).await;
        seen.extend(places(&answer.json(200)));
        let Some(link) = answer.headers.get(header::LINK) else { break };
        query = link.to_str().unwrap().strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned();
    }
    assert_eq!(seen, ["app:3", "app:12", "b.2:3"]);

    let delete = async |path: &str, token: &str| platform.dsm(Method::DELETE, path, Some(token), Sent::Nothing).await;
    delete("/cursors/b.2", &other_token).await.problem(404, "not_found");
    let gone = delete("/cursors/app", &token).await;
    assert_eq!((gone.status.as_u16(), gone.text().as_str()), (204, ""));
    delete("/cursors/app", &token).await.problem(404, "not_found");
    assert_eq!(delete("/api/cursors/b.2", &token).await.status, 204);
    assert_eq!(get("/cursors", &token).await.json(200), json!([]));
    assert_eq!(places(&get("/cursors", &other_token).await.json(200)), ["app:3"]);

    // Who is no consumer has none; what is no name is no name.
    get("/cursors", &producer_token).await.problem(403, "wrong_role");
    delete("/cursors/app", &producer_token).await.problem(403, "wrong_role");
    for bad in ["/cursors/a%20b", "/cursors/%C3%A9", &format!("/cursors/{}", "x".repeat(65))] {
        delete(bad, &token).await.problem(422, "invalid_path");
    }
    for (query, field) in [("limit=0", "limit"), ("after=app", "after"), ("after=a%20b:1", "after"), ("after=app:x", "after")] {
        let answer = get(&format!("/cursors?{query}"), &token).await;
        assert_eq!(answer.problem(422, "invalid_field")["field"], field);
    }
    // A reader over HTTP confirms by name, of producers that it is subscribed to, and only forward.
    let (producer, _) = platform.account(Role::Producer, "q").await;
    platform
        .services
        .backend
        .store
        .subscribe(consumer.id.consumer(), producer.id.producer(), Visibility::Open, platform.services.backend.clock.now())
        .await
        .unwrap();
    let post = async |name: &str, cursors: Value, token: &str| {
        platform.dsm(Method::POST, &format!("/cursors/{name}"), Some(token), Sent::Json(json!({"cursors": cursors}))).await
    };
    let of = |cursor: &str| json!({producer.id.to_string(): cursor});
    for cursor in ["77-5", "77-4"] {
        assert_eq!(post("http", of(cursor), &token).await.status, 204);
        assert_eq!(get("/cursors", &token).await.json(200)[0]["cursor"], "77-5");
    }
    post("http", json!({"4711": "77-5"}), &token).await.problem(403, "not_subscribed");
    post("http", of("77-5"), &producer_token).await.problem(403, "wrong_role");
    for bad in [of("live"), of("5"), json!({"x": "77-5"})] {
        assert_eq!(post("http", bad, &token).await.problem(422, "invalid_field")["field"], "cursors");
    }
    platform.services.backend.store.close().await;
    post("http", of("77-6"), &token).await.problem(503, "database_away");
    get("/cursors", &token).await.problem(503, "database_away");
    delete("/cursors/app", &token).await.problem(503, "database_away");
}
