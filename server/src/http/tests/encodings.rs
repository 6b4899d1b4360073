//! Bodies that come compressed: the same as plain ones, under the same limits.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_compression::{
    Level,
    tokio::write::{BrotliEncoder, GzipEncoder, ZlibEncoder, ZstdEncoder},
};
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use super::*;

pub(super) async fn compressed(coding: &str, body: &[u8]) -> Vec<u8> {
    macro_rules! through {
        ($encoder:ident) => {{
            let mut encoder = $encoder::new(Vec::new());
            encoder.write_all(body).await.unwrap();
            encoder.shutdown().await.unwrap();
            encoder.into_inner()
        }};
    }
    match coding {
        "gzip" | "x-gzip" => through!(GzipEncoder),
        "deflate" => through!(ZlibEncoder),
        "br" => {
            // Its best takes minutes in a program that is not optimised.
            let mut encoder = BrotliEncoder::with_quality(Vec::new(), Level::Fastest);
            encoder.write_all(body).await.unwrap();
            encoder.shutdown().await.unwrap();
            encoder.into_inner()
        }
        "zstd" => through!(ZstdEncoder),
        _ => body.to_vec(),
    }
}

pub(super) fn post(path: &str, token: &str, kind: &str, coding: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, kind)
        .header(header::CONTENT_ENCODING, coding)
        .body(body.into())
        .unwrap()
}

#[tokio::test]
async fn a_compressed_body_is_what_is_in_it() {
    let platform = platform(&[]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"t": 1}}).to_string();
    for coding in ["gzip", "x-gzip", "deflate", "br", "zstd", "identity"] {
        let body = compressed(coding, format!("\u{feff}{record}").as_bytes()).await;
        let taken = send(&platform.dsm, post("/data", &token, "application/json", coding, body)).await.json(200);
        assert_eq!(taken["accepted"], 1, "{coding}");
        let lines = format!("{record}\n").repeat(3000);
        let body = compressed(coding, lines.as_bytes()).await;
        let taken = send(&platform.dsm, post("/data", &token, "application/x-ndjson", coding, body)).await.json(200);
        assert_eq!((&taken["accepted"], &taken["rejected"]), (&json!(3000), &json!(0)), "{coding}");
        let login = compressed(coding, json!({"username": "nobody", "password": "pass123"}).to_string().as_bytes()).await;
        send(&platform.ap, post("/login", &token, "application/json", coding, login)).await.problem(401, "wrong_credentials");
    }
    // Members one behind the other are one body (RFC 1952, section 2.2).
    let mut body = compressed("gzip", b"[").await;
    body.extend(compressed("gzip", format!("{record}]").as_bytes()).await);
    assert_eq!(send(&platform.dsm, post("/data", &token, "application/json", "GZIP", body)).await.json(200)["accepted"], 1);
}

#[tokio::test]
async fn what_cannot_be_inflated_is_refused() {
    let platform = platform(&[]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    for coding in ["gzip, gzip", "gzip, br", "compress", "aws-chunked"] {
        let answer = send(&platform.dsm, post("/data", &token, "application/json", coding, "{}")).await;
        answer.problem(415, "unsupported_content_encoding");
        assert_eq!(answer.headers[header::ACCEPT_ENCODING], "gzip, deflate, br, zstd");
    }
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let mut broken = compressed(coding, json!({"t": "x".repeat(1000)}).to_string().as_bytes()).await;
        broken.truncate(broken.len() / 2);
        for body in [broken, b"{\"t\":1}".to_vec()] {
            let answer = send(&platform.dsm, post("/data", &token, "application/json", coding, body)).await;
            assert_eq!(answer.status, 400, "{coding}: {}", answer.text());
        }
    }
}

/// However far a body would inflate, no more of it is read than its limit needs.
#[tokio::test]
async fn a_bomb_is_not_inflated() {
    let platform = platform(&[("HTTP_MAX_INFLATION", "10")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    for coding in ["gzip", "deflate", "br", "zstd"] {
        let bomb = compressed(coding, &vec![b' '; 16 << 20]).await;
        for path in ["/login", "/data"] {
            let router = if path == "/login" { &platform.ap } else { &platform.dsm };
            let read = Arc::new(AtomicUsize::new(0));
            let pieces: Vec<Bytes> = bomb.chunks(256).map(Bytes::copy_from_slice).collect();
            let counter = Arc::clone(&read);
            let body = Body::from_stream(stream::iter(pieces).map(move |piece| {
                counter.fetch_add(piece.len(), Ordering::Relaxed);
                Ok::<_, std::io::Error>(piece)
            }));
            send(router, post(path, &token, "application/json", coding, body)).await.problem(413, "body_too_large");
            let read = read.load(Ordering::Relaxed);
            // The others are so small that they are read in one piece.
            let most = if matches!(coding, "gzip" | "deflate") { bomb.len() / 4 } else { bomb.len() };
            assert!(read <= most, "{coding} {path}: {read} of {} bytes were read", bomb.len());
        }
        // A stream of lines has no length, but what came bounds it.
        let lines = compressed(coding, "\n".repeat(16 << 20).as_bytes()).await;
        let problem = send(&platform.dsm, post("/data", &token, "application/x-ndjson", coding, lines)).await;
        problem.problem(413, "body_too_large");
    }
    assert_eq!(platform.services.backend.relay.log().bounds(producer.log_key()).await.unwrap().last.0, 0);
}

/// A zstd frame that asks for a window of 128 MiB is refused before it has one.
#[tokio::test]
async fn a_window_is_bounded() {
    let platform = platform(&[]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    // Magic number, no checksum and no content size, the window's exponent 17 (2^27 bytes); an empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 17 << 3, 0x01, 0x00, 0x00];
    let answer = send(&platform.dsm, post("/data", &token, "application/json", "zstd", frame.to_vec())).await;
    answer.problem(400, "malformed");
}
