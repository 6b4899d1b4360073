//! The operations of operators.

use std::time::Duration;

use motience_cluster::Kind;
use motience_proto::model::Transport;
use serde_json::json;

use super::*;

pub(super) const PASSWORD: &str = "pass123";

impl Platform {
    pub(super) async fn registered(&self, name: &str, role: &str) -> Value {
        let body = json!({"username": name, "password": PASSWORD, "role": role});
        self.ap(Method::POST, "/register", None, Sent::Json(body)).await.json(201)
    }

    pub(super) async fn login(&self, name: &str, password: &str) -> Answer {
        self.ap(Method::POST, "/login", None, Sent::Json(json!({"username": name, "password": password}))).await
    }

    async fn operate(&self, token: &str, path: &str) -> Answer {
        self.ap(Method::POST, path, Some(token), Sent::Nothing).await
    }
}

#[tokio::test]
async fn a_revoked_account_is_out_until_restored_and_its_tokens_for_ever() {
    let platform = platform(&[]).await;
    let (root, admin) = platform.account(Role::Admin, "root").await;
    let user = platform.registered("p", "producer").await;
    let pair = platform.login("p", PASSWORD).await.json(200);
    let verify = async |pair: &Value| platform.ap(Method::GET, "/verify", pair["access_token"].as_str(), Sent::Nothing).await;
    let refresh =
        async |pair: &Value| platform.ap(Method::POST, "/refresh", None, Sent::Json(json!({"refresh_token": pair["refresh_token"]}))).await;
    verify(&pair).await.json(200);

    let (revoke, restore) = (format!("/accounts/{}/revoke", user["id"]), format!("/api/auth/accounts/{}/restore", user["id"]));
    let grant = platform.services.backend.authenticate(pair["access_token"].as_str().unwrap()).await.unwrap();
    let ended = platform.services.backend.ended(&grant);
    let mut expected = user.clone();
    expected["revoked_at"] = json!("2026-01-01T00:00:00Z");
    for _ in 0..2 {
        assert_eq!(platform.operate(&admin, &revoke).await.json(200), expected);
    }
    tokio::time::timeout(Duration::from_secs(1), ended).await.expect("live connections end");
    verify(&pair).await.problem(401, "token_revoked");
    refresh(&pair).await.problem(401, "invalid_token");
    platform.login("p", PASSWORD).await.problem(403, "account_revoked");
    platform.login("p", "wrong-pass").await.problem(401, "wrong_credentials");
    let listed = platform.ap(Method::GET, "/producers", Some(&admin), Sent::Nothing).await.json(200);
    assert_eq!(listed, json!([]));
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    let wish = Sent::Json(json!({"producer_id": user["id"]}));
    platform.sm(Method::POST, "/subscribe", Some(&consumer), wish).await.problem(404, "not_found");

    for _ in 0..2 {
        assert_eq!(platform.operate(&admin, &restore).await.json(200)["revoked_at"], Value::Null);
    }
    // In the very same second.
    let new = platform.login("p", PASSWORD).await.json(200);
    verify(&new).await.json(200);
    refresh(&new).await.json(200);
    verify(&pair).await.problem(401, "token_revoked");
    refresh(&pair).await.problem(401, "invalid_token");

    platform.operate(&admin, &format!("/accounts/{}/revoke", root.id)).await.problem(409, "own_account");
    platform.operate(&admin, "/accounts/999/revoke").await.problem(404, "not_found");
    platform.operate(&admin, "/accounts/999/restore").await.problem(404, "not_found");
    platform.operate(&admin, "/accounts/x/revoke").await.problem(422, "invalid_path");
    platform.operate(&consumer, &revoke).await.problem(403, "wrong_role");
}

#[tokio::test]
async fn a_node_that_starts_again_knows_who_was_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let file = || store::Config::SqliteFile { path: dir.path().join("m.db") };
    let settings = [("JWT_SECRET", "0123456789abcdef0123456789abcdef")];
    let before = platform_on(&settings, file()).await;
    let (user, _) = before.account(Role::Producer, "p").await;
    let (other, stays) = before.account(Role::Producer, "q").await;
    let pair = before.services.backend.tokens.issue(&user, "family").unwrap();
    before.services.backend.store.add_refresh(&(&pair.refresh).into(), None).await.unwrap();
    before.services.backend.close_account(user.id).await.unwrap();
    for restored in [false, true] {
        if restored {
            before.services.backend.store.reopen_account(user.id, before.services.backend.clock.now()).await.unwrap();
        }
        let after = platform_on(&settings, file()).await;
        assert!(after.services.backend.authenticate(&pair.access_token).await.is_err(), "restored: {restored}");
        assert_eq!(after.services.backend.authenticate(&stays).await.unwrap().user, other.id);
    }
}

#[tokio::test]
async fn operators_find_accounts_part_by_part() {
    let platform = platform(&[]).await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    for name in ["Weather 1", "weather 2", "weather 3", "car"] {
        platform.account(Role::Producer, name).await;
    }
    let (_, consumer) = platform.account(Role::Consumer, "weather app").await;
    let mut path = "/accounts?role=producer&query=WEATHER%20&limit=2".to_owned();
    let mut names = Vec::new();
    loop {
        let answer = platform.ap(Method::GET, &path, Some(&admin), Sent::Nothing).await;
        let next = answer.headers.get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
        names.extend(answer.json(200).as_array().unwrap().iter().map(|a| a["username"].as_str().unwrap().to_owned()));
        let Some(next) = next else { break };
        let query = next.strip_prefix('<').and_then(|l| l.strip_suffix(">; rel=\"next\"")).unwrap();
        path = format!("/api/auth/accounts{query}");
    }
    assert_eq!(names, ["Weather 1", "weather 2", "weather 3"]);
    let all = platform.ap(Method::GET, "/accounts", Some(&admin), Sent::Nothing).await.json(200);
    assert_eq!(all.as_array().unwrap().len(), 6);
    assert_eq!((&all[0]["role"], &all[0]["revoked_at"]), (&json!("admin"), &Value::Null));
    for (path, status, code) in [
        ("/accounts?role=root".to_owned(), 422, "invalid_field"),
        ("/accounts?limit=0".to_owned(), 422, "invalid_field"),
        ("/accounts?limit=x".to_owned(), 422, "invalid_query"),
        (format!("/accounts?query={}", "x".repeat(256)), 422, "invalid_field"),
    ] {
        platform.ap(Method::GET, &path, Some(&admin), Sent::Nothing).await.problem(status, code);
    }
    platform.ap(Method::GET, "/accounts", Some(&consumer), Sent::Nothing).await.problem(403, "wrong_role");
}

#[tokio::test]
async fn nodes_are_for_operators() {
    let platform = platform(&[("NODE_NAME", "n1")]).await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let (_, producer) = platform.account(Role::Producer, "p").await;
    let node = &platform.services.backend.reports.nodes;
    node.set_roles(["ap", "dsm"]);
    let _open = (node.open(Kind::Quic), node.open(Kind::Consumer));
    platform.dsm(Method::POST, "/data", Some(&producer), Sent::Json(json!({"t": 1}))).await.json(200);
    let nodes = platform.dsm(Method::GET, "/api/nodes", Some(&admin), Sent::Nothing).await.json(200);
    assert_eq!(
        nodes,
        json!([{
            "node": "n1", "version": env!("CARGO_PKG_VERSION"), "roles": ["ap", "dsm"],
            "started_at": "2026-01-01T00:00:00Z", "seen_at": "2026-01-01T00:00:00Z", "durability": "memory",
            "connections": {"quic": 1, "webtransport": 0, "producers": 0, "consumers": 1, "tunnels": 0, "http3": 0},
            "records_in_per_second": nodes[0]["records_in_per_second"], "records_out_per_second": 0.0, "records_in": 1, "records_out": 0,
        }])
    );
    platform.dsm(Method::GET, "/nodes", Some(&producer), Sent::Nothing).await.problem(403, "wrong_role");
}

#[tokio::test]
async fn devices_are_for_those_who_may_have_their_records() {
    let platform = platform(&[("NODE_NAME", "n1")]).await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let (user, producer) = platform.account(Role::Producer, "p").await;
    let (_, other) = platform.account(Role::Producer, "q").await;
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    let path = format!("/devices/{}", user.id);
    assert_eq!(platform.dsm(Method::GET, &path, Some(&producer), Sent::Nothing).await.json(200), json!([]));
    let records = json!([
        {"device_id": "a", "timestamp": "2026-01-01T00:00:00Z", "data": 1}, {"device_id": "a", "timestamp": "2026-01-01T00:00:00Z", "data": 2},
        {"data": 3},
    ]);
    platform.dsm(Method::POST, "/data", Some(&producer), Sent::Json(records)).await.json(200);
    let quic = platform.services.backend.reports.devices.enter(user.log_key(), "b", Transport::Quic);
    quic.health(Some(250_000), 17);
    let device = |id: &str, transport: &str, records: u64| {
        json!({
            "producer_id": user.id.to_string(), "device_id": id, "state": "active", "connected": false, "node": "n1", "transport": transport,
            "last_seen_at": "2026-01-01T00:00:00Z", "records": records, "rate_per_second": 0.0, "loss": null, "rtt_ms": null, "backlog": null,
            "address_changes": 0, "clock": null, "misdated": 0,
        })
    };
    let mut b = device("b", "quic", 0);
    (b["connected"], b["loss"], b["backlog"]) = (json!(true), json!(0.25), json!(17));
    let expected = json!([device("a", "http", 2), b, device("p", "http", 1)]);
    for token in [&producer, &admin] {
        let mut shown = platform.dsm(Method::GET, &path, Some(token), Sent::Nothing).await.json(200);
        // A look at the rates may have fallen in between.
        shown.as_array_mut().unwrap().iter_mut().for_each(|d| d["rate_per_second"] = json!(0.0));
        assert_eq!(shown, expected);
    }
    for stranger in [&other, &consumer] {
        platform.dsm(Method::GET, &path, Some(stranger), Sent::Nothing).await.problem(403, "forbidden");
    }
    platform.sm(Method::POST, "/subscribe", Some(&consumer), Sent::Json(json!({"producer_id": user.id}))).await.json(201);
    assert_eq!(platform.dsm(Method::GET, &path, Some(&consumer), Sent::Nothing).await.json(200).as_array().unwrap().len(), 3);
    platform.dsm(Method::GET, "/devices/x", Some(&admin), Sent::Nothing).await.problem(422, "invalid_path");
    // Operators find them among those of all producers.
    platform.dsm(Method::POST, "/data", Some(&other), Sent::Json(json!([{"device_id": "Barn", "data": 1}]))).await.json(200);
    let find = async |query: &str| {
        let found = platform.dsm(Method::GET, &format!("/devices{query}"), Some(&admin), Sent::Nothing).await.json(200);
        found.as_array().unwrap().iter().map(|device| device["device_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(find("?query=B").await, ["Barn", "b"]);
    assert_eq!(find("?query=B&limit=1").await, ["Barn"]);
    assert_eq!(find("").await, ["Barn", "a", "b", "p"]);
    platform.dsm(Method::GET, "/devices?limit=0", Some(&admin), Sent::Nothing).await.problem(422, "invalid_field");
    platform.dsm(Method::GET, "/devices", Some(&producer), Sent::Nothing).await.problem(403, "wrong_role");
}

#[tokio::test]
async fn operators_see_the_stores_and_the_last_day() {
    let platform = platform(&[]).await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let (_, consumer) = platform.account(Role::Consumer, "c").await;
    platform.dsm(Method::GET, "/platform", Some(&consumer), Sent::Nothing).await.problem(403, "wrong_role");
    let told = platform.dsm(Method::GET, "/platform", Some(&admin), Sent::Nothing).await.json(200);
    for store in ["database", "log"] {
        assert_eq!(told[store]["answers"], true);
        assert!(told[store]["milliseconds"].as_f64().unwrap() >= 0.0);
    }
    assert_eq!((&told["log_full"], &told["log_damaged"], &told["retention_held"]), (&json!(false), &json!(0), &json!(0)));
    assert!(told["minutes"].is_array() && told["durability"].is_string());
    assert_eq!(told["first_cut"], Value::Null);
}

#[tokio::test]
async fn operators_see_which_unread_records_retention_removes_first() {
    let platform = platform(&[]).await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    let (producer, sender) = platform.account(Role::Producer, "p").await;
    let (consumer, reader) = platform.account(Role::Consumer, "c").await;
    platform.sm(Method::POST, "/subscribe", Some(&reader), Sent::Json(json!({"producer_id": producer.id}))).await.json(201);
    for n in 0..3 {
        platform.dsm(Method::POST, "/data", Some(&sender), Sent::Json(json!({"t": n}))).await.json(200);
    }
    let epoch = platform.services.backend.relay.log().bounds(producer.log_key()).await.unwrap().log_epoch();
    let confirm = async |offset: u64| {
        let cursors = json!({"cursors": {producer.id.to_string(): format!("{epoch}-{offset}")}});
        assert_eq!(platform.dsm(Method::POST, "/cursors/app", Some(&reader), Sent::Json(cursors)).await.status, 204);
        platform.dsm(Method::GET, "/platform", Some(&admin), Sent::Nothing).await.json(200)["first_cut"].clone()
    };
    let cut = confirm(1).await;
    assert_eq!(
        cut,
        json!({"consumer_id": consumer.id, "cursor": "app", "producer_id": producer.id.to_string(), "records": 2, "seconds": cut["seconds"], "bound": "age"})
    );
    assert!((86_000..=86_400).contains(&cut["seconds"].as_u64().unwrap()), "{cut}");
    assert_eq!(confirm(3).await, Value::Null);
}
