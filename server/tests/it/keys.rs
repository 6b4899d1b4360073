//! Keys of programs on every transport: taken, refused, and ended while their connections live.

use std::time::Duration;

use axum::http::Method;
use futures_util::StreamExt as _;
use motience_device::client::{Error, Event, Lane, Session};
use motience_proto::{
    model::ProducerId,
    wire::{CloseCode, Frame, Intent, Start},
};
use motience_runtime::clock::Clock;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, Message},
};

use crate::{
    gateway::{Pair, Socket, next_json, pair},
    h3,
    harness::{LIMIT, Node, Shared, account, http, subscribe},
    operators,
    quic::{acked, ap, closed_with, connect, event, record},
    tunnel, webtransport,
};

/// How long a key lives that is to expire.
const LIFE: Duration = Duration::from_secs(1);

/// A key: its id, and the key.
struct Key {
    id: String,
    key: String,
}

async fn make(ap: &str, token: &str, wish: Value) -> Key {
    let answer = http().post(format!("{ap}/keys")).bearer_auth(token).json(&wish).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let made: Value = answer.json().await.unwrap();
    Key { id: made["id"].as_str().unwrap().to_owned(), key: made["key"].as_str().unwrap().to_owned() }
}

async fn key(ap: &str, token: &str, scope: &str) -> Key {
    make(ap, token, json!({"name": scope, "scopes": [scope]})).await
}

async fn revoke(ap: &str, token: &str, key: &Key) {
    let answer = http().delete(format!("{ap}/keys/{}", key.id)).bearer_auth(token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

async fn socket(url: &str, key: &str) -> Result<Socket, tungstenite::Error> {
    timeout(LIMIT, connect_async(format!("{url}?token={key}"))).await.expect("an answer in time").map(|(socket, _)| socket)
}

#[tokio::test]
async fn a_session_of_a_key_does_not_go_on_by_a_password_that_may_not_publish() {
    let node = Node::embedded(&[("DEVICE_PASSWORDS", "deny")]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let key = key(ap(&node), &producer.token, "publish").await;
    let mut session = connect(&node, &key.key, "d", Intent::Produce, 1).await.unwrap();
    session.send(Lane::Ordered, record(1)).await.unwrap();
    acked(&mut session, 1..=1).await;
    session.renew(&producer.token.clone().into()).await.unwrap();
    assert_eq!(closed_with(&mut session).await, CloseCode::Forbidden);
}

/// The code with which a WebSocket is closed.
pub(crate) async fn closed(socket: &mut Socket) -> u16 {
    loop {
        match socket.next().await.expect("a close comes first").unwrap() {
            Message::Close(frame) => return frame.expect("a close says why").code.into(),
            _ => continue,
        }
    }
}

pub(crate) async fn stream(node: &Node, key: &str, accept: &str) -> reqwest::Response {
    let url = format!("{}/stream?token={key}", node.at.dsm.as_deref().unwrap());
    http().get(url).header("accept", accept).send().await.unwrap()
}

/// The last bytes of a stream over HTTP.
pub(crate) async fn rest(mut answer: reqwest::Response) -> String {
    let mut text = String::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    text
}

/// A connection by every way in, of a producer and of a consumer.
pub(crate) struct Everywhere {
    pub(crate) device: Session,
    reader: Session,
    tunnel: tunnel::Tunnel<tunnel::Plain>,
    sockets: Vec<Socket>,
    sessions: Vec<webtransport::Client>,
    streams: [reqwest::Response; 2],
}

impl Everywhere {
    /// Comes in by every way with one token of a producer and one of a consumer; each is taken.
    pub(crate) async fn open(node: &Node, publish: &str, consume: &str) -> Self {
        let (wss1, wss2) = (node.at.wss1.as_deref().unwrap(), node.at.wss2.as_deref().unwrap());
        let sent = json!({"device_id": "d", "timestamp": 1, "data": 1});
        let url = format!("{}/data", node.at.dsm.as_deref().unwrap());
        let posted = http().post(url).bearer_auth(publish).json(&sent).send().await.unwrap();
        assert_eq!(posted.status(), 200);
        let mut over_h3 = h3::Client::connect(node).await;
        assert_eq!(over_h3.ask(Method::POST, "/data", Some(publish), Some(sent)).await.status, 200);
        let mut device = connect(node, publish, "d", Intent::Produce, 7).await.unwrap();
        device.send(Lane::Independent, record(1)).await.unwrap();
        acked(&mut device, 1..=1).await;
        let reader = connect(node, consume, "app", Intent::Consume, 0).await.unwrap();
        let mut tunnel = tunnel::open(node).await;
        tunnel.enter(tunnel::hello(publish, "t", 7)).await;
        let mut sockets = vec![socket(wss1, publish).await.unwrap(), socket(wss2, consume).await.unwrap()];
        sockets.push(connect_async(format!("{wss2}?v=2&token={consume}")).await.unwrap().0);
        let mut sessions = Vec::new();
        for token in [publish, consume] {
            let mut client = webtransport::Client::hello(node, token).await;
            assert_eq!(client.lines.next().await["type"], "welcome");
            sessions.push(client);
        }
        let streams = [stream(node, consume, "text/event-stream").await, stream(node, consume, "application/x-ndjson").await];
        assert!(streams.iter().all(|answer| answer.status() == 200));
        Self { device, reader, tunnel, sockets, sessions, streams }
    }

    /// Waits until all but the device's connection have ended as by a token that is good no more. Gives that one.
    pub(crate) async fn others_ended(mut self) -> Session {
        assert_eq!(closed_with(&mut self.reader).await, CloseCode::Unauthenticated);
        assert_eq!(u32::from(self.tunnel.closed().await.0), 4100 + CloseCode::Unauthenticated.number());
        for socket in &mut self.sockets {
            assert_eq!(closed(socket).await, 4401);
        }
        for session in &self.sessions {
            assert_eq!(session.closed().await.0, 4401);
        }
        for answer in self.streams {
            assert!(rest(answer).await.contains("token_ended"));
        }
        self.device
    }

    /// Waits until all have.
    pub(crate) async fn ended(self) {
        let mut device = self.others_ended().await;
        assert_eq!(closed_with(&mut device).await, CloseCode::Unauthenticated);
    }
}

#[tokio::test]
async fn every_way_in_takes_a_key_and_ends_with_it() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let ap = ap(&node);
    let (publish, consume) = (key(ap, &producer.token, "publish").await, key(ap, &consumer.token, "consume").await);
    let everywhere = Everywhere::open(&node, &publish.key, &consume.key).await;
    revoke(ap, &producer.token, &publish).await;
    revoke(ap, &consumer.token, &consume).await;
    timeout(Duration::from_secs(1), everywhere.ended()).await.expect("within a second");
}

/// The refusal of motience/1 as the status of HTTP that means it.
fn status(code: CloseCode) -> u16 {
    match code {
        CloseCode::Unauthenticated => 401,
        CloseCode::Forbidden => 403,
        other => panic!("{other:?}"),
    }
}

fn session(outcome: Result<Session, Error>) -> u16 {
    match outcome {
        Err(Error::Closed { code, .. }) => status(code),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("taken"),
    }
}

fn upgrade(outcome: Result<Socket, tungstenite::Error>) -> u16 {
    match outcome {
        Err(tungstenite::Error::Http(answer)) => answer.status().as_u16(),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("taken"),
    }
}

/// How each way in refuses a producer's and a consumer's key or token, as a status of HTTP.
pub(crate) async fn refusals(node: &Node, publish: &str, consume: &str) -> Vec<(&'static str, u16)> {
    let dsm = node.at.dsm.as_deref().unwrap();
    let sent = json!({"device_id": "d", "timestamp": 1, "data": 1});
    let posted = http().post(format!("{dsm}/data")).bearer_auth(publish).json(&sent).send().await.unwrap();
    let mut over_h3 = h3::Client::connect(node).await;
    let posted_h3 = over_h3.ask(Method::POST, "/data", Some(publish), Some(sent)).await;
    let mut in_tunnel = tunnel::open(node).await;
    in_tunnel.send([Frame::Hello(tunnel::hello(publish, "t", 7))]).await;
    let tunnelled = CloseCode::from_number(u64::from(in_tunnel.closed().await.0 - 4100)).unwrap();
    let mut answers = vec![
        ("http", posted.status().as_u16()),
        ("http/3", posted_h3.status.as_u16()),
        ("quic producer", session(connect(node, publish, "d", Intent::Produce, 7).await)),
        ("quic consumer", session(connect(node, consume, "app", Intent::Consume, 0).await)),
        ("tunnel", status(tunnelled)),
        ("wss1", upgrade(socket(node.at.wss1.as_deref().unwrap(), publish).await)),
        ("wss2", upgrade(socket(node.at.wss2.as_deref().unwrap(), consume).await)),
        ("sse", stream(node, consume, "text/event-stream").await.status().as_u16()),
        ("ndjson", stream(node, consume, "application/x-ndjson").await.status().as_u16()),
    ];
    for (name, key) in [("webtransport producer", publish), ("webtransport consumer", consume)] {
        let client = webtransport::Client::hello(node, key).await;
        answers.push((name, u16::try_from(client.closed().await.0 - 4000).unwrap()));
    }
    answers
}

#[tokio::test]
async fn every_way_in_refuses_a_key_that_may_not_come() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let ap = ap(&node);
    let (sending, reading) = (&producer.token, &consumer.token);
    let short = || json!({"name": "k", "scopes": ["read_usage"], "expires_at": (Clock::system().now() + LIFE).format(&Rfc3339).unwrap()});
    let expired = [make(ap, sending, short()).await, make(ap, reading, short()).await];
    let lacking = [key(ap, sending, "manage_devices").await, key(ap, reading, "read_usage").await];
    let revoked = [key(ap, sending, "publish").await, key(ap, reading, "consume").await];
    revoke(ap, sending, &revoked[0]).await;
    revoke(ap, reading, &revoked[1]).await;
    let mistyped = revoked.each_ref().map(|key| {
        let last = if key.key.ends_with('0') { "1" } else { "0" };
        Key { id: String::new(), key: format!("{}{last}", &key.key[..key.key.len() - 1]) }
    });
    let deadline = Instant::now() + LIMIT;
    for key in &expired {
        while http().get(format!("{ap}/verify")).bearer_auth(&key.key).send().await.unwrap().status() == 200 {
            assert!(Instant::now() < deadline, "the key does not expire");
            sleep(Duration::from_millis(50)).await;
        }
    }
    for (why, [publish, consume], expected) in
        [("no scope", &lacking, 403), ("revoked", &revoked, 401), ("mistyped", &mistyped, 401), ("expired", &expired, 401)]
    {
        for (transport, answer) in refusals(&node, &publish.key, &consume.key).await {
            assert_eq!(answer, expected, "{why}, {transport}");
        }
    }
}

#[tokio::test]
async fn a_key_reads_the_producers_that_it_names_and_no_other() {
    let Pair { node, producer, consumer } = pair(&[]).await;
    let other = account(ap(&node), "producer", "q").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &other).await;
    let only = key(ap(&node), &consumer.token, &format!("consume:{}", producer.id)).await;
    let mut reader = connect(&node, &only.key, "app", Intent::Consume, 0).await.unwrap();
    reader.subscribe(ProducerId(other.id), Start::Live, "").await.unwrap();
    let refused = event(&mut reader).await.unwrap();
    assert_eq!(refused, Event::Followed { producer: ProducerId(other.id), refusal: "scope_missing".into() });
    let mut socket = socket(node.at.wss2.as_deref().unwrap(), &only.key).await.unwrap();
    for (from, n) in [(&other, 1), (&producer, 2)] {
        let sent = json!({"device_id": "d", "timestamp": 1, "data": {"n": n}});
        let url = format!("{}/data", node.at.dsm.as_deref().unwrap());
        assert_eq!(http().post(url).bearer_auth(&from.token).json(&sent).send().await.unwrap().status(), 200);
    }
    assert_eq!(next_json(&mut socket).await["data"]["n"], 2, "the first of them is another producer's");
}

#[tokio::test]
async fn a_key_revoked_at_one_node_ends_at_all_of_them() {
    let shared = Shared::start().await;
    let (one, two) = (shared.node("one", "ap,ingest").await, shared.node("two", "ap,ingest").await);
    let producer = account(ap(&one), "producer", "p").await;
    for by_program in [false, true] {
        let key = key(ap(&one), &producer.token, "publish").await;
        let mut device = connect(&two, &key.key, "d", Intent::Produce, 7).await.unwrap();
        if by_program {
            let (code, list, _) = operators::run(one.dir.path(), &shared.variables(), &["key", "list", "--username", "p"], "").await;
            assert!(
                code == 0 && list.starts_with(&format!("{}\t{}\tpublish\tpublish\tends never\tused 20", key.id, producer.id)),
                "{list}"
            );
            let (code, out, err) = operators::run(one.dir.path(), &shared.variables(), &["key", "revoke", "--id", &key.id], "").await;
            assert!(code == 0 && out.contains("on every node"), "{out}{err}");
        } else {
            revoke(ap(&one), &producer.token, &key).await;
        }
        let code = timeout(Duration::from_secs(1), closed_with(&mut device)).await.expect("within a second");
        assert_eq!(code, CloseCode::Unauthenticated);
        for node in [&one, &two] {
            assert_eq!(session(connect(node, &key.key, "d", Intent::Produce, 7).await), 401);
        }
    }
    let (code, _, err) = operators::run(one.dir.path(), &shared.variables(), &["key", "revoke", "--id", "none"], "").await;
    assert!(code == 3 && err.contains("'none'"), "{err}");
}
