//! Clients that read nothing: their right ends when it ends, what they leave unread costs little, and a native consumer that comes and
//! goes leaves nothing behind. No limit on the time of a write helps here, and none on how much is asked: all are set out of the way.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use motience_certs::{Trust, client};
use motience_proto::{
    model::{Order, ProducerEpoch, ProducerId, Seq},
    wire::{ALPN, CloseCode, Frame, Hello, Intent, Limits, Record, Start, StreamKind, Subscribe, Unsubscribe, VERSION},
};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TransportConfig, crypto::rustls::QuicClientConfig,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{
    gateway::{Pair, pair},
    harness::{Account, LIMIT, Node, PASSWORD, http},
};

pub(crate) const PATIENT: [(&str, &str); 11] = [
    ("WSS_WRITE_LIMIT", "1h"),
    ("WSS_PING_INTERVAL", "1h"),
    ("HTTP_WRITE_LIMIT", "1h"),
    ("HTTP3_WRITE_LIMIT", "1h"),
    ("QUIC_WRITE_LIMIT", "1h"),
    ("DATA_SILENCE_LIMIT", "1h"),
    ("STREAM_COMMENT_INTERVAL", "1h"),
    ("LOG_RETENTION_BYTES", "64MiB"),
    ("RATE_LIMIT_CONTROL", "off"),
    ("MAX_REQUESTS_PER_ACCOUNT", "1000"),
    ("CONTROL_FRAMES_PER_SECOND", "1000000"),
];
/// Fills every buffer between the node and a client, in pieces of so many bytes.
const FLOOD: usize = 24;
const PIECE: usize = 700 << 10;
/// In a record that is published after the right ended.
const LATE: &str = "published-late";

pub(crate) async fn metric(node: &Node, name: &str) -> f64 {
    let text = http().get(format!("{}/metrics", node.at.operations.as_deref().unwrap())).send().await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or(0.0)
}

pub(crate) async fn until_metric(node: &Node, name: &str, holds: impl Fn(f64) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let value = metric(node, name).await;
        if holds(value) {
            return;
        }
        assert!(Instant::now() < deadline, "{name} is {value}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a counter has stood still for a while: whoever it counts is stuck.
async fn until_still(node: &Node, name: &str) {
    let (mut last, mut since) = (metric(node, name).await, Instant::now());
    let deadline = Instant::now() + LIMIT;
    while since.elapsed() < Duration::from_millis(700) || last == 0.0 {
        sleep(Duration::from_millis(50)).await;
        let now = metric(node, name).await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(Instant::now() < deadline, "{name} does not come to rest");
    }
}

/// A login beside the account's other ones, to be ended.
pub(crate) struct Login {
    pub(crate) account: Account,
    refresh: String,
}

pub(crate) async fn login(node: &Node, account: &Account) -> Login {
    let body = json!({"username": account.username, "password": PASSWORD});
    let answer: Value =
        http().post(format!("{}/login", node.at.ap.as_deref().unwrap())).json(&body).send().await.unwrap().json().await.unwrap();
    let text = |name: &str| answer[name].as_str().unwrap().to_owned();
    Login { account: Account { token: text("access_token"), ..account.clone() }, refresh: text("refresh_token") }
}

pub(crate) async fn logout(node: &Node, login: &Login) {
    let url = format!("{}/logout", node.at.ap.as_deref().unwrap());
    let answer = http().post(url).json(&json!({"refresh_token": login.refresh})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

pub(crate) async fn unsubscribe(node: &Node, consumer: &Account, producer: &Account) {
    let url = format!("{}/unsubscribe?producer_id={}", node.at.sm.as_deref().unwrap(), producer.id);
    assert_eq!(http().delete(url).bearer_auth(&consumer.token).send().await.unwrap().status(), 200);
}

async fn post(node: &Node, producer: &Account, text: &str) {
    let record = json!({"device_id": "d", "timestamp": 1, "data": {"text": text}});
    let many = vec![record; if text == LATE { 1 } else { PIECE / 7000 }];
    let answer = http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&producer.token).json(&many).send().await;
    assert_eq!(answer.unwrap().status(), 200);
}

pub(crate) async fn flood(node: &Node, producer: &Account) {
    let text = "x".repeat(7000);
    for _ in 0..FLOOD {
        post(node, producer, &text).await;
    }
}

/// A TCP connection that takes little before it is read.
async fn narrow(at: &str) -> TcpStream {
    let at = at.split("://").last().unwrap().split('/').next().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let at = tokio::net::lookup_host(at).await.unwrap().find(std::net::SocketAddr::is_ipv4).expect("an address of IPv4");
    socket.connect(at).await.unwrap()
}

pub(crate) async fn get_stream(node: &Node, account: &Account, accept: &str, query: &str) -> TcpStream {
    let mut stream = narrow(node.at.dsm.as_deref().unwrap()).await;
    let token = &account.token;
    let request = format!("GET /stream{query} HTTP/1.1\r\nhost: x\r\naccept: {accept}\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

pub(crate) async fn websocket(url: &str, subprotocol: Option<&'static str>) -> WebSocketStream<TcpStream> {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let mut request = url.into_client_request().unwrap();
    if let Some(name) = subprotocol {
        request.headers_mut().insert("sec-websocket-protocol", name.parse().unwrap());
    }
    client_async(request, narrow(url).await).await.unwrap().0
}

/// All that a connection still brings before it ends.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    // A connection that was cut may end by a reset.
    let _ = timeout(LIMIT, stream.read_to_end(&mut all)).await.expect("it ends");
    all
}

fn holds(all: &[u8], text: &str) -> bool {
    all.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The next frame of a stream.
async fn frame(stream: &mut RecvStream, buffer: &mut BytesMut) -> Frame {
    loop {
        if let Some(frame) = Frame::decode(buffer, Limits::for_records(1 << 20)).unwrap() {
            return frame;
        }
        let chunk = timeout(LIMIT, stream.read_chunk(64 << 10, true)).await.expect("a frame in time").unwrap().unwrap();
        buffer.extend_from_slice(&chunk.bytes);
    }
}

/// motience/1 by hand, over a connection with little room.
pub(crate) struct Raw {
    connection: Connection,
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
    _endpoint: Endpoint,
}

impl Raw {
    /// A connection that has said nothing.
    pub(crate) async fn silent(node: &Node) -> Connection {
        Self::dial(node, 1 << 20, 16).await.1
    }

    async fn dial(node: &Node, window: u32, streams: u32) -> (Endpoint, Connection) {
        let tls = client::quic_config(&Trust::Ca(node.at.ca.clone().unwrap()), &[ALPN]).unwrap();
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(window.into()).receive_window(window.into()).max_concurrent_uni_streams(streams.into());
        config.transport_config(Arc::new(transport));
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(config);
        let connecting = endpoint.connect(node.at.quic.as_deref().unwrap().parse().unwrap(), "localhost").unwrap();
        let connection = timeout(LIMIT, connecting).await.expect("a connection in time").unwrap();
        (endpoint, connection)
    }

    /// A connection past its Welcome.
    pub(crate) async fn enter(node: &Node, token: &str, intent: Intent, (window, streams): (u32, u32)) -> Self {
        let (endpoint, connection) = Self::dial(node, window, streams).await;
        let (send, recv) = connection.open_bi().await.unwrap();
        let mut raw = Self { connection, send, recv, buffer: BytesMut::new(), _endpoint: endpoint };
        let (token, device_id) = (token.to_owned(), "d".to_owned());
        raw.say(&[Frame::Hello(Hello { version: VERSION, intent, token, device_id, epoch: ProducerEpoch(1), features: 0 })]).await;
        assert!(matches!(raw.receive().await, Frame::Welcome(_)));
        raw
    }

    pub(crate) async fn say(&mut self, frames: &[Frame]) {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        timeout(LIMIT, self.send.write_all(&out)).await.expect("it is read").unwrap();
    }

    async fn receive(&mut self) -> Frame {
        frame(&mut self.recv, &mut self.buffer).await
    }

    /// The first frames of a delivery stream that has yet to come.
    pub(crate) async fn delivered(&mut self, count: usize) -> Vec<Frame> {
        let mut stream = timeout(LIMIT, self.connection.accept_uni()).await.expect("a stream in time").unwrap();
        let mut kind = [0];
        stream.read_exact(&mut kind).await.unwrap();
        assert_eq!(StreamKind::decode(&mut BytesMut::from(&kind[..])), Ok(Some(StreamKind::Delivery)));
        let (mut frames, mut buffer) = (Vec::new(), BytesMut::new());
        while frames.len() < count {
            frames.push(frame(&mut stream, &mut buffer).await);
        }
        frames
    }

    /// The code that the server closes with.
    async fn closed(&self) -> CloseCode {
        self.ended().await.expect("a close that says why")
    }

    /// The close reason; `None` where the close was lost on the way, as a packet may be, and a reset told of the end.
    async fn ended(&self) -> Option<CloseCode> {
        match timeout(LIMIT, self.connection.closed()).await.expect("it is closed") {
            ConnectionError::ApplicationClosed(close) => Some(CloseCode::from_number(close.error_code.into_inner()).unwrap()),
            ConnectionError::Reset => None,
            other => panic!("{other}"),
        }
    }
}

fn follow(producer: &Account) -> Frame {
    Frame::Subscribe(Subscribe {
        producer: ProducerId(producer.id),
        start: Start::Live,
        cursor_name: String::new(),
        selection: String::new(),
        order: Order::Log,
    })
}

fn unfollow(producer: &Account) -> Frame {
    Frame::Unsubscribe(Unsubscribe { producer: ProducerId(producer.id) })
}

#[tokio::test]
async fn a_logout_ends_a_websocket_consumer_that_reads_nothing() {
    let Pair { node, producer, consumer } = pair(&PATIENT).await;
    for version in ["", "&v=2"] {
        let login = login(&node, &consumer).await;
        let url = format!("{}?token={}{version}", node.at.wss2.as_deref().unwrap(), login.account.token);
        let socket = websocket(&url, None).await;
        flood(&node, &producer).await;
        logout(&node, &login).await;
        post(&node, &producer, LATE).await;
        until_metric(&node, r#"motience_websocket_connections{side="consumer"}"#, |open| open == 0.0).await;
        assert!(!holds(&rest(socket.into_inner()).await, LATE), "nothing that was published afterwards");
    }
}

#[tokio::test]
async fn an_ended_subscription_ends_what_a_slow_consumer_is_given() {
    let Pair { node, producer, consumer } = pair(&PATIENT).await;
    let url = format!("{}?token={}&v=2", node.at.wss2.as_deref().unwrap(), consumer.token);
    let mut socket = websocket(&url, None).await;
    let mut events = get_stream(&node, &consumer, "text/event-stream", "").await;
    flood(&node, &producer).await;
    unsubscribe(&node, &consumer, &producer).await;
    post(&node, &producer, LATE).await;
    // The connections stay; a keep-alive comes after the last record.
    socket.send(Message::text(r#"{"type":"ping"}"#)).await.unwrap();
    let mut pongs = 0;
    while pongs == 0 {
        let Message::Text(text) = timeout(LIMIT, socket.next()).await.expect("in time").unwrap().unwrap() else { continue };
        assert!(!text.contains(LATE), "nothing that was published afterwards");
        pongs += usize::from(text.contains("pong"));
    }
    let body = json!({"producer_id": producer.id});
    let subscribe = http().post(format!("{}/subscribe", node.at.sm.as_deref().unwrap())).bearer_auth(&consumer.token).json(&body);
    let mut all = Vec::new();
    // The stream is read first, so that it has seen the end.
    let mut piece = vec![0; 64 << 10];
    while let Ok(Ok(length)) = timeout(Duration::from_secs(2), events.read(&mut piece)).await {
        all.extend_from_slice(&piece[..length]);
    }
    assert!(!holds(&all, LATE), "nothing that was published afterwards");
    assert!(subscribe.send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_logout_ends_streams_over_http1_and_http2_that_are_not_read() {
    let Pair { node, producer, consumer } = pair(&PATIENT).await;
    let login = login(&node, &consumer).await;
    let events = get_stream(&node, &login.account, "text/event-stream", "").await;
    let lines = get_stream(&node, &login.account, "application/x-ndjson", "").await;
    let h2 = reqwest::Client::builder().http2_prior_knowledge().http2_initial_stream_window_size(65_535).build().unwrap();
    let mut over2 = h2.get(format!("{}/stream", node.at.dsm.as_deref().unwrap())).bearer_auth(&login.account.token).send().await.unwrap();
    flood(&node, &producer).await;
    logout(&node, &login).await;
    post(&node, &producer, LATE).await;
    for format in ["sse", "ndjson"] {
        until_metric(&node, &format!(r#"motience_stream_connections{{format="{format}"}}"#), |open| open == 0.0).await;
    }
    for stream in [events, lines] {
        assert!(!holds(&rest(stream).await, LATE), "nothing that was published afterwards");
    }
    let mut all = Vec::new();
    while let Ok(Some(piece)) = timeout(LIMIT, over2.chunk()).await.expect("it ends") {
        all.extend_from_slice(&piece);
    }
    assert!(!holds(&all, LATE));
}

#[tokio::test]
async fn a_logout_ends_a_native_consumer_that_reads_nothing() {
    let Pair { node, producer, consumer } = pair(&PATIENT).await;
    let login = login(&node, &consumer).await;
    let mut raw = Raw::enter(&node, &login.account.token, Intent::Consume, (16 << 10, 16)).await;
    raw.say(&[follow(&producer)]).await;
    assert!(matches!(raw.receive().await, Frame::Followed(followed) if followed.refusal.is_empty()));
    flood(&node, &producer).await;
    // With no window left, what is said on the control stream is not taken either.
    raw.say(&vec![Frame::Ping; 20_000]).await;
    logout(&node, &login).await;
    post(&node, &producer, LATE).await;
    assert_eq!(raw.closed().await, CloseCode::Unauthenticated);
    until_metric(&node, "motience_quic_connections", |open| open == 0.0).await;
}

#[tokio::test]
async fn an_ended_subscription_ends_a_follow_beside_a_control_stream_that_is_full() {
    let Pair { node, producer, consumer } = pair(&PATIENT).await;
    let mut raw = Raw::enter(&node, &consumer.token, Intent::Consume, (256 << 10, 16)).await;
    raw.say(&[follow(&producer)]).await;
    assert!(matches!(raw.receive().await, Frame::Followed(_)));
    let mut delivery = timeout(LIMIT, raw.connection.accept_uni()).await.expect("a delivery in time").unwrap();
    post(&node, &producer, "first").await;
    // More answers than the control stream has room for, none of which is read.
    raw.say(&vec![Frame::Ping; 400_000]).await;
    unsubscribe(&node, &consumer, &producer).await;
    post(&node, &producer, LATE).await;
    let mut all = Vec::new();
    while let Ok(Some(chunk)) = timeout(LIMIT, delivery.read_chunk(64 << 10, true)).await.expect("the delivery ends") {
        all.extend_from_slice(&chunk.bytes);
    }
    assert!(!holds(&all, LATE), "nothing that was published afterwards");
}

#[tokio::test]
async fn a_logout_ends_producers_that_read_nothing_and_takes_nothing_of_them() {
    let Pair { node, producer, consumer } = pair(&PATIENT).await;
    let login = login(&node, &producer).await;
    let token = &login.account.token;
    // Each is answered more than it takes: an unknown type is named in the answer, a ping has its pong.
    let url = format!("{}?token={token}", node.at.wss1.as_deref().unwrap());
    let (mut up, _down) = websocket(&url, None).await.split();
    let unknown = json!({"type": "y".repeat(60_000)}).to_string();
    let answered = tokio::spawn(async move {
        for _ in 0..400 {
            if up.send(Message::text(unknown.clone())).await.is_err() {
                return;
            }
        }
    });
    let tunnel = node.at.wss1.as_deref().unwrap().replace("/producer", "/motience");
    let (mut frames, _unread) = websocket(&tunnel, Some("motience.1")).await.split();
    let hello = Hello {
        version: VERSION,
        intent: Intent::Produce,
        token: token.clone(),
        device_id: "t".into(),
        epoch: ProducerEpoch(1),
        features: 0,
    };
    let message = |frames: &[Frame]| {
        let mut out = BytesMut::new();
        frames.iter().for_each(|frame| frame.encode(&mut out));
        Message::Binary(out.freeze())
    };
    frames.send(message(&[Frame::Hello(hello)])).await.unwrap();
    let mut device = Raw::enter(&node, token, Intent::Produce, (16 << 10, 16)).await;
    device.say(&vec![Frame::Ping; 40_000]).await;
    let mut lane = device.connection.open_uni().await.unwrap();
    let mut upload = narrow(node.at.dsm.as_deref().unwrap()).await;
    let head = format!(
        "POST /data HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    upload.write_all(head.as_bytes()).await.unwrap();
    for (name, open) in [
        (r#"motience_websocket_connections{side="producer"}"#, 1.0),
        (r#"motience_websocket_connections{side="tunnel"}"#, 1.0),
        ("motience_quic_connections", 1.0),
    ] {
        until_metric(&node, name, |count| count == open).await;
    }
    until_still(&node, r#"motience_websocket_connections{side="producer"}"#).await;

    logout(&node, &login).await;
    let late = json!({"device_id": "t", "timestamp": 1, "data": {"text": LATE}}).to_string();
    let record = Frame::Record(Record { seq: Seq(1), json: late.clone().into() });
    // Whatever still arrives is not taken.
    let _ = frames.send(message(std::slice::from_ref(&record))).await;
    let mut out = BytesMut::new();
    StreamKind::Ordered.encode(&mut out);
    record.encode(&mut out);
    let _ = lane.write_all(&out).await;
    let _ = upload.write_all(format!("{:x}\r\n{late}\n\r\n", late.len() + 1).as_bytes()).await;
    assert_eq!(device.closed().await, CloseCode::Unauthenticated);
    for name in [
        r#"motience_websocket_connections{side="producer"}"#,
        r#"motience_websocket_connections{side="tunnel"}"#,
        "motience_quic_connections",
    ] {
        until_metric(&node, name, |open| open == 0.0).await;
    }
    let answer = String::from_utf8(rest(upload).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("token_ended"), "{answer}");
    answered.abort();
    // The log has what came before and after, and nothing of it.
    post(&node, &producer, "the end").await;
    let mut lines = get_stream(&node, &consumer, "application/x-ndjson", "?from=earliest").await;
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while !holds(&all, "the end") {
        let length = timeout(LIMIT, lines.read(&mut piece)).await.expect("in time").unwrap();
        all.extend_from_slice(&piece[..length]);
    }
    assert!(!holds(&all, LATE));
}

pub(crate) fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.id().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn follows_that_come_and_go_leave_nothing_behind() {
    const PAIRS: usize = 30_000;
    let Pair { node, producer, consumer } = pair(&PATIENT).await;
    // A consumer that gives the server no stream to write to.
    let mut raw = Raw::enter(&node, &consumer.token, Intent::Consume, (1 << 20, 0)).await;
    let before = memory(&node);
    for _ in 0..PAIRS / 500 {
        let pairs: Vec<Frame> = (0..500).flat_map(|_| [follow(&producer), unfollow(&producer)]).chain([Frame::Ping]).collect();
        raw.say(&pairs).await;
        while !matches!(raw.receive().await, Frame::Pong) {}
    }
    let grown = memory(&node).saturating_sub(before);
    assert!(grown < 48 << 20, "{PAIRS} pairs cost {grown} bytes");
    // The connection is as good as before.
    raw.say(&[unfollow(&producer)]).await;
    assert!(matches!(raw.receive().await, Frame::Followed(_)));
}

#[tokio::test]
async fn a_native_consumer_that_reads_nothing_is_let_go() {
    let Pair { node, producer, consumer } = pair(&[("QUIC_WRITE_LIMIT", "1s"), ("LOG_RETENTION_BYTES", "64MiB")]).await;
    let mut without_streams = Raw::enter(&node, &consumer.token, Intent::Consume, (1 << 20, 0)).await;
    let mut unread = Raw::enter(&node, &consumer.token, Intent::Consume, (64 << 10, 16)).await;
    for raw in [&mut without_streams, &mut unread] {
        raw.say(&[follow(&producer)]).await;
    }
    flood(&node, &producer).await;
    for raw in [without_streams, unread] {
        assert!(raw.ended().await.is_none_or(|code| code == CloseCode::RateLimited));
    }
    assert_eq!(metric(&node, r#"motience_quic_let_go_total{reason="unread"}"#).await, 2.0, "the server's own word on why");
}

#[tokio::test]
async fn records_that_do_not_end_are_few() {
    let Pair { node, producer, .. } = pair(&[("UPLOAD_MEMORY_PER_ACCOUNT", "1MiB")]).await;
    let raw = Raw::enter(&node, &producer.token, Intent::Produce, (1 << 20, 16)).await;
    let json = json!({"device_id": "d", "timestamp": 1, "data": {"text": "x".repeat(60_000)}}).to_string();
    let mut out = BytesMut::new();
    StreamKind::Independent.encode(&mut out);
    Frame::Record(Record { seq: Seq(1), json: json.into() }).encode(&mut out);
    let mut lanes = Vec::new();
    for _ in 0..100 {
        let Ok(mut lane) = raw.connection.open_uni().await else { break };
        if lane.write_all(&out[..out.len() - 1]).await.is_err() {
            break;
        }
        lanes.push(lane);
    }
    assert_eq!(raw.closed().await, CloseCode::RateLimited);
    assert_eq!(metric(&node, r#"motience_limited_total{reason="upload_account"}"#).await, 1.0);
    until_metric(&node, "motience_upload_bytes", |held| held == 0.0).await;
    // Whole records of any length are no matter, however they come interleaved.
    let Pair { node, producer, .. } = pair(&[]).await;
    let raw = Raw::enter(&node, &producer.token, Intent::Produce, (1 << 20, 16)).await;
    for n in 0..100 {
        let json = json!({"device_id": "d", "timestamp": 1, "data": {"text": "x".repeat(60_000)}}).to_string();
        let mut out = BytesMut::new();
        StreamKind::Independent.encode(&mut out);
        Frame::Record(Record { seq: Seq(n + 10), json: json.into() }).encode(&mut out);
        let mut lane = raw.connection.open_uni().await.unwrap();
        lane.write_all(&out).await.unwrap();
        lane.finish().unwrap();
    }
    until_metric(&node, "motience_records_appended_total", |appended| appended == 100.0).await;
}
