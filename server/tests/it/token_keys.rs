//! The keys that sign tokens: they take over from JWT_SECRET and from each other, and nobody's session ends.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use motience_device::client::{Event, Lane};
use motience_proto::wire::Intent;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    harness::{LIMIT, Node, PASSWORD, account, command, http, server},
    quic::{acked, ap, connect, event, record},
};

async fn post(url: String, body: Value) -> Value {
    let answer = http().post(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.json().await.unwrap()
}

/// The head of a token: its algorithm and its key.
fn head(token: &Value) -> Value {
    let head = token.as_str().unwrap().split('.').next().unwrap();
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap()
}

async fn published(node: &Node) -> Vec<Value> {
    let answer = http().get(format!("{}/.well-known/jwks.json", ap(node))).send().await.unwrap();
    assert_eq!((answer.status(), answer.headers()["cache-control"].to_str().unwrap()), (reqwest::StatusCode::OK, "public, max-age=60"));
    let keys: Value = answer.json().await.unwrap();
    keys["keys"].as_array().unwrap().clone()
}

/// Makes a key that signs at once. The names of two keys tell their times to the second, so that there is one a second.
async fn rotate(node: &Node, variables: &[(&str, &str)], algorithm: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut command = command(server(), node.dir.path());
        command.args(["token-keys", "rotate", "--after", "0", "--algorithm", algorithm]).envs(variables.iter().copied());
        if command.status().await.unwrap().success() {
            return;
        }
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn new_keys_take_over_and_no_session_ends() {
    let keys = TempDir::new().unwrap();
    let variables = [("JWT_KEYS", keys.path().to_str().unwrap())];
    let node = Node::embedded(&variables).await;
    let producer = account(ap(&node), "producer", "p").await;
    let mut pair = post(format!("{}/login", ap(&node)), json!({"username": "p", "password": PASSWORD})).await;
    assert_eq!((head(&pair["access_token"])["alg"].as_str(), published(&node).await), (Some("HS256"), Vec::new()));
    let mut session = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    let mut tokens = vec![pair["access_token"].clone()];
    for (number, (option, algorithm)) in [("ed25519", "EdDSA"), ("p256", "ES256")].into_iter().enumerate() {
        rotate(&node, &variables, option).await;
        node.signal("HUP");
        let deadline = Instant::now() + LIMIT;
        let newest = loop {
            let published = published(&node).await;
            if published.len() > number {
                break published[number].clone();
            }
            assert!(Instant::now() < deadline);
            sleep(Duration::from_millis(20)).await;
        };
        assert!(newest["alg"] == algorithm && newest["use"] == "sig" && newest.get("d").is_none(), "{newest}");
        pair = post(format!("{}/refresh", ap(&node)), json!({"refresh_token": pair["refresh_token"]})).await;
        let head = head(&pair["access_token"]);
        assert_eq!((&head["alg"], &head["kid"]), (&newest["alg"], &newest["kid"]));
        tokens.push(pair["access_token"].clone());
        session.renew(&pair["access_token"].as_str().unwrap().to_owned().into()).await.unwrap();
        assert!(matches!(event(&mut session).await, Ok(Event::TokenAccepted(_))));
        let seq = number as u64 + 1;
        session.send(Lane::Ordered, record(seq)).await.unwrap();
        acked(&mut session, seq..=seq).await;
        for token in &tokens {
            let verified = http().get(format!("{}/verify", ap(&node))).bearer_auth(token.as_str().unwrap()).send().await.unwrap();
            assert_eq!(verified.status(), 200);
        }
    }
}
