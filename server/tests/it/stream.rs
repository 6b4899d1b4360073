//! Live streams over real sockets: resumed in a flood, told of gaps and resets, ended in time; a selection on every egress; and records up
//! as a long stream of lines.

use std::time::Duration;

use futures_util::SinkExt as _;
use motience_device::client::{Event, Lane, Session};
use motience_proto::{
    model::{Order, ProducerId, Selection},
    wire::{Intent, Record, Start},
};
use reqwest::Response;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{connect_async, tungstenite::Error};

use crate::{
    gateway::{Pair, consume, next_json, pair, produce, record},
    harness::{Account, LIMIT, Node, account, http, subscribe},
    quic::{acked, connect, event, record as numbered},
};

const SECRET: (&str, &str) = ("JWT_SECRET", "a secret of tests, long enough to pass");

/// A stream of server-sent events, or of lines.
pub(crate) struct Reader {
    answer: Response,
    buffer: Vec<u8>,
    at: usize,
}

/// One event.
#[derive(Debug)]
pub(crate) struct SseEvent {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) data: Value,
}

async fn open(node: &Node, who: &Account, query: &str, headers: &[(&str, &str)]) -> Reader {
    let mut request = http().get(format!("{}/stream{query}", node.at.dsm.as_deref().unwrap())).bearer_auth(&who.token);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    Reader::new(answer)
}

impl Reader {
    pub(crate) fn new(answer: Response) -> Self {
        Self { answer, buffer: Vec::new(), at: 0 }
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer[self.at..].iter().position(|&byte| byte == b'\n') {
                let line = std::str::from_utf8(&self.buffer[self.at..self.at + end]).unwrap().to_owned();
                self.at += end + 1;
                return Some(line);
            }
            self.buffer.drain(..std::mem::take(&mut self.at));
            let piece = timeout(LIMIT, self.answer.chunk()).await.expect("something in time").unwrap()?;
            self.buffer.extend_from_slice(&piece);
        }
    }

    /// The next event with data; a block without moves the id only, as in a browser.
    pub(crate) async fn event(&mut self, id: &mut String) -> Option<SseEvent> {
        let (mut name, mut data) = ("message".to_owned(), None);
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                Some(("id", value)) => *id = value.to_owned(),
                Some(("event", value)) => name = value.to_owned(),
                Some(("data", value)) => data = Some(serde_json::from_str(value).unwrap()),
                _ => {}
            }
            if line.is_empty()
                && let Some(data) = data.take()
            {
                return Some(SseEvent { id: id.clone(), name, data });
            }
        }
    }

    pub(crate) async fn json(&mut self) -> Option<Value> {
        self.line().await.map(|line| serde_json::from_str(&line).unwrap())
    }
}

/// Sends numbered records, a group at a time, so that a batch of the log is never larger than a group.
async fn flood(mut device: Session, count: u64) {
    const GROUP: u64 = 100;
    for first in (1..=count).step_by(GROUP as usize) {
        let last = count.min(first + GROUP - 1);
        for n in first..=last {
            device.send(Lane::Ordered, numbered(n)).await.unwrap();
        }
        acked(&mut device, first..=last).await;
    }
}

#[tokio::test]
async fn a_browser_that_is_cut_off_again_and_again_misses_nothing_and_sees_nothing_twice() {
    const RECORDS: u64 = 10_000;
    let Pair { node, producer, consumer } = pair(&[("RING_BYTES", "64KiB")]).await;
    let mut id = String::new();
    let mut events = open(&node, &consumer, "", &[]).await;
    let device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    let sender = tokio::spawn(flood(device, RECORDS));
    let mut random = fastrand::Rng::with_seed(5);
    let (mut next, mut left) = (1, 700);
    while next <= RECORDS {
        let told = events.event(&mut id).await.expect("the stream goes on");
        assert_eq!((told.data["offset"].as_u64(), told.name.as_str()), (Some(next), "message"));
        assert_eq!(told.id, format!("{}:{}", producer.id, told.data["cursor"].as_str().unwrap()));
        next += 1;
        left -= 1;
        if left == 0 {
            left = random.u64(1..1500);
            events = open(&node, &consumer, "?from=earliest", &[("last-event-id", &id)]).await;
        }
    }
    sender.await.unwrap();
}

#[tokio::test]
async fn what_retention_removed_and_a_log_that_begins_anew_are_told() {
    let variables = [SECRET, ("LOG_RETENTION_BYTES", "64KiB"), ("RING_BYTES", "16KiB")];
    let Pair { node, producer, consumer } = pair(&variables).await;
    let device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    flood(device, 3000).await;
    let mut id = String::new();
    let mut events = open(&node, &consumer, "?from=@5", &[]).await;
    let gap = events.event(&mut id).await.unwrap();
    assert_eq!((gap.name.as_str(), &gap.data["from"], &gap.data["type"]), ("gap", &json!(6), &json!("gap")));
    let mut last = gap.data["to"].as_u64().unwrap();
    assert!(gap.id.ends_with(&format!("-{last}")), "a client that goes on from here is not told again: {gap:?}");
    while last < 3000 {
        last += 1;
        assert_eq!(events.event(&mut id).await.unwrap().data["offset"], last);
    }
    drop(events);

    let node = node.crash(&variables).await;
    let mut events = open(&node, &consumer, "", &[("last-event-id", &id), ("accept", "application/x-ndjson")]).await;
    assert_eq!(events.json().await.unwrap()["type"], "cursors");
    let reset = events.json().await.unwrap();
    assert_eq!((&reset["type"], &reset["after"], &reset["producer_id"]), (&json!("reset"), &json!(3000), &json!(producer.id.to_string())));
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    device.send(Lane::Ordered, numbered(3001)).await.unwrap();
    acked(&mut device, 3001..=3001).await;
    assert_eq!(events.json().await.unwrap()["offset"], 3001);
}

#[tokio::test]
async fn a_stream_ends_within_a_second_of_its_right() {
    let Pair { node, producer, consumer } = pair(&[("JWT_EXPIRES_IN", "10s")]).await;
    let named = format!("?producers={}", producer.id);
    let (mut expiring, mut id) = (open(&node, &consumer, "", &[]).await, String::new());
    let mut unsubscribed = open(&node, &consumer, &named, &[]).await;
    let url = format!("{}/unsubscribe?producer_id={}", node.at.sm.as_deref().unwrap(), producer.id);
    assert_eq!(http().delete(url).bearer_auth(&consumer.token).send().await.unwrap().status(), 200);
    let begun = Instant::now();
    let end = unsubscribed.event(&mut id).await.unwrap();
    assert_eq!((end.name.as_str(), &end.data["why"]), ("end", &json!("unsubscribed")));
    assert!(unsubscribed.line().await.is_none());
    assert!(begun.elapsed() < Duration::from_secs(5), "long before the token ends");
    let url = format!("{}/stream{named}", node.at.dsm.as_deref().unwrap());
    let refused = http().get(url).bearer_auth(&consumer.token).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "not_subscribed");
    let end = expiring.event(&mut id).await.unwrap();
    assert_eq!((end.name.as_str(), &end.data["why"]), ("end", &json!("token_ended")));
    assert!(expiring.line().await.is_none());
}

#[tokio::test]
async fn a_draining_node_ends_its_streams_and_leaves_at_once() {
    let Pair { mut node, consumer, .. } = pair(&[]).await;
    let (mut events, mut id) = (open(&node, &consumer, "", &[]).await, String::new());
    node.signal("TERM");
    let end = events.event(&mut id).await.unwrap();
    assert_eq!(end.data, json!({"type": "end", "why": "draining"}));
    assert!(events.line().await.is_none());
    let begun = Instant::now();
    assert_eq!(node.ended().await, 0);
    assert!(begun.elapsed() < Duration::from_secs(4), "nothing had to be cut");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_let_go_and_delays_nobody() {
    const RECORDS: u64 = 20_000;
    let Pair { node, producer, consumer } = pair(&[("HTTP_WRITE_LIMIT", "3s"), ("LOG_RETENTION_BYTES", "64MiB")]).await;
    let at = node.at.dsm.as_deref().unwrap().trim_start_matches("http://");
    let mut stuck = TcpStream::connect(at).await.unwrap();
    let request = format!("GET /stream HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {}\r\n\r\n", consumer.token);
    stuck.write_all(request.as_bytes()).await.unwrap();
    let mut quick = open(&node, &consumer, "", &[]).await;
    streams(&node, 2).await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    let sender = tokio::spawn(async move {
        for n in 1..=RECORDS {
            let json = format!(r#"{{"device_id":"d","timestamp":1,"data":{{"n":{n},"pad":"{n:0>1000}"}}}}"#);
            device.send(Lane::Ordered, Record { json: json.into(), ..numbered(n) }).await.unwrap();
        }
        acked(&mut device, 1..=RECORDS).await;
    });
    let mut id = String::new();
    for n in 1..=RECORDS {
        assert_eq!(quick.event(&mut id).await.unwrap().data["offset"], n);
    }
    sender.await.unwrap();
    streams(&node, 1).await;
}

/// Waits until so many streams are open.
async fn streams(node: &Node, count: u32) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let metrics = http().get(format!("{}/metrics", node.at.operations.as_deref().unwrap())).send().await.unwrap().text().await.unwrap();
        if metrics.contains(&format!("motience_stream_connections{{format=\"sse\"}} {count}\n")) {
            return;
        }
        assert!(Instant::now() < deadline, "{count} streams are not open: {metrics}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_view_holds_on_wss2_and_names_its_mistakes() {
    let Pair { node, producer, consumer } = pair(&[("WSS_PING_INTERVAL", "2s")]).await;
    let mut egress = consume(&node, &consumer, "&v=2&order=device&where=/data/n%3E2&where=/data/n%21=4&fields=/data/n").await;
    let mut ingress = produce(&node, &producer).await;
    for n in 0..7 {
        ingress.send(record(n, 5)).await.unwrap();
    }
    let mut seen = Vec::new();
    let last = loop {
        let message = next_json(&mut egress).await;
        if message["type"] == "cursors" {
            let cursor = message["cursors"][producer.id.to_string()].as_str().unwrap().to_owned();
            if cursor.ends_with("-7") {
                break cursor;
            }
            continue;
        }
        assert!(message["data"].get("pad").is_none() && message["cursor"].is_string());
        seen.push(message["data"]["n"].clone());
        if seen.len() == 3 {
            break message["cursor"].as_str().unwrap().to_owned();
        }
    };
    assert_eq!(seen, [3, 5, 6]);
    assert!(last.ends_with("-7"));
    ingress.send(record(1, 5)).await.unwrap();
    loop {
        // Records outside the selection move the cursor, so that a resume does not read them again.
        let moved = next_json(&mut egress).await;
        assert_eq!(moved["type"], "cursors");
        if moved["cursors"][producer.id.to_string()].as_str().unwrap().ends_with("-8") {
            break;
        }
    }
    for (query, code, column) in [("&v=2&where=/data/n%3E%3E1", "invalid_expression", json!(9)), ("&every=10s", "v2_needed", Value::Null)] {
        let refused = connect_async(format!("{}?token={}{query}", node.at.wss2.as_deref().unwrap(), consumer.token)).await;
        let Err(Error::Http(answer)) = refused else { panic!("{query} is refused") };
        assert_eq!(answer.status(), 400);
        let problem: Value = serde_json::from_slice(answer.body().as_deref().unwrap()).unwrap();
        assert_eq!((&problem["code"], &problem["column"]), (&json!(code), &column));
    }
}

#[tokio::test]
async fn a_view_holds_over_quic_and_a_follow_says_how_far_it_has_come() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let device = connect(&node, &producer.token, "d", Intent::Produce, 7).await.unwrap();
    flood(device, 50).await;
    let mut egress = connect(&node, &consumer.token, "app", Intent::Consume, 0).await.unwrap();
    let p = ProducerId(producer.id);
    let bad = Selection { conditions: vec!["/data/n>>1".to_owned()], ..Selection::default() };
    egress.subscribe_with(p, Start::Earliest, "", &bad, Order::Log).await.unwrap();
    assert_eq!(event(&mut egress).await.unwrap(), Event::Followed { producer: p, refusal: "invalid_expression".to_owned() });
    let some = Selection { conditions: vec!["/data/n>10".to_owned(), "/data/n<=12".to_owned()], ..Selection::default() };
    egress.subscribe_with(p, Start::Earliest, "", &some, Order::Log).await.unwrap();
    let (mut seen, mut place) = (Vec::new(), 0);
    while seen.len() < 2 || place < 50 {
        match event(&mut egress).await.unwrap() {
            Event::Followed { refusal, .. } => assert_eq!(refusal, ""),
            Event::Cursor(said) => place = said.cursor.offset.0,
            Event::Entries { entries, .. } => seen.extend(entries.iter().map(|entry| entry.offset.0)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [11, 12]);
}

#[tokio::test]
async fn two_hundred_thousand_lines_go_up_in_one_request_and_no_faster_than_the_log() {
    const RECORDS: u64 = 200_000;
    let node = Node::embedded(&[("LOG_DURABILITY", "memory"), ("APPEND_QUEUE", "2"), ("HTTP_REQUEST_LIMIT", "1s")]).await;
    let producer = account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    let consumer = account(node.at.ap.as_deref().unwrap(), "consumer", "c").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let at = node.at.dsm.as_deref().unwrap().trim_start_matches("http://");
    let mut socket = TcpStream::connect(at).await.unwrap();
    let head = format!(
        "POST /data HTTP/1.1\r\nhost: {at}\r\nauthorization: Bearer {}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        producer.token
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut piece = String::new();
    for n in 1..=RECORDS {
        piece.push_str(&format!("{{\"device_id\":\"d\",\"timestamp\":{n},\"data\":{{\"n\":{n}}}}}\n"));
        if piece.len() > 60_000 || n == RECORDS {
            // Cut anywhere: the last line of a piece may end in the next.
            let rest = if n == RECORDS { String::new() } else { piece.split_off(piece.len() - 17) };
            let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
            timeout(LIMIT, socket.write_all(chunk.as_bytes())).await.expect("it is read").unwrap();
            piece = rest;
        }
    }
    socket.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, socket.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let summary = answer.split("\r\n\r\n").nth(1).unwrap();
    let summary = &summary[summary.find('{').unwrap()..=summary.rfind('}').unwrap()];
    let summary: Value = serde_json::from_str(summary).unwrap();
    assert_eq!(summary, json!({"accepted": RECORDS, "rejected": 0, "errors": [], "subscriberCount": 1}));
}
