//! Everything in one process.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::harness::{LIMIT, Node, account, http, npm_flow, subscribe};

#[tokio::test]
async fn the_documented_flow_by_the_ws_package() {
    let node = Node::embedded(&[]).await;
    let at = &node.at;
    let told = npm_flow(
        at.ap.as_deref().unwrap(),
        at.sm.as_deref().unwrap(),
        at.dsm.as_deref().unwrap(),
        at.wss1.as_deref().unwrap(),
        at.wss2.as_deref().unwrap(),
    )
    .await;
    assert!(told.ends_with("flow complete\n"), "{told}");
}

#[tokio::test]
async fn history_is_kept_when_asked_for() {
    let node = Node::embedded(&[("PERSIST", "true")]).await;
    let (ap, sm, dsm) = (node.at.ap.as_deref().unwrap(), node.at.sm.as_deref().unwrap(), node.at.dsm.as_deref().unwrap());
    let producer = account(ap, "producer", "p").await;
    let consumer = account(ap, "consumer", "c").await;
    subscribe(sm, &consumer, &producer).await;
    let (mut socket, _) = connect_async(format!("{}?token={}", node.at.wss1.as_deref().unwrap(), producer.token)).await.unwrap();
    for n in 0..50 {
        let record = format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:{n:02}Z","data":{{"n":{n}}}}}"#);
        socket.send(Message::text(record)).await.unwrap();
    }
    for _ in 0..50 {
        timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
    }
    let http = http();
    let history = async |query: &str| -> Vec<Value> {
        let answer = http.get(format!("{dsm}/history/{}?{query}", producer.id)).bearer_auth(&consumer.token).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    };
    // The writer follows the log; the acknowledgement does not wait for it.
    let deadline = tokio::time::Instant::now() + LIMIT;
    while history("limit=100").await.len() < 50 {
        assert!(tokio::time::Instant::now() < deadline, "the history was not written in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let some = history("by=device&from=2025-01-29T11:35:10Z&to=2025-01-29T11:35:19Z&limit=5").await;
    assert_eq!(some.iter().map(|r| r["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>(), [10, 11, 12, 13, 14]);
    assert_eq!(some[0]["producer_id"], producer.id.to_string());
}
