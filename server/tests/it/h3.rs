//! The services over HTTP/3 and over HTTPS, by clients of their own kind.

use std::{
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::http::{HeaderMap, Method, Request, StatusCode, Version};
use bytes::{Buf as _, Bytes};
use h3::{
    client::{RequestStream, SendRequest},
    error::{ConnectionError, StreamError},
};
use motience_certs::{Trust, client};
use quinn::{ClientConfig, Endpoint, crypto::rustls::QuicClientConfig};
use serde_json::{Value, json};
use tokio::{net::UdpSocket, task::JoinHandle, time::timeout};

use crate::{
    harness::{LIMIT, Node, PASSWORD, account, subscribe},
    unread::{PATIENT, flood, login, logout, metric, until_metric},
};

/// A connection that speaks HTTP/3.
pub(crate) struct Client {
    sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    ended: JoinHandle<ConnectionError>,
}

type Stream = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(node: &Node) -> Self {
        let tls = client::quic_config(&Trust::Ca(node.at.ca.clone().unwrap()), &[b"h3"]).unwrap();
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap())));
        let server: SocketAddr = node.at.quic.as_deref().unwrap().parse().unwrap();
        let quic = timeout(LIMIT, endpoint.connect(server, "localhost").unwrap()).await.expect("a connection in time").unwrap();
        let (mut driver, sender) = h3::client::new(h3_quinn::Connection::new(quic)).await.unwrap();
        Self { sender, ended: tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await }) }
    }

    async fn begin(&mut self, method: Method, path: &str, token: Option<&str>) -> Result<Stream, StreamError> {
        let mut request =
            Request::builder().method(method).uri(format!("https://localhost{path}")).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        timeout(LIMIT, self.sender.send_request(request.body(()).unwrap())).await.expect("a stream in time")
    }

    pub(crate) async fn ask(&mut self, method: Method, path: &str, token: Option<&str>, body: Option<Value>) -> Answer {
        let mut stream = self.begin(method, path, token).await.unwrap();
        if let Some(body) = body {
            stream.send_data(body.to_string().into()).await.unwrap();
        }
        stream.finish().await.unwrap();
        read(stream).await
    }
}

async fn read(mut stream: Stream) -> Answer {
    let all = async {
        let (head, ()) = stream.recv_response().await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(mut piece) = stream.recv_data().await.unwrap() {
            body.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        Answer { status: head.status, headers: head.headers, body }
    };
    timeout(LIMIT, all).await.expect("an answer in time")
}

impl Answer {
    fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A client of HTTPS that trusts the node.
fn https(node: &Node, protocols: &[&[u8]]) -> reqwest::Client {
    let tls = client::tcp_config(&Trust::Ca(node.at.ca.clone().unwrap()), protocols).unwrap();
    reqwest::Client::builder().tls_backend_preconfigured(tls).timeout(LIMIT).build().unwrap()
}

#[tokio::test]
async fn the_whole_flow_goes_over_http3() {
    let node = Node::embedded(&[]).await;
    let mut client = Client::connect(&node).await;
    let mut tokens = Vec::new();
    for role in ["producer", "consumer"] {
        let body = json!({"username": role, "password": PASSWORD, "role": role});
        // Under its prefix, at the root, under its alias.
        client.ask(Method::POST, "/ap/register", None, Some(body.clone())).await.json(201);
        let login = client.ask(Method::POST, "/api/auth/login", None, Some(body)).await.json(200);
        tokens.push(login["access_token"].as_str().unwrap().to_owned());
    }
    let producers = client.ask(Method::GET, "/producers", Some(&tokens[1]), None).await.json(200);
    let producer = producers[0]["id"].clone();
    client.ask(Method::POST, "/sm/subscribe", Some(&tokens[1]), Some(json!({"producer_id": producer}))).await.json(201);
    let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": 1}});
    let accepted = client.ask(Method::POST, "/data", Some(&tokens[0]), Some(record)).await.json(200);
    assert_eq!((&accepted["accepted"], &accepted["subscriberCount"]), (&json!(1), &json!(1)));
    client.ask(Method::GET, "/api/streams", Some(&tokens[1]), None).await.json(200);
    client.ask(Method::DELETE, "/unsubscribe", Some(&tokens[1]), Some(json!({"producer_id": producer}))).await.json(200);
    assert_eq!(client.ask(Method::GET, "/health", None, None).await.json(200)["service"], "motience");
    client.ask(Method::GET, "/ready", None, None).await.json(200);
    let metrics = client.ask(Method::GET, "/metrics", None, None).await;
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(text.contains("motience_http3_connections 1"), "{text}");
    assert!(text.contains("motience_http_requests_total{version=\"3\"}"), "{text}");
    assert!(!metrics.headers.contains_key("alt-svc"), "it is here already");
    for role in ["ap", "sm", "dsm"] {
        let page = client.ask(Method::GET, &format!("/{role}/api-docs/"), None, None).await;
        assert_eq!(page.status, 200);
        let document = client.ask(Method::GET, &format!("/{role}/api-docs/openapi.json"), None, None).await.json(200);
        assert_eq!(document["servers"][0]["url"], "..", "the folder above api-docs");
        let start = client.ask(Method::GET, &format!("/{role}/api-docs/swagger-initializer.js"), None, None).await;
        assert!(String::from_utf8_lossy(&start.body).contains(r#""openapi.json""#));
    }
}

#[tokio::test]
async fn limits_and_refusals_are_those_of_every_version() {
    let node = Node::embedded(&[("HTTP_MAX_BODY_BYTES", "16KiB")]).await;
    let mut client = Client::connect(&node).await;
    let large = json!({"username": "x".repeat(20_000), "password": PASSWORD, "role": "producer"});
    assert_eq!(client.ask(Method::POST, "/register", None, Some(large)).await.json(413)["code"], "body_too_large");
    assert_eq!(client.ask(Method::GET, "/producers", None, None).await.json(401)["code"], "no_token");
    assert_eq!(client.ask(Method::GET, "/nowhere", None, None).await.json(404)["code"], "not_found");
    assert_eq!(client.ask(Method::PUT, "/register", None, None).await.json(405)["code"], "method_not_allowed");
    assert_eq!(client.ask(Method::CONNECT, "/register", None, None).await.json(405)["code"], "method_not_allowed");
    let mut cancelled = client.begin(Method::POST, "/register", None).await.unwrap();
    cancelled.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED);
    let all = futures_util::future::join_all((0..150).map(|_| {
        let mut sender = client.sender.clone();
        async move {
            let request = Request::builder().uri("https://localhost/health").body(()).unwrap();
            let mut stream = sender.send_request(request).await.unwrap();
            stream.finish().await.unwrap();
            assert_eq!(read(stream).await.status, 200);
        }
    }));
    timeout(LIMIT, all).await.expect("all are answered");
    assert!(!client.ended.is_finished());
}

#[tokio::test]
async fn a_node_that_stops_lets_requests_under_way_end() {
    let mut node = Node::embedded(&[]).await;
    let producer = account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    let mut client = Client::connect(&node).await;
    let mut stream = client.begin(Method::POST, "/data", Some(&producer.token)).await.unwrap();
    stream.send_data(Bytes::from_static(b"{\"n\":")).await.unwrap();
    // The request is there once another one behind it is answered.
    client.ask(Method::GET, "/health", None, None).await.json(200);
    node.signal("TERM");
    let refused = async {
        while let Ok(mut stream) = client.begin(Method::GET, "/health", None).await {
            let _ = stream.finish().await;
            if stream.recv_response().await.is_err() {
                return;
            }
        }
    };
    timeout(LIMIT, refused).await.expect("nothing new is taken");
    stream.send_data(Bytes::from_static(b"1}")).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(read(stream).await.json(200)["accepted"], 1);
    drop(client.sender);
    let ended = timeout(LIMIT, client.ended).await.expect("the connection ends").unwrap();
    assert!(ended.is_h3_no_error(), "{ended:?}");
    assert_eq!(node.ended().await, 0);
}

#[tokio::test]
async fn https_says_where_http3_is_and_speaks_both_older_versions() {
    let node = Node::embedded(&[]).await;
    let base = node.at.https.as_deref().unwrap();
    let quic = node.at.quic.as_deref().unwrap().rsplit(':').next().unwrap();
    for (protocols, version) in [(&[&b"h2"[..], b"http/1.1"][..], Version::HTTP_2), (&[b"http/1.1"], Version::HTTP_11)] {
        let answer = https(&node, protocols).get(format!("{base}/health")).send().await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));
        assert_eq!(answer.headers()["alt-svc"], format!("h3=\":{quic}\"; ma=86400"));
    }
    let client = https(&node, &[b"h2", b"http/1.1"]);
    let (producer, consumer) =
        (account(node.at.ap.as_deref().unwrap(), "producer", "p").await, account(node.at.ap.as_deref().unwrap(), "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let record = json!({"data": {"n": 1}});
    let accepted = client.post(format!("{base}/dsm/data")).bearer_auth(&producer.token).json(&record).send().await.unwrap();
    assert_eq!(accepted.json::<Value>().await.unwrap()["subscriberCount"], 1);
    assert!(reqwest::get(base.replace("https://", "http://")).await.is_err(), "nobody is served without TLS");
}

#[tokio::test]
async fn the_certificate_and_the_way_to_webtransport_are_told_everywhere() {
    let node = Node::embedded(&[]).await;
    let at = &node.at;
    let hash = motience_certs::ServerIdentity::load(&node.dir.path().join("certs/server.pem"), &node.dir.path().join("certs/server.key"))
        .unwrap()
        .hash()
        .unwrap();
    let url = at.webtransport.clone().unwrap();
    let client = https(&node, &[b"h2", b"http/1.1"]);
    let page = at.producer_page.as_deref().unwrap().trim_end_matches('/');
    for base in [at.dsm.as_deref().unwrap(), page, at.https.as_deref().unwrap(), &format!("{}/dsm", at.https.as_deref().unwrap())] {
        let told: Value = client.get(format!("{base}/cert-hash")).send().await.unwrap().json().await.unwrap();
        assert_eq!(told, json!({"algorithm": "sha-256", "hashes": [hash], "webtransport_url": url}), "{base}");
    }
    let told = Client::connect(&node).await.ask(Method::GET, "/cert-hash", None, None).await.json(200);
    assert_eq!(told["hashes"][0], hash);
    let config: Value = client.get(format!("{page}/config.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!((&config["webtransport_url"], &config["dsm_url"]), (&json!(url), &Value::Null));
}

/// Both protocols share the port, its sockets and its limit of two streams until it is known who speaks what.
#[tokio::test]
async fn http3_works_on_several_sockets_beside_devices() {
    let node = Node::embedded(&[("QUIC_SOCKETS", "2")]).await;
    let producer = account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    for n in 0..6 {
        let mut client = Client::connect(&node).await;
        client.ask(Method::GET, "/health", None, None).await.json(200);
        crate::quic::send(&node, &producer, &format!("d{n}"), &format!(r#"{{"device_id":"d{n}","timestamp":1,"data":{{"n":1}}}}"#)).await;
    }
    // Packets that are no QUIC at all change nothing.
    let stray = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    stray.send_to(b"GET / HTTP/1.1\r\n\r\n", node.at.quic.as_deref().unwrap()).await.unwrap();
    Client::connect(&node).await.ask(Method::GET, "/health", None, None).await.json(200);
}

#[tokio::test]
async fn paths_are_taken_as_express_took_them() {
    let node = Node::embedded(&[]).await;
    let mut client = Client::connect(&node).await;
    let wrong = || Some(json!({"username": "nobody", "password": PASSWORD}));
    for path in ["/Login/", "//login", "/ap/LOGIN", "/api/auth//login/"] {
        assert_eq!(client.ask(Method::POST, path, None, wrong()).await.json(401)["code"], "wrong_credentials", "{path}");
    }
}

#[tokio::test]
async fn the_end_of_a_login_resets_a_stream_that_is_not_read() {
    let crate::gateway::Pair { node, producer, consumer } = crate::gateway::pair(&PATIENT).await;
    let login = login(&node, &consumer).await;
    let mut client = Client::connect(&node).await;
    let mut stream = client.begin(Method::GET, "/stream", Some(&login.account.token)).await.unwrap();
    stream.finish().await.unwrap();
    assert_eq!(timeout(LIMIT, stream.recv_response()).await.unwrap().unwrap().status(), StatusCode::OK);
    flood(&node, &producer).await;
    logout(&node, &login).await;
    until_metric(&node, r#"motience_stream_connections{format="sse"}"#, |open| open == 0.0).await;
    // Bytes that it had been given are still there; the stream ends all the same.
    while let Ok(Some(_)) = timeout(LIMIT, stream.recv_data()).await.expect("it ends") {}
}

#[tokio::test]
async fn bodies_that_do_not_end_are_few_over_http_3() {
    const MIB: usize = 1 << 20;
    let node = Node::embedded(&[("HTTP_REQUEST_LIMIT", "1h")]).await;
    let producer = account(node.at.ap.as_deref().unwrap(), "producer", "p").await;
    let mut client = Client::connect(&node).await;
    let mut under_way = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let request = Request::post("https://localhost/data")
            .header("content-type", "application/json")
            .header("content-length", MIB)
            .header("authorization", format!("Bearer {}", producer.token));
        let mut stream = client.sender.send_request(request.body(()).unwrap()).await.unwrap();
        under_way.spawn(async move {
            // Without its last byte. A refusal stops it.
            let _ = stream.send_data(vec![b' '; MIB - 1].into()).await;
            stream.recv_response().await.map(|head| head.status())
        });
    }
    for refused in 0..52 {
        let answer = timeout(LIMIT, under_way.join_next()).await.unwrap_or_else(|_| panic!("only {refused} are refused")).unwrap();
        assert_eq!(answer.unwrap().unwrap(), 429);
    }
    until_metric(&node, r#"motience_limited_total{reason="upload_connection"}"#, |refused| refused == 52.0).await;
    let held = metric(&node, "motience_upload_bytes").await;
    // Less where a slow machine took so long that the node gave some of the others up.
    assert!(held <= 8.0 * MIB as f64, "{held} bytes: more than the others said they would send");
}
