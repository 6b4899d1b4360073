//! Clients that dawdle, and the way down, over real sockets.

use std::future::pending;

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::*;

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
    let router = Router::new().route("/", get(async || "hello")).route("/stuck", get(pending::<()>));
    shutdown.spawn("http", serve(listener, router, limits, shutdown.clone()));
    Service { address, shutdown }
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

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let service = start(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = service.connect().await;
    ask(&mut first).await;
    let mut second = service.connect().await;
    second.write_all(REQUEST).await.unwrap();
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(200), second.read(&mut byte)).await.is_err(), "there is no room yet");
    drop(first);
    assert_eq!(timeout(LIMIT, second.read(&mut byte)).await.expect("room in time").unwrap(), 1);
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
    assert!(began.elapsed() < DRAIN_LIMIT, "an idle connection has nothing to wait for");
    assert!(closed(&mut stuck).await.is_empty());
    drop(other);
    assert!(draining.await.unwrap(), "the accept loop ended by itself");
    assert!(TcpStream::connect(service.address).await.is_err());
}

#[test]
fn limits_that_would_serve_nobody_are_refused() {
    for (name, value) in [("HTTP_MAX_HEADER_BYTES", "1KiB"), ("HTTP_MAX_CONNECTIONS", "0"), ("HTTP_HEADER_LIMIT", "0")] {
        let error = Limits::from_env(&Env::from_pairs([(name, value)])).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}: ")), "{error}");
    }
    assert_eq!(Limits::from_env(&Env::default()).unwrap().connections, 10_000);
}
