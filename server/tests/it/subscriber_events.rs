//! A producer hears of its subscribers over every transport, where it asks for that and may; and hears nothing new where it does not ask.

use std::time::Duration;

use futures_util::SinkExt as _;
use motience_device::client::{Config, Connector, Event, Session};
use motience_proto::{
    model::{ConsumerId, ProducerEpoch, Status},
    wire::{Frame, Hello, Intent, Subscriber, features},
};
use motience_runtime::clock::Clock;
use secrecy::SecretString;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use crate::{
    devices::{enrolled, token},
    gateway::{Socket, next_json},
    harness::{Account, LIMIT, Node, Shared, account, http},
    quic::{ap, event},
    stream::Reader,
    tunnel::{self, Plain, Tunnel},
    webtransport::Client,
};

/// A producer's connection that hears of its subscribers.
enum Ear {
    WebSocket(Socket),
    Quic(Session),
    Tunnel(Tunnel<Plain>),
    WebTransport(Box<Client>),
    Events(Reader),
    Lines(Reader),
}

async fn socket(node: &Node, token: &str, query: &str) -> Socket {
    connect_async(format!("{}?token={token}{query}", node.at.wss1.as_deref().unwrap())).await.unwrap().0
}

async fn quic(node: &Node, token: &str, subscribers: bool) -> Session {
    let config = Config { subscribers, ..crate::quic::config(node, "ear") };
    let connector = Connector::new(config).unwrap();
    timeout(LIMIT, connector.connect(&SecretString::from(token), Intent::Produce, ProducerEpoch(1))).await.unwrap().unwrap()
}

async fn through(node: &Node, token: &str) -> (Tunnel<Plain>, u64) {
    let mut tunnel = tunnel::open(node).await;
    let hello = Hello { features: features::SUBSCRIBERS, ..tunnel::hello(token, "tunnelled", 1) };
    let welcome = tunnel.enter(hello).await;
    (tunnel, welcome.features)
}

async fn stream(node: &Node, token: &str, accept: &str, query: &str) -> reqwest::Response {
    let url = format!("{}/stream?{query}", node.at.dsm.as_deref().unwrap());
    http().get(url).bearer_auth(token).header("accept", accept).send().await.unwrap()
}

impl Ear {
    async fn all(node: &Node, producer: &Account) -> Vec<Self> {
        let query = "events=subscriptions";
        vec![
            Self::WebSocket(socket(node, &producer.token, "&events=subscriptions").await),
            Self::Quic(quic(node, &producer.token, true).await),
            Self::Tunnel(through(node, &producer.token).await.0),
            Self::WebTransport(Box::new(
                Client::opened_by(node, &json!({"type": "hello", "token": producer.token, "events": "subscriptions"})).await,
            )),
            Self::Events(Reader::new(stream(node, &producer.token, "text/event-stream", query).await)),
            Self::Lines(Reader::new(stream(node, &producer.token, "application/x-ndjson", query).await)),
        ]
    }

    /// The next change: the subscription, the consumer and the state.
    async fn next(&mut self) -> (i64, String, String) {
        let told = match self {
            Self::WebSocket(socket) => next_json(socket).await,
            Self::Quic(session) => match event(session).await.unwrap() {
                Event::Subscriber(subscriber) => return of_frame(subscriber),
                other => panic!("{other:?}"),
            },
            Self::Tunnel(tunnel) => match tunnel.frame().await {
                Frame::Subscriber(subscriber) => return of_frame(subscriber),
                other => panic!("{other:?}"),
            },
            Self::WebTransport(client) => loop {
                let line = client.lines.next().await;
                if line["type"] != "welcome" {
                    break line;
                }
            },
            Self::Events(reader) => {
                let data = timeout(LIMIT, reader.event(&mut String::new())).await.expect("it is told in time").expect("the stream goes on");
                data.data
            }
            Self::Lines(reader) => loop {
                let line = timeout(LIMIT, reader.json()).await.expect("it is told in time").expect("the stream goes on");
                if line["type"] != "cursors" {
                    break line;
                }
            },
        };
        assert_eq!(told["type"], "subscription", "{told}");
        let text = |member: &str| told[member].as_str().unwrap().to_owned();
        (told["subscription_id"].as_i64().unwrap(), text("consumer_id"), text("status"))
    }
}

fn of_frame(Subscriber { subscription, consumer: ConsumerId(consumer), status }: Subscriber) -> (i64, String, String) {
    (i64::try_from(subscription).unwrap(), consumer.to_string(), status.to_string())
}

async fn sm(node: &Node, who: &Account, path: &str, body: Value) -> Value {
    let url = format!("{}{path}", node.at.sm.as_deref().unwrap());
    let answer = http().post(url).bearer_auth(&who.token).json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    answer.json().await.unwrap()
}

#[tokio::test]
async fn every_transport_tells_a_producer_of_each_change() {
    let node = Node::embedded(&[("PRODUCER_VISIBILITY", "listed")]).await;
    let producer = account(ap(&node), "producer", "p").await;
    let (first, second) = (account(ap(&node), "consumer", "c").await, account(ap(&node), "consumer", "d").await);
    let mut ears = Ear::all(&node, &producer).await;
    // As ever.
    let mut deaf = socket(&node, &producer.token, "").await;
    let heard = async |ears: &mut Vec<Ear>, subscription: &Value, who: &Account, status: &str| {
        let expected = (subscription["id"].as_i64().unwrap(), who.id.to_string(), status.to_owned());
        for ear in ears {
            assert_eq!(ear.next().await, expected);
        }
    };
    let one = sm(&node, &first, "/subscribe", json!({"producer_id": producer.id})).await;
    heard(&mut ears, &one, &first, "requested").await;
    let two = sm(&node, &second, "/subscribe", json!({"producer_id": producer.id})).await;
    heard(&mut ears, &two, &second, "requested").await;
    let decide = async |subscription: &Value, word: &str, body: Value| {
        sm(&node, &producer, &format!("/subscriptions/{}/{word}", subscription["id"]), body).await;
    };
    decide(&two, "deny", Value::Null).await;
    heard(&mut ears, &two, &second, "denied").await;
    let end = (Clock::system().now() + Duration::from_secs(2)).format(&Rfc3339).unwrap();
    decide(&one, "approve", json!({"expiresAt": end})).await;
    heard(&mut ears, &one, &first, "active").await;
    heard(&mut ears, &one, &first, "expired").await;
    decide(&one, "approve", json!({})).await;
    heard(&mut ears, &one, &first, "active").await;
    decide(&one, "revoke", Value::Null).await;
    heard(&mut ears, &one, &first, "revoked").await;
    deaf.send(Message::text(r#"{"type":"ping","id":1}"#)).await.unwrap();
    assert_eq!(next_json(&mut deaf).await, json!({"type": "pong", "id": 1}), "it has heard nothing before");
}

#[tokio::test]
async fn nobody_hears_of_subscribers_whose_token_may_not_read_lists() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = (account(ap(&node), "producer", "p").await, account(ap(&node), "consumer", "c").await);
    let made = http().post(format!("{}/keys", ap(&node))).bearer_auth(&producer.token);
    let made: Value = made.json(&json!({"name": "k", "scopes": ["publish"]})).send().await.unwrap().json().await.unwrap();
    let key = made["key"].as_str().unwrap();
    let own = token(&enrolled(&node, &producer, "tunnelled", motience_device::login::Algorithm::Ed25519).await).await;
    for token in [key, own.as_str()] {
        let url = format!("{}?token={token}&events=subscriptions", node.at.wss1.as_deref().unwrap());
        let refused = connect_async(url).await.unwrap_err().to_string();
        assert!(refused.contains("403"), "{refused}");
        assert_eq!(through(&node, token).await.1 & features::SUBSCRIBERS, 0);
    }
    let wrong = format!("{}?token={}&events=everything", node.at.wss1.as_deref().unwrap(), producer.token);
    assert!(connect_async(wrong).await.unwrap_err().to_string().contains("422"));
    let accept = "application/x-ndjson";
    assert_eq!(stream(&node, &consumer.token, accept, "events=subscriptions").await.status(), 403);
    assert_eq!(stream(&node, &producer.token, accept, "events=everything").await.status(), 422);
    let mut session = Client::opened_by(&node, &json!({"type": "hello", "token": producer.token, "events": "everything"})).await;
    assert!(session.lines.line().await.is_none());
    // One that did not ask keeps its features.
    assert_eq!(quic(&node, &producer.token, false).await.welcome().features & features::SUBSCRIBERS, 0);
}

#[tokio::test]
async fn a_change_on_one_node_is_heard_on_another() {
    let shared = Shared::start().await;
    let (one, two) = (shared.node("one", "ap,sm,dsm,ingest").await, shared.node("two", "ap,sm,dsm,ingest").await);
    let (producer, consumer) = (account(ap(&one), "producer", "p").await, account(ap(&one), "consumer", "c").await);
    let mut ears = vec![
        Ear::Quic(quic(&two, &producer.token, true).await),
        Ear::Lines(Reader::new(stream(&two, &producer.token, "application/x-ndjson", "events=subscriptions").await)),
    ];
    let made = sm(&one, &consumer, "/subscribe", json!({"producer_id": producer.id})).await;
    for ear in &mut ears {
        assert_eq!(ear.next().await, (made["id"].as_i64().unwrap(), consumer.id.to_string(), Status::Active.to_string()));
    }
}
