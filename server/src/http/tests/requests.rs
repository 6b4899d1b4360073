//! Limits of one account's requests, and the cost of a reader of history.

use motience_http::PageRoom;
use motience_proto::model::ProducerId;
use serde_json::json;

use super::*;

/// Puts records into a producer's log, one a second from 2025-01-29T12:00:00Z: how many bytes they are there.
async fn fill(platform: &Platform, producer: ProducerId, records: u64) -> u64 {
    let relay = &platform.services.backend.relay;
    let publisher = relay.ephemeral_publisher(relay.log_of(producer).await.unwrap()).await.unwrap();
    let mut bytes = 0;
    for first in (0..records).step_by(200) {
        let mut group = publisher.group();
        for n in first..records.min(first + 200) {
            let at = format!("2025-01-29T{:02}:{:02}:{:02}Z", 12 + n / 3600, n / 60 % 60, n % 60);
            let record = json!({"device_id": "d", "timestamp": at, "data": {"n": n, "pad": "x".repeat(300)}}).to_string();
            bytes += record.len() as u64;
            group.push_unnumbered(None, record.into());
        }
        let ticket = group.submit().await.unwrap();
        publisher.committed(ticket).await.unwrap();
    }
    bytes
}

#[tokio::test]
async fn a_history_in_which_nothing_is_found_is_read_through_once() {
    let platform = platform(&[("HISTORY_READERS", "1"), ("RATE_LIMIT_HISTORY", "off"), ("MAX_REQUESTS_PER_ACCOUNT", "64")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let bytes = fill(&platform, producer.id.producer(), 4000).await;
    let ask = async |query: &str| {
        let answer = platform.dsm(Method::GET, &format!("/history/{}?{query}", producer.id), Some(&token), Sent::Nothing).await;
        answer.json(200).as_array().unwrap().len()
    };
    let readers = (0..32).map(|_| ask("by=device&from=2030-01-01T00:00:00Z"));
    assert_eq!(futures_util::future::join_all(readers).await, [0; 32]);
    let scanned = platform.services.time_index.scanned();
    // The message has the producer's id beside the record.
    assert!((bytes..bytes + 4000 * 40).contains(&scanned), "{scanned} bytes were looked through, of {bytes}");
    // Parts known to lie outside are passed over, and the rest is found.
    assert_eq!(ask("by=device&from=2025-01-29T12:30:00Z&to=2025-01-29T12:30:09Z").await, 10);
    let some = platform.services.time_index.scanned() - scanned;
    assert!(some <= bytes / 2, "{some} bytes were looked through for ten records, of {bytes}");
    // Records that come in later are looked at, and no others.
    fill(&platform, producer.id.producer(), 10).await;
    let before = platform.services.time_index.scanned();
    assert_eq!(ask("by=device&from=2030-01-01T00:00:00Z").await, 0);
    let later = platform.services.time_index.scanned() - before;
    assert!(later > 0 && later < bytes / 100, "{later} bytes were looked through for ten new records");
    assert_eq!(ask("by=device&from=2025-01-29T12:00:00Z&to=2025-01-29T12:00:09Z").await, 20);
}

#[tokio::test]
async fn what_came_at_other_times_is_not_read() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let mut bytes = 0;
    for _ in 0..5 {
        bytes += fill(&platform, producer.id.producer(), 2000).await;
        platform.time.advance(Duration::from_secs(600));
    }
    // They began at midnight, and one comes alone.
    fill(&platform, producer.id.producer(), 1).await;
    let ask = async |query: &str| {
        let before = platform.services.time_index.scanned();
        let answer = platform.dsm(Method::GET, &format!("/history/{}?{query}", producer.id), Some(&token), Sent::Nothing).await;
        (answer.json(200).as_array().unwrap().len(), platform.services.time_index.scanned() - before)
    };
    assert_eq!(ask("from=2026-01-01T02:00:00Z").await.0, 0);
    let (found, scanned) = ask("from=2026-01-01T00:50:00Z").await;
    assert!(found == 1 && scanned <= bytes / 10, "{scanned} bytes were looked through for {found} records, of {bytes}");
    let (found, scanned) = ask("from=2026-01-01T00:20:00Z&to=2026-01-01T00:29:00Z").await;
    assert!(found == 1000 && scanned <= bytes / 5, "{scanned} bytes were looked through for {found} records, of {bytes}");
    let (found, scanned) = ask("to=2025-12-31T23:00:00Z").await;
    assert!(found == 0 && scanned <= bytes / 10, "{scanned} bytes were looked through for {found} records, of {bytes}");
    let (found, scanned) = ask("from=2026-01-01T00:35:00Z&to=2026-01-01T00:36:00Z").await;
    assert!(found == 0 && scanned <= bytes / 10, "{scanned} bytes were looked through for {found} records, of {bytes}");
}

#[tokio::test]
async fn an_account_asks_so_often() {
    let settings = [("RATE_LIMIT_REQUESTS", "5/h"), ("RATE_LIMIT_HISTORY", "2/h")];
    let platform = platform(&settings).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let (consumer, other) = platform.account(Role::Consumer, "c").await;
    let history = format!("/api/History/{}/", producer.id);
    for _ in 0..2 {
        platform.dsm(Method::GET, &history, Some(&token), Sent::Nothing).await.json(200);
    }
    platform.dsm(Method::GET, &history, Some(&token), Sent::Nothing).await.problem(429, "too_many_requests");
    for _ in 0..2 {
        platform.dsm(Method::GET, "/streams", Some(&token), Sent::Nothing).await.json(200);
    }
    platform.dsm(Method::GET, "/streams", Some(&token), Sent::Nothing).await.problem(429, "too_many_requests");
    platform.ap(Method::GET, "/producers", Some(&token), Sent::Nothing).await.problem(429, "too_many_requests");
    // Records come in all the same, and a token is good.
    platform.dsm(Method::POST, "/data", Some(&token), Sent::Json(json!({"t": 1}))).await.json(200);
    platform.ap(Method::GET, "/verify", Some(&token), Sent::Nothing).await.json(200);
    // Another account has its own limits, also for what changes something.
    let body = || Sent::Json(json!({"producer_id": producer.id}));
    for _ in 0..2 {
        assert!(platform.sm(Method::POST, "/subscribe", Some(&other), body()).await.status.is_success());
        platform.sm(Method::DELETE, &format!("/unsubscribe?producer_id={}", producer.id), Some(&other), Sent::Nothing).await.json(200);
    }
    platform.sm(Method::GET, &format!("/subscriptions/{}", consumer.id), Some(&other), Sent::Nothing).await.json(200);
    platform.sm(Method::POST, "/subscribe", Some(&other), body()).await.problem(429, "too_many_requests");
    // Who is nobody is told so.
    platform.sm(Method::POST, "/subscribe", Some("x"), body()).await.problem(401, "invalid_token");
}

#[tokio::test]
async fn an_account_asks_so_much_at_once() {
    let platform = platform(&[("MAX_REQUESTS_PER_ACCOUNT", "3")]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    let requests = (0..10).map(|_| platform.ap(Method::GET, "/producers", Some(&token), Sent::Nothing));
    let answers = futures_util::future::join_all(requests).await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty() && refused.len() <= 7, "{} of 10 were refused", refused.len());
    refused.iter().for_each(|answer| drop(answer.problem(429, "too_many_requests")));
    // Each of them is counted only while it is in progress.
    platform.ap(Method::GET, "/producers", Some(&token), Sent::Nothing).await.json(200);
}

#[tokio::test]
async fn a_token_in_the_query_is_counted_like_one_in_a_header() {
    let platform = platform(&[("RATE_LIMIT_REQUESTS", "1/h")]).await;
    let (_, token) = platform.account(Role::Consumer, "c").await;
    let ask = async || platform.dsm(Method::GET, &format!("/stream?where=nonsense&token={token}"), None, Sent::Nothing).await;
    ask().await.problem(400, "invalid_expression");
    ask().await.problem(429, "too_many_requests");
}

#[tokio::test]
async fn who_waits_for_a_page_to_be_taken_holds_no_reader_of_history() {
    let platform = platform(&[("HISTORY_READERS", "1"), ("RATE_LIMIT_HISTORY", "off")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    fill(&platform, producer.id.producer(), 400).await;
    // A page of several pieces.
    let path = format!("/history/{}?limit=400", producer.id);
    let room = PageRoom::of(1);
    let ask = || {
        let mut request = request(Method::GET, &path, Some(&token), Sent::Nothing);
        request.extensions_mut().insert(room.clone());
        request
    };
    // Its answer is held and not read, so the next page of the same connection has to wait.
    let held = platform.dsm.clone().oneshot(ask()).await.unwrap();
    let waiting = tokio::spawn(platform.dsm.clone().oneshot(ask()));
    // So often that the one that waits has come as far as it can.
    for _ in 0..20 {
        let other = platform.dsm(Method::GET, &format!("/history/{}?limit=10", producer.id), Some(&token), Sent::Nothing).await;
        assert_eq!(other.json(200).as_array().unwrap().len(), 10, "another connection reads meanwhile");
    }
    assert!(!waiting.is_finished());
    drop(held);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}
