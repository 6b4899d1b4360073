//! Registration, login, tokens: what the flow tests over sockets leave out.

use std::time::Duration;

use serde_json::json;

use super::*;

const PASSWORD: &str = "pass123";
/// `pass123` as the legacy platform kept it.
const BCRYPT: &str = "$2b$04$abcdefghijklmnopqrstuuJ.s2CWtie7QPvRrkIMPLoBLMx68N9JS";

impl Platform {
    async fn post(&self, path: &str, body: Value) -> Answer {
        self.ap(Method::POST, path, None, Sent::Json(body)).await
    }

    async fn log_in(&self, name: &str) -> Value {
        self.post("/login", json!({"username": name, "password": PASSWORD})).await.json(200)
    }

    async fn renew(&self, pair: &Value) -> Answer {
        self.post("/refresh", json!({"refresh_token": pair["refresh_token"]})).await
    }

    async fn verify(&self, pair: &Value) -> Answer {
        self.ap(Method::GET, "/verify", pair["access_token"].as_str(), Sent::Nothing).await
    }
}

#[tokio::test]
async fn a_registration_is_answered_as_documented() {
    let platform = platform(&[]).await;
    let body = json!({"username": "producer1", "password": PASSWORD, "role": "producer", "device_id": "rpi_001"});
    let answer = platform.post("/api/auth/register", body).await;
    assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    let user = answer.json(201);
    assert!(user["created_at"].is_string());
    let expected =
        json!({"id": user["id"], "username": "producer1", "role": "producer", "device_id": "rpi_001", "created_at": user["created_at"]});
    assert_eq!(user, expected);

    let pair = platform.log_in("producer1").await;
    let expected = json!({
        "access_token": pair["access_token"], "refresh_token": pair["refresh_token"], "token_type": "Bearer", "expires_in": 3600,
        "user_id": user["id"], "role": "producer",
    });
    assert_eq!(pair, expected);
    let expected =
        json!({"valid": true, "user_id": user["id"], "username": "producer1", "role": "producer", "expires_at": "2026-01-01T01:00:00Z"});
    assert_eq!(platform.verify(&pair).await.json(200), expected);
    let listed = platform.ap(Method::GET, "/api/auth/producers", pair["access_token"].as_str(), Sent::Nothing).await.json(200);
    assert_eq!(listed, json!([user]));
    // A client that has no device says so in either way.
    let body = json!({"username": "consumer1", "password": PASSWORD, "role": "consumer", "device_id": null});
    assert_eq!(platform.post("/register", body).await.json(201)["device_id"], Value::Null);
}

#[tokio::test]
async fn bounds_count_characters_as_the_document_does() {
    let platform = platform(&[]).await;
    let (name, password) = ("é".repeat(255), "é".repeat(128));
    let body = json!({"username": name, "password": password, "role": "producer", "device_id": name});
    assert_eq!(platform.post("/register", body.clone()).await.json(201)["device_id"], name);
    platform.post("/login", body).await.json(200);
}

#[tokio::test]
async fn the_field_that_is_out_of_bounds_is_named() {
    let platform = platform(&[]).await;
    let good = json!({"username": "u", "password": PASSWORD, "role": "producer", "device_id": "d"});
    for (field, value) in [
        ("username", json!("")),
        ("username", json!(" u")),
        ("username", json!("u\n")),
        ("username", json!(7)),
        ("username", json!("é".repeat(256))),
        ("password", json!("12345")),
        ("password", json!("x".repeat(129))),
        ("password", json!({})),
        ("role", json!("admin")),
        ("role", json!("Producer")),
        ("device_id", json!("")),
        ("device_id", json!("a\u{0}")),
        ("device_id", json!(1)),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let problem = platform.post("/register", body).await.problem(422, "invalid_field");
        assert_eq!(problem["field"], field, "{problem}");
    }
    for field in ["username", "password", "role"] {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(field);
        let problem = platform.post("/register", body).await.problem(422, "invalid_field");
        assert_eq!((&problem["field"], &problem["error"]), (&json!(field), &json!(format!("{field} is missing."))));
    }
    // No object, though serde could take the first for one.
    for body in [json!(["u", PASSWORD, "producer"]), json!("u"), json!(null), json!(7)] {
        assert_eq!(platform.post("/register", body).await.problem(422, "invalid_field")["error"], "The body must be a JSON object.");
    }
}

#[tokio::test]
async fn a_media_type_is_json_or_refused() {
    let platform = platform(&[]).await;
    let body = r#"{"username":"u","password":"pass123","role":"producer"}"#;
    for (kind, status) in [
        ("application/json; charset=utf-8", 201),
        ("application/vnd.api+json", 409),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
    ] {
        let answer = platform.ap(Method::POST, "/register", None, Sent::Text(kind, body)).await;
        assert_eq!(answer.status, status, "{kind}");
    }
    platform.ap(Method::POST, "/register", None, Sent::Nothing).await.problem(415, "unsupported_media_type");
    platform.ap(Method::POST, "/register", None, Sent::Text("application/json", "")).await.problem(400, "malformed_json");
    let deep = "[".repeat(10_000);
    platform.ap(Method::POST, "/register", None, Sent::Text("application/json", &deep)).await.problem(400, "malformed_json");
}

#[tokio::test]
async fn an_imported_bcrypt_hash_is_accepted_once_and_replaced() {
    let platform = platform(&[]).await;
    let store = &platform.services.backend.store;
    let new = NewUser { username: "old".into(), password_hash: BCRYPT.into(), role: Role::Producer, device_id: None, strict_device: false };
    store.create_user(new).await.unwrap();
    let wrong = json!({"username": "old", "password": "pass124"});
    platform.post("/login", wrong).await.problem(401, "wrong_credentials");
    platform.log_in("old").await;
    let hash = store.credentials("old").await.unwrap().unwrap().password_hash;
    assert!(hash.starts_with("$argon2id$"));
    platform.log_in("old").await;
    assert_eq!(store.credentials("old").await.unwrap().unwrap().password_hash, hash);
}

#[tokio::test]
async fn an_imported_bcrypt_hash_stays_where_the_way_back_is_to_stay_open() {
    let platform = platform(&[("KEEP_LEGACY_HASHES", "true")]).await;
    let store = &platform.services.backend.store;
    let new = NewUser { username: "old".into(), password_hash: BCRYPT.into(), role: Role::Producer, device_id: None, strict_device: false };
    store.create_user(new).await.unwrap();
    for _ in 0..2 {
        platform.log_in("old").await;
        assert_eq!(store.credentials("old").await.unwrap().unwrap().password_hash, BCRYPT);
    }
    platform.post("/login", json!({"username": "old", "password": "pass124"})).await.problem(401, "wrong_credentials");
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_second_use_ends_the_login() {
    let platform = platform(&[]).await;
    platform.post("/register", json!({"username": "u", "password": PASSWORD, "role": "consumer"})).await.json(201);
    let (first, other) = (platform.log_in("u").await, platform.log_in("u").await);
    let second = platform.renew(&first).await.json(200);
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    platform.verify(&second).await.json(200);

    platform.time.advance(Duration::from_millis(30_001));
    platform.renew(&first).await.problem(401, "refresh_reused");
    platform.renew(&second).await.problem(401, "invalid_token");
    platform.verify(&first).await.problem(401, "token_revoked");
    platform.verify(&second).await.problem(401, "token_revoked");
    // Another login of the same account is not touched.
    platform.verify(&other).await.json(200);
    platform.renew(&other).await.json(200);
}

#[tokio::test]
async fn a_logout_ends_the_login_however_often_it_is_said() {
    let platform = platform(&[]).await;
    platform.post("/register", json!({"username": "u", "password": PASSWORD, "role": "consumer"})).await.json(201);
    let pair = platform.log_in("u").await;
    for _ in 0..2 {
        let answer = platform.post("/api/auth/logout", json!({"refresh_token": pair["refresh_token"]})).await;
        assert_eq!(answer.json(200), json!({"status": "logged_out"}));
    }
    platform.verify(&pair).await.problem(401, "token_revoked");
    platform.renew(&pair).await.problem(401, "invalid_token");
    platform.post("/logout", json!({"refresh_token": pair["access_token"]})).await.problem(401, "wrong_token_type");
}

#[tokio::test]
async fn tokens_expire() {
    let platform = platform(&[]).await;
    platform.post("/register", json!({"username": "u", "password": PASSWORD, "role": "consumer"})).await.json(201);
    let pair = platform.log_in("u").await;
    platform.time.advance(Duration::from_secs(3600));
    platform.verify(&pair).await.problem(401, "token_expired");
    let later = platform.renew(&pair).await.json(200);
    platform.verify(&later).await.json(200);
    platform.time.advance(Duration::from_secs(7 * 86_400));
    platform.renew(&later).await.problem(401, "token_expired");
    platform.post("/logout", json!({"refresh_token": later["refresh_token"]})).await.json(200);
}

#[tokio::test]
async fn lists_come_in_parts() {
    let platform = platform(&[]).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(platform.account(Role::Consumer, &format!("c{n}")).await.0.id.0);
    }
    let (_, token) = platform.account(Role::Producer, "p").await;
    let list = async |query: &str| {
        let answer = platform.ap(Method::GET, &format!("/consumers{query}"), Some(&token), Sent::Nothing).await;
        answer.json(200).as_array().unwrap().iter().map(|u| u["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, ids);
    assert_eq!(list("?limit=2").await, ids[..2]);
    assert_eq!(list(&format!("?limit=1000&after={}", ids[1])).await, ids[2..]);
    assert!(list("?after=9223372036854775807").await.is_empty());
    for (query, field, code) in [
        ("limit=0", "limit", "invalid_field"),
        ("limit=1001", "limit", "invalid_field"),
        ("after=-1", "after", "invalid_field"),
        ("limit=x", "limit", "invalid_query"),
        ("after=99999999999999999999", "after", "invalid_query"),
    ] {
        let answer = platform.ap(Method::GET, &format!("/consumers?{query}"), Some(&token), Sent::Nothing).await;
        assert_eq!(answer.problem(422, code)["field"], field, "{query}");
    }
}

#[tokio::test]
async fn two_tabs_that_renew_at_once_stay_logged_in() {
    let platform = platform(&[]).await;
    platform.post("/register", json!({"username": "u", "password": PASSWORD, "role": "consumer"})).await.json(201);
    let first = platform.log_in("u").await;
    let tabs = futures_util::future::join_all((0..8).map(|_| platform.renew(&first))).await;
    let pairs: Vec<Value> = tabs.iter().map(|answer| answer.json(200)).collect();
    assert!(pairs.iter().all(|pair| pair == &pairs[0]), "all tabs get the same pair: {pairs:?}");
    // An answer that was lost is given again, with what is left of its time.
    platform.time.advance(Duration::from_secs(29));
    let again = platform.renew(&first).await.json(200);
    assert_eq!((&again["refresh_token"], &again["access_token"]), (&pairs[0]["refresh_token"], &pairs[0]["access_token"]));
    assert_eq!(again["expires_in"], 3600 - 29);
    platform.verify(&again).await.json(200);
    let second = platform.renew(&again).await.json(200);
    platform.time.advance(Duration::from_secs(2));
    platform.renew(&first).await.problem(401, "refresh_reused");
    platform.verify(&second).await.problem(401, "token_revoked");
}

#[tokio::test]
async fn the_leeway_is_a_setting() {
    let platform = platform(&[("JWT_REFRESH_LEEWAY", "0s")]).await;
    platform.post("/register", json!({"username": "u", "password": PASSWORD, "role": "consumer"})).await.json(201);
    let first = platform.log_in("u").await;
    platform.renew(&first).await.json(200);
    platform.time.advance(Duration::from_millis(1));
    platform.renew(&first).await.problem(401, "refresh_reused");
}

#[tokio::test]
async fn names_are_the_same_however_they_are_written() {
    let platform = platform(&[]).await;
    let register = async |name: &str| platform.post("/register", json!({"username": name, "password": PASSWORD, "role": "consumer"})).await;
    assert_eq!(register("Zoe\u{301}").await.json(201)["username"], "zo\u{e9}");
    for same in ["zo\u{e9}", "ZO\u{c9}", "\u{ff3a}oe\u{301}"] {
        register(same).await.problem(409, "username_taken");
        platform.log_in(same).await;
    }
    for alike in
        ["ro\u{200b}ot", "\u{202e}toor", "zo\u{e9}\u{200d}", "r\u{43e}ot", "\u{440}\u{43e}\u{441}\u{430}", "adm\u{131}n", "ro\u{ad}ot"]
    {
        assert_eq!(register(alike).await.problem(422, "invalid_field")["field"], "username", "{alike:?}");
    }
    // An account from before is logged in to by its name as it is.
    let old = "Old\u{200b}Root";
    let hash = platform.services.backend.hasher.hash("a", PASSWORD.into()).await.unwrap();
    let new = NewUser { username: old.into(), password_hash: hash, role: Role::Consumer, device_id: None, strict_device: false };
    platform.services.backend.store.create_user(new).await.unwrap();
    platform.log_in(old).await;
    platform.post("/login", json!({"username": "oldroot", "password": PASSWORD})).await.problem(401, "wrong_credentials");
}

#[tokio::test]
async fn logouts_and_refreshes_that_change_nothing_write_nothing_and_are_limited() {
    let platform = platform(&[("RATE_LIMIT_LOGOUT", "20/h"), ("RATE_LIMIT_REFRESH", "20/h"), ("RATE_LIMIT_REFRESH_LOGIN", "5/h")]).await;
    platform.post("/register", json!({"username": "u", "password": PASSWORD, "role": "consumer"})).await.json(201);
    let (first, other) = (platform.log_in("u").await, platform.log_in("u").await);
    let logout = async |pair: &Value| platform.post("/logout", json!({"refresh_token": pair["refresh_token"]})).await;
    logout(&first).await.json(200);
    // An ended family is known without the database.
    let revoked = platform.services.backend.store.revoked_families(datetime!(2025-01-01 00:00 UTC)).await.unwrap();
    for _ in 0..20 {
        logout(&first).await.json(200);
    }
    logout(&first).await.problem(429, "too_many_requests");
    assert_eq!(platform.services.backend.store.revoked_families(datetime!(2025-01-01 00:00 UTC)).await.unwrap(), revoked);

    let mut pair = other;
    for _ in 0..5 {
        pair = platform.renew(&pair).await.json(200);
    }
    platform.renew(&pair).await.problem(429, "too_many_requests");
    for _ in 0..20 {
        platform.post("/refresh", json!({"refresh_token": "x"})).await.problem(401, "invalid_token");
    }
    platform.post("/refresh", json!({"refresh_token": "x"})).await.problem(429, "too_many_requests");
}
