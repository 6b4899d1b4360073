//! Clients that dawdle, and the way down, over real sockets.

mod proxied;

use std::{
    future::pending,
    sync::atomic::{AtomicUsize, Ordering},
};

use axum::{body::Bytes, http::StatusCode, routing::get};
use motience_runtime::lifecycle::Drain;
use motience_settings::env::Env;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use super::*;
use crate::{FrameRate, Proxies};

/// Longest wait for anything here; far above every limit that is tested.
const LIMIT: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

struct Service {
    address: SocketAddr,
    shutdown: Shutdown,
}

async fn start(limits: Limits) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let router = Router::new()
        .route("/", get(async || "hello"))
        .route("/peer", get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.to_string()))
        .route("/stuck", get(pending::<()>))
        .route("/large", get(async || Body::from(Bytes::from_owner(Large::new()))))
        .route("/upgrade", get(upgrade));
    shutdown.spawn("http", serve(listener, router, limits, shutdown.clone()));
    Service { address, shutdown }
}

/// Bytes of a large answer: more than the system's buffers hold.
const LARGE: usize = 32 << 20;
/// Large answers that are held.
static OPEN: AtomicUsize = AtomicUsize::new(0);

struct Large(Vec<u8>);

impl Large {
    fn new() -> Self {
        OPEN.fetch_add(1, Ordering::SeqCst);
        Self(vec![b'x'; LARGE])
    }
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Becomes something else, which says "here" and stays.
async fn upgrade(request: Request<Body>) -> impl axum::response::IntoResponse {
    tokio::spawn(async {
        let mut upgraded = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
        upgraded.write_all(b"here").await.unwrap();
        pending::<()>().await;
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")])
}

fn impatient() -> Limits {
    Limits { header: Duration::from_millis(300), ..Limits::default() }
}

impl Service {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Waits until the other side has closed.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    // A reset ends a connection as well as a close does.
    let _ = timeout(LIMIT, stream.read_to_end(&mut rest)).await.expect("the connection is ended");
    rest
}

/// Sends one request and waits for its answer.
async fn ask(stream: &mut TcpStream) {
    stream.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let read = timeout(LIMIT, stream.read_buf(&mut answer)).await.expect("an answer in time").unwrap();
        assert!(read > 0, "an answer, not the end");
    }
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_sent_away() {
    let service = start(impatient()).await;
    // Nothing at all, what may yet become either version of HTTP, and half of an HTTP/2 greeting.
    for beginning in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n"] {
        let mut silent = service.connect().await;
        silent.write_all(beginning).await.unwrap();
        assert!(closed(&mut silent).await.is_empty());
    }
    let mut greeting = service.connect().await;
    // A whole greeting, and then no request.
    greeting.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    closed(&mut greeting).await;
}

#[tokio::test]
async fn a_client_that_stops_in_the_middle_or_after_a_request_is_sent_away() {
    let service = start(impatient()).await;
    let mut slow = service.connect().await;
    slow.write_all(&REQUEST[..20]).await.unwrap();
    closed(&mut slow).await;
    let mut idle = service.connect().await;
    ask(&mut idle).await;
    ask(&mut idle).await;
    assert!(closed(&mut idle).await.is_empty());
}

#[tokio::test]
async fn a_request_that_takes_longer_than_its_head_may_is_left_alone() {
    let service = start(impatient()).await;
    let mut slow = service.connect().await;
    slow.write_all(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut byte = [0];
    assert!(timeout(3 * impatient().header, slow.read(&mut byte)).await.is_err(), "still waiting for its answer");
}

/// Reads an answer that ends its connection.
async fn refused(stream: &mut TcpStream, status: u16) {
    let answer = String::from_utf8(closed(stream).await).unwrap();
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(answer.contains("\r\nretry-after: ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
    assert!(answer.ends_with('}'), "{answer}");
}

#[tokio::test]
async fn a_full_listener_answers_at_once() {
    let service = start(Limits { connections: 2, connections_each: 2, ..Limits::default() }).await;
    let mut first = service.connect().await;
    ask(&mut first).await;
    let silent = service.connect().await;
    // Before it has said anything, and after: nobody waits for those who are in.
    refused(&mut service.connect().await, 503).await;
    let mut asking = service.connect().await;
    asking.write_all(REQUEST).await.unwrap();
    refused(&mut asking, 503).await;
    drop(silent);
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut next = service.connect().await;
        next.write_all(REQUEST).await.unwrap();
        let mut status = [0; 12];
        next.read_exact(&mut status).await.unwrap();
        if status == *b"HTTP/1.1 200" {
            break;
        }
        assert!(Instant::now() < deadline, "whoever leaves makes room");
    }
}

#[tokio::test]
async fn one_address_cannot_take_the_whole_listener() {
    let service = start(Limits { connections: 8, ..Limits::default() }).await;
    // A quarter of all, unless it is set.
    let _mine = [service.connect().await, service.connect().await];
    refused(&mut service.connect().await, 429).await;
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    ask(&mut other.connect(service.address).await.unwrap()).await;

    let trusted = Proxies::from_env(&Env::from_pairs([("TRUSTED_PROXIES", "127.0.0.1")])).unwrap();
    let behind_a_proxy = start(Limits { connections: 4, trusted, ..Limits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = behind_a_proxy.connect().await;
        ask(&mut client).await;
        clients.push(client);
    }
}

#[tokio::test]
async fn what_a_connection_becomes_still_counts() {
    let service = start(Limits { connections: 1, ..Limits::default() }).await;
    let mut upgraded = service.connect().await;
    upgraded.write_all(b"GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"here") {
        assert!(timeout(LIMIT, upgraded.read_buf(&mut answer)).await.unwrap().unwrap() > 0);
    }
    refused(&mut service.connect().await, 503).await;
}

#[tokio::test]
async fn a_request_of_http_1_1_names_one_host() {
    let service = start(Limits::default()).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n", 400),
        ("GET http://x/ HTTP/1.1\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x y\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost:3001\r\nConnection: close\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: [::1]:3001\r\nConnection: close\r\n", 200),
        ("GET / HTTP/1.1\r\nHost:\r\nConnection: close\r\n", 200),
        ("GET / HTTP/1.0\r\n", 200),
    ] {
        let mut stream = service.connect().await;
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let answer = String::from_utf8(closed(&mut stream).await).unwrap();
        assert_eq!(answer.split(' ').nth(1), Some(status.to_string().as_str()), "{head}: {answer}");
        assert_eq!(answer.contains("\"code\":\"no_host\""), status == 400, "{answer}");
    }
}

/// A client of HTTP/2, by its bytes.
struct Http2<S = TcpStream>(S);

impl Http2 {
    async fn connect(service: &Service, settings: &[u8]) -> Self {
        let mut stream = service.connect().await;
        stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, settings)].concat()).await.unwrap();
        Self(stream)
    }

    /// Asks on a stream for `/` or, with `large`, for more than anybody's window has room for.
    async fn ask(&mut self, stream: u32, large: bool) {
        let path: &[u8] = if large { b"\x04\x06/large" } else { b"\x84" };
        let head = [b"\x82\x86", path, b"\x41\x01x"].concat();
        self.0.write_all(&frame(1, 5, stream, &head)).await.unwrap();
    }
}

impl<S: AsyncRead + Unpin> Http2<S> {
    /// The next frame: its kind, its flags, and what it carries.
    async fn next(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        let mut head = [0; 9];
        timeout(LIMIT, self.0.read_exact(&mut head)).await.expect("a frame, or the end, in time").ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        timeout(LIMIT, self.0.read_exact(&mut payload)).await.expect("a whole frame in time").ok()?;
        Some((head[3], head[4], payload))
    }

    /// Waits until the server leaves: the error it says.
    async fn goaway(&mut self) -> Option<u32> {
        while let Some((kind, _, payload)) = self.next().await {
            if kind == 7 {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        None
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn an_http_2_connection_that_asks_for_nothing_more_is_ended() {
    let service = start(Limits { idle: Duration::from_millis(300), ..Limits::default() }).await;
    let mut client = Http2::connect(&service, &[]).await;
    client.ask(1, false).await;
    assert_eq!(client.goaway().await, Some(0), "it is told that nothing went wrong");
    closed(&mut client.0).await;
}

#[tokio::test]
async fn a_flood_of_http_2_frames_that_carry_nothing_is_ended_with_a_reason() {
    const ENHANCE_YOUR_CALM: u32 = 0xB;
    let service = start(Limits { frames: FrameRate { each_second: 50 }, ..Limits::default() }).await;
    for (kind, stream, payload) in [(6, 0, &[0; 8][..]), (4, 0, &[]), (0xBB, 0, &[0; 16]), (8, 0, &[0, 0, 0, 1])] {
        let mut client = Http2::connect(&service, &[]).await;
        client.ask(1, false).await;
        let flood = frame(kind, 0, stream, payload).repeat(2000);
        // The client reads all the time, as one that wants the server to work would.
        let (read, mut write) = client.0.into_split();
        let flooding = tokio::spawn(async move { write.write_all(&flood).await });
        assert_eq!(Http2(read).goaway().await, Some(ENHANCE_YOUR_CALM), "after frames of kind {kind}");
        // The end of it is an error, unless all of it was sent before.
        let _ = flooding.await.unwrap();
    }
    // Whoever stays within the ration is left alone.
    let mut client = Http2::connect(&service, &[]).await;
    for _ in 0..100 {
        client.0.write_all(&frame(6, 0, 0, &[7; 8])).await.unwrap();
        while client.next().await.expect("no end") != (6, 1, vec![7; 8]) {}
    }
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_let_go_over_http_1_and_2() {
    let service = start(Limits { write: Duration::from_millis(300), ..Limits::default() }).await;
    // Nothing is read until the server has closed: it shows in that what was sent then ends before the answer does.
    let before = OPEN.load(Ordering::SeqCst);
    let mut first = service.connect().await;
    first.write_all(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // A window of nothing (SETTINGS_INITIAL_WINDOW_SIZE), for a long answer and for a short one.
    for large in [true, false] {
        let mut second = Http2::connect(&service, &[0, 4, 0, 0, 0, 0]).await;
        second.ask(1, large).await;
        closed(&mut second.0).await;
    }
    let deadline = Instant::now() + LIMIT;
    while OPEN.load(Ordering::SeqCst) > before {
        assert!(Instant::now() < deadline, "an answer that nobody takes is given up");
        sleep(Duration::from_millis(10)).await;
    }
    assert!(closed(&mut first).await.len() < LARGE);
}

#[tokio::test]
async fn the_drain_ends_idle_connections_at_once_and_stuck_ones_in_time() {
    let service = start(Limits::default()).await;
    let mut idle = service.connect().await;
    ask(&mut idle).await;
    let mut stuck = service.connect().await;
    stuck.write_all(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // Whatever was sent first has arrived once a later connection has its answer.
    ask(&mut service.connect().await).await;

    // Someone else takes longer, so it is not the end of all that ends the connections.
    let other = service.shutdown.guard();
    let began = Instant::now();
    let draining = tokio::spawn({
        let shutdown = service.shutdown.clone();
        async move { shutdown.drain(10 * LIMIT).await }
    });
    assert!(closed(&mut idle).await.is_empty());
    assert!(began.elapsed() < Drain::default().connections(), "an idle connection has nothing to wait for");
    assert!(closed(&mut stuck).await.is_empty());
    drop(other);
    assert!(draining.await.unwrap(), "the accept loop ended by itself");
    assert!(TcpStream::connect(service.address).await.is_err());
}

#[test]
fn limits_that_would_serve_nobody_are_refused() {
    for (name, value) in [
        ("HTTP_MAX_HEADER_BYTES", "1KiB"),
        ("HTTP_MAX_CONNECTIONS", "0"),
        ("HTTP_HEADER_LIMIT", "0"),
        ("HTTP_WRITE_LIMIT", "0"),
        ("HTTP2_IDLE_LIMIT", "0"),
        ("HTTP2_MAX_STREAMS", "0"),
        ("HTTP2_RECEIVE_WINDOW", "1KiB"),
        ("HTTP2_SEND_BUFFER", "1KiB"),
        ("CONTROL_FRAMES_PER_SECOND", "0"),
        ("HTTP_MAX_PAGES_PER_CONNECTION", "0"),
        ("TRUSTED_PROXIES", "10.0.0.0/40"),
    ] {
        let error = Limits::from_env(&Env::from_pairs([(name, value)])).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
    let limits = Limits::from_env(&Env::default()).unwrap();
    assert_eq!((limits.connections, limits.connections_of_an_address()), (10_000, 2500));
}
