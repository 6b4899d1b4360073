//! Memory that one client can make a node hold: idle connections, pongs that nobody reads, answers that nobody takes.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use motience_certs::{
    Trust,
    client::{quic_config, tcp_config},
};
use motience_proto::{
    model::ProducerEpoch,
    wire::{ALPN, CloseCode, Frame, Hello, Intent, VERSION},
};
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::{
    gateway::{Pair, pair},
    harness::{Account, LIMIT, Node, http},
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Memory of a node's process.
struct Memory {
    pid: u32,
    before: usize,
}

impl Memory {
    /// As it is now.
    fn of(node: &Node) -> Self {
        let pid = node.process.id().expect("the node runs");
        // Forgets the peak so far (proc(5)).
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        Self { pid, before: bytes(pid, "VmRSS") }
    }

    /// How much more is resident now.
    fn more(&self) -> usize {
        bytes(self.pid, "VmRSS").saturating_sub(self.before)
    }

    /// How much more was resident at any time since.
    fn peak(&self) -> usize {
        bytes(self.pid, "VmHWM").saturating_sub(self.before)
    }
}

fn bytes(pid: u32, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * KIB
}

/// Where a `scheme://localhost:PORT/…` is.
fn address(url: &str) -> SocketAddr {
    let port = url.rsplit(':').next().unwrap().split('/').next().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
}

async fn metric(node: &Node, line: &str) -> Option<f64> {
    let url = format!("{}/metrics", node.at.operations.as_deref().unwrap());
    let metrics = http().get(url).send().await.unwrap().text().await.unwrap();
    metrics.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
}

/// Waits until the node holds so many connections.
async fn connections(node: &Node, count: usize) {
    let deadline = Instant::now() + LIMIT;
    while metric(node, "motience_connections ").await.unwrap_or_default() < count as f64 {
        assert!(Instant::now() < deadline, "{count} connections are not open");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Memory that each of so many connections costs the node. The allocator takes whole pieces of 4 MiB, so that few connections would be charged for a piece that they do not fill.
async fn cost<C>(node: &Node, count: usize, connect: impl AsyncFn() -> C) -> usize {
    // The first ones make the allocator take what it would take once.
    let mut held = Vec::new();
    for _ in 0..count / 4 {
        held.push(connect().await);
    }
    connections(node, held.len()).await;
    let memory = Memory::of(node);
    for _ in 0..count {
        held.push(connect().await);
    }
    connections(node, held.len()).await;
    memory.more() / count
}

/// Nobody is sent away while connections are counted.
const PATIENT: (&str, &str) = ("HTTP_HEADER_LIMIT", "120s");
/// All of them come from one address.
const FROM_ONE: (&str, &str) = ("HTTP_MAX_CONNECTIONS_PER_ADDRESS", "10000");

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_costs_little_on_every_port() {
    for port in ["ap", "sm", "dsm", "wss1", "wss2", "producer_page", "operations", "https"] {
        let node = Node::embedded(&[PATIENT, FROM_ONE]).await;
        let at = &node.at;
        let url = match port {
            "ap" => &at.ap,
            "sm" => &at.sm,
            "dsm" => &at.dsm,
            "wss1" => &at.wss1,
            "wss2" => &at.wss2,
            "producer_page" => &at.producer_page,
            "https" => &at.https,
            _ => &at.operations,
        };
        let address = address(url.as_deref().unwrap());
        let each = cost(&node, 4000, async || TcpStream::connect(address).await.unwrap()).await;
        println!("{port}: {each} bytes for each connection");
        assert!(each <= 12 * KIB, "{port}: {each} bytes for each connection");
    }
}

async fn secure(address: SocketAddr, ca: &Path) -> TlsStream<TcpStream> {
    let config = tcp_config(&Trust::Ca(ca.into()), &[b"h2", b"http/1.1"]).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_connection_costs_little_under_tls() {
    for https in [true, false] {
        // One for each: memory that was given back is not counted again.
        let node = Node::embedded(&[PATIENT, ("WSS_TLS", "true")]).await;
        let url = if https { &node.at.https } else { &node.at.wss2 };
        let (address, ca) = (address(url.as_deref().unwrap()), node.at.ca.as_deref().unwrap());
        let each = cost(&node, 1000, async || secure(address, ca).await).await;
        println!("{each} bytes for each connection under TLS");
        assert!(each <= 40 * KIB, "{each} bytes for each connection under TLS");
    }
}

/// A client of HTTP/2, by its bytes.
struct Http2(TcpStream);

impl Http2 {
    async fn connect(address: SocketAddr, settings: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, settings)].concat()).await.unwrap();
        Self(stream)
    }

    async fn get(&mut self, stream: u32, path: &str, token: &str) {
        let mut head = b"\x82\x86".to_vec();
        for (name, value) in [(":path", path), (":authority", "localhost"), ("authorization", &format!("Bearer {token}"))] {
            // Literals that are not indexed (RFC 7541, section 6.2.2).
            head.push(0);
            put(&mut head, name);
            put(&mut head, value);
        }
        self.0.write_all(&frame(1, 5, stream, &head)).await.unwrap();
    }

    /// Begins a body of so many bytes.
    async fn post(&mut self, stream: u32, path: &str, token: &str, length: usize) {
        let mut head = b"\x83\x86".to_vec();
        let (bearer, length) = (format!("Bearer {token}"), length.to_string());
        for (name, value) in [
            (":path", path),
            (":authority", "localhost"),
            ("authorization", &bearer),
            ("content-type", "application/json"),
            ("content-length", &length),
        ] {
            head.push(0);
            put(&mut head, name);
            put(&mut head, value);
        }
        self.0.write_all(&frame(1, 4, stream, &head)).await.unwrap();
    }

    /// Waits for an answer's head.
    async fn answered(&mut self) {
        loop {
            let mut head = [0; 9];
            timeout(LIMIT, self.0.read_exact(&mut head)).await.unwrap().unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            self.0.read_exact(&mut vec![0; length]).await.unwrap();
            if head[3] == 1 {
                return;
            }
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A string with its length, of seven bits and more (RFC 7541, section 5.1).
fn put(head: &mut Vec<u8>, text: &str) {
    let mut rest = text.len();
    if rest < 127 {
        head.push(rest as u8);
    } else {
        head.push(127);
        rest -= 127;
        while rest >= 128 {
            head.push(0x80 | (rest % 128) as u8);
            rest /= 128;
        }
        head.push(rest as u8);
    }
    head.extend(text.bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_2_connection_after_its_request_costs_little() {
    let node = Node::embedded(&[]).await;
    let address = address(node.at.dsm.as_deref().unwrap());
    let each = cost(&node, 400, async || {
        let mut client = Http2::connect(address, &[]).await;
        client.get(1, "/health", "none").await;
        client.answered().await;
        client
    })
    .await;
    println!("{each} bytes for each HTTP/2 connection");
    assert!(each <= 96 * KIB, "{each} bytes for each HTTP/2 connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_nobody_takes_are_few() {
    let settings = [("HTTP_WRITE_LIMIT", "5s"), ("LOG_RETENTION_BYTES", "64MiB"), ("STREAM_MAX_CONNECTIONS", "20000")];
    let Pair { node, producer, consumer } = pair(&settings).await;
    let dsm = node.at.dsm.as_deref().unwrap();
    let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"pad": "x".repeat(60 * KIB)}});
    let records = Value::Array(vec![record; 15]);
    for _ in 0..30 {
        let answer = http().post(format!("{dsm}/data")).bearer_auth(&producer.token).json(&records).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    // The first page makes the log be read in, and shows that the requests below ask for what there is.
    let path = format!("/history/{}?limit=1000", producer.id);
    let page = http().get(format!("{dsm}{path}")).bearer_auth(&consumer.token).send().await.unwrap();
    assert!(page.headers().contains_key("link"));
    let page = page.bytes().await.unwrap();
    assert!((512 * KIB..=MIB).contains(&page.len()), "{} bytes", page.len());

    let memory = Memory::of(&node);
    // SETTINGS_INITIAL_WINDOW_SIZE of nothing, and of one byte.
    for window in [0, 1] {
        let mut client = Http2::connect(address(dsm), &[0, 4, 0, 0, 0, window]).await;
        for n in 0..100 {
            client.get(2 * n + 1, &path, &consumer.token).await;
        }
        // Until it is let go.
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, client.0.read_to_end(&mut rest)).await.expect("it is let go");
    }
    println!("{} MiB at most", memory.peak() / MIB);
    assert!(memory.peak() <= 48 * MIB, "{} MiB", memory.peak() / MIB);
    assert!(metric(&node, "motience_connections_ended_total{reason=\"stalled\"} ").await.is_some_and(|ended| ended >= 2.0));
}

/// The windows of HTTP/2 until a peer says otherwise (RFC 9113, section 6.9.2).
const FIRST_WINDOW: i64 = 65_535;

/// Bodies that a client sends side by side over HTTP/2, each without its last byte.
struct Bodies {
    /// Bytes that are still to be sent of those that have no answer, and the windows of their streams.
    left: BTreeMap<u32, (usize, i64)>,
    window: i64,
    answered: usize,
}

impl Bodies {
    /// Sends as fast as the server lets it, until all that have no answer are sent.
    async fn send(&mut self, client: &mut Http2) {
        while self.left.values().any(|(left, _)| *left > 0) {
            let mut out = Vec::new();
            for (&stream, (left, window)) in &mut self.left {
                let piece = (*left).min(16 * KIB).min(usize::try_from(self.window.min(*window)).unwrap_or(0));
                if piece > 0 {
                    out.extend(frame(0, 0, stream, &vec![b' '; piece]));
                    *left -= piece;
                    *window -= piece as i64;
                    self.window -= piece as i64;
                }
            }
            // A server says nothing while there is enough of a window left.
            if out.is_empty() {
                self.receive(client).await;
            } else {
                client.0.write_all(&out).await.unwrap();
            }
        }
    }

    async fn receive(&mut self, client: &mut Http2) {
        let mut head = [0; 9];
        timeout(LIMIT, client.0.read_exact(&mut head)).await.expect("windows or answers in time").unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.0.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        match head[3] {
            1 | 3 => self.answered += usize::from(self.left.remove(&stream).is_some()),
            // Of the server, not the answer to the client's own: SETTINGS_INITIAL_WINDOW_SIZE holds for the streams that are open, too.
            4 if head[4] == 0 => {
                let size = payload.chunks(6).find_map(|setting| setting.strip_prefix(&[0, 4]));
                let more = size.map_or(0, |size| i64::from(u32::from_be_bytes(size.try_into().unwrap())) - FIRST_WINDOW);
                self.left.values_mut().for_each(|(_, window)| *window += more);
                client.0.write_all(&frame(4, 1, 0, &[])).await.unwrap();
            }
            // A ping, which asks for an answer.
            6 if head[4] == 0 => client.0.write_all(&frame(6, 1, 0, &payload)).await.unwrap(),
            8 => {
                let more = i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                match self.left.get_mut(&stream) {
                    Some((_, window)) => *window += more,
                    None if stream == 0 => self.window += more,
                    None => {}
                }
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_end_are_few_over_http_2() {
    let Pair { node, producer, .. } = pair(&[("HTTP_REQUEST_LIMIT", "1h")]).await;
    let memory = Memory::of(&node);
    let mut client = Http2::connect(address(node.at.dsm.as_deref().unwrap()), &[]).await;
    let mut bodies = Bodies { left: BTreeMap::new(), window: FIRST_WINDOW, answered: 0 };
    for n in 0..100 {
        client.post(2 * n + 1, "/data", &producer.token, MIB).await;
        bodies.left.insert(2 * n + 1, (MIB - 1, FIRST_WINDOW));
    }
    bodies.send(&mut client).await;
    println!("{} answered, {} MiB at most", bodies.answered, memory.peak() / MIB);
    assert!(memory.peak() <= 32 * MIB, "{} MiB", memory.peak() / MIB);
    assert!((90..100).contains(&bodies.answered), "{} are refused", bodies.answered);
    let refused = metric(&node, "motience_limited_total{reason=\"upload_connection\"} ").await;
    assert_eq!(refused, Some(bodies.answered as f64));
    let held = metric(&node, "motience_upload_bytes ").await.unwrap_or_default();
    assert!(held >= MIB as f64 && held <= 8.0 * MIB as f64, "{held} bytes are held");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nobody_takes_are_not_copied() {
    let node = Node::embedded(&[("HTTP_WRITE_LIMIT", "3s")]).await;
    let page = node.at.consumer_page.as_deref().unwrap();
    let html = http().get(page).send().await.unwrap().text().await.unwrap();
    let script = html.split('"').find(|part| part.ends_with(".js")).unwrap().trim_start_matches('.').to_owned();
    let swagger = "/api-docs/swagger-ui-bundle.js".to_owned();
    for (at, path) in [(node.at.dsm.as_deref().unwrap(), swagger), (page, script)] {
        let length = http().get(format!("{}{path}", at.trim_end_matches('/'))).send().await.unwrap().bytes().await.unwrap().len();
        let memory = Memory::of(&node);
        let mut client = Http2::connect(address(at), &[0, 4, 0, 0, 0, 0]).await;
        for n in 0..100 {
            client.get(2 * n + 1, &path, "none").await;
        }
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, client.0.read_to_end(&mut rest)).await.expect("it is let go");
        println!("{} KiB at most, for {length} bytes a hundred times", memory.peak() / KIB);
        // Development builds read the gateway's pages from their folder: a copy each, as large as they are.
        assert!(memory.peak() <= 16 * MIB, "{} MiB", memory.peak() / MIB);
    }
}

/// A request for each of the gateway's WebSockets.
fn sockets(node: &Node, producer: &Account, consumer: &Account) -> Vec<(String, Option<&'static str>)> {
    let (wss1, wss2) = (node.at.wss1.as_deref().unwrap(), node.at.wss2.as_deref().unwrap());
    vec![
        (wss1.replace("/producer", "/motience"), Some("motience.1")),
        (format!("{wss1}?token={}", producer.token), None),
        (format!("{wss2}?token={}", consumer.token), None),
        (format!("{wss2}?token={}&v=2", consumer.token), None),
    ]
}

/// A WebSocket whose frames are written by hand.
async fn raw(url: &str, protocol: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(address(url.split('?').next().unwrap())).await.unwrap();
    let path = url.splitn(4, '/').nth(3).unwrap();
    let protocol = protocol.map(|p| format!("Sec-WebSocket-Protocol: {p}\r\n")).unwrap_or_default();
    let head = format!(
        "GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        assert!(timeout(LIMIT, stream.read_buf(&mut answer)).await.unwrap().unwrap() > 0);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_that_nobody_reads_are_bounded() {
    // As if there were no ration: the buffer alone has to hold.
    let settings = [("CONTROL_FRAMES_PER_SECOND", "100000000"), ("WSS_WRITE_LIMIT", "60s"), ("HTTP_WRITE_LIMIT", "60s")];
    let Pair { node, producer, consumer } = pair(&settings).await;
    for (url, protocol) in sockets(&node, &producer, &consumer) {
        let mut flooding = raw(&url, protocol).await;
        let memory = Memory::of(&node);
        // Pings of 125 bytes, masked with nothing.
        let pings = [&[0x89, 0x80 | 125, 0, 0, 0, 0][..], &[7; 125]].concat().repeat(1000);
        for _ in 0..600 {
            match timeout(Duration::from_secs(5), flooding.write_all(&pings)).await {
                Ok(Ok(())) => {}
                // The node lets the client go, or reads no more of it: either bounds its memory.
                Ok(Err(_)) | Err(_) => break,
            }
        }
        println!("{} KiB at most", memory.peak() / KIB);
        assert!(memory.peak() <= 12 * MIB, "{} MiB of {url}", memory.peak() / MIB);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_do_not_end_are_few() {
    let Pair { node, producer, consumer } = pair(&[("UPLOAD_MEMORY_PER_ACCOUNT", "100KiB")]).await;
    let held = async |bytes: f64| {
        let deadline = Instant::now() + LIMIT;
        while metric(&node, "motience_upload_bytes ").await.unwrap_or_default() != bytes {
            assert!(Instant::now() < deadline, "{bytes} bytes are not held");
            sleep(Duration::from_millis(20)).await;
        }
    };
    // A device that has not said who it is, and a producer: both in frames of 60,000 bytes, without the last.
    for ((url, protocol), code) in sockets(&node, &producer, &consumer).into_iter().zip([4106, 1013]) {
        let begun = [&[0x82, 0x80 | 126][..], &60_000_u16.to_be_bytes(), &[0; 4], &[b' '; 59_999]].concat();
        let mut first = raw(&url, protocol).await;
        first.write_all(&begun).await.unwrap();
        held(60_000.0).await;
        let mut second = raw(&url, protocol).await;
        second.write_all(&begun).await.unwrap();
        let mut heard = Vec::new();
        let _ = timeout(LIMIT, second.read_to_end(&mut heard)).await.expect("it is closed");
        assert!(heard.len() >= 4 && heard[0] == 0x88, "{heard:?}");
        assert_eq!(u16::from_be_bytes([heard[2], heard[3]]), code, "{url}");
        // The last byte ends the message, and what it held.
        first.write_all(b" ").await.unwrap();
        held(0.0).await;
    }
    assert_eq!(metric(&node, "motience_limited_total{reason=\"upload_account\"} ").await, Some(2.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_floods_a_websocket_and_reads_is_told_1008() {
    let Pair { node, producer, consumer } = pair(&[("CONTROL_FRAMES_PER_SECOND", "20")]).await;
    let mut ended = 0.0;
    for (url, protocol) in sockets(&node, &producer, &consumer) {
        // Pings, pongs, and a message that never ends in fragments of nothing; all masked with zeros.
        for flood in [&[0x89, 0x80, 0, 0, 0, 0][..], &[0x8A, 0x80, 0, 0, 0, 0], &[0x01, 0x80, 0, 0, 0, 0]] {
            let mut flood = flood.to_vec();
            let next = if flood[0] == 1 { [0x00, 0x80, 0, 0, 0, 0] } else { flood.clone().try_into().unwrap() };
            flood.extend(next.repeat(20_000));
            let (mut read, mut write) = raw(&url, protocol).await.into_split();
            let flooding = tokio::spawn(async move { write.write_all(&flood).await });
            let mut heard = Vec::new();
            // The end may be a reset: the flood went on.
            let _ = timeout(LIMIT, read.read_to_end(&mut heard)).await.expect("it is closed");
            let close = heard.windows(4).find(|bytes| bytes[0] == 0x88).unwrap_or_else(|| panic!("no close of {url}"));
            assert_eq!(u16::from_be_bytes([close[2], close[3]]), 1008, "{url}");
            let _ = flooding.await.unwrap();
            ended += 1.0;
        }
    }
    // Messages that a consumer has no reason to say so often.
    let mut request = sockets(&node, &producer, &consumer)[3].0.clone().into_client_request().unwrap();
    request.headers_mut().remove("sec-websocket-protocol");
    let (mut write, mut read) = connect_async(request).await.unwrap().0.split();
    let flooding = tokio::spawn(async move {
        for _ in 0..5000 {
            if write.send(Message::text(r#"{"type":"ping"}"#)).await.is_err() {
                return;
            }
        }
    });
    let code = loop {
        match timeout(LIMIT, read.next()).await.unwrap() {
            Some(Ok(Message::Close(Some(close)))) => break u16::from(close.code),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 1008);
    flooding.await.unwrap();
    assert_eq!(metric(&node, "motience_connections_ended_total{reason=\"control_flood\"} ").await, Some(ended + 1.0));
}

#[tokio::test]
async fn whoever_floods_motience_1_is_told_so() {
    let Pair { node, producer, consumer } = pair(&[("CONTROL_FRAMES_PER_SECOND", "20")]).await;
    for (account, intent) in [(&producer, Intent::Produce), (&consumer, Intent::Consume)] {
        let tls = quic_config(&Trust::Ca(node.at.ca.clone().unwrap()), &[ALPN]).unwrap();
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap())));
        let at = node.at.quic.as_deref().unwrap().parse().unwrap();
        let connection = endpoint.connect(at, "localhost").unwrap().await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let mut out = BytesMut::new();
        let (token, device_id) = (account.token.clone(), "d".to_owned());
        Frame::Hello(Hello { version: VERSION, intent, token, device_id, epoch: ProducerEpoch(1), features: 0 }).encode(&mut out);
        (0..5000).for_each(|_| Frame::Ping.encode(&mut out));
        let reading = tokio::spawn(async move { recv.read_to_end(1 << 20).await });
        // The end of the connection ends the writing too.
        let _ = send.write_all(&out).await;
        let closed = timeout(LIMIT, connection.closed()).await.expect("it is closed");
        let quinn::ConnectionError::ApplicationClosed(close) = closed else { panic!("{closed}") };
        assert_eq!(CloseCode::from_number(close.error_code.into_inner()), Some(CloseCode::RateLimited), "{close}");
        let _ = reading.await.unwrap();
    }
}
