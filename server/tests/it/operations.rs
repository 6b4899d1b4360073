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

/// The settings of the README's first lines: `.env.example` as it is, on free ports.
fn as_documented(dir: &std::path::Path) -> tokio::process::Command {
    let mut command = command(server(), dir);
    command.env_remove("BIND_ADDRESS").env_remove("DATA_DIR").env_remove("CERTS_DIR");
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.example"), dir.join(".env")).unwrap();
    command
}

#[tokio::test]
async fn a_platform_that_someone_tries_out_is_for_this_machine_and_has_a_secret_of_its_own() {
    let dir = TempDir::new().unwrap();
    let start = || async {
        let ready = dir.path().join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let mut command = as_documented(dir.path());
        Node::spawned(command.arg("--ready-file").arg(&ready), &ready).await
    };
    let (mut process, at) = start().await;
    let ap = at.ap.clone().unwrap();
    let port: u16 = ap.rsplit(':').next().unwrap().parse().unwrap();
    assert!(ap.starts_with("http://localhost:"), "{ap}");
    let token = account(&ap, "producer", "p").await.token;
    // Both addresses of `localhost`, where the machine has both; none of its others.
    for (host, reached) in [("127.0.0.1", true), ("[::1]", std::net::TcpListener::bind("[::1]:0").is_ok())] {
        let answer = http().get(format!("http://{host}:{port}/health")).send().await;
        assert_eq!(answer.is_ok(), reached, "{host}");
    }
    let everywhere = std::net::TcpListener::bind(("127.0.0.2", port));
    assert!(everywhere.is_ok(), "it listens on one address of this machine: {everywhere:?}");
    let secret = dir.path().join("data/jwt-secret");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&secret).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let made = std::fs::read_to_string(&secret).unwrap();
    assert!(made.len() >= 32 && !made.contains("your-secret"));
    // Logins outlive a restart.
    process.kill().await.unwrap();
    let (_process, at) = start().await;
    let verified = http().get(format!("{}/verify", at.ap.unwrap())).bearer_auth(&token).send().await.unwrap();
    assert_eq!(verified.status(), 200);
}

#[tokio::test]
async fn what_is_not_safe_on_a_network_does_not_start() {
    let secret = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    for (variables, says) in [
        (&[("BIND_ADDRESS", "0.0.0.0"), ("JWT_SECRET", "your-secret-key-here")][..], "JWT_SECRET: "),
        (&[("NODE_ENV", "PRODUCTION"), ("JWT_SECRET", "your-secret-key-here")], "JWT_SECRET: "),
        (&[("NODE_ENV", "prod"), ("BIND_ADDRESS", "::"), secret, ("TLS_CERT", "c"), ("TLS_KEY", "k")], "INSECURE_PLAINTEXT: "),
        (&[("MOTIENCE_ENV", "live"), secret], "TLS_CERT: "),
        (&[("MOTIENCE_ENV", "produktion"), secret], "MOTIENCE_ENV: 'produktion'"),
    ] {
        let dir = TempDir::new().unwrap();
        let mut command = command(server(), dir.path());
        let run = command.envs(variables.iter().copied()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
        let run = timeout(LIMIT, run).await.unwrap().unwrap();
        let told = String::from_utf8(run.stderr).unwrap();
        assert_eq!(run.status.code(), Some(78), "{variables:?}: {told}");
        assert!(told.contains(&format!("motience-server: {says}")), "{variables:?}: {told}");
    }
}
