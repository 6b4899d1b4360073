//! Keys of programs over HTTP: made, shown once, limited by their scopes, ended.

use std::time::Duration;

use serde_json::json;

use super::*;

impl Platform {
    /// The deeds that this account may read of, the oldest first.
    pub(crate) async fn deeds(&self, token: &str) -> Vec<String> {
        let acts = self.sm(Method::GET, "/acts", Some(token), Sent::Nothing).await.json(200);
        acts.as_array().unwrap().iter().rev().map(|act| act["act"].as_str().unwrap().to_owned()).collect()
    }

    /// A key with these scopes: its id and the key.
    pub(crate) async fn key(&self, token: &str, scopes: &[&str]) -> (String, String) {
        let made = self.ap(Method::POST, "/keys", Some(token), Sent::Json(json!({"name": "k", "scopes": scopes}))).await.json(201);
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }
}

fn record() -> Sent<'static> {
    Sent::Json(json!({"device_id": "d", "timestamp": 1, "data": 1}))
}

#[tokio::test]
async fn a_key_is_shown_once_listed_and_ended() {
    let platform = platform(&[]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    let (_, other) = platform.account(Role::Producer, "q").await;
    let wish = json!({"name": "roof", "scopes": ["publish", "consume"], "expires_at": "2026-01-02T00:00:00Z"});
    let made = platform.ap(Method::POST, "/keys", Some(&token), Sent::Json(wish)).await.json(201);
    let (id, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    assert!(key.starts_with("motk_") && key.len() == 77, "{key}");
    let expected = json!({"id": id, "name": "roof", "scopes": ["publish", "consume"], "created_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-02T00:00:00Z", "last_used_at": null});
    let list = async |token: &str| platform.ap(Method::GET, "/keys", Some(token), Sent::Nothing).await.json(200);
    assert_eq!(list(&token).await, json!([expected]));
    assert_eq!(list(&other).await, json!([]));

    platform.time.advance(Duration::from_secs(90));
    assert_eq!(platform.dsm(Method::POST, "/data", Some(key), record()).await.json(200)["accepted"], 1);
    assert_eq!(list(&token).await[0]["last_used_at"], "2026-01-01T00:01:30Z");
    let verified = platform.ap(Method::GET, "/verify", Some(key), Sent::Nothing).await.json(200);
    assert_eq!((&verified["username"], &verified["expires_at"]), (&json!("p"), &json!("2026-01-02T00:00:00Z")));

    let path = format!("/keys/{id}");
    platform.ap(Method::DELETE, &path, Some(&other), Sent::Nothing).await.problem(404, "not_found");
    let ended = platform.ap(Method::DELETE, &path, Some(&token), Sent::Nothing).await.json(200);
    assert_eq!(ended, json!({"id": id, "status": "revoked"}));
    platform.dsm(Method::POST, "/data", Some(key), record()).await.problem(401, "token_revoked");
    platform.ap(Method::DELETE, &path, Some(&token), Sent::Nothing).await.problem(404, "not_found");
    assert_eq!(list(&token).await, json!([]));
    assert_eq!(platform.deeds(&token).await, ["key.create", "key.revoke"]);
    assert!(platform.deeds(&other).await.is_empty());
}

#[tokio::test]
async fn a_key_that_is_none_or_has_expired_is_refused() {
    let platform = platform(&[]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    let wish = json!({"name": "k", "scopes": ["publish"], "expires_at": "2026-01-01T00:00:10Z"});
    let made = platform.ap(Method::POST, "/keys", Some(&token), Sent::Json(wish)).await.json(201);
    let key = made["key"].as_str().unwrap();
    let verify = async |key: &str| platform.ap(Method::GET, "/verify", Some(key), Sent::Nothing).await;
    verify(key).await.json(200);
    let mistyped = format!("{}{}", &key[..76], if key.ends_with('0') { '1' } else { '0' });
    for wrong in ["motk_", mistyped.as_str(), &motience_auth::SecretKind::Key.make().0, &motience_auth::SecretKind::Reset.make().0] {
        for _ in 0..2 {
            verify(wrong).await.problem(401, "invalid_token");
        }
    }
    platform.time.advance(Duration::from_secs(10));
    verify(key).await.problem(401, "token_expired");
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say_and_nothing_of_the_account() {
    let platform = platform(&[]).await;
    let (producer, producing) = platform.account(Role::Producer, "p").await;
    let (second, _) = platform.account(Role::Producer, "q").await;
    let (_, consuming) = platform.account(Role::Consumer, "c").await;
    let (_, operating) = platform.account(Role::Admin, "root").await;
    for id in [producer.id, second.id] {
        platform.sm(Method::POST, "/subscribe", Some(&consuming), Sent::Json(json!({"producer_id": id}))).await.json(201);
    }
    let (_, publish) = platform.key(&producing, &["publish"]).await;
    let (_, devices) = platform.key(&producing, &["manage_devices"]).await;
    let (_, own) = platform.key(&producing, &["consume"]).await;
    let (_, consume) = platform.key(&consuming, &["consume"]).await;
    let (_, first) = platform.key(&consuming, &[&format!("consume:{}", producer.id)]).await;
    let (_, usage) = platform.key(&consuming, &["read_usage"]).await;
    let (_, operate) = platform.key(&operating, &["operate"]).await;
    let missing = |answer: Answer, scope: &str| assert_eq!(answer.problem(403, "scope_missing")["scope"], scope);

    platform.dsm(Method::POST, "/data", Some(&publish), record()).await.json(200);
    missing(platform.dsm(Method::POST, "/data", Some(&devices), record()).await, "publish");
    missing(platform.dsm(Method::POST, "/data", Some(&own), record()).await, "publish");
    platform.dsm(Method::POST, "/data", Some(&consume), record()).await.problem(403, "wrong_role");

    let history = async |key: &str, id: i64| platform.dsm(Method::GET, &format!("/history/{id}"), Some(key), Sent::Nothing).await;
    let (p, q) = (producer.id.0, second.id.0);
    for (key, id) in [(&own, p), (&consume, p), (&consume, q), (&first, p)] {
        history(key, id).await.json(200);
    }
    missing(history(&first, q).await, &format!("consume:{q}"));
    missing(history(&publish, p).await, "consume");
    missing(history(&usage, p).await, "consume");
    missing(history(&operate, p).await, "consume");
    for (key, path) in [(&first, format!("/stream?producers={q}")), (&publish, "/stream".to_owned()), (&usage, "/stream".to_owned())] {
        platform.dsm(Method::GET, &path, Some(key), Sent::Nothing).await.problem(403, "scope_missing");
    }
    let unsubscribe =
        async |key: &str, id: i64| platform.sm(Method::DELETE, &format!("/unsubscribe?producer_id={id}"), Some(key), Sent::Nothing).await;
    missing(unsubscribe(&first, q).await, &format!("consume:{q}"));
    unsubscribe(&first, p).await.json(200);

    for key in [&consume, &first, &usage] {
        platform.ap(Method::GET, "/producers", Some(key), Sent::Nothing).await.json(200);
        platform.dsm(Method::GET, "/streams", Some(key), Sent::Nothing).await.json(200);
    }
    missing(platform.ap(Method::GET, "/producers", Some(&publish), Sent::Nothing).await, "read_usage");
    platform.ap(Method::GET, "/accounts", Some(&operate), Sent::Nothing).await.json(200);
    let (_, read) = platform.key(&operating, &["read_usage"]).await;
    missing(platform.ap(Method::GET, "/accounts", Some(&read), Sent::Nothing).await, "operate");

    for key in [&publish, &consume, &operate] {
        platform.ap(Method::GET, "/keys", Some(key), Sent::Nothing).await.problem(403, "login_required");
        let wish = Sent::Json(json!({"name": "another", "scopes": ["publish"]}));
        platform.ap(Method::POST, "/keys", Some(key), wish).await.problem(403, "login_required");
    }
}

#[tokio::test]
async fn a_key_that_could_never_be_used_is_not_made() {
    let platform = platform(&[]).await;
    let (_, producer) = platform.account(Role::Producer, "p").await;
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    for (token, wish, field) in [
        (&producer, json!({"name": "", "scopes": ["publish"]}), "name"),
        (&producer, json!({"name": "a\u{7}", "scopes": ["publish"]}), "name"),
        (&producer, json!({"name": "k", "scopes": []}), "scopes"),
        (&producer, json!({"name": "k", "scopes": ["operate"]}), "scopes"),
        (&consumer, json!({"name": "k", "scopes": ["publish"]}), "scopes"),
        (&consumer, json!({"name": "k", "scopes": ["consume:x"]}), "scopes"),
        (&consumer, json!({"name": "k", "scopes": ["consume"], "expires_at": "2025-12-31T00:00:00Z"}), "expires_at"),
        (&consumer, json!({"name": "k", "scopes": ["consume"], "expires_at": "soon"}), "expires_at"),
    ] {
        let refused = platform.ap(Method::POST, "/keys", Some(token), Sent::Json(wish)).await.problem(422, "invalid_field");
        assert_eq!(refused["field"], field);
    }
    for _ in 0..motience_store::MAX_KEYS {
        platform.key(&producer, &["publish"]).await;
    }
    let wish = Sent::Json(json!({"name": "one too many", "scopes": ["publish"]}));
    platform.ap(Method::POST, "/keys", Some(&producer), wish).await.problem(409, "too_many_keys");
}

#[tokio::test]
async fn keys_end_with_their_account_and_do_not_come_back() {
    let platform = platform(&[]).await;
    let (user, token) = platform.account(Role::Producer, "p").await;
    let (_, key) = platform.key(&token, &["publish"]).await;
    let backend = &platform.services.backend;
    let ended = backend.ended(&backend.authenticate(&key).await.unwrap());
    backend.close_account(user.id).await.unwrap();
    tokio::time::timeout(Duration::from_secs(1), ended).await.expect("live connections end");
    platform.dsm(Method::POST, "/data", Some(&key), record()).await.problem(401, "token_revoked");
    backend.store.reopen_account(user.id, backend.clock.now()).await.unwrap();
    platform.dsm(Method::POST, "/data", Some(&key), record()).await.problem(401, "token_revoked");
}
