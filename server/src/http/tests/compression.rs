//! Answers that are compressed, and those that never are.

use async_compression::tokio::write::{GzipDecoder, ZstdDecoder};
use motience_relay::Ticket;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::*;

async fn decoded(coding: &str, body: &[u8]) -> Vec<u8> {
    macro_rules! through {
        ($decoder:ident) => {{
            let mut decoder = $decoder::new(Vec::new());
            decoder.write_all(body).await.unwrap();
            decoder.shutdown().await.unwrap();
            decoder.into_inner()
        }};
    }
    if coding == "gzip" { through!(GzipDecoder) } else { through!(ZstdDecoder) }
}

fn asking(path: &str, token: &str, coding: &str) -> Request<Body> {
    let mut request = request(Method::GET, path, Some(token), Sent::Nothing);
    request.headers_mut().insert(header::ACCEPT_ENCODING, coding.parse().unwrap());
    request
}

#[tokio::test]
async fn history_and_documents_are_shorter_for_whoever_can_read_it() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let publisher = platform.services.backend.relay.ephemeral_publisher(producer.log_key()).await.unwrap();
    // More than is written at once.
    let mut ticket = Ticket::default();
    for n in 0..1000 {
        let record = json!({"device_id": "d", "timestamp": "2025-01-29T12:00:00Z", "data": {"temperature": n, "pad": "x".repeat(100)}});
        ticket = publisher.submit(record.to_string().into()).await.unwrap();
    }
    publisher.committed(ticket).await.unwrap();
    for (router, path) in [
        (&platform.dsm, format!("/history/{}", producer.id)),
        (&platform.ap, "/api-docs/openapi.json".into()),
        (&platform.dsm, "/api-docs/docs.css".into()),
    ] {
        let plain = send(router, request(Method::GET, &path, Some(&token), Sent::Nothing)).await;
        assert!(plain.status == 200 && plain.body.len() > 1024 && !plain.headers.contains_key(header::CONTENT_ENCODING), "{path}");
        for coding in ["gzip", "zstd"] {
            let short = send(router, asking(&path, &token, coding)).await;
            assert_eq!((short.status.as_u16(), &short.headers[header::CONTENT_ENCODING]), (200, &coding.parse().unwrap()), "{path}");
            assert!(2 * short.body.len() < plain.body.len(), "{path}: {} of {}", short.body.len(), plain.body.len());
            assert_eq!(decoded(coding, &short.body).await, plain.body, "{path}");
            assert!(short.headers.get_all(header::VARY).iter().any(|vary| vary.to_str().unwrap().contains("accept-encoding")));
        }
        assert!(!send(router, asking(&path, &token, "br;q=1, identity")).await.headers.contains_key(header::CONTENT_ENCODING));
    }
}

#[tokio::test]
async fn answers_with_tokens_and_streams_are_never_compressed() {
    let platform = platform(&[]).await;
    let register = json!({"username": "p", "password": "pass123", "role": "producer"});
    platform.ap(Method::POST, "/register", None, Sent::Json(register.clone())).await.json(201);
    let mut login = request(Method::POST, "/login", None, Sent::Json(register));
    login.headers_mut().insert(header::ACCEPT_ENCODING, "gzip, zstd".parse().unwrap());
    let login = send(&platform.ap, login).await;
    assert!(!login.headers.contains_key(header::CONTENT_ENCODING));
    let token = login.json(200)["access_token"].as_str().unwrap().to_owned();
    let mut stream = asking("/stream", &token, "gzip, zstd");
    *stream.method_mut() = Method::HEAD;
    let stream = send(&platform.dsm, stream).await;
    assert_eq!(stream.headers[header::CONTENT_TYPE], "text/event-stream");
    assert!(!stream.headers.contains_key(header::CONTENT_ENCODING));
}
