//! Redis as a cluster: each producer's log is on one of several servers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use motience_backend::Backend;
use motience_proto::model::{LogKey, ProducerId, UserId};
use motience_relay::{Delivery, Notice, StartPosition, Subscriber};
use motience_testing::RedisCluster;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{
    all, each_once, keys, node,
    sending::{LIMIT, send},
    try_node,
};

const MASTERS: usize = 3;
/// Tens of records that are sent before and after each slot that moves.
const BETWEEN_MOVES: u64 = 20;

fn log_of(producer: i64) -> LogKey {
    LogKey::numbered(ProducerId(producer))
}

/// Sends one record after the other until told to stop, and counts what all have sent. Returns how many it were.
async fn send_until(node: Arc<Backend>, producer: i64, stop: watch::Receiver<bool>, all: watch::Sender<u64>) -> (i64, u64) {
    let mut sent = 0;
    while !*stop.borrow() {
        send(&node, log_of(producer), sent + 1..=sent + 10).await;
        sent += 10;
        all.send_modify(|all| *all += 10);
    }
    (producer, sent)
}

/// Returns once records have come in from now on.
async fn flowing(sent: &mut watch::Receiver<u64>) {
    let more = *sent.borrow() + 10 * BETWEEN_MOVES;
    timeout(LIMIT, sent.wait_for(|sent| *sent >= more)).await.expect("records in time").unwrap();
}

async fn follow(node: &Backend, producers: impl IntoIterator<Item = i64>) -> Subscriber {
    let mut reader = node.relay.subscriber();
    for producer in producers {
        timeout(LIMIT, reader.follow(ProducerId(producer), StartPosition::Earliest)).await.unwrap().unwrap();
    }
    reader
}

/// Reads until it has this offset of each producer. Offsets must come in order and once; returns the resets of each producer.
async fn until(reader: &mut Subscriber, last: &HashMap<i64, u64>) -> HashMap<i64, usize> {
    let (mut at, mut resets): (HashMap<i64, u64>, HashMap<i64, usize>) = (HashMap::new(), HashMap::new());
    while at.iter().filter(|(producer, at)| last.get(producer) == Some(at)).count() < last.len() {
        match timeout(LIMIT, reader.next()).await.expect("a delivery in time") {
            Delivery::Batch { batch, after } => {
                for (offset, ..) in batch.after(after) {
                    let before = at.insert(batch.producer.0, offset.0).unwrap_or(0);
                    assert_eq!(offset.0, before + 1, "producer {}", batch.producer);
                }
            }
            Delivery::Notice(Notice::Reset { producer, cursor, .. }) => {
                assert_eq!(cursor.offset.0, at.get(&producer.0).copied().unwrap_or(0), "nothing is lost, so nothing is taken back");
                *resets.entry(producer.0).or_default() += 1;
            }
            other => panic!("only records and resets are expected, not {other:?}"),
        }
    }
    resets
}

/// Producers, by the server that has their log.
async fn by_owner(cluster: &RedisCluster, node: &Backend, producers: std::ops::RangeInclusive<i64>) -> HashMap<usize, Vec<i64>> {
    let mut found: HashMap<usize, Vec<i64>> = HashMap::new();
    for producer in producers {
        let slot = cluster.slot(&keys(node, log_of(producer)).await).await;
        found.entry(cluster.owner(slot).await).or_default().push(producer);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producers_of_all_shards_meet_and_a_slot_moves_under_load_without_loss() {
    let cluster = RedisCluster::start(MASTERS).await;
    let (first, second) = (node(&cluster.url(), &[]).await, node(&cluster.url(), &[]).await);
    let producers = 1..=9;
    let owners = by_owner(&cluster, &first, producers.clone()).await;
    assert_eq!(owners.len(), MASTERS, "every server has some of the producers");
    first.ready().await.unwrap();
    first.relay.log().note_account(UserId(77)).await.unwrap();
    assert_eq!(second.relay.log().highest_account().await.unwrap(), UserId(77));

    let mut reader = follow(&second, producers.clone()).await;
    let ((stop, stopped), (all_sent, mut all_seen)) = (watch::channel(false), watch::channel(0));
    let mut senders = JoinSet::new();
    for producer in producers.clone() {
        let node = if producer % 2 == 0 { &first } else { &second };
        senders.spawn(send_until(Arc::clone(node), producer, stopped.clone(), all_sent.clone()));
    }
    // One producer of each server goes to the next one, and the first of them comes back.
    let moving: Vec<i64> = owners.values().map(|some| some[0]).collect();
    for (round, producer) in moving.iter().chain(&moving[..1]).enumerate() {
        let slot = cluster.slot(&keys(&first, log_of(*producer)).await).await;
        let from = cluster.owner(slot).await;
        let to = if round < moving.len() { (from + 1) % MASTERS } else { (from + MASTERS - 1) % MASTERS };
        flowing(&mut all_seen).await;
        cluster.move_slot(slot, to).await;
    }
    flowing(&mut all_seen).await;
    stop.send(true).unwrap();
    let sent: HashMap<i64, u64> = senders.join_all().await.into_iter().collect();
    let resets = until(&mut reader, &sent).await;
    for producer in producers {
        each_once(&all(first.relay.log(), log_of(producer)).await, 1, 1..=sent[&producer]);
        assert!(moving.contains(&producer) || !resets.contains_key(&producer), "only what has moved begins a new epoch: {resets:?}");
    }
    // Live again, and not only once a second.
    let next = sent[&moving[0]] + 1;
    send(&first, log_of(moving[0]), next..=next).await;
    let Ok(Delivery::Batch { batch, .. }) = timeout(LIMIT, reader.next()).await else { panic!("a record is expected") };
    assert_eq!(batch.last().0, next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_one_shard_resets_its_producers_and_the_others_go_on() {
    let mut cluster = RedisCluster::start(MASTERS).await;
    let node = node(&cluster.url(), &[("REDIS_REPLICAS", "1")]).await;
    let owners = by_owner(&cluster, &node, 1..=9).await;
    let (lost, safe) = (owners[&0][0], owners[&1][0]);
    let mut reader = follow(&node, [lost, safe]).await;
    send(&node, log_of(lost), 1..=10).await;
    send(&node, log_of(safe), 1..=10).await;

    cluster.kill(0);
    let began = Instant::now();
    send(&node, log_of(safe), 11..=20).await;
    assert!(began.elapsed() < Duration::from_secs(5), "another server is away, and these producers do not notice");
    cluster.until_master(MASTERS).await;
    // Until the former master is a replica nothing can be on two servers.
    cluster.start_again(0).await;
    send(&node, log_of(lost), 11..=20).await;
    let resets = until(&mut reader, &HashMap::from([(lost, 20), (safe, 20)])).await;
    assert_eq!(resets, HashMap::from([(lost, 1)]));
    for producer in [lost, safe] {
        each_once(&all(node.relay.log(), log_of(producer)).await, 1, 1..=20);
    }
    node.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_with_one_server_of_the_cluster_away_and_refuses_a_mixture() {
    let mut cluster = RedisCluster::start(MASTERS).await;
    let alone = motience_testing::Redis::start().await;
    let url = format!("{},127.0.0.1:{}", alone.url(), cluster.node(0).port());
    node(&url, &[]).await.ready().await.unwrap();
    let error = try_node(&format!("{},127.0.0.1:1", alone.url()), &[]).await.unwrap_err().to_string();
    assert!(error.contains("REDIS_URL"), "{error}");
    cluster.kill(0);
    node(&cluster.url(), &[]).await.ready().await.unwrap();
}
