//! People and programs of another issuer, a real OpenID provider (`oidc-provider` of npm), on every way in.

use std::{path::PathBuf, process::Stdio, time::Duration};

use motience_device::client::{Event, Lane, Session};
use motience_proto::wire::{CloseCode, Intent};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    harness::{Account, LIMIT, Node, Shared, account, clients, http, server, subscribe},
    keys::{Everywhere, refusals},
    operators::run,
    quic::{acked, ap, closed_with, connect, event, record},
};

/// Every scope that an account may have.
pub(crate) const ALL: &str = "motience:all";

/// The provider, and a file that tells a node of it.
pub(crate) struct Provider {
    process: Child,
    issuer: String,
    dir: TempDir,
}

impl Provider {
    pub(crate) async fn start(algorithm: &str) -> Self {
        let mut command = Command::new("node");
        command.arg(clients().join("provider.mjs")).arg(algorithm).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.kill_on_drop(true).spawn().expect("node starts");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = async {
            loop {
                let line = lines.next_line().await.unwrap().expect("it says where it is");
                if let Some(ready) = line.strip_prefix("READY ") {
                    return serde_json::from_str::<Value>(ready).unwrap();
                }
            }
        };
        let ready = timeout(LIMIT, ready).await.expect("it starts in time");
        let (issuer, dir) = (ready["issuer"].as_str().unwrap().to_owned(), TempDir::new().unwrap());
        let roles = json!({"pi": "producer", "app": "consumer", "ops": "admin"});
        let file = json!([{"name": "corp", "issuer": issuer, "audience": "motience", "role": {"claim": "roles", "map": roles},
            "scopes": {"prefix": "motience:"}}]);
        std::fs::write(dir.path().join("issuers.json"), file.to_string()).unwrap();
        Self { process, issuer, dir }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.dir.path().join("issuers.json")
    }

    /// An access token of a program.
    pub(crate) async fn token(&self, client: &str, scope: &str) -> String {
        let form = format!("grant_type=client_credentials&scope={scope}");
        let request = http().post(format!("{}/token", self.issuer)).basic_auth(client, Some("a+secret+of+programs+in+tests"));
        let answer = request.header("content-type", "application/x-www-form-urlencoded").body(form).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json::<Value>().await.unwrap()["access_token"].as_str().unwrap().to_owned()
    }

    async fn tell(&self, what: &str) {
        assert_eq!(http().post(format!("{}/test/{what}", self.issuer)).send().await.unwrap().status(), 200);
    }
}

async fn verify(node: &Node, token: &str) -> (u16, Value) {
    let answer = http().get(format!("{}/verify", ap(node))).bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The account of a token, as the node shows it.
pub(crate) async fn whose(node: &Node, token: String) -> Account {
    let (status, shown) = verify(node, &token).await;
    assert_eq!(status, 200, "{shown}");
    Account { id: shown["user_id"].as_i64().unwrap(), username: shown["username"].as_str().unwrap().to_owned(), token }
}

async fn renew(session: &mut Session, token: &str) {
    session.renew(&token.to_owned().into()).await.unwrap();
    loop {
        match event(session).await.unwrap() {
            Event::TokenAccepted(_) => return,
            // A record that was sent twice is acknowledged twice.
            Event::Acked(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn send(session: &mut Session, n: u64) {
    session.send(Lane::Independent, record(n)).await.unwrap();
    acked(session, n..=n).await;
}

#[tokio::test]
async fn every_way_in_takes_a_token_of_another_issuer_and_ends_with_it() {
    let provider = Provider::start("RS256").await;
    let file = provider.file();
    let variables = [("OIDC_ISSUERS", file.to_str().unwrap()), ("OIDC_KEYS_PAUSE", "1s")];
    let node = Node::embedded(&variables).await;
    let (sender, reader) =
        (whose(&node, provider.token("short-sender", ALL).await).await, whose(&node, provider.token("short-reader", ALL).await).await);
    assert_eq!((sender.username.as_str(), reader.username.as_str()), ("short-sender@corp", "short-reader@corp"));
    subscribe(node.at.sm.as_deref().unwrap(), &reader, &sender).await;
    // Fresh ones, as opening everything takes a while; and with the keys that the issuer has turned to meanwhile.
    provider.tell("rotate").await;
    let (publish, consume) = (provider.token("short-sender", ALL).await, provider.token("short-reader", ALL).await);
    let deadline = Instant::now() + LIMIT;
    while verify(&node, &publish).await.0 != 200 {
        assert!(Instant::now() < deadline, "the new keys are not fetched");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(whose(&node, publish.clone()).await.id, sender.id, "one subject has one account");
    let mut everywhere = Everywhere::open(&node, &publish, &consume).await;
    let renewed = provider.token("short-sender", "motience:all+motience:read_usage").await;
    renew(&mut everywhere.device, &renewed).await;
    let mut device = timeout(Duration::from_secs(10), everywhere.others_ended()).await.expect("all end with their tokens");
    send(&mut device, 2).await;
    for (transport, answer) in refusals(&node, &publish, &consume).await {
        assert_eq!(answer, 401, "{transport}");
    }
}

#[tokio::test]
async fn an_account_of_another_issuer_is_like_any_other() {
    let mut provider = Provider::start("EdDSA").await;
    let file = provider.file();
    let variables = [("OIDC_ISSUERS", file.to_str().unwrap()), ("OIDC_KEYS_PAUSE", "1s"), ("OIDC_KEYS_EVERY", "1s")];
    let node = Node::embedded(&variables).await;
    let (sender, reader) =
        (whose(&node, provider.token("sender", ALL).await).await, whose(&node, provider.token("reader", ALL).await).await);
    let boss = whose(&node, provider.token("boss", ALL).await).await;
    subscribe(node.at.sm.as_deref().unwrap(), &reader, &sender).await;
    // No password is its password, and its name says whose person it is.
    let login = json!({"username": "sender@corp", "password": "none: this account is of another issuer"});
    assert_eq!(http().post(format!("{}/login", ap(&node))).json(&login).send().await.unwrap().status(), 401);
    let own = account(ap(&node), "producer", "sender").await;
    assert_ne!(own.id, sender.id);
    // Roles and scopes come by claims.
    let asked = async |path: &str, token: &str| {
        let answer = http().get(format!("{}{path}", ap(&node))).bearer_auth(token).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    assert_eq!(asked("/accounts", &boss.token).await.0, 200);
    assert_eq!(asked("/accounts", &reader.token).await.0, 403);
    assert_eq!(asked("/keys", &sender.token).await.0, 200, "with all scopes a token is like a login");
    let narrow = provider.token("sender", "motience:read_usage").await;
    assert_eq!(asked("/keys", &narrow).await.1["code"], "login_required");
    let data = format!("{}/data", node.at.dsm.as_deref().unwrap());
    let posted = http().post(data).bearer_auth(&narrow).json(&json!({"device_id": "d", "timestamp": 1, "data": 1})).send().await.unwrap();
    assert_eq!(posted.json::<Value>().await.unwrap()["code"], "scope_missing");
    let nobody = provider.token("nobody", ALL).await;
    assert_eq!(verify(&node, &nobody).await, (403, verify(&node, &nobody).await.1));
    assert_eq!(verify(&node, &nobody).await.1["code"], "no_role");
    for (transport, answer) in refusals(&node, &nobody, &nobody).await {
        assert_eq!(answer, 403, "{transport}");
    }
    // The issuer changes its keys and takes the old ones back, and is away then: who is connected stays, and known keys are good.
    let mut everywhere = Everywhere::open(&node, &sender.token, &reader.token).await;
    provider.tell("rotate").await;
    provider.tell("settle").await;
    let (newer, boss) = (provider.token("sender", ALL).await, provider.token("boss", ALL).await);
    let deadline = Instant::now() + LIMIT;
    while verify(&node, &newer).await.0 != 200 || verify(&node, &sender.token).await.0 == 200 {
        assert!(Instant::now() < deadline, "the keys are not fetched again");
        sleep(Duration::from_millis(50)).await;
    }
    provider.process.kill().await.unwrap();
    renew(&mut everywhere.device, &newer).await;
    send(&mut everywhere.device, 2).await;
    assert_eq!(verify(&node, &newer).await.0, 200);
    // An operator closes both accounts: all connections end, and no token of theirs is good, however new.
    for closed in [&sender, &reader] {
        let answer =
            http().post(format!("{}/accounts/{}/revoke", ap(&node), closed.id)).bearer_auth(&boss).json(&json!({})).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    timeout(Duration::from_secs(2), everywhere.ended()).await.expect("the connections end at once");
    let (status, refused) = verify(&node, &newer).await;
    assert_eq!((status, &refused["code"]), (401, &json!("token_revoked")));
}

/// A token that the node takes: after a logout everywhere the first one of the next second.
async fn good_token(provider: &Provider, node: &Node, client: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let token = provider.token(client, ALL).await;
        let (status, answer) = verify(node, &token).await;
        if status == 200 {
            return token;
        }
        assert!(answer["code"] == "token_revoked" && Instant::now() < deadline, "{answer}");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn log_out_everywhere(node: &Node, token: &str, wish: Value) {
    let url = format!("{}/account/logout-everywhere", ap(node));
    let answer = http().post(url).bearer_auth(token).json(&wish).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

async fn is_revoked(node: &Node, token: &str) -> bool {
    let (status, answer) = verify(node, token).await;
    assert!(status == 200 || answer["code"] == "token_revoked", "{answer}");
    status != 200
}

#[tokio::test]
async fn logging_out_everywhere_ends_the_tokens_of_other_issuers() {
    let provider = Provider::start("ES256").await;
    let file = provider.file();
    let variables = [("OIDC_ISSUERS", file.to_str().unwrap())];
    let node = Node::embedded(&variables).await;
    let (sender, reader) =
        (whose(&node, provider.token("sender", ALL).await).await, whose(&node, provider.token("reader", ALL).await).await);
    subscribe(node.at.sm.as_deref().unwrap(), &reader, &sender).await;
    let everywhere = Everywhere::open(&node, &sender.token, &reader.token).await;
    log_out_everywhere(&node, &sender.token, json!({})).await;
    log_out_everywhere(&node, &reader.token, json!({})).await;
    timeout(Duration::from_secs(1), everywhere.ended()).await.expect("within a second");
    for (transport, answer) in refusals(&node, &sender.token, &reader.token).await {
        assert_eq!(answer, 401, "{transport}");
    }
    // Nor is it forgotten.
    let node = node.restarted(&variables, async |_| ()).await;
    assert!(is_revoked(&node, &sender.token).await && is_revoked(&node, &reader.token).await);
    // Newer ones are good: the account is open. Its present one may stay, and none that was issued before or after it.
    let first = good_token(&provider, &node, "sender").await;
    log_out_everywhere(&node, &first, json!({})).await;
    let kept = good_token(&provider, &node, "sender").await;
    let mut device = connect(&node, &kept, "d", Intent::Produce, 8).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let newer = good_token(&provider, &node, "sender").await;
    log_out_everywhere(&node, &kept, json!({"keep_current": true})).await;
    assert!(is_revoked(&node, &first).await && is_revoked(&node, &newer).await && !is_revoked(&node, &kept).await);
    send(&mut device, 1).await;
    // An operator's new password for the account ends them like its own sessions.
    let (code, out, err) = run(node.dir.path(), &variables, &["admin", "reset-password", "--username", "sender@corp"], "").await;
    assert_eq!(code, 0, "{err}");
    let token = out.split_whitespace().find(|word| word.starts_with("motr_")).unwrap_or_else(|| panic!("{out}"));
    let reset = json!({"token": token, "new_password": "a password for once"});
    assert_eq!(http().post(format!("{}/account/reset", ap(&node))).json(&reset).send().await.unwrap().status(), 200);
    assert_eq!(timeout(Duration::from_secs(1), closed_with(&mut device)).await.expect("within a second"), CloseCode::Unauthenticated);
    assert!(is_revoked(&node, &kept).await);
}

#[tokio::test]
async fn logging_out_everywhere_ends_the_tokens_of_other_issuers_on_every_node() {
    let provider = Provider::start("EdDSA").await;
    let shared = Shared::start().await;
    let file = provider.file();
    let variables = [&shared.variables()[..], &[("OIDC_ISSUERS", file.to_str().unwrap())]].concat();
    let node = async || Node::start(server(), &["--roles", "ap,dsm,ingest"], &variables).await;
    let (one, two) = (node().await, node().await);
    let token = provider.token("sender", ALL).await;
    let mut device = connect(&two, &token, "d", Intent::Produce, 7).await.unwrap();
    send(&mut device, 1).await;
    log_out_everywhere(&one, &token, json!({})).await;
    assert_eq!(timeout(Duration::from_secs(1), closed_with(&mut device)).await.expect("within a second"), CloseCode::Unauthenticated);
    assert!(is_revoked(&one, &token).await && is_revoked(&two, &token).await);
    let three = node().await;
    assert!(is_revoked(&three, &token).await, "one that was not there");
    good_token(&provider, &three, "sender").await;
}
