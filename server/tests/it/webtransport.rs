//! WebTransport by a client of its own kind: who may come, what a consumer follows, what a producer is answered, and how a
//! session ends.

use std::{collections::HashMap, future::Future, time::Duration};

use motience_certs::pem;
use motience_device::client::Lane;
use motience_proto::{
    model::Seq,
    wire::{Intent, Record},
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use web_transport_quinn::{
    ClientBuilder, ClientError, RecvStream, SendStream, Session, SessionError, WebTransportError, http::HeaderValue, proto::ConnectRequest,
};

use crate::{
    delivery::cursor_stands_at,
    harness::{Account, LIMIT, Node, account, http, subscribe},
    quic::{acked, connect},
    unread::{PATIENT, flood, login, logout},
};

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("it happens in time")
}

/// Opens a session, as a page does that was told the certificate's hash.
async fn open(node: &Node, origin: Option<&'static str>) -> Result<Session, ClientError> {
    motience_certs::install_provider();
    let chain = pem::certificates(&node.dir.path().join("certs/server.pem")).unwrap();
    let client = ClientBuilder::new().with_server_certificates(chain).unwrap();
    let url = node.at.webtransport.as_deref().unwrap();
    let mut request = ConnectRequest::new(url.parse::<reqwest::Url>().unwrap());
    if let Some(origin) = origin {
        request = request.with_header("origin".parse().unwrap(), HeaderValue::from_static(origin));
    }
    within(client.connect(request)).await
}

/// A session with its control stream.
pub(crate) struct Client {
    pub(crate) session: Session,
    send: SendStream,
    pub(crate) lines: Lines,
}

pub(crate) struct Lines {
    recv: RecvStream,
    buffer: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(recv: RecvStream) -> Self {
        Self { recv, buffer: Vec::new() }
    }

    /// The next line; `None` where the stream ends.
    pub(crate) async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(at + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Some(serde_json::from_slice(&line).unwrap());
            }
            match within(self.recv.read_chunk(64 * 1024, true)).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) | Err(_) => return None,
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Value {
        self.line().await.expect("a line")
    }
}

impl Client {
    pub(crate) async fn hello(node: &Node, token: &str) -> Self {
        Self::opened_by(node, &json!({"type": "hello", "token": token})).await
    }

    /// A session that begins with this message.
    pub(crate) async fn opened_by(node: &Node, hello: &Value) -> Self {
        let session = open(node, None).await.unwrap();
        let (send, recv) = within(session.open_bi()).await.unwrap();
        let mut client = Self { session, send, lines: Lines::new(recv) };
        client.say(hello).await;
        client
    }

    async fn welcome(node: &Node, account: &Account) -> Self {
        let mut client = Self::hello(node, &account.token).await;
        let welcome = client.lines.next().await;
        assert_eq!((&welcome["type"], &welcome["user_id"]), (&json!("welcome"), &json!(account.id)), "{welcome}");
        assert!(welcome["expires_in"].as_u64().unwrap() > 0 && welcome["max_record"] == 65_536, "{welcome}");
        client
    }

    pub(crate) async fn say(&mut self, message: &Value) {
        within(self.send.write_all(format!("{message}\n").as_bytes())).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, message: &Value) -> Value {
        self.say(message).await;
        self.lines.next().await
    }

    /// Follows, and gives the delivery past its first line.
    async fn follow(&mut self, wish: Value) -> Lines {
        let answer = self.ask(&wish).await;
        assert_eq!(answer, json!({"type": "subscribed", "producer_id": wish["producer_id"]}));
        let mut delivery = Lines::new(within(self.session.accept_uni()).await.unwrap());
        let begin = delivery.next().await;
        assert_eq!((&begin["type"], &begin["producer_id"]), (&json!("cursor"), &wish["producer_id"]), "{begin}");
        delivery
    }

    /// The code and reason that the server closes with.
    pub(crate) async fn closed(&self) -> (u32, String) {
        closed(&self.session).await
    }
}

/// A consumer that follows a producer and reads nothing.
pub(crate) async fn unread(node: &Node, consumer: &Account, producer: &Account, from: &str) -> impl Send + use<> {
    let mut client = Client::welcome(node, consumer).await;
    client.say(&json!({"type": "subscribe", "producer_id": producer.id.to_string(), "from": from})).await;
    client
}

async fn closed(session: &Session) -> (u32, String) {
    match within(session.closed()).await {
        SessionError::WebTransportError(WebTransportError::Closed(code, reason)) => (code, reason),
        other => panic!("{other:?}"),
    }
}

async fn gauge(node: &Node) -> String {
    let text = http().get(format!("{}/metrics", node.at.operations.as_deref().unwrap())).send().await.unwrap().text().await.unwrap();
    text.lines().find_map(|line| line.strip_prefix("motience_webtransport_sessions ")).unwrap_or("0").to_owned()
}

async fn until_gauge(node: &Node, value: &str) {
    let deadline = Instant::now() + LIMIT;
    while gauge(node).await != value {
        assert!(Instant::now() < deadline, "{} sessions are open", gauge(node).await);
        sleep(Duration::from_millis(20)).await;
    }
}

async fn pair(node: &Node) -> (Account, Account) {
    let ap = node.at.ap.as_deref().unwrap();
    let (producer, consumer) = (account(ap, "producer", "p").await, account(ap, "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    (producer, consumer)
}

fn record(n: u64) -> Value {
    json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n}})
}

/// Puts records into the producer's log.
async fn post(node: &Node, producer: &Account, numbers: std::ops::RangeInclusive<u64>) {
    let records: Vec<Value> = numbers.map(record).collect();
    let answer = http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&producer.token).json(&records).send().await;
    assert!(answer.unwrap().status().is_success());
}

#[tokio::test]
async fn a_consumer_follows_resumes_and_leaves_off() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = pair(&node).await;
    let id = producer.id.to_string();
    let mut client = Client::welcome(&node, &consumer).await;
    let mut delivery = client.follow(json!({"type": "subscribe", "producer_id": id})).await;
    post(&node, &producer, 1..=3).await;
    let mut cursors = Vec::new();
    for n in 1..=3 {
        let message = delivery.next().await;
        assert_eq!((&message["producer_id"], &message["data"]["n"], &message["offset"]), (&json!(id), &json!(n), &json!(n)));
        assert!(message["record_id"].is_string());
        cursors.push(message["cursor"].clone());
    }
    // Once more changes nothing, as over motience/1.
    let again = client.ask(&json!({"type": "subscribe", "producer_id": id, "from": "earliest"})).await;
    assert_eq!(again, json!({"type": "subscribed", "producer_id": id}));
    let ended = client.ask(&json!({"type": "unsubscribe", "producer_id": id})).await;
    assert_eq!(ended, json!({"type": "ended", "producer_id": id, "code": "unsubscribed"}));
    assert_eq!(delivery.line().await, None, "its stream ends");

    // From where it was, from the beginning, with a selection.
    let mut delivery = client.follow(json!({"type": "subscribe", "producer_id": id, "from": cursors[1]})).await;
    assert_eq!(delivery.next().await["data"]["n"], 3);
    client.ask(&json!({"type": "unsubscribe", "producer_id": producer.id})).await;
    let wish = json!({"type": "subscribe", "producer_id": id, "from": "earliest", "where": ["/data/n>1"], "fields": "/data/n"});
    let mut delivery = client.follow(wish).await;
    assert_eq!(delivery.next().await["data"], json!({"n": 2}));
    assert_eq!(client.ask(&json!({"type": "ping"})).await, json!({"type": "pong"}));

    for (wish, code) in [
        (json!({"type": "subscribe", "producer_id": "999999"}), "not_subscribed"),
        (json!({"type": "subscribe", "producer_id": "999999", "where": ["/data/n>"]}), "invalid_expression"),
        (json!({"type": "subscribe", "producer_id": "999999", "from": "soon"}), "invalid_place"),
        (json!({"type": "subscribe", "producer_id": "999999", "lane": "fast"}), "invalid_lane"),
    ] {
        let refused = client.ask(&wish).await;
        assert_eq!((&refused["type"], &refused["code"]), (&json!("refused"), &json!(code)), "{refused}");
    }

    // The subscription itself ends.
    let gone =
        http().delete(format!("{}/unsubscribe?producer_id={id}", node.at.sm.as_deref().unwrap())).bearer_auth(&consumer.token).send().await;
    assert!(gone.unwrap().status().is_success());
    assert_eq!(client.lines.next().await, json!({"type": "ended", "producer_id": id, "code": "unsubscribed"}));
    while delivery.line().await.is_some() {}
}

#[tokio::test]
async fn each_producer_has_a_stream_of_its_own_and_a_gap_is_said_on_it() {
    let node = Node::embedded(&[("LOG_RETENTION_BYTES", "20KiB")]).await;
    let (producer, consumer) = pair(&node).await;
    let other = account(node.at.ap.as_deref().unwrap(), "producer", "q").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &other).await;
    for _ in 0..5 {
        post(&node, &producer, 1..=200).await;
    }
    post(&node, &other, 7..=7).await;
    let mut client = Client::welcome(&node, &consumer).await;
    let mut first = client.follow(json!({"type": "subscribe", "producer_id": producer.id.to_string(), "from": 1})).await;
    let mut second = client.follow(json!({"type": "subscribe", "producer_id": other.id.to_string(), "from": "earliest"})).await;
    assert_eq!(second.next().await["data"]["n"], 7);
    let gap = first.next().await;
    assert_eq!((&gap["type"], &gap["from"]), (&json!("gap"), &json!(2)), "{gap}");
    assert_eq!(first.next().await["offset"], gap["to"].as_u64().unwrap() + 1);
}

#[tokio::test]
async fn a_cursor_without_a_name_keeps_no_other_from_being_confirmed() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = pair(&node).await;
    let mut client = Client::welcome(&node, &consumer).await;
    let mut nameless = HashMap::new();
    // Many, for their order is not said.
    for n in 0..8 {
        let other = account(node.at.ap.as_deref().unwrap(), "producer", &format!("q{n}")).await;
        subscribe(node.at.sm.as_deref().unwrap(), &consumer, &other).await;
        client.follow(json!({"type": "subscribe", "producer_id": other.id.to_string()})).await;
        nameless.insert(other.id.to_string(), json!("1-1"));
    }
    let id = producer.id.to_string();
    let mut delivery = client.follow(json!({"type": "subscribe", "producer_id": id, "durable": "books"})).await;
    post(&node, &producer, 1..=1).await;
    let cursor = delivery.next().await["cursor"].clone();
    nameless.insert(id, cursor.clone());
    let answer = client.ask(&json!({"type": "confirm", "cursors": nameless})).await;
    assert_eq!(answer["code"], "not_durable", "{answer}");
    cursor_stands_at(&node, &consumer.token, cursor.as_str().unwrap()).await;
}

#[tokio::test]
async fn a_producer_is_answered_in_order_whatever_way_its_records_come() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = pair(&node).await;
    let mut watching = Client::welcome(&node, &consumer).await;
    let mut delivery = watching.follow(json!({"type": "subscribe", "producer_id": producer.id.to_string()})).await;
    let mut client = Client::welcome(&node, &producer).await;
    assert_eq!(client.ask(&record(1)).await, json!({"type": "ack", "seq": 1, "subscriberCount": 1}));
    let named = client.ask(&json!({"type": "data", "id": "n-2", "payload": {"n": 2}})).await;
    assert_eq!(named, json!({"type": "ack", "seq": 2, "id": "n-2", "subscriberCount": 1}));
    assert_eq!(client.ask(&json!({"type": "ping"})).await["type"], "pong");
    assert_eq!(client.ask(&json!({"type": "dance"})).await["code"], "unknown_type");
    assert_eq!(client.ask(&json!({"device_id": "d", "timestamp": 1, "data": 1, "producer_id": "1"})).await["code"], "unknown_field");
    let mut stream = within(client.session.open_uni()).await.unwrap();
    // A record may lie over several writes; the last needs no end of line.
    for part in [format!("{}\n{{\"device_id\":\"d\",", record(3)), "\"timestamp\":1,\"data\":{\"n\":4}}".to_owned()] {
        within(stream.write_all(part.as_bytes())).await.unwrap();
    }
    stream.finish().unwrap();
    for seq in [3, 4] {
        assert_eq!(client.lines.next().await["seq"], seq);
    }
    for n in 1..=4 {
        assert_eq!(delivery.next().await["data"]["n"], n);
    }
    // A datagram is worth something only now, and never answered.
    let deadline = Instant::now() + LIMIT;
    client.session.send_datagram(record(5).to_string().into()).unwrap();
    assert_eq!(delivery.next().await["data"]["n"], 5);
    assert!(Instant::now() < deadline);
    assert_eq!(client.ask(&record(6)).await["seq"], 5, "it has no number");
}

#[tokio::test]
async fn the_newest_records_come_as_datagrams() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = pair(&node).await;
    let mut client = Client::welcome(&node, &consumer).await;
    let wish = json!({"type": "subscribe", "producer_id": producer.id.to_string(), "lane": "latest"});
    assert_eq!(client.ask(&wish).await["type"], "subscribed");
    post(&node, &producer, 1..=500).await;
    let newest = async {
        loop {
            let message: Value = serde_json::from_slice(&client.session.read_datagram().await.unwrap()).unwrap();
            assert_eq!(message["producer_id"], producer.id.to_string());
            if message["data"]["n"] == 500 {
                return message;
            }
        }
    };
    assert_eq!(within(newest).await["offset"], 500);
    // A record that fits no datagram is dropped, and the following ones are not held up.
    let large = json!({"device_id": "d", "timestamp": 1, "data": {"pad": "x".repeat(5000)}});
    http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&producer.token).json(&large).send().await.unwrap();
    post(&node, &producer, 501..=501).await;
    let after: Value = serde_json::from_slice(&within(client.session.read_datagram()).await.unwrap()).unwrap();
    assert_eq!(after["data"]["n"], 501);
}

#[tokio::test]
async fn only_who_may_come_is_let_in() {
    let node =
        Node::embedded(&[("WT_ORIGINS", "https://good.example"), ("WT_HELLO_LIMIT", "3s"), ("MAX_CONNECTIONS_PER_ACCOUNT", "1")]).await;
    let (producer, _) = pair(&node).await;
    assert!(open(&node, Some("https://evil.example")).await.is_err());
    drop(open(&node, Some("https://good.example")).await.unwrap());

    let mut client = Client::hello(&node, "nonsense").await;
    assert_eq!(client.closed().await.0, 4401);
    client = Client::hello(&node, &producer.token).await;
    client.lines.next().await;
    let second = Client::hello(&node, &producer.token).await;
    assert_eq!(second.closed().await.0, 4429);
    client.say(&json!({"type": "token", "token": "nonsense"})).await;
    assert_eq!(client.closed().await.0, 4401);

    let silent = open(&node, None).await.unwrap();
    assert_eq!(closed(&silent).await.0, 4400, "no hello");
    for (words, code) in [("hello\n", 4400), ("{\"type\":\"subscribe\",\"producer_id\":1}\n", 4400)] {
        let session = open(&node, None).await.unwrap();
        let (mut send, _recv) = within(session.open_bi()).await.unwrap();
        send.write_all(words.as_bytes()).await.unwrap();
        assert_eq!(closed(&session).await.0, code, "{words}");
    }
    let session = open(&node, None).await.unwrap();
    let (mut send, _recv) = within(session.open_bi()).await.unwrap();
    // The server may have closed before all is sent.
    let _ = within(send.write_all(&[b'x'; 100_000])).await;
    assert_eq!(closed(&session).await.0, 4413);
    until_gauge(&node, "0").await;
}

#[tokio::test]
async fn the_end_of_a_token_is_that_of_its_session_unless_it_is_renewed() {
    let node = Node::embedded(&[("JWT_EXPIRES_IN", "3s")]).await;
    let (producer, consumer) = pair(&node).await;
    let mut client = Client::welcome(&node, &consumer).await;
    let expiring = Client::welcome(&node, &producer).await;
    let begun = Instant::now();
    let login = json!({"username": consumer.username, "password": crate::harness::PASSWORD});
    let login = http().post(format!("{}/login", node.at.ap.as_deref().unwrap())).json(&login).send().await.unwrap();
    let fresh: Value = login.json().await.unwrap();
    assert_eq!(client.ask(&json!({"type": "token", "token": fresh["access_token"]})).await["type"], "token_accepted");
    assert_eq!(expiring.closed().await.0, 4401);
    assert!(begun.elapsed() < Duration::from_secs(10));
    let closed = client.closed().await;
    assert_eq!(closed.0, 4401, "the renewed one ends too");
    let mut other = Client::hello(&node, "").await;
    assert_eq!(other.lines.line().await, None);
    assert_eq!(other.closed().await.0, 4401);
}

#[tokio::test]
async fn a_session_that_its_client_ends_is_over_at_once() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = pair(&node).await;
    let clients = [Client::welcome(&node, &consumer).await, Client::welcome(&node, &producer).await];
    until_gauge(&node, "2").await;
    let [one, other] = clients;
    one.session.close(7, b"enough");
    until_gauge(&node, "1").await;
    drop(other);
    until_gauge(&node, "0").await;
}

#[tokio::test]
async fn a_node_that_stops_closes_its_sessions() {
    let mut node = Node::embedded(&[]).await;
    let (producer, consumer) = pair(&node).await;
    let mut client = Client::welcome(&node, &producer).await;
    let watching = Client::welcome(&node, &consumer).await;
    assert_eq!(client.ask(&record(1)).await["seq"], 1);
    node.signal("TERM");
    assert_eq!(client.closed().await.0, 1001);
    assert_eq!(watching.closed().await.0, 1001);
    assert_eq!(node.ended().await, 0);
}

/// A browser receives the records that a device sends over motience/1, on the same port.
#[tokio::test]
async fn devices_and_browsers_share_the_port() {
    let node = Node::embedded(&[("QUIC_SOCKETS", "2")]).await;
    let (producer, consumer) = pair(&node).await;
    let mut client = Client::welcome(&node, &consumer).await;
    let mut delivery = client.follow(json!({"type": "subscribe", "producer_id": producer.id.to_string()})).await;
    let mut device = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    device.send(Lane::Independent, Record { seq: Seq(1), json: record(1).to_string().into() }).await.unwrap();
    acked(&mut device, 1..=1).await;
    assert_eq!(delivery.next().await["data"]["n"], 1);
}

#[tokio::test]
async fn a_flood_of_requests_on_a_session_is_ended() {
    let node = Node::embedded(&[("RATE_LIMIT_CONTROL", "5/h")]).await;
    let (producer, consumer) = pair(&node).await;
    let mut client = Client::welcome(&node, &consumer).await;
    for _ in 0..5 {
        client.ask(&json!({"type": "unsubscribe", "producer_id": producer.id})).await;
    }
    client.say(&json!({"type": "subscribe", "producer_id": producer.id})).await;
    assert_eq!(client.closed().await.0, 4429);
}

#[tokio::test]
async fn the_end_of_a_login_ends_sessions_that_read_nothing() {
    let node = Node::embedded(&PATIENT).await;
    let (producer, consumer) = pair(&node).await;
    let (reader, writer) = (login(&node, &consumer).await, login(&node, &producer).await);
    let mut client = Client::welcome(&node, &reader.account).await;
    let mut delivery = client.follow(json!({"type": "subscribe", "producer_id": producer.id.to_string()})).await;
    let Client { session, send: mut up, lines: unread } = Client::welcome(&node, &writer.account).await;
    flood(&node, &producer).await;
    // A producer that is told more than it reads: each unknown type is named in an answer.
    let unknown = format!("{}\n", json!({"type": "y".repeat(60_000)}));
    let telling = tokio::spawn(async move {
        for _ in 0..400 {
            if up.write_all(unknown.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    logout(&node, &reader).await;
    logout(&node, &writer).await;
    post(&node, &producer, 7_777_777..=7_777_777).await;
    until_gauge(&node, "0").await;
    while let Some(message) = delivery.line().await {
        assert_ne!(message["data"]["n"], 7_777_777, "nothing that was published afterwards");
    }
    telling.abort();
    drop((session, unread));
}

#[tokio::test]
async fn lines_that_do_not_end_are_few() {
    let node = Node::embedded(&[("UPLOAD_MEMORY_PER_ACCOUNT", "1MiB")]).await;
    let (producer, _) = pair(&node).await;
    let client = Client::welcome(&node, &producer).await;
    let mut streams = Vec::new();
    for _ in 0..60 {
        let Ok(Ok(mut stream)) = timeout(LIMIT, client.session.open_uni()).await else { break };
        if stream.write_all(&[b'x'; 60_000]).await.is_err() {
            break;
        }
        streams.push(stream);
    }
    assert_eq!(client.closed().await.0, 4429);
    let text = http().get(format!("{}/metrics", node.at.operations.as_deref().unwrap())).send().await.unwrap().text().await.unwrap();
    assert!(text.contains(r#"motience_limited_total{reason="upload_account"} 1"#), "{text}");
}
