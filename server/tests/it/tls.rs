//! wss1 and wss2 under TLS: what a real client finds there, and what it does not.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use motience_certs::{Trust, client::tcp_config, dev};
use motience_runtime::clock::Clock;
use motience_testing::{Postgres, Redis};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async, connect_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::harness::{self, LIMIT, Node, account, http, subscribe};

pub(crate) type Secure = WebSocketStream<TlsStream<TcpStream>>;

/// The port of a `wss://localhost:PORT/path`.
fn port(url: &str) -> u16 {
    let rest = url.strip_prefix("wss://localhost:").unwrap_or_else(|| panic!("{url} is not under TLS"));
    rest.split('/').next().unwrap().parse().unwrap()
}

async fn handshake(url: &str, ca: &Path) -> std::io::Result<TlsStream<TcpStream>> {
    let config = tcp_config(&Trust::Ca(ca.into()), &[b"h2", b"http/1.1"]).unwrap();
    let tcp = TcpStream::connect(("127.0.0.1", port(url))).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await
}

/// A WebSocket client that trusts the node's development CA.
pub(crate) async fn secure(node: &Node, request: impl IntoClientRequest + Unpin) -> Secure {
    let request = request.into_client_request().unwrap();
    let stream = handshake(&request.uri().to_string(), node.at.ca.as_deref().unwrap()).await.unwrap();
    client_async(request, stream).await.unwrap().0
}

async fn next_json(socket: &mut Secure) -> Value {
    loop {
        match timeout(LIMIT, socket.next()).await.expect("a message in time").unwrap().unwrap() {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_record_goes_through_both_sockets_under_tls_and_the_pages_know() {
    let node = Node::embedded(&[("WSS_TLS", "true")]).await;
    let (ap, wss1, wss2) = (node.at.ap.clone().unwrap(), node.at.wss1.clone().unwrap(), node.at.wss2.clone().unwrap());
    let (producer, consumer) = (account(&ap, "producer", "p").await, account(&ap, "consumer", "c").await);
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut egress = secure(&node, format!("{wss2}?token={}", consumer.token)).await;
    let mut ingress = secure(&node, format!("{wss1}?token={}", producer.token)).await;
    assert_eq!(ingress.get_ref().get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "WebSocket begins in HTTP/1.1");
    let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": 1}});
    ingress.send(Message::text(record.to_string())).await.unwrap();
    assert_eq!(next_json(&mut ingress).await["type"], "ack");
    assert_eq!(next_json(&mut egress).await["data"]["n"], 1);

    let page = node.at.producer_page.as_deref().unwrap();
    let config: Value = http().get(format!("{page}config.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!(config["ws_url"], wss1);
}

#[tokio::test]
async fn one_address_has_the_services_the_sockets_and_the_console() {
    motience_certs::install_provider();
    let node = Node::embedded(&[]).await;
    let https = node.at.https.clone().unwrap();
    let certificate = reqwest::Certificate::from_pem(&std::fs::read(node.at.ca.as_deref().unwrap()).unwrap()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap();
    let console = client.get(&https).send().await.unwrap();
    assert_eq!(console.url().path(), "/console/", "the root leads there");
    assert!(console.text().await.unwrap().contains("<title>"));
    let config: Value = client.get(format!("{https}/console/config.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!([&config["ap_url"], &config["dsm_url"], &config["ws_url"]], ["../ap", "../dsm", "../consumer"], "all of the same origin");

    let (ap, sm) = (node.at.ap.as_deref().unwrap(), node.at.sm.as_deref().unwrap());
    let (producer, consumer) = (account(ap, "producer", "p").await, account(ap, "consumer", "c").await);
    subscribe(sm, &consumer, &producer).await;
    let wss = https.replace("https", "wss");
    let mut egress = secure(&node, format!("{wss}/consumer?token={}", consumer.token)).await;
    let mut ingress = secure(&node, format!("{wss}/producer?token={}", producer.token)).await;
    let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": 1}});
    ingress.send(Message::text(record.to_string())).await.unwrap();
    assert_eq!(next_json(&mut ingress).await["type"], "ack");
    assert_eq!(next_json(&mut egress).await["data"]["n"], 1);
}

#[tokio::test]
async fn health_answers_over_https_and_nobody_is_served_without_tls() {
    let node = Node::embedded(&[("WSS_TLS", "true")]).await;
    let wss1 = node.at.wss1.as_deref().unwrap();
    assert_eq!(health(&node).await["service"], "motience-wss1");

    assert!(http().get(format!("http://localhost:{}/health", port(wss1))).send().await.is_err());
    assert!(connect_async(wss1.replace("wss://", "ws://")).await.is_err());
    let stranger = tempfile::tempdir().unwrap();
    let other = dev::ensure(stranger.path(), Clock::system().now()).unwrap();
    assert!(handshake(wss1, &other.ca).await.is_err(), "another CA is not the server's");
}

/// Answer of wss1 over HTTPS.
async fn health(node: &Node) -> Value {
    let trust = Trust::Ca(node.at.ca.clone().unwrap());
    let client = reqwest::Client::builder().tls_backend_preconfigured(tcp_config(&trust, &[b"http/1.1"]).unwrap());
    let url = format!("https://localhost:{}/health", port(node.at.wss1.as_deref().unwrap()));
    client.timeout(LIMIT).build().unwrap().get(url).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn the_gateway_by_itself_speaks_tls_with_a_certificate_of_its_own() {
    let (redis, postgres) = (Redis::durable().await, Postgres::start().await);
    let (redis_url, database_url) = (redis.url().to_owned(), postgres.url().to_owned());
    let variables = [
        ("REDIS_URL", redis_url.as_str()),
        ("DATABASE_URL", database_url.as_str()),
        ("JWT_SECRET", "a secret that all nodes of this test share"),
        ("WSS_TLS", "true"),
    ];
    let node = Node::start(&harness::gateway(), &[], &variables).await;
    assert_eq!(health(&node).await["service"], "motience-wss1");
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_and_a_head_that_is_too_large_are_cut_off() {
    let node = Node::embedded(&[("WSS_TLS", "true"), ("HTTP_HEADER_LIMIT", "300ms")]).await;
    let wss1 = node.at.wss1.as_deref().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port(wss1)));
    // Nothing at all, and the beginning of a TLS record.
    for beginning in [&b""[..], b"\x16\x03\x01"] {
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(beginning).await.unwrap();
        let ended = timeout(LIMIT, silent.read_to_end(&mut Vec::new())).await.expect("it is cut off");
        assert_eq!(ended.unwrap_or(0), 0);
    }
    let mut large = handshake(wss1, node.at.ca.as_deref().unwrap()).await.unwrap();
    // A batch cut off in the middle of writing is not in the log.
    let _ = large.write_all(format!("GET /health HTTP/1.1\r\nHost: x\r\nX-Pad: {}\r\n\r\n", "x".repeat(64 * 1024)).as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, large.read_to_end(&mut answer)).await.expect("it is cut off");
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn sighup_reads_the_certificate_again() {
    let node = Node::embedded(&[("WSS_TLS", "true")]).await;
    let wss2 = node.at.wss2.as_deref().unwrap();
    let mut before = handshake(wss2, node.at.ca.as_deref().unwrap()).await.unwrap();
    let fresh = tempfile::tempdir().unwrap();
    let other = dev::ensure(fresh.path(), Clock::system().now()).unwrap();
    std::fs::copy(&other.chain, node.dir.path().join("certs/server.pem")).unwrap();
    std::fs::copy(&other.key, node.dir.path().join("certs/server.key")).unwrap();
    let deadline = Instant::now() + LIMIT;
    node.signal("HUP");
    while handshake(wss2, &other.ca).await.is_err() {
        assert!(Instant::now() < deadline, "the new certificate is not served");
        sleep(Duration::from_millis(20)).await;
    }
    before.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(LIMIT, before.read_to_end(&mut answer)).await.expect("an answer in time").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "a connection that stands stays");
}
