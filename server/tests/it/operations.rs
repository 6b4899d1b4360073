//! What an operator relies on: readiness, metrics, exit codes, the way down.

use std::process::Stdio;

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::harness::{LIMIT, Node, account, command, http, output, server};

#[tokio::test]
async fn sigterm_drains_and_exits_cleanly() {
    let mut node = Node::embedded(&[]).await;
    let consumer = account(node.at.ap.as_deref().unwrap(), "consumer", "c").await;
    let (mut socket, _) = connect_async(format!("{}?token={}", node.at.wss2.as_deref().unwrap(), consumer.token)).await.unwrap();
    let began = Instant::now();
    node.signal("TERM");
    let goodbye = timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
    let Message::Close(Some(frame)) = goodbye else { panic!("a close frame, not {goodbye:?}") };
    assert_eq!(frame.code, CloseCode::Away);
    assert_eq!(node.ended().await, 0);
    assert!(began.elapsed().as_secs() < 10, "within the time that supervisors allow");
}

#[tokio::test]
async fn a_bad_setting_is_named_and_exits_78() {
    for (variable, value, says) in [
        ("AP_PORT", "http", "AP_PORT: 'http' cannot be used"),
        ("JWT_EXPIRES_IN", "soon", "JWT_EXPIRES_IN: 'soon' is no duration"),
        ("ROLES", "ap", "ROLES: "),
        ("TLS_KEY", "key.pem", "TLS_CERT: is missing"),
    ] {
        let dir = TempDir::new().unwrap();
        for arguments in [&["--check-config"][..], &[]] {
            let run =
                command(server(), dir.path()).args(arguments).env(variable, value).stdout(Stdio::null()).stderr(Stdio::piped()).output();
            let run = timeout(LIMIT, run).await.unwrap().unwrap();
            assert_eq!(run.status.code(), Some(78), "{variable}");
            let told = String::from_utf8(run.stderr).unwrap();
            assert!(told.starts_with(&format!("motience-server: {says}")), "{told}");
        }
    }
    let dir = TempDir::new().unwrap();
    let mut good = command(server(), dir.path());
    good.arg("--check-config");
    assert!(output(good).await.starts_with("The configuration is good"));
}

#[tokio::test]
async fn health_readiness_and_metrics_answer_on_every_http_port() {
    let node = Node::embedded(&[]).await;
    let at = &node.at;
    for base in [&at.ap, &at.sm, &at.dsm, &at.operations, &at.producer_page] {
        let base = base.as_deref().unwrap().trim_end_matches('/');
        for path in ["health", "ready"] {
            let answer = http().get(format!("{base}/{path}")).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{base}/{path}");
        }
        let metrics = http().get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
        assert!(metrics.contains("motience_"), "{base}/metrics: {metrics}");
    }
    let mut healthcheck = command(server(), node.dir.path());
    healthcheck.args(["healthcheck", "--address", at.operations.as_deref().unwrap().trim_start_matches("http://")]);
    assert_eq!(output(healthcheck).await, "ready\n");
}

#[tokio::test]
async fn the_openapi_documents_and_their_pages_are_served() {
    let node = Node::embedded(&[]).await;
    for (base, path) in [(&node.at.ap, "/register"), (&node.at.sm, "/subscribe"), (&node.at.dsm, "/data")] {
        let base = base.as_deref().unwrap();
        let page = http().get(format!("{base}/api-docs")).send().await.unwrap();
        assert_eq!(page.status(), 200);
        assert!(page.text().await.unwrap().contains("swagger-ui"));
        let document: serde_json::Value = http().get(format!("{base}/api-docs/openapi.json")).send().await.unwrap().json().await.unwrap();
        assert!(document["paths"][path].is_object(), "{base} documents {path}");
    }
}
