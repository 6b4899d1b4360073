//! The audit log over HTTP: what was refused, to whom, and from where.

use serde_json::json;

use super::{operators::PASSWORD, *};

impl Platform {
    async fn audit(&self, token: &str, query: &str) -> Vec<Value> {
        self.sm(Method::GET, &format!("/audit?{query}"), Some(token), Sent::Nothing).await.json(200).as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn operators_see_what_was_done_and_what_was_refused() {
    let platform = platform(&[("PRODUCER_VISIBILITY", "listed")]).await;
    let producer = platform.registered("p", "producer").await;
    let (_, other) = platform.account(Role::Producer, "q").await;
    let (consumer, c) = platform.account(Role::Consumer, "c").await;
    let (root, admin) = platform.account(Role::Admin, "root").await;

    for _ in 0..3 {
        platform.login("p", "wrong-pass").await.problem(401, "wrong_credentials");
    }
    platform.login("my-secret-pass", PASSWORD).await.problem(401, "wrong_credentials");
    let wish = Sent::Json(json!({"producer_id": producer["id"]}));
    let asked = platform.sm(Method::POST, "/api/subscribe", Some(&c), wish).await.json(202);
    let approve = format!("/subscriptions/{}/approve", asked["id"]);
    let refused = platform.sm(Method::POST, &approve, Some(&other), Sent::Json(json!({}))).await;
    assert!(refused.status.is_client_error());
    platform.ap(Method::POST, &format!("/accounts/{}/revoke", consumer.id), Some(&admin), Sent::Nothing).await.json(200);

    let refused = platform.audit(&admin, "outcome=refused&act=POST%20/login").await;
    let known = format!("account:{}", producer["id"]);
    let of_known: Vec<_> = refused.iter().filter(|line| line["object"] == known).collect();
    assert_eq!(of_known.len(), 1, "{refused:?}");
    let detail = &of_known[0]["detail"];
    assert_eq!((&detail["code"], &detail["count"], &of_known[0]["address"]), (&json!("wrong_credentials"), &json!(3), &json!("0.0.0.0")));
    assert_eq!((refused.len(), refused.iter().any(|line| line.to_string().contains("secret"))), (2, false), "{refused:?}");
    let approvals = platform.audit(&admin, "act=POST%20/subscriptions/{id}/approve").await;
    assert_eq!((approvals.len(), &approvals[0]["object"]), (1, &json!(approve)));
    let done = platform.audit(&admin, &format!("outcome=done&actor={}&act=account", root.id)).await;
    assert_eq!((done.len(), &done[0]["act"], &done[0]["address"]), (1, &json!("account.revoke"), &json!("0.0.0.0")));
    assert!(done[0]["chain"].as_i64() > approvals[0]["chain"].as_i64().min(Some(0)) && done[0]["hash"].as_str().unwrap().len() == 64);
    // The record of acts is what it was.
    let acts = platform.sm(Method::GET, "/acts", Some(&admin), Sent::Nothing).await.json(200);
    assert!(acts.as_array().unwrap().iter().all(|act| !act["act"].as_str().unwrap().starts_with("POST")), "{acts}");
    for query in ["outcome=perhaps", "from=yesterday", "actor=0", "limit=0"] {
        platform.sm(Method::GET, &format!("/audit?{query}"), Some(&admin), Sent::Nothing).await.problem(422, "invalid_field");
    }
    platform.sm(Method::GET, "/audit", Some(&other), Sent::Nothing).await.problem(403, "wrong_role");
    let chain = async |query: &str| platform.sm(Method::GET, &format!("/audit/chain{query}"), Some(&admin), Sent::Nothing).await;
    let told = chain("").await.json(200);
    assert_eq!((&told["bad"], &told["erased"], &told["unchained"]), (&Value::Null, &json!(0), &json!(0)), "{told}");
    let (lines, hash) = (told["lines"].as_i64().unwrap(), told["hash"].as_str().unwrap());
    assert_eq!(chain(&format!("?head={lines}:{hash}")).await.json(200)["bad"], Value::Null);
    // A head that the chain never had, or has no more.
    let other_hash = "0".repeat(64);
    let bad = chain(&format!("?head={lines}:{other_hash}")).await.json(200)["bad"].clone();
    assert_eq!(bad, json!({"line": lines, "why": "is not the one that was there"}));
    let bad = chain(&format!("?head={}:{other_hash}", lines + 1)).await.json(200)["bad"].clone();
    assert_eq!(bad, json!({"line": lines + 1, "why": "is missing"}));
    for head in ["9", "0:", "-1:00", &format!("0:{hash}"), &format!("{lines}:{}", &hash[1..])] {
        chain(&format!("?head={head}")).await.problem(422, "invalid_field");
    }
    platform.sm(Method::GET, "/audit/chain", Some(&other), Sent::Nothing).await.problem(403, "wrong_role");
    assert_eq!(platform.services.backend.store.verify_audit(&[]).await.unwrap().bad, None);
}

#[tokio::test]
async fn strangers_who_try_and_try_make_few_lines() {
    let platform = platform(&[]).await;
    let (_, admin) = platform.account(Role::Admin, "root").await;
    for n in 0..100 {
        let path = format!("/account/reset?{n}");
        let body = Sent::Json(json!({"token": format!("{n}"), "new_password": PASSWORD}));
        platform.ap(Method::POST, &path, None, body).await;
        platform.login(&format!("nobody-{n}"), PASSWORD).await;
    }
    let refused = platform.audit(&admin, "outcome=refused&limit=1000").await;
    assert!((1..=33).contains(&refused.len()), "{}", refused.len());
    let counts: i64 = refused.iter().map(|line| line["detail"]["count"].as_i64().unwrap()).sum();
    assert!(counts >= 100, "{counts}");
}
