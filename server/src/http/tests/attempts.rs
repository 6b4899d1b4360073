//! Guessing passwords: bounded by address and by account, and no way to keep an account's owner out.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use motience_settings::env::Env;
use serde_json::json;

use super::*;

const PASSWORD: &str = "pass123";

async fn register(platform: &Platform, name: &str) {
    let body = json!({"username": name, "password": PASSWORD, "role": "producer"});
    platform.ap(Method::POST, "/register", None, Sent::Json(body)).await.json(201);
}

/// A login from an address.
async fn login(router: &Router, address: &str, name: &str, password: &str) -> Answer {
    let mut request = request(Method::POST, "/login", None, Sent::Json(json!({"username": name, "password": password})));
    request.extensions_mut().insert(ConnectInfo(SocketAddr::new(address.parse().unwrap(), 1234)));
    send(router, request).await
}

#[tokio::test]
async fn who_guesses_from_elsewhere_keeps_no_owner_out() {
    let platform = platform(&[("RATE_LIMIT_LOGIN_ACCOUNT", "2/h"), ("RATE_LIMIT_LOGIN_STRANGERS", "5/h")]).await;
    register(&platform, "owner").await;
    let (home, ap) = ("198.51.100.1", &platform.ap);
    login(ap, home, "owner", PASSWORD).await.json(200);
    // Each address has its own few guesses, and all together have theirs.
    for guess in 0..2 {
        login(ap, "192.0.2.1", "Owner", &format!("guess {guess}")).await.problem(401, "wrong_credentials");
    }
    login(ap, "192.0.2.1", "owner", PASSWORD).await.problem(429, "too_many_requests");
    login(ap, "192.0.2.2", "owner", PASSWORD).await.json(200);
    for address in ["192.0.2.3", "192.0.2.4"] {
        login(ap, address, "owner", "guess").await.problem(401, "wrong_credentials");
    }
    login(ap, "2001:db8::1", "\u{ff2f}WNER", "guess").await.problem(401, "wrong_credentials");
    for stranger in ["2001:db8:1::1", "192.0.2.5"] {
        login(ap, stranger, "owner", PASSWORD).await.problem(429, "too_many_requests");
    }
    // The owner gets in, as often as they like, and so does another account's owner from anywhere.
    for _ in 0..4 {
        login(ap, home, "owner", PASSWORD).await.json(200);
    }
    register(&platform, "other").await;
    login(ap, "192.0.2.5", "other", PASSWORD).await.json(200);
    // So it is on a node that has not seen the owner yet.
    let config = Config {
        rates: Rates::from_env(&Env::from_pairs([("RATE_LIMIT_LOGIN_STRANGERS", "1/h")])).unwrap(),
        ..platform.services.config.clone()
    };
    let second = crate::accounts::router(&Services::new(Arc::clone(&platform.services.backend), config, Shutdown::new()));
    login(&second, "192.0.2.7", "owner", "guess").await.problem(401, "wrong_credentials");
    login(&second, "192.0.2.8", "owner", PASSWORD).await.problem(429, "too_many_requests");
    login(&second, home, "owner", PASSWORD).await.json(200);
    // Guessing from the owner's own address is bounded too.
    for _ in 0..2 {
        login(ap, home, "owner", "guess").await.problem(401, "wrong_credentials");
    }
    login(ap, home, "owner", "guess").await.problem(429, "too_many_requests");
}

#[tokio::test]
async fn one_address_guesses_at_few_accounts() {
    let platform = platform(&[("RATE_LIMIT_LOGIN", "3/h")]).await;
    register(&platform, "u").await;
    for name in ["a", "b", "c"] {
        login(&platform.ap, "192.0.2.1", name, "guess").await.problem(401, "wrong_credentials");
    }
    login(&platform.ap, "192.0.2.1", "d", "guess").await.problem(429, "too_many_requests");
    login(&platform.ap, "192.0.2.1", "u", PASSWORD).await.problem(429, "too_many_requests");
    login(&platform.ap, "192.0.2.2", "u", PASSWORD).await.json(200);
}

#[tokio::test]
async fn a_fleet_behind_one_address_logs_in_at_once() {
    let settings = [("RATE_LIMIT_LOGIN_ACCOUNT", "2/h"), ("RATE_LIMIT_LOGIN", "2/h"), ("PASSWORD_WAIT", "10m")];
    let platform = platform(&settings).await;
    register(&platform, "fleet").await;
    let devices = (0..100).map(|_| login(&platform.ap, "192.0.2.1", "fleet", PASSWORD));
    for answer in futures_util::future::join_all(devices).await {
        answer.json(200);
    }
}

/// A hundred guesses at once are checked no further than the limit allows: waiting is no way round it.
#[tokio::test]
async fn guesses_that_wait_together_are_counted() {
    let settings = [("RATE_LIMIT_LOGIN_ACCOUNT", "3/h"), ("PASSWORD_WAIT", "10m"), ("PASSWORD_HASHES", "1")];
    let platform = platform(&settings).await;
    register(&platform, "u").await;
    let guesses = (0..100).map(|_| login(&platform.ap, "192.0.2.1", "u", "guess"));
    let answers = futures_util::future::join_all(guesses).await;
    let checked = answers.iter().filter(|answer| answer.status == 401).count();
    assert_eq!((checked, answers.iter().filter(|answer| answer.status == 429).count()), (3, 97));
}

#[tokio::test]
async fn more_than_can_wait_are_told_to_come_back() {
    let settings = [("PASSWORD_HASHES", "1"), ("PASSWORD_QUEUE", "4"), ("PASSWORD_WAIT", "10m")];
    let platform = platform(&settings).await;
    for name in ["a", "b"] {
        register(&platform, name).await;
    }
    let logins = (0..20).map(|n| login(&platform.ap, "192.0.2.1", if n < 10 { "a" } else { "b" }, PASSWORD));
    let answers = futures_util::future::join_all(logins).await;
    let busy: Vec<_> = answers.iter().filter(|answer| answer.status == 503).collect();
    busy.iter().for_each(|answer| drop(answer.problem(503, "busy")));
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    // One that runs, and four that wait: two of each account.
    assert_eq!((done, busy.len()), (5, 15));
}
