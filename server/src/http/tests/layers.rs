//! The layers around every request: paths, methods, origins, rates, and the paths of operators.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use motience_settings::env::Env;
use serde_json::json;

use super::*;

fn from_origin(origin: &str) -> Request<Body> {
    let mut request = request(Method::GET, "/health", None, Sent::Nothing);
    request.headers_mut().insert(header::ORIGIN, origin.parse().unwrap());
    request
}

/// The origin that an answer to a page of `origin` allows.
async fn allowed(settings: &[(&str, &str)], origin: &str) -> Option<String> {
    let platform = platform(settings).await;
    let answer = send(&platform.ap, from_origin(origin)).await;
    answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|o| o.to_str().unwrap().to_owned())
}

fn refused(settings: &[(&str, &str)]) -> String {
    Config::from_env(&Env::from_pairs(settings.iter().copied())).unwrap_err().to_string()
}

#[tokio::test]
async fn every_service_refuses_unknown_paths_and_methods_alike() {
    let platform = platform(&[]).await;
    for (router, path, allow) in [
        (&platform.ap, "/login", "POST"),
        (&platform.ap, "/api/auth/producers", "GET,HEAD"),
        (&platform.sm, "/subscribe", "POST"),
        (&platform.sm, "/api/unsubscribe", "DELETE"),
        (&platform.dsm, "/api/history/1", "GET,HEAD"),
        (&platform.dsm, "/health", "GET,HEAD"),
    ] {
        let answer = send(router, request(Method::PATCH, path, None, Sent::Nothing)).await;
        answer.problem(405, "method_not_allowed");
        assert_eq!(answer.headers[header::ALLOW], allow, "{path}");
        send(router, request(Method::GET, "/nowhere", None, Sent::Nothing)).await.problem(404, "not_found");
        send(router, request(Method::GET, "/api/nowhere", None, Sent::Nothing)).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn operators_are_answered_on_every_service() {
    let platform = platform(&[]).await;
    for (router, name) in [(&platform.ap, "motience-ap"), (&platform.sm, "motience-sm"), (&platform.dsm, "motience-dsm")] {
        let health = send(router, request(Method::GET, "/health", None, Sent::Nothing)).await.json(200);
        assert_eq!((&health["status"], &health["service"]), (&json!("ok"), &json!(name)));
        send(router, request(Method::GET, "/ready", None, Sent::Nothing)).await.json(200);
        let metrics = send(router, request(Method::GET, "/metrics", None, Sent::Nothing)).await;
        assert!(metrics.text().contains("motience_uptime_seconds"));
    }
    platform.services.backend.store.close().await;
    let away = platform.ap(Method::GET, "/ready", None, Sent::Nothing).await.problem(503, "not_ready");
    assert!(away["error"].as_str().unwrap().contains("database"), "{away}");
    assert_eq!(platform.ap(Method::GET, "/health", None, Sent::Nothing).await.status, 200);
}

#[tokio::test]
async fn a_database_that_is_away_is_told_as_such() {
    let platform = platform(&[]).await;
    let (producer, producer_token) = platform.account(Role::Producer, "p").await;
    let (consumer, token) = platform.account(Role::Consumer, "c").await;
    platform.services.backend.store.close().await;
    let body = || Sent::Json(json!({"username": "u", "password": "pass123", "role": "producer", "producer_id": producer.id}));
    let subscriptions = format!("/subscriptions/{}", consumer.id);
    for answer in [
        platform.ap(Method::POST, "/register", None, body()).await,
        platform.ap(Method::POST, "/login", None, body()).await,
        platform.ap(Method::GET, "/producers", Some(&token), Sent::Nothing).await,
        platform.sm(Method::POST, "/subscribe", Some(&token), body()).await,
        platform.sm(Method::GET, &subscriptions, Some(&token), Sent::Nothing).await,
        platform.dsm(Method::GET, &format!("/history/{}", producer.id), Some(&token), Sent::Nothing).await,
        platform.dsm(Method::POST, "/data", Some(&producer_token), Sent::Json(json!({"t": 1}))).await,
    ] {
        answer.problem(503, "database_away");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_let_in_as_configured() {
    const PAGE: &str = "https://app.example";
    let production = ("MOTIENCE_ENV", "production");
    let secret = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    assert_eq!(allowed(&[], PAGE).await.as_deref(), Some("*"));
    assert_eq!(allowed(&[production, secret], PAGE).await, None);
    assert_eq!(allowed(&[production, secret, ("CORS_ORIGINS", "*")], PAGE).await.as_deref(), Some("*"));
    assert_eq!(allowed(&[("CORS_ORIGINS", "https://b.example, https://app.example")], PAGE).await.as_deref(), Some(PAGE));
    assert_eq!(allowed(&[("CORS_ORIGINS", "https://b.example")], PAGE).await, None);
}

#[tokio::test]
async fn pages_of_the_host_that_they_call_are_let_in() {
    let production = [("MOTIENCE_ENV", "production"), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")];
    let platform = platform(&production).await;
    for (host, page, is_own) in [
        ("data.example:3001", "http://data.example:3011", true),
        ("Data.example", "https://data.example", true),
        ("[::1]:3001", "http://[::1]:3011", true),
        ("data.example:3001", "http://data.example.evil:3011", false),
        ("data.example:3001", "https://evil.example", false),
        ("data.example:3001", "null", false),
    ] {
        let mut request = from_origin(page);
        request.headers_mut().insert(header::HOST, host.parse().unwrap());
        let answer = send(&platform.ap, request).await;
        let allowed = answer.headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).map(|o| o.to_str().unwrap());
        assert_eq!(allowed, is_own.then_some(page), "a page of {page} at {host}");
    }
}

#[test]
fn settings_that_would_serve_nobody_are_refused() {
    for (name, value) in [
        ("CORS_ORIGINS", "app.example"),
        ("CORS_ORIGINS", "https://app.example/"),
        ("CORS_ORIGINS", "*,https://app.example"),
        ("CORS_ORIGINS", "https://*.example"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("RATE_LIMIT_LOGIN", "many"),
        ("HTTP_REQUEST_LIMIT", "0"),
        ("HTTP_MAX_BODY_BYTES", "0"),
        ("DATA_MAX_BODY_BYTES", "0"),
        ("DATA_MAX_RECORDS", "0"),
        ("HTTP_MAX_PAGE_BYTES", "0"),
    ] {
        let error = refused(&[(name, value)]);
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
}

#[tokio::test]
async fn attempts_are_counted_by_the_client_that_a_trusted_proxy_names() {
    let platform = platform(&[("TRUSTED_PROXIES", "10.0.0.1"), ("RATE_LIMIT_REFRESH", "1/h")]).await;
    let attempt = async |peer: &str, forwarded: &str| {
        let mut request = request(Method::POST, "/refresh", None, Sent::Json(json!({"refresh_token": "x"})));
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(format!("{peer}:1234").parse().unwrap()));
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
        send(&platform.ap, request).await
    };
    attempt("10.0.0.1", "192.0.2.1").await.problem(401, "invalid_token");
    let answer = attempt("10.0.0.1", "192.0.2.1").await;
    answer.problem(429, "too_many_requests");
    let wait: u64 = answer.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((3000..=3600).contains(&wait), "{wait} s");
    attempt("10.0.0.1", "192.0.2.2").await.problem(401, "invalid_token");
    // A client's own claim does not count.
    attempt("198.51.100.1", "192.0.2.3").await.problem(401, "invalid_token");
    attempt("198.51.100.1", "192.0.2.4").await.problem(429, "too_many_requests");
}

#[tokio::test]
async fn a_request_without_an_end_is_answered_in_time() {
    let platform = platform(&[("HTTP_REQUEST_LIMIT", "50ms")]).await;
    let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
    let endless = Request::post("/login").header(header::CONTENT_TYPE, "application/json").body(body).unwrap();
    send(&platform.ap, endless).await.problem(503, "too_slow");
}

#[tokio::test]
async fn paths_are_taken_as_express_took_them() {
    let platform = platform(&[]).await;
    let wrong = || Sent::Json(json!({"username": "nobody", "password": "pass123"}));
    for path in ["/login", "/login/", "/Login", "//login", "/LOGIN//", "/api/auth/login/", "/API//Auth/Login?x=/Y/"] {
        platform.ap(Method::POST, path, None, wrong()).await.problem(401, "wrong_credentials");
    }
    let (consumer, token) = platform.account(Role::Consumer, "c").await;
    for path in [format!("/Subscriptions/{}/", consumer.id), format!("//api/subscriptions//{}?limit=1", consumer.id)] {
        assert_eq!(platform.sm(Method::GET, &path, Some(&token), Sent::Nothing).await.json(200), json!([]));
    }
    for path in ["/Health", "/ready/", "//metrics", "/Streams/", "/api/Cursors/"] {
        assert_eq!(platform.dsm(Method::GET, path, Some(&token), Sent::Nothing).await.status, 200, "{path}");
    }
    // Names of clients keep their letters, and an unknown path stays unknown.
    platform.dsm(Method::DELETE, "/Cursors/My-Name/", Some(&token), Sent::Nothing).await.problem(404, "not_found");
    platform.ap(Method::GET, "/Nowhere/", None, Sent::Nothing).await.problem(404, "not_found");
    assert_eq!(platform.ap(Method::PATCH, "/Login/", None, Sent::Nothing).await.headers[header::ALLOW], "POST");
}

#[tokio::test]
async fn pages_may_send_what_tracing_libraries_add() {
    let platform = platform(&[("CORS_ORIGINS", "https://app.example")]).await;
    let mut preflight = request(Method::OPTIONS, "/Login/", None, Sent::Nothing);
    let headers = preflight.headers_mut();
    headers.insert(header::ORIGIN, "https://app.example".parse().unwrap());
    headers.insert(header::ACCESS_CONTROL_REQUEST_METHOD, "POST".parse().unwrap());
    let asked = "authorization,baggage,b3,content-type,sentry-trace,traceparent,tracestate,x-request-id,content-encoding";
    headers.insert(header::ACCESS_CONTROL_REQUEST_HEADERS, asked.parse().unwrap());
    let answer = send(&platform.ap, preflight).await;
    let allowed = answer.headers[header::ACCESS_CONTROL_ALLOW_HEADERS].to_str().unwrap().to_lowercase();
    let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
    assert!(asked.split(',').all(|name| allowed.contains(&name)), "{allowed:?}");
}

#[tokio::test]
async fn clients_are_told_apart_by_what_rfc_7239_says_too() {
    let platform = platform(&[("TRUSTED_PROXIES", "10.0.0.0/8"), ("RATE_LIMIT_REFRESH", "1/h")]).await;
    let attempt = async |name: &'static str, value: &str| {
        let mut request = request(Method::POST, "/refresh", None, Sent::Json(json!({"refresh_token": "x"})));
        request.extensions_mut().insert(ConnectInfo(SocketAddr::new("10.0.0.1".parse().unwrap(), 1234)));
        request.headers_mut().insert(name, value.parse().unwrap());
        send(&platform.ap, request).await.status.as_u16()
    };
    assert_eq!(attempt("forwarded", "for=9.9.9.9, for=\"[2001:db8::1]:4711\";proto=https, for=10.0.0.7").await, 401);
    assert_eq!(attempt("x-forwarded-for", "8.8.8.8, [2001:db8::2]:4712, 10.0.0.9:80").await, 429, "one subscriber's /64");
    assert_eq!(attempt("forwarded", "for=\"192.0.2.1:1\"").await, 401);
    assert_eq!(attempt("x-forwarded-for", "192.0.2.1:2").await, 429);
}
