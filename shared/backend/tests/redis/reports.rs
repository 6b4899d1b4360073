//! Reports of devices and producers are kept in Redis, and read by the node that is asked.

use std::{collections::HashSet, sync::Arc};

use futures_util::StreamExt as _;
use motience_backend::Backend;
use motience_cluster::{self as cluster, DeviceStats, Event, NodeReport};
use motience_proto::model::{LogKey, ProducerId, Transport};
use motience_testing::{Redis, RedisCluster};

use tokio::time::timeout;

use super::{P, keys, node, sending::LIMIT, sessions::until};

const OTHER: LogKey = LogKey::numbered(ProducerId(2));
const DEVICES: usize = 600;

async fn devices(node: &Backend, key: LogKey) -> Vec<DeviceStats> {
    node.reports.devices_of(node.relay.log(), key).await
}

async fn a_node_shows_the_devices_of_others(url: &str) -> [Arc<Backend>; 2] {
    let (a, b) = (node(url, &[("NODE_NAME", "a")]).await, node(url, &[("NODE_NAME", "b")]).await);
    let held: Vec<_> = (0..DEVICES).map(|n| a.reports.devices.enter(P, &format!("pump-{n}"), Transport::Quic)).collect();
    b.reports.devices.note(P, "pump-0", Transport::Http, 3, None);
    a.reports.devices.note(OTHER, "Pump of another", Transport::Http, 1, None);
    until("the other node's devices are shown", || async { devices(&b, P).await.len() == DEVICES }).await;
    let shown = devices(&b, P).await;
    assert!(shown.iter().all(|device| device.connected && device.node == "a" && device.transport == Transport::Quic));
    // Counts of both nodes add up.
    assert_eq!(shown.iter().map(|device| device.records).sum::<u64>(), 3);
    until("both nodes find all", || async {
        let (of_a, of_b) =
            (a.reports.find_devices(a.relay.log(), "PUMP", 1000).await, b.reports.find_devices(b.relay.log(), "pump", 1000).await);
        of_a.len() == DEVICES + 1 && of_b.iter().map(|(key, _)| *key).collect::<HashSet<_>>() == HashSet::from([P, OTHER])
    })
    .await;
    assert_eq!(b.reports.find_devices(b.relay.log(), "of another", 10).await[0].1.records, 1);
    drop(held);
    until("it is seen that they have left", || async { devices(&b, P).await.iter().all(|device| !device.connected) }).await;

    // Nothing of an account that has ended is left, and nobody writes it again.
    for (node, other) in [(&a, &b), (&b, &a)] {
        node.reports.devices.forget(P);
        let name = format!("later at {}", node.node);
        node.reports.devices.note(OTHER, &name, Transport::Http, 1, None);
        until("the node has told since", || async { devices(other, OTHER).await.iter().any(|device| device.device == name) }).await;
    }
    a.relay.log().erase(P).await.unwrap();
    for node in [&a, &b] {
        node.reports.devices.forget(P);
        assert!(devices(node, P).await.is_empty());
    }
    [a, b]
}

/// The records of each live producer, as a node shows them.
async fn live(node: &Backend) -> Vec<(LogKey, u64)> {
    node.reports.live_streams(node.relay.log()).await.into_iter().map(|live| (live.key, live.records)).collect()
}

async fn a_node_shows_the_live_producers_of_others(url: &str) -> [Arc<Backend>; 2] {
    let (a, b) = (node(url, &[("NODE_NAME", "a")]).await, node(url, &[("NODE_NAME", "b")]).await);
    for (node, key, records) in [(&a, P, 3), (&b, P, 4), (&b, OTHER, 1)] {
        node.reports.count_in(key, records);
    }
    for node in [&a, &b] {
        until("counts of all nodes are shown", || async { live(node).await == [(P, 7), (OTHER, 1)] }).await;
    }
    assert_eq!(a.reports.own_streams().into_iter().map(|own| (own.key, own.records)).collect::<Vec<_>>(), [(P, 3)]);
    [a, b]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_producers_are_shown_by_every_node_and_broadcast_by_none() {
    let redis = Redis::start().await;
    let mut broadcast = redis::Client::open(redis.url()).unwrap().get_async_pubsub().await.unwrap();
    broadcast.psubscribe(&["m:*:reports", "m:*:bus"]).await.unwrap();
    let mut broadcast = broadcast.into_on_message();
    let mut told = async || -> String {
        let message = timeout(LIMIT, broadcast.next()).await.expect("nodes report in time").expect("Redis stays");
        message.get_payload().unwrap()
    };
    let [a, _b] = a_node_shows_the_live_producers_of_others(&redis.url()).await;
    for _ in 0..6 {
        let report = told().await;
        assert!(!report.contains(r#"{"type":"streams""#), "{report}");
    }
    // A node of an earlier version reads nothing, and is told.
    let old = Event::Node { report: NodeReport { node: "old".into(), ..NodeReport::default() } };
    cluster::broadcast(a.relay.log(), &old).await.unwrap();
    while !told().await.contains(r#"{"type":"streams""#) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_producers_are_shown_by_every_node_of_a_cluster() {
    let cluster = RedisCluster::start(3).await;
    a_node_shows_the_live_producers_of_others(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_shown_by_every_node() {
    let redis = Redis::start().await;
    let [a, _b] = a_node_shows_the_devices_of_others(&redis.url()).await;
    let told = redis.command(&format!("KEYS {}:reports:*", keys(&a, OTHER).await)).await;
    let key = told.lines().find(|line| line.starts_with("m:")).expect("a hash of reports");
    let left: i64 = redis.command(&format!("PTTL {key}")).await.lines().next().unwrap()[1..].parse().unwrap();
    assert!(left > 0, "what nobody repeats goes by itself: {left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_are_shown_by_every_node_of_a_cluster() {
    let cluster = RedisCluster::start(3).await;
    a_node_shows_the_devices_of_others(&cluster.url()).await;
}
