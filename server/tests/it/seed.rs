//! The seed document's own lines, word for word but for the ports, which here are free ones.

use std::path::PathBuf;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Node, clients, output, subscribe};

/// A line of the seed as a shell runs it, with `wscat` on the path.
async fn shell(line: &str) -> String {
    let mut command = Command::new("bash");
    let path = std::env::join_paths(
        std::iter::once(clients().join("node_modules/.bin"))
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<PathBuf>>()),
    )
    .unwrap();
    command.args(["-euo", "pipefail", "-c", line]).env("PATH", path);
    output(command).await
}

#[tokio::test]
async fn every_line_of_the_seed_does_what_it_says() {
    the_lines(&[]).await;
}

#[tokio::test]
async fn with_listed_producers_one_approval_more_is_needed() {
    the_lines(&[("PRODUCER_VISIBILITY", "listed")]).await;
}

async fn the_lines(settings: &[(&str, &str)]) {
    let node = Node::embedded(settings).await;
    let at = |line: &str| {
        let port = |url: &Option<String>| url.as_deref().unwrap().rsplit(':').next().unwrap().split('/').next().unwrap().to_owned();
        line.replace("localhost:3001", &format!("localhost:{}", port(&node.at.ap)))
            .replace("localhost:8001", &format!("localhost:{}", port(&node.at.wss1)))
            .replace("localhost:8002", &format!("localhost:{}", port(&node.at.wss2)))
    };

    let registered = shell(&at(r#"curl -sS -X POST http://localhost:3001/register \
  -H "Content-Type: application/json" \
  -d '{"username":"producer1","password":"pass123","role":"producer","device_id":"rpi_001"}'"#))
    .await;
    let registered: Value = serde_json::from_str(&registered).unwrap();
    assert_eq!(
        (&registered["username"], &registered["role"], &registered["device_id"]),
        (&"producer1".into(), &"producer".into(), &"rpi_001".into())
    );

    let login = shell(&at(
        r#"curl -sS -X POST http://localhost:3001/login -H "Content-Type: application/json" -d '{"username":"producer1","password":"pass123"}'"#,
    ))
    .await;
    let login: Value = serde_json::from_str(&login).unwrap();
    let token = login["access_token"].as_str().unwrap();

    // The seed's example, typed into wscat.
    let record =
        r#"{"device_id":"rpi_001","timestamp":"2025-01-29T11:35:00Z","data":{"temperature":24.3,"humidity":51,"pressure":1013.25}}"#;
    let producer = at(r#"wscat -c "ws://localhost:8001/producer?token=<your-token>""#).replace("<your-token>", token);
    // wscat ends with its input, so it is given one that stays open, as a terminal's does.
    let told = shell(&format!("{producer} -x '{record}' -w 1 < <(sleep 2)")).await;
    assert!(told.contains(r#"{"type":"ack","seq":1,"subscriberCount":0}"#), "{told}");

    let ap = node.at.ap.as_deref().unwrap();
    let consumer = crate::harness::account(ap, "consumer", "consumer1").await;
    let producer1 = crate::harness::Account { id: login["user_id"].as_i64().unwrap(), username: "producer1".into(), token: token.into() };
    let sm = node.at.sm.as_deref().unwrap();
    subscribe(sm, &consumer, &producer1).await;
    if !settings.is_empty() {
        let listed = format!("curl -sS -H 'Authorization: Bearer {token}' {sm}/subscribers/{}", producer1.id);
        let asked: Value = serde_json::from_str(&shell(&listed).await).unwrap();
        assert_eq!((&asked[0]["status"], &asked[0]["consumer_id"]), (&"requested".into(), &consumer.id.into()));
        let approve = format!("curl -sS -X POST -H 'Authorization: Bearer {token}' {sm}/subscriptions/{}/approve", asked[0]["id"]);
        assert_eq!(serde_json::from_str::<Value>(&shell(&approve).await).unwrap()["status"], "active");
    }
    let consumer_line = at(r#"wscat -c "ws://localhost:8002/consumer?token=<your-token>""#).replace("<your-token>", &consumer.token);
    // The consumer listens while the producer sends again until something has arrived.
    let line = format!(
        "{consumer_line} < <(sleep 6) & consumer=$!
        for i in 1 2 3; do {producer} -x '{record}' -w 1 < <(sleep 2) >/dev/null; done
        wait $consumer"
    );
    let received = shell(&line).await;
    let expected = format!(r#"{{"producer_id":"{}",{}"#, producer1.id, &record[1..]);
    assert!(received.contains(&expected), "{received}");
}
