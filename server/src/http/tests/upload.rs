//! Records up as a stream of lines: whatever pieces they come in, what is taken is counted, and what is not is named.

use futures_util::{StreamExt as _, stream};
use motience_cluster::Event;
use motience_proto::model::Offset;
use serde_json::json;

use super::*;

fn post(token: &str, body: Body) -> Request<Body> {
    let request = Request::post("/data").header(header::AUTHORIZATION, format!("Bearer {token}"));
    request.header(header::CONTENT_TYPE, "application/x-ndjson; charset=utf-8").body(body).unwrap()
}

/// A body of these pieces, that then ends or does not.
fn pieces(pieces: Vec<String>, ends: bool) -> Body {
    let pieces = stream::iter(pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece))));
    if ends { Body::from_stream(pieces) } else { Body::from_stream(pieces.chain(stream::pending())) }
}

async fn last(platform: &Platform, producer: &User) -> Offset {
    platform.services.backend.relay.log().bounds(producer.log_key()).await.unwrap().last
}

#[tokio::test]
async fn good_lines_are_taken_and_bad_ones_named() {
    let platform = platform(&[("MAX_RECORD_BYTES", "1KiB")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let text = format!(
        "{}\r\n\n{{\"t\":1}}\n{{\"t\":\n{}\n{}\n7\n{}\n{}\n{}\n  \n{}",
        r#"{"device_id":"d","timestamp":1,"data":{"t":1}}"#,
        json!({"t": "x".repeat(6000)}),
        json!({"t": "x".repeat(1100)}),
        r#"{"type":"data","id":"n-1","payload":{"t":2}}"#,
        r#"{"type":"data","id":"n-1","payload":{"t":2}}"#,
        r#"{"type":"ping"}"#,
        r#"{"t":3}"#,
    );
    for length in [1, 7, 50_000] {
        let before = last(&platform, &producer).await.0;
        let text: Vec<String> = text.as_bytes().chunks(length).map(|piece| String::from_utf8(piece.to_vec()).unwrap()).collect();
        let answer = send(&platform.dsm, post(&token, pieces(text, true))).await.json(200);
        assert_eq!((&answer["accepted"], &answer["rejected"], &answer["subscriberCount"]), (&json!(5), &json!(4), &json!(0)), "{answer}");
        let errors: Vec<(u64, &str)> =
            answer["errors"].as_array().unwrap().iter().map(|e| (e["line"].as_u64().unwrap(), e["code"].as_str().unwrap())).collect();
        assert_eq!(errors, [(4, "invalid_json"), (5, "too_large"), (6, "too_large"), (7, "not_an_object")]);
        // A name is written once, however often it is sent.
        let new = last(&platform, &producer).await.0 - before;
        assert_eq!(new, if length == 1 { 4 } else { 3 });
    }
    let none = send(&platform.dsm, post(&token, Body::empty())).await.json(200);
    assert_eq!(none, json!({"accepted": 0, "rejected": 0, "errors": [], "subscriberCount": 0}));
    let bad = send(&platform.dsm, post(&token, ("x\n".repeat(50) + "{}").into())).await.json(200);
    assert_eq!((&bad["rejected"], bad["errors"].as_array().unwrap().len()), (&json!(50), 20));
}

#[tokio::test]
async fn where_every_line_is_refused_the_answer_says_so() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    for (text, status, code) in [
        ("x\n[]\n", 400, "invalid_json"),
        ("7", 422, "not_an_object"),
        ("\n\n{\"type\":\"dance\"}\n", 422, "unknown_type"),
        ("{\"data\":1,\"producer_id\":\"1\"}\nx", 422, "unknown_field"),
    ] {
        let problem = send(&platform.dsm, post(&token, text.into())).await.problem(status, code);
        assert_eq!((&problem["accepted"], &problem["errors"][0]["code"]), (&json!(0), &json!(code)), "{problem}");
        assert!(problem["error"].as_str().unwrap().starts_with("Line "), "{problem}");
    }
    assert_eq!(last(&platform, &producer).await, Offset(0));
    // A keep-alive is no record, and no mistake; neither is the mark that some programs put before a text.
    send(&platform.dsm, post(&token, "{\"type\":\"ping\",\"id\":1}\n".into())).await.json(200);
    assert_eq!(send(&platform.dsm, post(&token, "\u{feff}{\"t\":1}\n\u{feff}{\"t\":2}".into())).await.json(200)["accepted"], 2);
    assert_eq!(last(&platform, &producer).await, Offset(2));
}

#[tokio::test]
async fn an_upload_has_no_limit_but_its_silence() {
    let platform = platform(&[("HTTP_REQUEST_LIMIT", "20ms"), ("DATA_SILENCE_LIMIT", "200ms"), ("DATA_MAX_BODY_BYTES", "1KiB")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let lines = |count: usize| vec!["{\"t\":1}\n".repeat(1000); count];
    let answer = send(&platform.dsm, post(&token, pieces(lines(20), true))).await.json(200);
    assert_eq!(answer["accepted"], 20_000);
    let problem = send(&platform.dsm, post(&token, pieces(lines(2), false))).await.problem(408, "too_silent");
    assert_eq!((&problem["accepted"], &problem["last_line"], &problem["rejected"]), (&json!(2000), &json!(2000), &json!(0)));
    assert_eq!(last(&platform, &producer).await, Offset(22_000));
}

#[tokio::test]
async fn an_upload_ends_with_its_token_and_its_node() {
    let body = || pieces(vec!["{\"t\":1}\nx\n{\"t\":2".to_owned()], false);
    let logged = async |platform: &Platform, producer: &User| {
        while last(platform, producer).await < Offset(1) {
            tokio::task::yield_now().await;
        }
    };
    let drained = platform(&[]).await;
    let (producer, token) = drained.account(Role::Producer, "p").await;
    let (answer, ()) = tokio::join!(send(&drained.dsm, post(&token, body())), async {
        logged(&drained, &producer).await;
        drained.services.shutdown.begin();
    });
    let problem = answer.problem(503, "draining");
    assert_eq!((&problem["accepted"], &problem["rejected"], &problem["last_line"]), (&json!(1), &json!(1), &json!(2)));

    let revoked = platform(&[]).await;
    let (producer, token) = revoked.account(Role::Producer, "p").await;
    let (answer, ()) = tokio::join!(send(&revoked.dsm, post(&token, body())), async {
        logged(&revoked, &producer).await;
        revoked.time.advance(Duration::from_secs(1));
        revoked.services.backend.broadcast(Event::UserRevoked { user: producer.id, at_ms: None, families: Vec::new() }).await;
    });
    assert_eq!(answer.problem(401, "token_ended")["last_line"], 2);
}
