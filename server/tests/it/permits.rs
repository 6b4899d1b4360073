//! One limiter for every way in and out: an account's connections together, its fleet apart from them, and those who have yet to say
//! who they are.

use futures_util::SinkExt as _;
use motience_device::client::Error;
use motience_proto::wire::{CloseCode, Intent};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, client::IntoClientRequest as _},
};

use crate::{
    gateway::{Pair, consume, pair, produce, record},
    harness::{Node, account, http},
    quic::{ap, connect},
    unread::{Raw, metric, until_metric},
};

/// The status of a refused upgrade; 101 where it was not.
async fn upgraded(url: &str, subprotocol: Option<&'static str>) -> (u16, Option<crate::gateway::Socket>) {
    let mut request = url.into_client_request().unwrap();
    if let Some(name) = subprotocol {
        request.headers_mut().insert("sec-websocket-protocol", name.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((socket, _)) => (101, Some(socket)),
        Err(tungstenite::Error::Http(answer)) => (answer.status().as_u16(), None),
        Err(other) => panic!("{other}"),
    }
}

async fn refused_by_quic(node: &Node, token: &str, intent: Intent) {
    match connect(node, token, "d", intent, 1).await.map(|_| ()) {
        Err(Error::Closed { code: CloseCode::RateLimited, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_account_has_one_limit_over_all_ways_and_gets_its_permits_back() {
    let Pair { node, producer, consumer } = pair(&[("MAX_CONNECTIONS_PER_ACCOUNT", "2")]).await;
    let (dsm, wss2) = (node.at.dsm.as_deref().unwrap(), node.at.wss2.as_deref().unwrap());
    let stream = || http().get(format!("{dsm}/stream")).bearer_auth(&consumer.token).send();
    let socket = consume(&node, &consumer, "").await;
    let events = stream().await.unwrap();
    assert_eq!(events.status(), 200);
    // Each of the other ways is full too.
    assert_eq!(stream().await.unwrap().status(), 429);
    assert_eq!(upgraded(&format!("{wss2}?token={}", consumer.token), None).await.0, 429);
    refused_by_quic(&node, &consumer.token, Intent::Consume).await;
    assert_eq!(metric(&node, r#"motience_permits_refused_total{reason="account",transport="quic"}"#).await, 1.0);
    drop((socket, events));
    until_metric(&node, r#"motience_stream_connections{format="sse"}"#, |open| open == 0.0).await;
    until_metric(&node, r#"motience_websocket_connections{side="consumer"}"#, |open| open == 0.0).await;
    let native = [(), ()].map(|()| connect(&node, &consumer.token, "d", Intent::Consume, 0));
    let native = futures_util::future::try_join_all(native).await.unwrap();
    assert_eq!(stream().await.unwrap().status(), 429);
    drop(native);

    // Uploads hold one while they last, and an account's devices are counted apart.
    let sockets = [produce(&node, &producer).await, produce(&node, &producer).await];
    let upload = http().post(format!("{dsm}/data")).bearer_auth(&producer.token).header("content-type", "application/x-ndjson");
    assert_eq!(upload.body(record(1, 0).into_data()).send().await.unwrap().status(), 429);
    let device = connect(&node, &producer.token, "d", Intent::Produce, 1).await.unwrap();
    drop((sockets, device));
}

#[tokio::test]
async fn no_fleet_takes_the_whole_node() {
    let node = Node::embedded(&[("QUIC_MAX_CONNECTIONS", "4")]).await;
    let (first, second) = (account(ap(&node), "producer", "p").await, account(ap(&node), "producer", "q").await);
    let mut fleet = Vec::new();
    for n in 0..2 {
        fleet.push(connect(&node, &first.token, &format!("d{n}"), Intent::Produce, 1).await.unwrap());
    }
    refused_by_quic(&node, &first.token, Intent::Produce).await;
    fleet.push(connect(&node, &second.token, "d", Intent::Produce, 1).await.unwrap());
}

#[tokio::test]
async fn those_who_are_silent_shut_nobody_out() {
    let Pair { node, producer, consumer } = pair(&[
        ("MAX_UNAUTHENTICATED_PER_ADDRESS", "6"),
        ("WSS_MAX_CONNECTIONS", "6"),
        ("HTTP_HEADER_LIMIT", "1h"),
        ("QUIC_HELLO_LIMIT", "1h"),
    ])
    .await;
    let tunnel = node.at.wss1.as_deref().unwrap().replace("/producer", "/motience");
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(upgraded(&tunnel, Some("motience.1")).await.1.expect("there is room"));
    }
    let quic = [Raw::silent(&node).await, Raw::silent(&node).await];
    assert_eq!(upgraded(&tunnel, Some("motience.1")).await.0, 429, "one address has its share, whatever it comes by");
    assert_eq!(metric(&node, "motience_unauthenticated_connections").await, 6.0);
    // Nobody who says who it is finds the room taken.
    let mut sockets = vec![consume(&node, &consumer, "").await];
    for _ in 0..3 {
        sockets.push(produce(&node, &producer).await);
    }
    sockets[1].send(record(1, 0)).await.unwrap();
    silent.pop();
    until_metric(&node, "motience_unauthenticated_connections", |count| count == 5.0).await;
    let device = connect(&node, &producer.token, "d", Intent::Produce, 1).await.expect("it says Hello at once");
    drop((device, quic, silent, sockets));
    until_metric(&node, "motience_unauthenticated_connections", |count| count == 0.0).await;
}
