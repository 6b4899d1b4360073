//! Bodies that are collected share the memory of their connection, their account and the node, whatever they ask.

use axum::extract::ConnectInfo;
use futures_util::{StreamExt as _, stream};
use motience_http::ClientAddress;
use motience_limits::uploads::{Connection, Owner};
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    encodings::{compressed, post},
    *,
};

const MIB: usize = 1 << 20;

/// A body that begins with these bytes and does not end.
fn endless(beginning: impl Into<Bytes>) -> Body {
    let beginning = beginning.into();
    Body::from_stream(stream::iter([Ok::<_, std::io::Error>(beginning)]).chain(stream::pending()))
}

/// Sends a hundred of them on one connection; those that are refused, each with 429.
async fn refused(router: &Router, request: impl Fn() -> Request<Body>) -> (usize, JoinSet<Answer>) {
    let connection = Connection::default();
    let mut in_progress = JoinSet::new();
    for _ in 0..100 {
        let (router, mut request) = (router.clone(), request());
        request.extensions_mut().insert(connection.clone());
        in_progress.spawn(async move { send(&router, request).await });
    }
    let mut refused = 0;
    // Whoever is not refused waits for a body that does not end. Seventy are refused whatever the order.
    let patience = |refused| Duration::from_secs(if refused < 70 { 60 } else { 2 });
    while let Ok(Some(answer)) = tokio::time::timeout(patience(refused), in_progress.join_next()).await {
        answer.unwrap().problem(429, "too_much_at_once");
        refused += 1;
    }
    (refused, in_progress)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_one_connection_share_its_memory() {
    let platform = platform(&[
        ("HTTP_MAX_BODY_BYTES", "1MiB"),
        ("HTTP_REQUEST_LIMIT", "1h"),
        ("DATA_SILENCE_LIMIT", "1h"),
        ("MAX_CONNECTIONS_PER_ACCOUNT", "1000"),
    ])
    .await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    let uploads = platform.services.backend.uploads.clone();
    let half = vec![b' '; MIB / 2];
    let said = |path: &str| {
        let body = endless(half.clone());
        let request = post(path, &token, "application/json", "identity", body);
        let (mut head, body) = request.into_parts();
        head.headers.insert(header::CONTENT_LENGTH, MIB.into());
        Request::from_parts(head, body)
    };
    let lines = Bytes::from("x".repeat(60_000));
    let (dsm, ap) = (&platform.dsm, &platform.ap);
    for (what, router, request) in [
        ("data", dsm, Box::new(|| said("/data")) as Box<dyn Fn() -> Request<Body>>),
        ("login", ap, Box::new(|| said("/login"))),
        ("register", ap, Box::new(|| said("/register"))),
        ("refresh", ap, Box::new(|| said("/refresh"))),
        ("lines", dsm, Box::new(|| post("/data", &token, "application/x-ndjson", "identity", endless(lines.clone())))),
    ] {
        let (refused, mut waiting) = refused(router, request).await;
        assert!((70..100).contains(&refused), "{what}: {refused} are refused");
        assert!(uploads.held() <= 8 * MIB, "{what}: {} bytes are held", uploads.held());
        waiting.shutdown().await;
        assert_eq!(uploads.held(), 0, "{what}: everything is given back");
    }
}

#[tokio::test]
async fn connections_of_one_account_share_its_memory_and_leave_room_to_others() {
    let platform = platform(&[("UPLOAD_MEMORY_PER_ACCOUNT", "6MiB")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let (_, other) = platform.account(Role::Producer, "q").await;
    let mut held = platform.services.backend.uploads.upload(&Connection::default(), Owner::Account(producer.id)).part();
    held.set(6 * MIB - 10_000).unwrap();
    let record = json!({"device_id": "d", "timestamp": 1, "data": {"t": "x".repeat(20_000)}}).to_string();
    // Memory of a decoder counts for the account that its owner turns out to be.
    let inflated = compressed("zstd", record.as_bytes()).await;
    let come =
        |token: &str, coding: &str, body: &[u8]| send(&platform.dsm, post("/data", token, "application/json", coding, body.to_vec()));
    come(&token, "identity", record.as_bytes()).await.problem(429, "too_much_at_once");
    come(&token, "zstd", &inflated).await.problem(429, "too_much_at_once");
    assert_eq!(come(&other, "identity", record.as_bytes()).await.json(200)["accepted"], 1);
    assert_eq!(come(&other, "zstd", &inflated).await.json(200)["accepted"], 1);
    drop(held);
    assert_eq!(come(&token, "zstd", &inflated).await.json(200)["accepted"], 1);
    assert_eq!(platform.services.backend.uploads.held(), 0);
}

#[tokio::test]
async fn an_address_without_an_account_has_its_share_too() {
    let platform = platform(&[("UPLOAD_MEMORY_PER_ACCOUNT", "64KiB")]).await;
    let come = |address: &str| {
        let body = Body::from(json!({"username": "u", "password": "x".repeat(60_000)}).to_string());
        let mut request = post("/login", "none", "application/json", "identity", body);
        request.extensions_mut().insert(ConnectInfo(std::net::SocketAddr::new(address.parse().unwrap(), 1)));
        request
    };
    let address = ClientAddress::of("192.0.2.1".parse().unwrap());
    let mut held = platform.services.backend.uploads.upload(&Connection::default(), Owner::Address(address)).part();
    held.set(10_000).unwrap();
    send(&platform.ap, come("192.0.2.1")).await.problem(429, "too_much_at_once");
    send(&platform.ap, come("192.0.2.2")).await.problem(401, "wrong_credentials");
}
