//! A node whose log's file is damaged: who is told, who notices nothing, and how it is repaired.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    gateway::{Pair, consume, next_json, pair},
    harness::{Account, LIMIT, Node, account, command, http, server, subscribe},
};

const SECRET: (&str, &str) = ("JWT_SECRET", "a secret of tests, long enough to pass");

/// Runs `motience-server log …` on a node's folder: exit code, and what it says.
async fn log(dir: &Path, action: &str) -> (i32, String) {
    let mut command = command(server(), dir);
    command.args(["log", action]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = timeout(LIMIT, command.output()).await.expect("it ends in time").unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

async fn post(node: &Node, who: &Account, n: u64) {
    let record = json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"reading": n, "of": who.id}});
    let answer =
        http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&who.token).json(&record).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// Messages of wss2 to a reader of everything, up to `last`: offsets of records, and notices.
async fn told(node: &Node, consumer: &Account, producer: &Account, last: u64) -> (Vec<u64>, Vec<Value>) {
    let whose = producer.id.to_string();
    let cursors = json!({&whose: 0}).to_string().replace('"', "%22");
    let mut egress = consume(node, consumer, &format!("&v=2&resume={cursors}")).await;
    let (mut records, mut notices) = (Vec::new(), Vec::new());
    while records.last() != Some(&last) {
        let told = next_json(&mut egress).await;
        if told["producer_id"] != whose.as_str() {
            continue;
        }
        match told["offset"].as_u64() {
            Some(offset) => records.push(offset),
            None => notices.push(told),
        }
    }
    (records, notices)
}

#[tokio::test]
async fn a_flipped_byte_is_told_and_everything_else_goes_on() {
    let variables = [SECRET];
    let Pair { node, producer, consumer } = pair(&variables).await;
    let bystander = account(node.at.ap.as_deref().unwrap(), "producer", "bystander").await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &bystander).await;
    for n in 1..=20 {
        post(&node, &producer, n).await;
        post(&node, &bystander, n).await;
    }
    let node = node
        .restarted(&variables, async |dir| {
            assert_eq!(log(dir, "check").await.0, 0);
            let file = dir.join("data/log.segments/0000000001-0000000001-0.segment");
            let mut bytes = std::fs::read(&file).unwrap();
            let text = format!("{{\"of\":{},\"reading\":10}}", producer.id);
            let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
            bytes[at + 3] ^= 0x20;
            std::fs::write(&file, bytes).unwrap();
        })
        .await;
    post(&node, &producer, 21).await;
    let gap = json!({"type": "gap", "producer_id": producer.id.to_string(), "from": 10, "to": 10, "cause": "damaged"});
    let rest: Vec<u64> = (1..10).chain(11..=21).collect();
    assert_eq!(told(&node, &consumer, &producer, 21).await, (rest.clone(), vec![gap.clone()]));
    assert_eq!(told(&node, &consumer, &bystander, 20).await, ((1..=20).collect(), vec![]));
    let ready = http().get(format!("{}/ready", node.at.operations.as_deref().unwrap())).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    assert!(ready.json::<Value>().await.unwrap()["damaged"].as_str().unwrap().contains("log check"));
    let (code, said) = log(node.dir.path(), "check").await;
    assert!(code == 1 && said.contains("records 10 to 10 are damaged"), "{code}: {said}");
    let (code, said) = log(node.dir.path(), "repair").await;
    assert!(code == 1 && said.contains("another process uses the log"), "{code}: {said}");

    let node = node
        .restarted(&variables, async |dir| {
            let (code, said) = log(dir, "repair").await;
            assert!(code == 0 && said.contains("log.damaged-"), "{code}: {said}");
            assert_eq!(log(dir, "check").await.0, 0);
        })
        .await;
    assert_eq!(told(&node, &consumer, &producer, 21).await, (rest, vec![gap]), "what is lost stays told");
    post(&node, &producer, 22).await;

    // A file that is none is left alone, and the node says what to do.
    let mut node = node;
    node.signal("TERM");
    node.ended().await;
    let dir = node.dir;
    std::fs::write(dir.path().join("data/log.db"), "no database at all".repeat(1000)).unwrap();
    let mut command = command(server(), dir.path());
    let output = timeout(LIMIT, command.envs(variables).stderr(Stdio::piped()).output()).await.expect("it gives up").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("data/log.db") && said.contains("motience-server log repair"), "{said}");
}
