//! The driver over real QUIC sockets: the `h3` crate's own client, and raw streams for bytes that no client would send.

mod limits;
mod order;
mod raw;

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use bytes::Buf as _;
use futures_util::StreamExt as _;
use h3::error::{Code, ConnectionError, StreamError};
use http_body::Frame;
use http_body_util::BodyExt as _;
use motience_certs::{
    Trust, client, dev,
    server::{EarlyData, quic_config},
};
use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig, crypto::rustls};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{ALPN, Connect, Error, Handler, Limits, serve};

const LIMIT: Duration = Duration::from_secs(60);

/// A server with these routes, and what is needed to connect to it.
struct Server {
    endpoint: Endpoint,
    client: Endpoint,
    draining: CancellationToken,
    _dir: TempDir,
}

/// Limits that no test comes near.
const GENEROUS: Limits = Limits { streams: 100, sessions: 16, idle: LIMIT, head: LIMIT, head_bytes: 16 * 1024, write: LIMIT, drain: LIMIT };

/// A router for requests, and no sessions.
struct Routes(Router);

impl Handler for Routes {
    async fn request(&self, request: Request<crate::Body>, answer: crate::Answer) -> Result<(), Error> {
        let Ok(response) = self.0.clone().oneshot(request.map(Body::new)).await;
        answer.write(response, OffsetDateTime::UNIX_EPOCH).await
    }

    async fn session(&self, connect: Connect) -> Result<(), Error> {
        connect.refuse(StatusCode::NOT_FOUND.into_response(), OffsetDateTime::UNIX_EPOCH).await
    }
}

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;
type Stream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

struct Client {
    sender: Sender,
    quic: quinn::Connection,
    /// How the connection ended.
    ended: tokio::task::JoinHandle<ConnectionError>,
}

impl Server {
    async fn start(router: Router) -> Self {
        Self::with(router, GENEROUS).await
    }

    async fn with(router: Router, limits: Limits) -> Self {
        motience_certs::install_provider();
        let dir = TempDir::new().unwrap();
        let made = dev::ensure(dir.path(), OffsetDateTime::from(std::time::SystemTime::now())).unwrap();
        let identity = motience_certs::ServerIdentity::load(&made.chain, &made.key).unwrap();
        let tls = quic_config(identity, &[ALPN], EarlyData::Accept);
        let mut config = ServerConfig::with_crypto(Arc::new(rustls::QuicServerConfig::try_from(tls).unwrap()));
        let mut transport = TransportConfig::default();
        // As for every protocol of the endpoint; HTTP/3 raises it.
        transport.max_concurrent_bidi_streams(2_u32.into());
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
        let draining = CancellationToken::new();
        let (accepting, until) = (endpoint.clone(), draining.clone());
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                let Ok((connection, finished)) = incoming.accept().unwrap().into_0rtt() else { panic!("a server always can") };
                tokio::spawn(serve(connection, finished, LIMIT, until.clone(), limits, Routes(router.clone())));
            }
        });
        let tls = client::quic_config(&Trust::Ca(made.ca), &[ALPN]).unwrap();
        let mut client = Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
        client.set_default_client_config(ClientConfig::new(Arc::new(rustls::QuicClientConfig::try_from(tls).unwrap())));
        Self { endpoint, client, draining, _dir: dir }
    }

    /// A connection without HTTP.
    async fn quic(&self) -> quinn::Connection {
        self.client.connect(self.endpoint.local_addr().unwrap(), "localhost").unwrap().await.unwrap()
    }

    async fn connect(&self) -> Client {
        let quic = self.quic().await;
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic.clone())).await.unwrap();
        let ended = tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
        Client { sender, quic, ended }
    }
}

impl Client {
    async fn begin(&mut self, request: axum::http::request::Builder) -> Result<Stream, StreamError> {
        timeout(LIMIT, self.sender.send_request(request.body(()).unwrap())).await.expect("a stream in time")
    }

    async fn get(&mut self, path: &str) -> Result<Answer, StreamError> {
        let mut stream = self.begin(request(Method::GET, path)).await?;
        stream.finish().await?;
        read(&mut stream).await
    }
}

fn request(method: Method, path: &str) -> axum::http::request::Builder {
    axum::http::Request::builder().method(method).uri(format!("https://localhost{path}"))
}

#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Reads an answer to its end.
async fn read(stream: &mut Stream) -> Result<Answer, StreamError> {
    let all = async {
        let (head, ()) = stream.recv_response().await?.into_parts();
        let mut body = Vec::new();
        while let Some(mut piece) = stream.recv_data().await? {
            body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    timeout(LIMIT, all).await.expect("an answer in time")
}

/// Sends back what comes, as it comes.
async fn echo(request: Request) -> Response {
    Body::new(request.into_body()).into_response()
}

#[tokio::test]
async fn requests_are_answered_as_over_every_other_version() {
    let app = Router::new()
        .route(
            "/hello",
            get(async |headers: HeaderMap| {
                let text = |name: &str| headers[name].to_str().unwrap().to_owned();
                ([("connection", "close".to_owned()), ("x-cookie", text("cookie"))], text("host"))
            }),
        )
        .route("/none", get(async || StatusCode::NO_CONTENT));
    let server = Server::start(app).await;
    let mut client = server.connect().await;
    for method in [Method::GET, Method::HEAD] {
        let crumbs = request(method.clone(), "/hello?x=1").header("cookie", "a=1").header("cookie", "b=2");
        let mut stream = client.begin(crumbs).await.unwrap();
        stream.finish().await.unwrap();
        let answer = read(&mut stream).await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, if method == Method::GET { &b"localhost"[..] } else { b"" });
        assert_eq!(answer.headers["content-length"], "9");
        assert_eq!(answer.headers["x-cookie"], "a=1; b=2");
        assert_eq!(answer.headers["date"], "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(!answer.headers.contains_key("connection"), "nothing of another version's connections");
    }
    let none = client.get("/none").await.unwrap();
    assert_eq!((none.status, none.headers.get("content-length")), (StatusCode::NO_CONTENT, None));
    assert_eq!(client.get("/elsewhere").await.unwrap().status, 404);
}

#[tokio::test]
async fn bodies_go_both_ways_at_once_and_trailers_come_with_them() {
    let server = Server::start(Router::new().route("/echo", any(echo))).await;
    let mut client = server.connect().await;
    let mut stream = client.begin(request(Method::POST, "/echo").header("expect", "100-continue")).await.unwrap();
    assert_eq!(stream.recv_response().await.unwrap().status(), 100);
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    for n in 0..5_u8 {
        stream.send_data(Bytes::from(vec![n; 10])).await.unwrap();
        let mut back = timeout(LIMIT, stream.recv_data()).await.expect("it comes before the rest is sent").unwrap().unwrap();
        assert_eq!(back.copy_to_bytes(back.remaining()), vec![n; 10]);
    }
    stream.send_trailers(HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("50"))])).await.unwrap();
    stream.finish().await.unwrap();
    assert!(timeout(LIMIT, stream.recv_data()).await.unwrap().unwrap().is_none());
    assert_eq!(stream.recv_trailers().await.unwrap().unwrap()["x-sum"], "50");
}

/// A body that is not read leaves the client's bytes with the client: what lies between is what QUIC's window allows.
#[tokio::test]
async fn a_body_is_taken_no_faster_than_it_is_read() {
    const PIECES: usize = 40_000;
    static SENT: AtomicUsize = AtomicUsize::new(0);
    static WIDEST: AtomicUsize = AtomicUsize::new(0);
    let slow = async |request: Request| {
        let mut body = request.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame.unwrap().into_data().unwrap().len();
            WIDEST.fetch_max(SENT.load(Ordering::SeqCst).saturating_sub(received), Ordering::SeqCst);
            tokio::task::yield_now().await;
        }
        received.to_string()
    };
    let server = Server::start(Router::new().route("/slow", any(slow))).await;
    let mut client = server.connect().await;
    let mut stream = client.begin(request(Method::POST, "/slow")).await.unwrap();
    for _ in 0..PIECES {
        // Small frames, of which many come in one packet.
        timeout(LIMIT, stream.send_data(Bytes::from_static(&[7; 100]))).await.expect("it is taken").unwrap();
        SENT.fetch_add(100, Ordering::SeqCst);
    }
    stream.finish().await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap().body, (PIECES * 100).to_string().into_bytes());
    let (widest, window) = (WIDEST.load(Ordering::SeqCst), 1_250_000);
    assert!(widest < 2 * window, "{widest} bytes lay between");
}

#[tokio::test]
async fn an_answer_that_fails_is_cut_off_and_one_nobody_wants_is_dropped() {
    static BEGUN: Notify = Notify::const_new();
    static DROPPED: Notify = Notify::const_new();
    struct Tell;
    impl Drop for Tell {
        fn drop(&mut self) {
            DROPPED.notify_one();
        }
    }
    let failing = async || {
        let frames = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"half"))), Err(std::io::Error::other("no more"))]);
        Response::new(Body::new(http_body_util::StreamBody::new(frames)))
    };
    let endless = async || {
        let tell = Tell;
        BEGUN.notify_one();
        std::future::pending::<()>().await;
        drop(tell);
    };
    let streaming = async || {
        let tell = Tell;
        let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"first"))]);
        Body::from_stream(first.chain(futures_util::stream::pending()).inspect(move |_| {
            let _ = &tell;
        }))
    };
    let app = Router::new().route("/failing", get(failing)).route("/endless", get(endless)).route("/streaming", get(streaming));
    let server = Server::start(app).await;
    let mut client = server.connect().await;
    let error = client.get("/failing").await.unwrap_err();
    assert!(matches!(error, StreamError::RemoteTerminate { code: Code::H3_INTERNAL_ERROR }), "{error:?}");

    let mut stream = client.begin(request(Method::GET, "/endless")).await.unwrap();
    stream.finish().await.unwrap();
    timeout(LIMIT, BEGUN.notified()).await.expect("the handler begins");
    stream.stop_sending(Code::H3_REQUEST_CANCELLED);
    timeout(LIMIT, DROPPED.notified()).await.expect("the handler is dropped");

    let mut stream = client.begin(request(Method::GET, "/streaming")).await.unwrap();
    stream.finish().await.unwrap();
    stream.recv_response().await.unwrap();
    assert!(stream.recv_data().await.unwrap().is_some());
    drop(stream);
    timeout(LIMIT, DROPPED.notified()).await.expect("the body is dropped");
}

#[tokio::test]
async fn an_answer_may_come_before_the_body_was_read() {
    let server = Server::start(Router::new().route("/no", any(async || StatusCode::FORBIDDEN))).await;
    let mut client = server.connect().await;
    let mut stream = client.begin(request(Method::POST, "/no")).await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap().status, 403);
    let told = async {
        loop {
            if let Err(e) = stream.send_data(Bytes::from(vec![0; 64 * 1024])).await {
                return e;
            }
        }
    };
    let error = timeout(LIMIT, told).await.expect("the client is told to stop");
    assert!(matches!(error, StreamError::RemoteTerminate { code: Code::H3_NO_ERROR }), "{error:?}");
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_takes_no_more() {
    let (begun, mut begins) = mpsc::channel::<()>(1);
    let go = Arc::new(Notify::new());
    let waiting = {
        let go = Arc::clone(&go);
        async move || {
            begun.send(()).await.unwrap();
            go.notified().await;
            "done"
        }
    };
    let server = Server::start(Router::new().route("/waiting", get(waiting))).await;
    let mut client = server.connect().await;
    let mut stream = client.begin(request(Method::GET, "/waiting")).await.unwrap();
    stream.finish().await.unwrap();
    begins.recv().await.unwrap();
    server.draining.cancel();
    let refused = async { client.get("/waiting").await.expect_err("a cut request has no answer") };
    let error = timeout(LIMIT, refused).await.expect("the client is told");
    assert!(matches!(error, StreamError::RemoteClosing | StreamError::RemoteTerminate { code: Code::H3_REQUEST_REJECTED }), "{error:?}");
    go.notify_one();
    assert_eq!(read(&mut stream).await.unwrap().body, b"done", "running requests end");
    drop(client.sender);
    let ended = timeout(LIMIT, client.ended).await.expect("the connection ends").unwrap();
    assert!(ended.is_h3_no_error(), "{ended:?}");
}

#[tokio::test]
async fn far_more_requests_than_run_at_once_are_all_answered() {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let counted = async |request: Request| {
        MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        request.uri().path().to_owned()
    };
    let server = Server::with(Router::new().route("/{n}", get(counted)), Limits { streams: 8, ..GENEROUS }).await;
    let client = server.connect().await;
    let all = futures_util::future::join_all((0..200).map(|n| {
        let mut sender = client.sender.clone();
        async move {
            let path = format!("/{n}");
            let mut stream = sender.send_request(request(Method::GET, &path).body(()).unwrap()).await.unwrap();
            stream.finish().await.unwrap();
            assert_eq!(read(&mut stream).await.unwrap().body, path.into_bytes());
        }
    }));
    timeout(LIMIT, all).await.expect("all are answered");
    assert!(MOST.load(Ordering::SeqCst) <= 8);
}
