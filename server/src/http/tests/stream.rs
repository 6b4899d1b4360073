//! Live streams without sockets: the two forms, who may follow whom, where a stream begins, and how it ends.

use axum::body::BodyDataStream;
use futures_util::StreamExt as _;
use motience_auth::Grant;
use motience_cluster::Event;
use motience_proto::model::{ConsumerId, ProducerId};
use serde_json::json;
use tokio::time::{Duration, timeout};

use super::*;

/// Longest wait for anything a test waits for.
const LIMIT: Duration = Duration::from_secs(60);
const LINES: Option<&str> = Some("application/x-ndjson");

/// A stream that is read line by line.
pub(super) struct Reader {
    headers: HeaderMap,
    body: BodyDataStream,
    buffer: Vec<u8>,
}

async fn answer(platform: &Platform, path: &str, token: &str, headers: &[(&str, &str)]) -> axum::response::Response {
    let mut request = request(Method::GET, path, Some(token), Sent::Nothing);
    for (name, value) in headers {
        request.headers_mut().insert(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
    }
    platform.dsm.clone().oneshot(request).await.unwrap()
}

async fn open(platform: &Platform, path: &str, token: &str, headers: &[(&str, &str)]) -> Reader {
    let answer = answer(platform, path, token, headers).await;
    assert_eq!(answer.status(), 200, "{path}");
    let (head, body) = answer.into_parts();
    Reader { headers: head.headers, body: body.into_data_stream(), buffer: Vec::new() }
}

/// Lines of JSON.
pub(super) async fn lines(platform: &Platform, path: &str, token: &str) -> Reader {
    open(platform, path, token, &[("accept", LINES.unwrap())]).await
}

impl Reader {
    /// Up to the next `end`, without it; `None` at the end of the stream.
    async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|w| w == end.as_bytes()) {
                let rest = self.buffer.split_off(at + end.len());
                let mut block = std::mem::replace(&mut self.buffer, rest);
                block.truncate(at);
                return Some(String::from_utf8(block).unwrap());
            }
            match timeout(LIMIT, self.body.next()).await.expect("something in time") {
                Some(piece) => self.buffer.extend_from_slice(&piece.unwrap()),
                None => return None,
            }
        }
    }

    pub(super) async fn line(&mut self) -> Option<Value> {
        self.until("\n").await.map(|line| serde_json::from_str(&line).unwrap())
    }

    /// The next line that is no `cursors` message.
    pub(super) async fn record(&mut self) -> Value {
        loop {
            let line = self.line().await.expect("a line");
            if line["type"] != "cursors" {
                return line;
            }
        }
    }
}

async fn subscribe(platform: &Platform, consumer: &User, producer: &User) {
    platform
        .services
        .backend
        .store
        .subscribe(consumer.id.consumer(), producer.id.producer(), Visibility::Open, platform.services.backend.clock.now())
        .await
        .unwrap();
}

async fn log(platform: &Platform, producer: &User, numbers: impl Iterator<Item = u64>) {
    let publisher = platform.services.backend.relay.ephemeral_publisher(producer.log_key()).await.unwrap();
    for n in numbers {
        let json = format!("{{\"device_id\":\"d\",\r\n\"timestamp\":{},\"data\":{{\"n\":{n},\"m\":1}}}}", n * 1000);
        let ticket = publisher.submit(json.into()).await.unwrap();
        publisher.committed(ticket).await.unwrap();
    }
}

async fn offset(platform: &Platform, producer: &User) -> String {
    let head = platform.services.backend.relay.log().bounds(producer.log_key()).await.unwrap();
    format!("{}-{}", head.log_epoch(), head.last)
}

#[tokio::test]
async fn events_carry_all_cursors_and_resume_by_them() {
    let platform = platform(&[("STREAM_COMMENT_INTERVAL", "50ms")]).await;
    let (p, _) = platform.account(Role::Producer, "p").await;
    let (q, _) = platform.account(Role::Producer, "q").await;
    let (c, token) = platform.account(Role::Consumer, "c").await;
    subscribe(&platform, &c, &p).await;
    subscribe(&platform, &c, &q).await;
    let mut events = open(&platform, &format!("/stream?token={token}"), "", &[("authorization", "")]).await;
    for (name, value) in [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")] {
        assert_eq!(events.headers[name], value);
    }
    let begin = events.until("\n\n").await.unwrap();
    let ids = format!("id: {}:{},{}:{}", p.id, offset(&platform, &p).await, q.id, offset(&platform, &q).await);
    assert_eq!(begin, format!("retry: 1000\n: \n{ids}"));
    log(&platform, &p, 1..=2).await;
    let mut seen = Vec::new();
    let mut id = String::new();
    while seen.len() < 2 {
        let event = events.until("\n\n").await.unwrap();
        let Some((first, data)) = event.split_once("\ndata: ") else { continue };
        id = first.strip_prefix("id: ").unwrap().to_owned();
        let message: Value = serde_json::from_str(data).unwrap();
        assert!(id.contains(message["cursor"].as_str().unwrap()));
        assert_eq!(message["producer_id"], p.id.to_string());
        seen.push(message["data"]["n"].clone());
    }
    assert_eq!(seen, [1, 2]);
    // A quiet stream sends keep-alives with its cursors.
    assert_eq!(events.until("\n\n").await.unwrap(), format!(": \nid: {id}"));
    drop(events);
    log(&platform, &p, 3..=3).await;
    log(&platform, &q, 4..=4).await;
    let resumed = [("last-event-id", id.as_str()), ("accept", "application/x-ndjson")];
    let mut again = open(&platform, "/api/stream?from=earliest", &token, &resumed).await;
    assert_eq!(again.headers["content-type"], "application/x-ndjson");
    let mut seen = [again.record().await["data"]["n"].as_u64().unwrap(), again.record().await["data"]["n"].as_u64().unwrap()];
    seen.sort_unstable();
    assert_eq!(seen, [3, 4]);
}

#[tokio::test]
async fn a_stream_begins_where_it_is_told_to() {
    let platform = platform(&[]).await;
    let (p, token) = platform.account(Role::Producer, "p").await;
    log(&platform, &p, 1..=5).await;
    platform.time.advance(Duration::from_secs(1800));
    log(&platform, &p, 6..=8).await;
    let at = offset(&platform, &p).await;
    let (life, _) = at.split_once('-').unwrap();
    for (from, first) in [
        ("earliest".to_owned(), 1),
        ("@2".to_owned(), 3),
        // A number is a time, and not taken for a place that does not exist.
        ("1767226500000".to_owned(), 6),
        ("2026-01-01%2000:15:00".to_owned(), 6),
        ("2026-01-01T00:15:00+00:00".to_owned(), 6),
        ("456".to_owned(), 1),
        (format!("{}:@4", p.id), 5),
        // The devices' own clocks stand in 1970.
        ("4000&by=device".to_owned(), 4),
        ("1970-01-01T00:00:07Z&by=device".to_owned(), 7),
        ("4000&by=received".to_owned(), 1),
        (format!("{life}-6"), 7),
        (format!("{}:{life}-3", p.id), 4),
        (format!("%7B%22{}%22:%22{life}-7%22%7D", p.id), 8),
        ("2026-01-01T00:15:00Z".to_owned(), 6),
        ("2026-01-01T01:15:00+01:00".to_owned(), 6),
    ] {
        let mut stream = lines(&platform, &format!("/stream?from={from}"), &token).await;
        let begin = stream.line().await.unwrap();
        assert!(begin["cursors"][p.id.to_string()].is_string(), "{begin}");
        assert_eq!(stream.record().await["data"]["n"], first, "{from}");
    }
    for (query, received) in [("&received_at=true", json!("2026-01-01T00:30:00Z")), ("&received_at=false", json!(null)), ("", json!(null))]
    {
        let mut stream = lines(&platform, &format!("/stream?from=@6{query}"), &token).await;
        assert_eq!(stream.record().await["received_at"], received);
    }
    for (query, field) in [("by=mine", "by"), ("received_at=1", "received_at"), ("from=@x", "from"), ("from=-5", "from")] {
        let refused = platform.dsm(Method::GET, &format!("/stream?{query}"), Some(&token), Sent::Nothing).await;
        assert_eq!(refused.problem(422, "invalid_field")["field"], field);
    }
    let mut live = lines(&platform, "/stream?from=live", &token).await;
    log(&platform, &p, 9..=9).await;
    assert_eq!(live.record().await["data"]["n"], 9);
}

#[tokio::test]
async fn a_time_older_than_retention_is_a_gap_and_a_later_one_is_not() {
    let platform = platform(&[("LOG_RETENTION_BYTES", "8KiB")]).await;
    let (p, token) = platform.account(Role::Producer, "p").await;
    log(&platform, &p, 1..=200).await;
    platform.time.advance(Duration::from_secs(600));
    log(&platform, &p, 201..=210).await;
    let first = platform.services.backend.relay.log().bounds(p.log_key()).await.unwrap().first.0;
    assert!((2..=200).contains(&first), "{first}");
    for from in ["2026-01-01T00:00:00Z", "2025-06-01 00:00:00", "1767225600000"] {
        let mut stream = lines(&platform, &format!("/stream?from={}", from.replace(' ', "%20")), &token).await;
        let gap = stream.record().await;
        assert_eq!(
            gap,
            json!({"type": "gap", "producer_id": p.id.to_string(), "from": 1, "to": first - 1, "cause": "retention"}),
            "{from}"
        );
        assert_eq!(stream.record().await["data"]["n"], first);
    }
    let mut stream = lines(&platform, "/stream?from=2026-01-01T00:05:00Z", &token).await;
    assert_eq!(stream.record().await["data"]["n"], 201);
}

#[tokio::test]
async fn a_view_shows_what_is_wanted_and_moves_past_the_rest() {
    let platform = platform(&[("STREAM_COMMENT_INTERVAL", "50ms")]).await;
    let (p, token) = platform.account(Role::Producer, "p").await;
    log(&platform, &p, 1..=40).await;
    let at = offset(&platform, &p).await;
    let mut some = lines(&platform, "/stream?from=earliest&where=/data/n%3E10&where=/data/n%3C13&fields=/data/n", &token).await;
    for n in [11, 12] {
        let record = some.record().await;
        assert_eq!((&record["data"], &record["offset"], &record["device_id"]), (&json!({"n": n}), &json!(n), &json!("d")));
    }
    loop {
        let moved = some.line().await.unwrap();
        if moved == json!({"type": "cursors", "cursors": {p.id.to_string(): at}}) {
            break;
        }
        assert_eq!(moved["type"], "cursors");
    }
    let mut last = lines(&platform, "/stream?from=earliest&every=10s", &token).await;
    for n in [9, 19, 29, 39] {
        assert_eq!(last.record().await["data"]["n"], n);
    }
    let problem = platform.dsm(Method::GET, "/stream?where=/data/n%3E%3E1", Some(&token), Sent::Nothing).await;
    let problem = problem.problem(400, "invalid_expression");
    assert_eq!((&problem["field"], &problem["column"]), (&json!("where"), &json!(9)));
    assert_eq!((&problem["expression"], &problem["caret"]), (&json!("/data/n>>1"), &json!("        ^")));
}

#[tokio::test]
async fn everyone_follows_what_is_theirs() {
    let platform = platform(&[("STREAM_MAX_PRODUCERS", "2"), ("MAX_CONNECTIONS_PER_ACCOUNT", "3")]).await;
    let (p, p_token) = platform.account(Role::Producer, "p").await;
    let (q, _) = platform.account(Role::Producer, "q").await;
    let (c, token) = platform.account(Role::Consumer, "c").await;
    let (_, admin) = platform.account(Role::Admin, "a").await;
    subscribe(&platform, &c, &p).await;
    let get = async |path: String, token: &str| platform.dsm(Method::GET, &path, Some(token), Sent::Nothing).await;
    let both = format!("/stream?producers={},{}", p.id, q.id);
    let problem = get(both.clone(), &token).await.problem(403, "not_subscribed");
    assert!(problem["error"].as_str().unwrap().contains(&q.id.to_string()));
    get(format!("/stream?producers={}", q.id), &p_token).await.problem(403, "forbidden");
    get("/stream".into(), &admin).await.problem(403, "no_producers");
    get(format!("/stream?producers={}", c.id), &admin).await.problem(404, "not_found");
    get("/stream?producers=1,2,3".into(), &token).await.problem(422, "too_many_producers");
    // A line names its own cursor only.
    let (r, _) = platform.account(Role::Producer, "r").await;
    let mut three = lines(&platform, &format!("/stream?producers={},{},{}", p.id, q.id, r.id), &admin).await;
    log(&platform, &r, 1..=1).await;
    assert_eq!(three.record().await["producer_id"], r.id.to_string());
    drop(three);
    for (query, field) in
        [("producers=", "producers"), ("producers=1,x", "producers"), ("producers=-1", "producers"), ("from=soon", "from")]
    {
        assert_eq!(get(format!("/stream?{query}"), &token).await.problem(422, "invalid_field")["field"], field);
    }
    get("/stream?from=7-1&producers=".to_owned() + &format!("{},{}", p.id, q.id), &admin).await.problem(422, "invalid_field");
    get("/stream?token=nonsense".into(), "x").await.problem(401, "invalid_token");
    let answer = answer(&platform, "/stream", &token, &[("accept", "application/json")]).await;
    assert_eq!(answer.status(), 406);
    let mut all = lines(&platform, &both, &admin).await;
    log(&platform, &q, 1..=1).await;
    assert_eq!(all.record().await["producer_id"], q.id.to_string());
    // Permits are given back when streams end.
    let held =
        [lines(&platform, "/stream", &token).await, lines(&platform, "/stream", &token).await, lines(&platform, "/stream", &token).await];
    get("/stream".into(), &token).await.problem(429, "too_many_connections");
    drop(held);
    lines(&platform, "/stream", &token).await;
    platform.services.backend.store.close().await;
    get("/stream".into(), &token).await.problem(503, "database_away");
}

#[tokio::test]
async fn a_stream_ends_with_its_token_its_subscription_and_its_node() {
    let platform = platform(&[]).await;
    let (p, _) = platform.account(Role::Producer, "p").await;
    let (q, _) = platform.account(Role::Producer, "q").await;
    let (c, token) = platform.account(Role::Consumer, "c").await;
    subscribe(&platform, &c, &p).await;
    subscribe(&platform, &c, &q).await;
    let backend = &platform.services.backend;
    let mut named = lines(&platform, &format!("/stream?producers={},{}", p.id, q.id), &token).await;
    let mut all = lines(&platform, "/stream", &token).await;
    let mut drained = lines(&platform, "/stream", &token).await;
    let end = |consumer: ConsumerId, producer: ProducerId| async move {
        backend.store.unsubscribe(consumer, producer, backend.clock.now()).await.unwrap();
        backend.broadcast(Event::Unsubscribed { consumer, producer }).await;
    };
    end(c.id.consumer(), q.id.producer()).await;
    let last = named.record().await;
    assert_eq!(last, json!({"type": "end", "why": "unsubscribed", "producer_ids": [q.id.to_string()]}));
    assert_eq!(named.line().await, None);
    // Without names the stream goes on with what is left.
    log(&platform, &q, 1..=3).await;
    log(&platform, &p, 4..=4).await;
    assert_eq!(all.record().await["data"]["n"], 4);
    assert_eq!(drained.record().await["data"]["n"], 4);
    let grant: Grant = backend.authenticate(&token).await.unwrap();
    let (other, other_token) = platform.account(Role::Producer, "r").await;
    let mut revoked = lines(&platform, "/stream", &other_token).await;
    // Tokens know whole seconds: only those of an earlier one are sure to be older than the end of the account.
    platform.time.advance(Duration::from_secs(1));
    backend.broadcast(Event::UserRevoked { user: other.id, at_ms: None, families: Vec::new() }).await;
    assert_eq!(revoked.record().await, json!({"type": "end", "why": "token_ended"}));
    assert_eq!(revoked.line().await, None);
    assert_eq!(grant.user, c.id);
    platform.services.shutdown.begin();
    assert_eq!(drained.record().await, json!({"type": "end", "why": "draining"}));
    assert_eq!(drained.line().await, None);
}

#[tokio::test]
async fn many_records_come_in_one_piece() {
    let platform = platform(&[]).await;
    let (p, token) = platform.account(Role::Producer, "p").await;
    log(&platform, &p, 1..=500).await;
    let mut stream = lines(&platform, "/stream?from=earliest", &token).await;
    let (mut pieces, mut records) = (0, 0);
    while records < 500 {
        let piece = timeout(LIMIT, stream.body.next()).await.unwrap().unwrap().unwrap();
        pieces += 1;
        records += piece.iter().filter(|&&byte| byte == b'\n').count();
        assert!(piece.len() <= 128 * 1024);
    }
    assert!(pieces < 10, "{pieces} pieces");
}

#[tokio::test]
async fn head_answers_without_a_stream() {
    let platform = platform(&[]).await;
    let (_, token) = platform.account(Role::Producer, "p").await;
    let answer = platform.dsm(Method::HEAD, "/stream", Some(&token), Sent::Nothing).await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, ""));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/event-stream");
    platform.dsm(Method::HEAD, "/stream", None, Sent::Nothing).await;
}
