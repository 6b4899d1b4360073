//! Every refusal of the HTTP services, in its one form.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::harness::{LIMIT, Node, PASSWORD, account, http};

/// Sends, and checks that a refusal is a problem document with this status and code.
async fn refused(request: RequestBuilder, status: u16, code: &str) -> Response {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), status, "{code}");
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{code}");
    let headers = answer.headers().clone();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["code"], code, "{body}");
    assert_eq!(body["status"], status);
    assert_eq!(body["error"], body["detail"]);
    assert!(body["error"].as_str().unwrap().ends_with('.'), "a sentence: {body}");
    let mut rebuilt = axum::http::Response::builder().status(status);
    rebuilt.headers_mut().unwrap().extend(headers);
    rebuilt.body("").unwrap().into()
}

fn register(name: &str) -> Value {
    json!({"username": name, "password": PASSWORD, "role": "producer"})
}

#[tokio::test]
async fn nothing_that_a_client_can_send_is_a_500() {
    let node = Node::embedded(&[("HTTP_MAX_BODY_BYTES", "16KiB")]).await;
    let at = &node.at;
    let (ap, sm, dsm) = (at.ap.as_deref().unwrap(), at.sm.as_deref().unwrap(), at.dsm.as_deref().unwrap());
    let http = http();
    let producer = account(ap, "producer", "p").await;
    let consumer = account(ap, "consumer", "c").await;
    let post = |url: String| http.post(url);
    let json_text = |request: RequestBuilder, text: &'static str| request.header("content-type", "application/json").body(text);

    // Registration.
    let url = format!("{ap}/register");
    refused(json_text(post(url.clone()), "{\"username\":"), 400, "malformed_json").await;
    refused(post(url.clone()).body("username=p"), 415, "unsupported_media_type").await;
    refused(post(url.clone()).json(&json!({"username": "x"})), 422, "invalid_field").await;
    refused(post(url.clone()).json(&json!({"username": "x", "password": "short", "role": "producer"})), 422, "invalid_field").await;
    refused(post(url.clone()).json(&json!({"username": "x", "password": PASSWORD, "role": "admin"})), 422, "invalid_field").await;
    refused(post(url.clone()).json(&json!({"username": "a\u{0}b", "password": PASSWORD, "role": "producer"})), 422, "invalid_field").await;
    refused(post(url.clone()).json(&json!({"username": "x".repeat(256), "password": PASSWORD, "role": "producer"})), 422, "invalid_field")
        .await;
    refused(post(url.clone()).json(&json!({"username": "x", "password": "x".repeat(129), "role": "producer"})), 422, "invalid_field").await;
    refused(post(url.clone()).json(&register(&"x".repeat(20_000))), 413, "body_too_large").await;
    refused(post(url.clone()).json(&register("p")), 409, "username_taken").await;

    // Login: a wrong name and a wrong password are told alike.
    let url = format!("{ap}/login");
    refused(post(url.clone()).json(&json!({"username": "p", "password": "wrong-password"})), 401, "wrong_credentials").await;
    refused(post(url.clone()).json(&json!({"username": "nobody", "password": PASSWORD})), 401, "wrong_credentials").await;
    refused(post(format!("{ap}/refresh")).json(&json!({"refresh_token": producer.token})), 401, "wrong_token_type").await;
    refused(http.get(format!("{ap}/verify")).bearer_auth("x".repeat(5000)), 401, "invalid_token").await;

    // Paths and methods.
    refused(http.get(format!("{ap}/nowhere")), 404, "not_found").await;
    let answer = refused(http.request(Method::PUT, format!("{ap}/login")), 405, "method_not_allowed").await;
    assert_eq!(answer.headers()["allow"], "POST");

    // Subscriptions.
    let (url, token) = (format!("{sm}/subscribe"), consumer.token.as_str());
    refused(post(url.clone()).json(&json!({"producer_id": producer.id})), 401, "no_token").await;
    refused(post(url.clone()).bearer_auth(&producer.token).json(&json!({"producer_id": 1})), 403, "wrong_role").await;
    refused(post(url.clone()).bearer_auth(token).json(&json!({"producer_id": "12x"})), 422, "invalid_field").await;
    refused(post(url.clone()).bearer_auth(token).json(&json!({"producer_id": 1.5})), 422, "invalid_field").await;
    for unknown in [json!(999_999), json!(-1), json!(i64::MAX), json!(consumer.id)] {
        refused(post(url.clone()).bearer_auth(token).json(&json!({"producer_id": unknown})), 404, "not_found").await;
    }
    let other = json!({"producer_id": producer.id, "consumer_id": producer.id});
    refused(post(url).bearer_auth(token).json(&other), 403, "forbidden").await;
    refused(http.delete(format!("{sm}/unsubscribe")).bearer_auth(token), 422, "invalid_field").await;
    refused(http.delete(format!("{sm}/unsubscribe")).bearer_auth(token).body("{"), 400, "malformed_json").await;
    refused(http.get(format!("{sm}/subscriptions/abc")).bearer_auth(token), 422, "invalid_path").await;
    refused(http.get(format!("{sm}/subscriptions/{}?limit=0", consumer.id)).bearer_auth(token), 422, "invalid_field").await;
    refused(http.get(format!("{sm}/subscriptions/{}?limit=x", consumer.id)).bearer_auth(token), 422, "invalid_query").await;

    // Data.
    let (url, token) = (format!("{dsm}/data"), producer.token.as_str());
    refused(json_text(post(url.clone()).bearer_auth(token), "{"), 400, "invalid_json").await;
    refused(json_text(post(url.clone()).bearer_auth(token), "[{]"), 400, "malformed_json").await;
    refused(json_text(post(url.clone()).bearer_auth(token), "7"), 422, "not_an_object").await;
    refused(post(url.clone()).bearer_auth(token).body("{}"), 415, "unsupported_media_type").await;
    refused(json_text(post(url.clone()).bearer_auth(&consumer.token), "{}"), 403, "wrong_role").await;
    refused(post(url.clone()).bearer_auth(token).json(&json!({"data": 1, "producer_id": "9"})), 422, "unknown_field").await;
    refused(post(url.clone()).bearer_auth(token).json(&json!({"big": "x".repeat(70_000)})), 413, "too_large").await;
    refused(post(url.clone()).bearer_auth(token).json(&vec![json!({}); 1001]), 413, "too_many_records").await;
    // Of an array with a bad record nothing is taken.
    refused(post(url.clone()).bearer_auth(token).json(&json!([{"t": 1}, {"data": 1, "timestamp": "x"}])), 422, "invalid_timestamp").await;
    let taken: Value = post(url).bearer_auth(token).json(&json!([{"t": 1}])).send().await.unwrap().json().await.unwrap();
    assert_eq!(taken, json!({"accepted": 1, "subscriberCount": 0}));
    refused(http.get(format!("{dsm}/history/{}?from=yesterday", producer.id)).bearer_auth(token), 422, "invalid_field").await;
    refused(http.get(format!("{dsm}/history/99999")).bearer_auth(token), 403, "forbidden").await;
}

#[tokio::test]
async fn too_many_attempts_are_told_when_to_come_back() {
    let node = Node::embedded(&[("RATE_LIMIT_LOGIN_ACCOUNT", "2/h"), ("RATE_LIMIT_REGISTER", "2/h"), ("RATE_LIMIT_REFRESH", "1/h")]).await;
    let ap = node.at.ap.as_deref().unwrap();
    let http = http();
    account(ap, "producer", "p").await;
    let login = || http.post(format!("{ap}/login")).json(&json!({"username": "p", "password": "guess-guess"}));
    // The login of the account itself did not count.
    for _ in 0..2 {
        refused(login(), 401, "wrong_credentials").await;
    }
    let answer = refused(login(), 429, "too_many_requests").await;
    assert!(answer.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 60);
    // Another account is not held back by it.
    account(ap, "producer", "q").await;
    refused(http.post(format!("{ap}/register")).json(&register("r")), 429, "too_many_requests").await;
    let refresh = || http.post(format!("{ap}/refresh")).json(&json!({"refresh_token": "x"}));
    refused(refresh(), 401, "invalid_token").await;
    refused(refresh(), 429, "too_many_requests").await;
}

#[tokio::test]
async fn a_request_that_dawdles_is_ended() {
    let node = Node::embedded(&[("HTTP_HEADER_LIMIT", "300ms")]).await;
    let address = node.at.ap.as_deref().unwrap().trim_start_matches("http://").to_owned();
    let mut slow = TcpStream::connect(&address).await.unwrap();
    slow.write_all(b"POST /login HTTP/1.1\r\nHost: x\r\n").await.unwrap();
    let mut rest = Vec::new();
    // The end of the stream is what is waited for; what is said before it does not matter.
    let _ = timeout(LIMIT, slow.read_to_end(&mut rest)).await.expect("the connection is ended");
    let mut large = TcpStream::connect(&address).await.unwrap();
    large.write_all(format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(64 * 1024)).as_bytes()).await.unwrap();
    let mut head = [0; 12];
    timeout(LIMIT, large.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head[9..], b"431");
}

#[tokio::test]
async fn browsers_of_any_origin_may_call_in_development() {
    let node = Node::embedded(&[]).await;
    let ap = node.at.ap.as_deref().unwrap();
    let preflight = http()
        .request(Method::OPTIONS, format!("{ap}/login"))
        .header("origin", "http://localhost:3010")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type")
        .send()
        .await
        .unwrap();
    assert!(preflight.status().is_success());
    assert_eq!(preflight.headers()["access-control-allow-origin"], "*");
    let production = Node::embedded(&[("CORS_ORIGINS", "https://app.example")]).await;
    let answer = http()
        .get(format!("{}/health", production.at.ap.as_deref().unwrap()))
        .header("origin", "https://evil.example")
        .send()
        .await
        .unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}
