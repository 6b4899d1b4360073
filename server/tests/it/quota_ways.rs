//! Each limit of a plan on each way in: whoever goes beyond it hears so in the words of its protocol, what is acknowledged is in the log, and
//! a neighbour notices nothing.

use std::{any::Any, collections::BTreeSet, time::Duration};

use futures_util::{SinkExt as _, future::join_all};
use motience_device::client::{Error, Event, Lane};
use motience_proto::{
    model::Seq,
    wire::{CloseCode, Frame, Intent, Record},
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, Message},
};

use crate::{
    egress_features::{EGRESSES, Egress, Reader, Received, Wishes},
    gateway::{consume, next_json, produce},
    harness::{Account, LIMIT, Node, account, http, subscribe},
    quic,
    quotas::{header, logged, node, post},
    tunnel,
    unread::{metric, until_metric},
    webtransport,
};

/// A record of two hundred bytes, about.
fn record(n: u64) -> Value {
    json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": {"n": n, "pad": "x".repeat(130)}})
}

/// More than a batch: the debt of a plan that allows ten a second is twenty seconds.
fn flood() -> Vec<Value> {
    (1..=200).map(record).collect()
}

/// Rates of records: the option, its value, and what HTTP says of it. Each lets ten records a second through.
const RATES: [(&str, &str, &str); 2] =
    [("--records-per-second", "10", "\"account-records\";q=10;w=1"), ("--bytes-per-second", "2000", "\"account-bytes\";q=2000;w=1")];

/// The ways in whose records are acknowledged.
#[derive(Clone, Copy, Debug)]
enum Ingress {
    Post,
    Lines,
    Socket,
    WebTransport,
    Tunnel,
    Quic,
}

const INGRESSES: [Ingress; 6] = [Ingress::Post, Ingress::Lines, Ingress::Socket, Ingress::WebTransport, Ingress::Tunnel, Ingress::Quic];

impl Ingress {
    /// Sends until it is refused, and compares the words of the refusal; numbers of the records that were acknowledged.
    async fn exceed(self, node: &Node, who: &Account, policy: &str) -> BTreeSet<u64> {
        match self {
            Self::Post => {
                assert_eq!(post(node, who, &flood()).await.status(), 200);
                let refused = post(node, who, &[record(201)]).await;
                assert_eq!((refused.status().as_u16(), header(&refused, "ratelimit-policy")), (429, policy));
                let wait: u64 = header(&refused, "retry-after").parse().unwrap();
                let (name, _) = policy.split_once(';').unwrap();
                assert!((10..=25).contains(&wait) && header(&refused, "ratelimit") == format!("{name};r=0;t={wait}"), "{wait}");
                let problem: Value = refused.json().await.unwrap();
                assert_eq!(problem["code"], "rate_limited");
                assert!(problem["detail"].as_str().unwrap().starts_with("The plan of this account allows "), "{problem}");
                (1..=200).collect()
            }
            // Taken piece by piece until the rate is met.
            Self::Lines => {
                let long = |n: u64| json!({"device_id": "d", "timestamp": 1, "data": {"n": n, "pad": "x".repeat(2000)}});
                let lines: String = (1..=1000).map(|n| format!("{}\n", long(n))).collect();
                let refused = upload(node, who, lines).await;
                assert_eq!((refused.status().as_u16(), header(&refused, "ratelimit-policy")), (429, policy));
                let problem: Value = refused.json().await.unwrap();
                let accepted = problem["accepted"].as_u64().unwrap();
                assert!((1..1000).contains(&accepted) && problem["last_line"] == accepted && problem["outcome"].is_null(), "{problem}");
                (1..=accepted).collect()
            }
            Self::Socket => {
                let mut socket = produce(node, who).await;
                let acked = until_refused(async |record| {
                    socket.send(Message::text(record.to_string())).await.unwrap();
                    next_json(&mut socket).await
                });
                let acked = acked.await;
                assert_eq!(crate::keys::closed(&mut socket).await, 1013);
                acked
            }
            Self::WebTransport => {
                let mut client = webtransport::Client::hello(node, &who.token).await;
                assert_eq!(client.lines.next().await["type"], "welcome");
                let acked = until_refused(async |record| client.ask(&record).await).await;
                let (code, why) = client.closed().await;
                assert!(code == 4429 && why.contains("he plan of this account allows "), "{code} {why}");
                acked
            }
            // One message is one batch.
            Self::Tunnel => {
                let own = |n: u64| Frame::Record(Record { seq: Seq(n), json: record(n).to_string().into() });
                let mut tunnel = tunnel::open(node).await;
                tunnel.enter(tunnel::hello(&who.token, "d", 1)).await;
                tunnel.send((1..=200).map(own)).await;
                crate::harness::acked(1..=200, async || tunnel.frame().await).await;
                tunnel.send([own(201)]).await;
                let (code, why) = tunnel.closed().await;
                assert!(code == 4106 && why.contains("come back in"), "{code} {why}");
                (1..=200).collect()
            }
            Self::Quic => exceed_quic(node, who).await,
        }
    }
}

/// A device is read no faster than the rate at first, and is told once it would have to wait too long.
async fn exceed_quic(node: &Node, who: &Account) -> BTreeSet<u64> {
    let own = |n: u64| Record { seq: Seq(n), json: record(n).to_string().into() };
    let mut session = quic::connect(node, &who.token, "d", Intent::Produce, 1).await.unwrap();
    let begun = Instant::now();
    for n in 1..=30 {
        session.send(Lane::Ordered, own(n)).await.unwrap();
        quic::acked(&mut session, n..=n).await;
    }
    assert!(begun.elapsed() >= Duration::from_millis(1800), "thirty records at ten a second: {:?}", begun.elapsed());
    // Another way in of the same account makes a debt of twenty seconds, for which no device waits.
    indebt(node, who).await;
    session.send(Lane::Ordered, own(31)).await.unwrap();
    let (code, why) = loop {
        match quic::event(&mut session).await {
            Ok(Event::Acked(ranges)) => assert!(!ranges.contains(31), "beyond the rate nothing is acknowledged"),
            Ok(other) => panic!("{other:?}"),
            Err(Error::Closed { code, reason }) => break (code, reason),
            Err(other) => panic!("{other:?}"),
        }
    };
    assert!(code == CloseCode::RateLimited && why.contains("come back in"), "{code:?} {why}");
    (1..=30).collect()
}

/// Posts a flood as soon as there is a token for it.
async fn indebt(node: &Node, who: &Account) {
    let indebted = async {
        while post(node, who, &flood()).await.status() != 200 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, indebted).await.expect("a token comes");
}

/// Sends one record after the other until one is refused: the numbers of those before.
async fn until_refused(mut ask: impl AsyncFnMut(Value) -> Value) -> BTreeSet<u64> {
    let mut acked = BTreeSet::new();
    for n in 1.. {
        let reply = ask(record(n)).await;
        if reply["type"] != "ack" {
            assert_eq!(reply["code"], "rate_limited", "{reply}");
            break;
        }
        acked.insert(n);
    }
    assert!(acked.len() >= 10, "a second's worth passes at once: {acked:?}");
    acked
}

async fn upload(node: &Node, who: &Account, lines: String) -> reqwest::Response {
    let request = http().post(format!("{}/data", node.at.dsm.as_deref().unwrap())).bearer_auth(&who.token);
    request.header("content-type", "application/x-ndjson").body(lines).send().await.unwrap()
}

#[tokio::test]
async fn beyond_a_rate_a_producer_hears_so_on_every_way_in_and_loses_nothing_that_was_acknowledged() {
    let names = RATES.map(|(option, value, _)| INGRESSES.map(|ingress| (format!("{ingress:?}{option}").replace('-', ""), option, value)));
    let limits: Vec<_> = names.iter().flatten().map(|(name, option, value)| (name.as_str(), *option, *value)).collect();
    let (node, accounts) = node(&limits).await;
    let neighbour = account(quic::ap(&node), "producer", "neighbour").await;
    let cases = RATES.iter().flat_map(|(.., policy)| INGRESSES.map(|ingress| (ingress, *policy)));
    let cases = cases.zip(&accounts).map(async |((ingress, policy), who)| {
        let acked = ingress.exceed(&node, who, policy).await;
        assert!(logged(&node, who, acked.len()).await.is_superset(&acked), "{ingress:?}, {policy}");
    });
    let others = async {
        for _ in 0..3 {
            assert_eq!(post(&node, &neighbour, &flood()).await.status(), 200, "nobody else notices");
        }
    };
    tokio::join!(join_all(cases), others);
    assert_eq!(logged(&node, &neighbour, 200).await.len(), 200);
}

#[tokio::test]
async fn beyond_a_rate_datagrams_are_dropped_and_counted_and_nothing_is_said() {
    let names = RATES.map(|(option, value, _)| ["device", "page"].map(|name| (format!("{name}{option}").replace('-', ""), option, value)));
    let limits: Vec<_> = names.iter().flatten().map(|(name, option, value)| (name.as_str(), *option, *value)).collect();
    let (node, accounts) = node(&limits).await;
    let text = |n: u64| record(n).to_string();
    let (received, dropped) = ("motience_latest_received_total", "motience_latest_dropped_total");
    for [device, page] in accounts.as_chunks::<2>().0 {
        let session = quic::connect(&node, &device.token, "d", Intent::Produce, 1).await.unwrap();
        let mut client = webtransport::Client::hello(&node, &page.token).await;
        assert_eq!(client.lines.next().await["type"], "welcome");
        let ways: [(&Account, &dyn Fn(u64)); 2] = [
            (device, &|n| assert!(session.send_latest(text(n).into()))),
            (page, &|n| client.session.send_datagram(text(n).into()).unwrap()),
        ];
        for (who, send) in ways {
            let before = (metric(&node, received).await, metric(&node, dropped).await);
            send(1001);
            until_metric(&node, received, |now| now >= before.0 + 1.0).await;
            assert!(logged(&node, who, 1).await.contains(&1001));
            indebt(&node, who).await;
            (1002..=1010).for_each(send);
            until_metric(&node, dropped, |now| now >= before.1 + 9.0).await;
            assert_eq!(metric(&node, received).await - before.0, 10.0, "one was taken, nine were dropped");
        }
        assert_eq!(client.ask(&json!({"type": "ping"})).await["type"], "pong", "nothing was said");
    }
}

#[tokio::test]
async fn requests_to_all_services_share_one_rate_and_records_are_none_of_them() {
    let (node, accounts) = node(&[("asks", "--requests-per-second", "2")]).await;
    let [asks] = &accounts[..] else { panic!("one account") };
    let begun = Instant::now();
    let mut passed = 0;
    for url in [
        format!("{}/account/sessions", quic::ap(&node)),
        format!("{}/subscribers/{}", node.at.sm.as_deref().unwrap(), asks.id),
        format!("{}/streams", node.at.dsm.as_deref().unwrap()),
    ] {
        let mut asked = 0;
        let refused = loop {
            let answer = http().get(&url).bearer_auth(&asks.token).send().await.unwrap();
            asked += 1;
            if answer.status() == 429 {
                break answer;
            }
            assert!(answer.status() == 200 && asked < 1000, "{url}: {}", answer.status());
            passed += 1;
        };
        assert_eq!((refused.status().as_u16(), header(&refused, "ratelimit-policy")), (429, "\"account-requests\";q=2;w=1"), "{url}");
        assert!(header(&refused, "retry-after") == "1" && header(&refused, "ratelimit") == "\"account-requests\";r=0;t=1", "{url}");
    }
    let most = 2.0 + 2.0 * begun.elapsed().as_secs_f64();
    assert!(passed >= 2 && f64::from(passed) <= most + 1.0, "{passed} passed, {most} may");
    assert_eq!(post(&node, asks, &flood()).await.status(), 200, "records count by their own rates");
}

/// The outcome of coming by one way: what keeps the connection, or the words of the refusal.
type Entered = Result<Box<dyn Any>, String>;

/// A kind of connection that lasts, by an account that has a plan.
#[derive(Clone, Copy, Debug)]
enum Connection {
    ConsumerSocket,
    Sse,
    Ndjson,
    NativeConsumer,
    WebTransport,
    ProducerSocket,
    Device,
    Tunnel,
}

impl Connection {
    async fn enter(self, node: &Node, token: &str, device: &str) -> Entered {
        let url = |at: &Option<String>| format!("{}?token={token}", at.as_deref().unwrap());
        match self {
            Self::ConsumerSocket => by_socket(url(&node.at.wss2)).await,
            Self::ProducerSocket => by_socket(url(&node.at.wss1)).await,
            Self::Sse | Self::Ndjson => {
                let accept = if matches!(self, Self::Sse) { "text/event-stream" } else { "application/x-ndjson" };
                let answer = crate::keys::stream(node, token, accept).await;
                if answer.status() == 200 { Ok(Box::new(answer)) } else { Err(answer.status().as_str().to_owned()) }
            }
            Self::NativeConsumer => by_quic(node, token, device, Intent::Consume).await,
            Self::Device => by_quic(node, token, device, Intent::Produce).await,
            Self::WebTransport => {
                let mut client = webtransport::Client::hello(node, token).await;
                match client.lines.line().await {
                    Some(welcome) if welcome["type"] == "welcome" => Ok(Box::new(client)),
                    _ => Err(client.closed().await.0.to_string()),
                }
            }
            Self::Tunnel => {
                let mut tunnel = tunnel::open(node).await;
                tunnel.send([Frame::Hello(tunnel::hello(token, device, 1))]).await;
                match tunnel.frame_or_code().await {
                    Ok(Frame::Welcome(_)) => Ok(Box::new(tunnel)),
                    Ok(other) => panic!("{other:?}"),
                    Err(code) => Err(code.to_string()),
                }
            }
        }
    }

    /// How its protocol refuses it.
    fn refusal(self) -> &'static str {
        match self {
            Self::ConsumerSocket | Self::ProducerSocket | Self::Sse | Self::Ndjson => "429",
            Self::NativeConsumer | Self::Device => "RateLimited",
            Self::WebTransport => "4429",
            Self::Tunnel => "4106",
        }
    }
}

async fn by_socket(url: String) -> Entered {
    match connect_async(url).await {
        Ok((socket, _)) => Ok(Box::new(socket)),
        Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_str().to_owned()),
        Err(other) => panic!("{other}"),
    }
}

async fn by_quic(node: &Node, token: &str, device: &str, intent: Intent) -> Entered {
    match quic::connect(node, token, device, intent, 1).await {
        Ok(session) => Ok(Box::new(session)),
        Err(Error::Closed { code, .. }) => Err(format!("{code:?}")),
        Err(other) => panic!("{other:?}"),
    }
}

/// While one of them is there, each other one is refused; once that has gone, one may come.
async fn one_at_a_time(node: &Node, who: &Account, kinds: &[Connection]) {
    for held in kinds {
        let first = timeout(LIMIT, async {
            loop {
                match held.enter(node, &who.token, "first").await {
                    Ok(first) => break first,
                    // The one before it is on its way out.
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let first = first.await.unwrap_or_else(|_| panic!("{held:?} finds room again"));
        for refused in kinds {
            let outcome = refused.enter(node, &who.token, "second").await.err();
            assert_eq!(outcome.as_deref(), Some(refused.refusal()), "{refused:?} beside {held:?}");
        }
        drop(first);
    }
}

#[tokio::test]
async fn a_plan_limits_connections_and_devices_however_they_come() {
    use Connection::{ConsumerSocket, Device, NativeConsumer, Ndjson, ProducerSocket, Sse, Tunnel, WebTransport};
    let node = Node::embedded(&[]).await;
    let consumer = account(quic::ap(&node), "consumer", "consumer").await;
    let (producer, neighbour) =
        (account(quic::ap(&node), "producer", "producer").await, account(quic::ap(&node), "producer", "neighbour").await);
    let node = node
        .restarted(&[], async |dir| {
            crate::quotas::plan(dir, &["set", "one", "--connections", "1", "--devices", "1"]).await;
            for name in ["consumer", "producer"] {
                crate::quotas::plan(dir, &["give", "one", "--username", name]).await;
            }
        })
        .await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    one_at_a_time(&node, &consumer, &[ConsumerSocket, Sse, Ndjson, NativeConsumer, WebTransport]).await;
    one_at_a_time(&node, &producer, &[ProducerSocket, WebTransport]).await;
    one_at_a_time(&node, &producer, &[Device, Tunnel]).await;
    // Devices and connections are counted apart, and an upload is a connection while it lasts.
    let (device, socket) = (
        Device.enter(&node, &producer.token, "d").await,
        timeout(LIMIT, async {
            loop {
                if let Ok(socket) = ProducerSocket.enter(&node, &producer.token, "").await {
                    break socket;
                }
                sleep(Duration::from_millis(20)).await;
            }
        }),
    );
    let (device, socket) = (device.unwrap(), socket.await.unwrap());
    let refused = upload(&node, &producer, format!("{}\n", record(1))).await;
    assert_eq!(refused.status(), 429);
    for other in [Device, Tunnel, ProducerSocket, Device] {
        drop(other.enter(&node, &neighbour.token, "d").await.unwrap());
    }
    drop((device, socket));
    drop(consume(&node, &consumer, "").await);
}

#[tokio::test]
async fn a_plan_limits_subscriptions_that_are_in_force_or_asked_for() {
    let settings = [("PRODUCER_VISIBILITY", "listed")];
    let node = Node::embedded(&settings).await;
    let consumer = account(quic::ap(&node), "consumer", "consumer").await;
    let mut producers = Vec::new();
    for name in ["one", "two", "three"] {
        producers.push(account(quic::ap(&node), "producer", name).await);
    }
    let node = node
        .restarted(&settings, async |dir| {
            crate::quotas::plan(dir, &["set", "two", "--follows", "2"]).await;
            crate::quotas::plan(dir, &["give", "two", "--username", "consumer"]).await;
        })
        .await;
    let sm = node.at.sm.as_deref().unwrap();
    let ask = async |method: Method, path: String, who: &Account, body: Value| {
        let answer = http().request(method, format!("{sm}{path}")).bearer_auth(&who.token).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let wish = async |producer: &Account| ask(Method::POST, "/subscribe".into(), &consumer, json!({"producer_id": producer.id})).await;
    let decide = async |id: &Value, decision: &str, producer: &Account| {
        ask(Method::POST, format!("/subscriptions/{id}/{decision}"), producer, json!({})).await
    };
    let [one, two, three] = &producers[..] else { panic!("three") };
    let (status, first) = wish(one).await;
    assert_eq!((status, wish(two).await.0, wish(one).await.0), (202, 202, 202), "what is asked for already may be asked for again");
    let (status, problem) = wish(three).await;
    assert_eq!((status, &problem["code"]), (409, &json!("too_many_follows")), "{problem}");
    assert_eq!(decide(&first["id"], "approve", one).await.0, 200);
    assert_eq!((wish(one).await.0, wish(three).await.0), (200, 409));
    // A producer that gives back what it took away finds the place taken.
    assert_eq!(decide(&first["id"], "revoke", one).await.0, 200);
    assert_eq!(wish(three).await.0, 202);
    let (status, problem) = decide(&first["id"], "approve", one).await;
    assert_eq!((status, &problem["code"]), (409, &json!("too_many_follows")), "{problem}");
    let invite = ask(Method::POST, "/subscriptions/invite".into(), one, json!({"consumer_id": consumer.id})).await;
    assert_eq!((invite.0, &invite.1["code"]), (409, &json!("too_many_follows")));
    let left = ask(Method::DELETE, format!("/unsubscribe?producer_id={}", two.id), &consumer, Value::Null).await;
    assert_eq!(left.0, 200);
    assert_eq!(decide(&first["id"], "approve", one).await.0, 200);
}

#[tokio::test]
async fn beyond_a_rate_a_consumer_receives_no_faster_on_every_egress_and_misses_nothing() {
    const COUNT: u64 = 150;
    let node = Node::embedded(&[]).await;
    let producer = account(quic::ap(&node), "producer", "p").await;
    let mut cases = Vec::new();
    // Each lets fifty records a second through, about.
    for (option, value) in [("--records-out-per-second", "50"), ("--bytes-out-per-second", "12000")] {
        for egress in EGRESSES {
            let name = format!("{egress:?}{option}").replace('-', "");
            cases.push((egress, option, value, account(quic::ap(&node), "consumer", &name).await));
        }
    }
    let neighbour = account(quic::ap(&node), "consumer", "neighbour").await;
    let node = node
        .restarted(&[], async |dir| {
            for (_, option, value, who) in &cases {
                crate::quotas::plan(dir, &["set", &who.username, option, value]).await;
                crate::quotas::plan(dir, &["give", &who.username, "--username", &who.username]).await;
            }
        })
        .await;
    let mut readers = Vec::new();
    for (egress, option, _, who) in cases.iter().chain([&(Egress::V2, "none", "", neighbour)]) {
        subscribe(node.at.sm.as_deref().unwrap(), who, &producer).await;
        let reader = Reader::open(*egress, &node, who, &[&producer], &Wishes::default()).await;
        readers.push((format!("{egress:?}, {option}"), reader.unwrap_or_else(|refused| panic!("{egress:?}: {refused:?}"))));
    }
    let records: Vec<Value> = (1..=COUNT).map(record).collect();
    // Before the first can be delivered, which is before this is answered.
    let begun = Instant::now();
    assert_eq!(post(&node, &producer, &records).await.status(), 200);
    let read = readers.into_iter().map(async |(name, mut reader)| {
        for n in 1..=COUNT {
            match reader.next().await {
                Received::Record { data, .. } => assert_eq!(data["n"], n, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        (name, begun.elapsed())
    });
    let mut took = join_all(read).await;
    let (_, free) = took.pop().unwrap();
    for (name, time) in took {
        assert!(time >= Duration::from_millis(1800) && time > free, "{name}: {COUNT} records in {time:?}, and in {free:?} without a plan");
    }
}

#[tokio::test]
async fn beyond_a_rate_datagrams_to_a_consumer_are_dropped_and_its_history_is_refused() {
    let node = Node::embedded(&[]).await;
    let (producer, consumer) = (account(quic::ap(&node), "producer", "p").await, account(quic::ap(&node), "consumer", "c").await);
    let node = node
        .restarted(&[], async |dir| {
            crate::quotas::plan(dir, &["set", "ten", "--records-out-per-second", "10"]).await;
            crate::quotas::plan(dir, &["give", "ten", "--username", "c"]).await;
        })
        .await;
    subscribe(node.at.sm.as_deref().unwrap(), &consumer, &producer).await;
    let mut client = webtransport::Client::hello(&node, &consumer.token).await;
    assert_eq!(client.lines.next().await["type"], "welcome");
    let wish = json!({"type": "subscribe", "producer_id": producer.id.to_string(), "lane": "latest"});
    assert_eq!(client.ask(&wish).await["type"], "subscribed");
    let fleet: Vec<Value> = (0..100).map(|n| json!({"device_id": format!("d{n}"), "timestamp": 1, "data": {"n": n}})).collect();
    assert_eq!(post(&node, &producer, &fleet).await.status(), 200);
    timeout(LIMIT, client.session.read_datagram()).await.unwrap().unwrap();
    until_metric(&node, "motience_latest_dropped_total", |dropped| (50.0..=90.0).contains(&dropped)).await;
    assert_eq!(client.ask(&json!({"type": "ping"})).await["type"], "pong", "nothing was said");

    let url = format!("{}/history/{}?limit=100", node.at.dsm.as_deref().unwrap(), producer.id);
    let ask = async || http().get(&url).bearer_auth(&consumer.token).send().await.unwrap();
    let first = timeout(LIMIT, async {
        loop {
            let answer = ask().await;
            if answer.status() == 200 {
                break answer.json::<Value>().await.unwrap();
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    assert_eq!(first.await.unwrap().as_array().unwrap().len(), 100);
    let refused = ask().await;
    assert_eq!((refused.status().as_u16(), header(&refused, "ratelimit-policy")), (429, "\"account-records_out\";q=10;w=1"));
}
