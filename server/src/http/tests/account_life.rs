//! An account's life: its password, its sessions, who may register.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read as _},
};

use motience_auth::SecretKind;
use motience_proto::model::UserId;
use serde_json::json;

use super::{operators::PASSWORD, *};

const BETTER: &str = "a better one";

impl Platform {
    async fn logged_in(&self, name: &str) -> Value {
        self.login(name, PASSWORD).await.json(200)
    }

    /// Asks with the access token of a login.
    async fn as_session(&self, pair: &Value, method: Method, path: &str, body: Sent<'_>) -> Answer {
        self.ap(method, path, pair["access_token"].as_str(), body).await
    }

    async fn sessions(&self, pair: &Value) -> Vec<Value> {
        self.as_session(pair, Method::GET, "/account/sessions", Sent::Nothing).await.json(200).as_array().unwrap().clone()
    }

    async fn verified(&self, pair: &Value) -> u16 {
        self.as_session(pair, Method::GET, "/verify", Sent::Nothing).await.status.as_u16()
    }

    async fn refreshed(&self, pair: &Value) -> Answer {
        self.ap(Method::POST, "/refresh", None, Sent::Json(json!({"refresh_token": pair["refresh_token"]}))).await
    }
}

fn change(old: &str, new: &str) -> Sent<'static> {
    Sent::Json(json!({"old_password": old, "new_password": new}))
}

#[tokio::test]
async fn a_new_password_ends_all_other_sessions_and_keeps_keys() {
    let platform = platform(&[]).await;
    platform.registered("p", "producer").await;
    let (mine, other) = (platform.logged_in("p").await, platform.logged_in("p").await);
    let (_, key) = platform.key(mine["access_token"].as_str().unwrap(), &["publish"]).await;
    let ask = async |body: Sent<'static>| platform.as_session(&mine, Method::POST, "/account/password", body).await;
    ask(change("wrong-pass", BETTER)).await.problem(403, "wrong_password");
    assert_eq!(ask(change(PASSWORD, "short")).await.problem(422, "invalid_field")["field"], "new_password");
    assert_eq!(platform.verified(&other).await, 200);

    assert_eq!(ask(change(PASSWORD, BETTER)).await.json(200), json!({"status": "changed", "ended": 1}));
    assert_eq!((platform.verified(&mine).await, platform.verified(&other).await), (200, 401));
    platform.refreshed(&other).await.problem(401, "invalid_token");
    platform.refreshed(&mine).await.json(200);
    platform.ap(Method::GET, "/verify", Some(&key), Sent::Nothing).await.json(200);
    platform.login("p", PASSWORD).await.problem(401, "wrong_credentials");
    platform.login("p", BETTER).await.json(200);
    let by_key = platform.ap(Method::POST, "/account/password", Some(&key), change(BETTER, PASSWORD)).await;
    by_key.problem(403, "login_required");
}

#[tokio::test]
async fn a_password_is_not_guessed_at_by_changing_it() {
    let platform = platform(&[("RATE_LIMIT_LOGIN_ACCOUNT", "3/m")]).await;
    platform.registered("p", "producer").await;
    let mine = platform.logged_in("p").await;
    let ask = async |old: &str| platform.as_session(&mine, Method::POST, "/account/password", change(old, BETTER)).await;
    for guess in ["one", "two", "three"] {
        ask(guess).await.problem(403, "wrong_password");
    }
    ask(PASSWORD).await.problem(429, "too_many_requests");
    platform.login("p", PASSWORD).await.problem(429, "too_many_requests");
}

#[tokio::test]
async fn sessions_are_listed_and_end_one_by_one_and_all_at_once() {
    let platform = platform(&[]).await;
    platform.registered("p", "producer").await;
    platform.registered("q", "producer").await;
    let mine = platform.logged_in("p").await;
    let mut login = request(Method::POST, "/login", None, Sent::Json(json!({"username": "p", "password": PASSWORD})));
    login.headers_mut().insert(header::USER_AGENT, "curl/8.0".parse().unwrap());
    platform.time.advance(std::time::Duration::from_secs(60));
    let other = send(&platform.ap, login).await.json(200);
    let stranger = platform.logged_in("q").await;

    let listed = platform.sessions(&mine).await;
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!((&listed[0]["user_agent"], &listed[0]["current"]), (&json!("curl/8.0"), &json!(false)));
    assert_eq!((&listed[1]["user_agent"], &listed[1]["current"]), (&Value::Null, &json!(true)));
    assert_eq!((&listed[0]["started_at"], &listed[1]["started_at"]), (&json!("2026-01-01T00:01:00Z"), &json!("2026-01-01T00:00:00Z")));
    // Renewed, it is the same session, begun when it began.
    platform.time.advance(std::time::Duration::from_secs(60));
    let mine = platform.refreshed(&mine).await.json(200);
    let listed = platform.sessions(&mine).await;
    assert_eq!((listed.len(), &listed[0]["current"]), (2, &json!(true)));
    assert_eq!((&listed[0]["started_at"], &listed[0]["last_used_at"]), (&json!("2026-01-01T00:00:00Z"), &json!("2026-01-01T00:02:00Z")));

    let path = format!("/account/sessions/{}", listed[1]["id"].as_str().unwrap());
    platform.as_session(&stranger, Method::DELETE, &path, Sent::Nothing).await.problem(404, "not_found");
    assert_eq!(platform.verified(&other).await, 200);
    assert_eq!(platform.as_session(&mine, Method::DELETE, &path, Sent::Nothing).await.json(200)["status"], "ended");
    assert_eq!(platform.verified(&other).await, 401);
    platform.as_session(&mine, Method::DELETE, &path, Sent::Nothing).await.problem(404, "not_found");
    assert_eq!(platform.sessions(&mine).await.len(), 1);

    let another = platform.logged_in("p").await;
    let everywhere = async |wish: Value| platform.as_session(&mine, Method::POST, "/account/logout-everywhere", Sent::Json(wish)).await;
    assert_eq!(everywhere(json!({"keep_current": true})).await.json(200), json!({"status": "logged_out", "ended": 1}));
    assert_eq!((platform.verified(&mine).await, platform.verified(&another).await), (200, 401));
    assert_eq!(everywhere(json!({})).await.json(200)["ended"], 1);
    assert_eq!((platform.verified(&mine).await, platform.verified(&stranger).await), (401, 200));
}

#[tokio::test]
async fn a_token_of_the_operator_sets_a_password_once() {
    let platform = platform(&[("RATE_LIMIT_LOGIN", "4/m")]).await;
    let user = platform.registered("p", "producer").await;
    let pair = platform.logged_in("p").await;
    let backend = &platform.services.backend;
    let make = async |seconds: u64| {
        let (token, hash) = SecretKind::Reset.make();
        let expires_at = backend.clock.now() + std::time::Duration::from_secs(seconds);
        let user = UserId(user["id"].as_i64().unwrap());
        backend.store.add_reset(&hash, user, expires_at).await.unwrap();
        token
    };
    let reset = async |token: &str, password: &str| {
        platform.ap(Method::POST, "/account/reset", None, Sent::Json(json!({"token": token, "new_password": password}))).await
    };
    let (old, first, second) = (make(1).await, make(3600).await, make(3600).await);
    platform.time.advance(std::time::Duration::from_secs(1));
    reset(&old, BETTER).await.problem(401, "invalid_reset");
    assert_eq!(reset(&first, "short").await.problem(422, "invalid_field")["field"], "new_password");
    assert_eq!(reset(&first, BETTER).await.json(200), json!({"status": "changed", "ended": 1}));
    assert_eq!(platform.verified(&pair).await, 401);
    platform.login("p", BETTER).await.json(200);
    platform.login("p", PASSWORD).await.problem(401, "wrong_credentials");
    reset(&first, PASSWORD).await.problem(401, "invalid_reset");
    reset(&second, PASSWORD).await.problem(401, "invalid_reset");
    reset("motr_", PASSWORD).await.problem(401, "invalid_reset");
    reset(&make(3600).await, PASSWORD).await.problem(429, "too_many_requests");
}

#[tokio::test]
async fn registration_is_open_by_invitation_or_closed() {
    let body = |name: &str, role: &str, invitation: Option<&str>| {
        Sent::Json(json!({"username": name, "password": PASSWORD, "role": role, "invitation": invitation}))
    };
    let open = platform(&[]).await;
    assert_eq!(open.ap(Method::GET, "/registration", None, Sent::Nothing).await.json(200), json!({"mode": "open"}));
    let closed = platform(&[("REGISTRATION", "closed")]).await;
    closed.ap(Method::POST, "/register", None, body("p", "producer", None)).await.problem(403, "registration_closed");

    let platform = platform(&[("REGISTRATION", "invite")]).await;
    let register = async |name: &str, role: &str, invitation: Option<&str>| {
        platform.ap(Method::POST, "/register", None, body(name, role, invitation)).await
    };
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let (_, producer) = platform.account(Role::Producer, "known").await;
    platform.ap(Method::POST, "/invitations", Some(&producer), Sent::Json(json!({}))).await.problem(403, "wrong_role");
    let invite = async |wish: Value| platform.ap(Method::POST, "/invitations", Some(&admin), Sent::Json(wish)).await;
    for (wish, field) in [
        (json!({"role": "admin"}), "role"),
        (json!({"uses": 0}), "uses"),
        (json!({"expires_in": 0}), "expires_in"),
        (json!({"note": "x".repeat(256)}), "note"),
    ] {
        assert_eq!(invite(wish).await.problem(422, "invalid_field")["field"], field);
    }
    let made = invite(json!({"role": "producer", "uses": 2, "note": "roof"})).await.json(201);
    let invitation = made["invitation"].as_str().unwrap();
    register("p", "producer", None).await.problem(403, "invitation_required");
    register("p", "producer", Some("moti_")).await.problem(403, "invalid_invitation");
    register("p", "producer", Some(&SecretKind::Invitation.make().0)).await.problem(403, "invalid_invitation");
    register("p", "consumer", Some(invitation)).await.problem(403, "invalid_invitation");
    // A name that is taken uses nothing up.
    register("known", "producer", Some(invitation)).await.problem(409, "username_taken");
    register("p", "producer", Some(invitation)).await.json(201);
    let list = async || platform.ap(Method::GET, "/invitations", Some(&admin), Sent::Nothing).await.json(200);
    let listed = list().await;
    assert_eq!((&listed[0]["uses_left"], &listed[0]["note"], &listed[0]["id"]), (&json!(1), &json!("roof"), &made["id"]));
    assert!(listed[0].get("invitation").is_none());
    register("q", "producer", Some(invitation)).await.json(201);
    register("r", "producer", Some(invitation)).await.problem(403, "invalid_invitation");
    assert_eq!(list().await, json!([]));

    let made = invite(json!({"expires_in": 60})).await.json(201);
    platform.time.advance(std::time::Duration::from_secs(60));
    register("r", "producer", made["invitation"].as_str()).await.problem(403, "invalid_invitation");
    let made = invite(json!({})).await.json(201);
    let path = format!("/invitations/{}", made["id"].as_str().unwrap());
    platform.ap(Method::DELETE, &path, Some(&admin), Sent::Nothing).await.json(200);
    platform.ap(Method::DELETE, &path, Some(&admin), Sent::Nothing).await.problem(404, "not_found");
    register("r", "producer", made["invitation"].as_str()).await.problem(403, "invalid_invitation");
}

/// A producer with three records in its log and a follower, its session and the follower's token.
async fn flow(platform: &Platform) -> (i64, Value, String) {
    let id = platform.registered("p", "producer").await["id"].as_i64().unwrap();
    let pair = platform.logged_in("p").await;
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    platform.sm(Method::POST, "/subscribe", Some(&consumer), Sent::Json(json!({"producer_id": id}))).await.json(201);
    let records: Vec<Value> = (1..=3).map(|n| json!({"device_id": "d", "timestamp": n, "data": {"n": n}})).collect();
    platform.dsm(Method::POST, "/data", pair["access_token"].as_str(), Sent::Json(json!(records))).await.json(200);
    (id, pair, consumer)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_about_an_account_is_exported() {
    let platform = platform(&[]).await;
    let (id, pair, consumer) = flow(&platform).await;
    let (key_id, key) = platform.key(pair["access_token"].as_str().unwrap(), &["publish"]).await;
    platform.ap(Method::GET, "/account/export", Some(&key), Sent::Nothing).await.problem(403, "login_required");
    let files = async |token: &str| {
        let answer = platform.ap(Method::GET, "/account/export", Some(token), Sent::Nothing).await;
        assert_eq!((answer.status.as_u16(), &answer.headers[header::CONTENT_TYPE]), (200, &"application/zip".parse().unwrap()));
        let mut archive = zip::ZipArchive::new(Cursor::new(answer.body)).unwrap();
        let mut files = BTreeMap::new();
        for index in 0..archive.len() {
            let mut file = archive.by_index(index).unwrap();
            let mut text = String::new();
            file.read_to_string(&mut text).unwrap();
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            files.insert(file.name().unwrap().into_owned(), lines);
        }
        files
    };
    let mine = files(pair["access_token"].as_str().unwrap()).await;
    let names: Vec<&str> = mine.keys().map(String::as_str).collect();
    let expected = ["act_origins", "acts", "api_keys", "login_addresses", "records", "refresh_tokens", "subscriptions", "users"];
    assert_eq!(names, expected.map(|table| format!("{table}.ndjson")));
    let deeds: Vec<&Value> = mine["acts.ndjson"].iter().map(|act| &act["act"]).collect();
    assert_eq!(deeds, ["subscription.subscribe", "key.create", "account.export"]);
    assert_eq!((&mine["users.ndjson"][0]["username"], &mine["users.ndjson"][0]["id"]), (&json!("p"), &json!(id)));
    assert_eq!(mine["api_keys.ndjson"][0]["id"], key_id.as_str());
    assert_eq!(mine["records.ndjson"].iter().map(|record| record["data"]["n"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    let all = serde_json::to_string(&mine).unwrap();
    assert!(!all.contains("argon2") && !all.contains(&key) && !all.contains(&SecretKind::Key.hash(&key).unwrap()), "no secret, no hash");
    let theirs = files(&consumer).await;
    assert_eq!(theirs["users.ndjson"][0]["username"], "c");
    assert!(!theirs.contains_key("records.ndjson"));
}

#[tokio::test]
async fn an_account_that_ended_is_erased_and_nothing_of_it_can_be_read() {
    let platform = platform(&[]).await;
    let (id, pair, consumer) = flow(&platform).await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let (_, key) = platform.key(pair["access_token"].as_str().unwrap(), &["publish"]).await;
    let backend = &platform.services.backend;
    let log = backend.authenticate(&key).await.unwrap().log_key();
    let ended = backend.ended(&backend.authenticate(&key).await.unwrap());
    let history = async |token: &str| platform.dsm(Method::GET, &format!("/history/{id}"), Some(token), Sent::Nothing).await;
    assert_eq!(history(&consumer).await.json(200).as_array().unwrap().len(), 3);
    let end =
        async |password: &str| platform.as_session(&pair, Method::DELETE, "/account", Sent::Json(json!({"password": password}))).await;
    end("wrong-pass").await.problem(403, "wrong_password");
    assert_eq!(platform.verified(&pair).await, 200);
    platform.ap(Method::DELETE, "/account", Some(&key), Sent::Json(json!({"password": PASSWORD}))).await.problem(403, "login_required");

    assert_eq!(end(PASSWORD).await.json(202), json!({"status": "erasing", "erased_by": "2026-01-01T01:00:00Z"}));
    tokio::time::timeout(std::time::Duration::from_secs(1), ended).await.expect("live connections end");
    assert_eq!(platform.verified(&pair).await, 401);
    platform.ap(Method::GET, "/verify", Some(&key), Sent::Nothing).await.problem(401, "token_revoked");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while backend.store.account(UserId(id)).await.unwrap().is_some() {
        assert!(tokio::time::Instant::now() < deadline, "the account is not erased");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    platform.login("p", PASSWORD).await.problem(401, "wrong_credentials");
    history(&consumer).await.problem(403, "forbidden");
    assert_eq!(history(&admin).await.json(200), json!([]));
    let stream =
        async |token: &str| platform.dsm(Method::GET, &format!("/stream?from=earliest&producers={id}"), Some(token), Sent::Nothing).await;
    stream(&consumer).await.problem(403, "not_subscribed");
    stream(&admin).await.problem(404, "not_found");
    let bounds = backend.relay.log().bounds(log).await.unwrap();
    assert!(bounds.first > bounds.last, "{bounds:?}");
    assert!(backend.relay.log().read(log, motience_proto::model::Offset(0), 1 << 20).await.unwrap().batches.is_empty());
    // The name is free, and its next owner has nothing of the one before.
    let next = platform.registered("p", "producer").await["id"].as_i64().unwrap();
    assert!(next != id && platform.services.backend.relay.log_of(UserId(next).producer()).await.unwrap().log != log.log);
}
