//! Erasures in a Redis Cluster while the slot of the log moves from server to server.

use std::{collections::HashSet, sync::Arc};

use motience_backend::Backend;
use motience_log::Error;
use motience_proto::model::{LogKey, ProducerId, RangeSet};
use motience_testing::RedisCluster;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    all, keys, node,
    sending::{LIMIT, send},
};

const MASTERS: usize = 3;
const LOG: LogKey = LogKey::numbered(ProducerId(7));

/// The slot of the log, the server that has it, and the next one.
async fn slot(cluster: &RedisCluster, prefix: &str) -> (u16, usize) {
    let slot = cluster.slot(prefix).await;
    (slot, (cluster.owner(slot).await + 1) % MASTERS)
}

/// Keys of the log, wherever they are.
async fn keys_left(cluster: &RedisCluster, prefix: &str) -> Vec<String> {
    let mut left = Vec::new();
    for number in 0..MASTERS {
        let found = cluster.node(number).command(&format!("SCAN 0 MATCH {prefix}* COUNT 100000")).await;
        left.extend(found.lines().filter(|line| line.starts_with(prefix)).map(str::to_owned));
    }
    left
}

/// Erases as the node does, which tries again later where the slot is being moved.
async fn erase(node: &Backend, offsets: &RangeSet) {
    let deadline = Instant::now() + LIMIT;
    while let Err(e) = node.relay.log().erase_records(LOG, offsets).await {
        assert!(matches!(e, Error::Unavailable(_)) && Instant::now() < deadline, "{e}");
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Whether every record up to `last` is in its place, and exactly those at `erased` are empty.
async fn is_erased(node: &Backend, last: u64, erased: &HashSet<u64>) {
    let found = all(node.relay.log(), LOG).await;
    assert_eq!(found.len() as u64, last);
    for (offset, (seq, message)) in (1..).zip(&found) {
        assert_eq!((*seq, message.is_empty()), (offset, erased.contains(&offset)), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_erased_in_whatever_state_the_move_of_their_slot_is() {
    let cluster = RedisCluster::start(MASTERS).await;
    let node = node(&cluster.url(), &[]).await;
    let prefix = keys(&node, LOG).await;
    send(&node, LOG, 1..=100).await;
    let mut erased = HashSet::new();
    let rewritten = rewrites(&cluster).await;
    // These alone have gone over: a call that needs others too is answered by neither server.
    for (round, gone) in
        [&["log"][..], &["meta"], &["meta", "log"], &["log", "marks", "meta", "devices", "ids", "s:d:d"]].iter().enumerate()
    {
        let (slot, to) = slot(&cluster, &prefix).await;
        let from = cluster.begin_move(slot, to).await;
        for part in *gone {
            cluster.move_key(&format!("{prefix}:{part}"), from, to).await;
        }
        let offsets: Vec<u64> = (1..=100).filter(|offset| offset % 10 == round as u64).collect();
        let wanted: RangeSet = offsets.iter().copied().collect();
        let early = node.relay.log().erase_records(LOG, &wanted).await;
        assert!(early.is_ok() || matches!(early, Err(Error::Unavailable(_))), "{early:?}");
        // Those that it has made on the way too.
        for key in keys_left(&cluster, &prefix).await {
            cluster.move_key(&key, from, to).await;
        }
        cluster.end_move(slot, from, to).await;
        timeout(LIMIT, erase(&node, &wanted)).await.expect("in time");
        erased.extend(offsets);
        is_erased(&node, 100, &erased).await;
    }
    let rest = keys_left(&cluster, &prefix).await;
    assert!(!rest.iter().any(|key| key.ends_with(":fresh") || key.ends_with(":staged")), "{rest:?}");
    // The append-only file of every server that has had the log still has them until it is rewritten.
    let again = rewrites(&cluster).await;
    assert!(again.iter().zip(&rewritten).all(|(after, before)| after > before), "{rewritten:?} {again:?}");
}

/// How often each master was asked to rewrite its append-only file.
async fn rewrites(cluster: &RedisCluster) -> Vec<u64> {
    let mut all = Vec::new();
    for number in 0..MASTERS {
        let told = cluster.node(number).command("INFO commandstats").await;
        let calls = told.lines().find_map(|line| line.strip_prefix("cmdstat_bgrewriteaof:calls=")?.split(',').next()?.parse().ok());
        all.push(calls.unwrap_or(0));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_erased_while_others_come_and_their_slot_goes_round() {
    let cluster = RedisCluster::start(MASTERS).await;
    let node = node(&cluster.url(), &[]).await;
    let prefix = keys(&node, LOG).await;
    send(&node, LOG, 1..=200).await;
    let (stop, stopped) = watch::channel(false);
    let sending = {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let mut sent = 200;
            while !*stopped.borrow() {
                send(&node, LOG, sent + 1..=sent + 5).await;
                sent += 5;
            }
            sent
        })
    };
    let moving = async {
        for _ in 0..MASTERS {
            let (slot, to) = slot(&cluster, &prefix).await;
            cluster.move_slot(slot, to).await;
        }
    };
    let erasing = async {
        for tenth in 0..10 {
            erase(&node, &(1..=200).filter(|offset| offset % 10 == tenth && offset % 20 != 0).collect()).await;
        }
    };
    tokio::join!(moving, erasing);
    stop.send(true).unwrap();
    let sent = timeout(LIMIT, sending).await.expect("in time").unwrap();
    is_erased(&node, sent, &(1..=200).filter(|offset| offset % 20 != 0).collect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_account_is_left_that_ends_while_its_slot_moves() {
    let cluster = RedisCluster::start(MASTERS).await;
    let node = node(&cluster.url(), &[]).await;
    let prefix = keys(&node, LOG).await;
    for gone in [&["log"][..], &["meta", "s:d:d"]] {
        send(&node, LOG, 1..=20).await;
        let (slot, to) = slot(&cluster, &prefix).await;
        let from = cluster.begin_move(slot, to).await;
        for part in gone {
            cluster.move_key(&format!("{prefix}:{part}"), from, to).await;
        }
        let ended = node.relay.log().erase(LOG).await;
        assert!(ended.is_ok() || matches!(ended, Err(Error::Unavailable(_))), "{ended:?}");
        for key in keys_left(&cluster, &prefix).await {
            cluster.move_key(&key, from, to).await;
        }
        cluster.end_move(slot, from, to).await;
        let deadline = Instant::now() + LIMIT;
        while let Err(e) = node.relay.log().erase(LOG).await {
            assert!(matches!(e, Error::Unavailable(_)) && Instant::now() < deadline, "{e}");
        }
        assert!(keys_left(&cluster, &prefix).await.is_empty());
    }
}
