//! Readers of one node that catch up beside each other read the log in Redis once.

use motience_proto::model::{Offset, ProducerId};
use motience_relay::{Delivery, StartPosition, Subscriber};
use motience_testing::Redis;
use tokio::{task::JoinSet, time::timeout};

use super::{Device, LIMIT, P, node, write};

const READERS: usize = 16;
const RECORDS: u64 = 20_000;
const GROUP: u64 = 50;

/// Reads everything, in order.
async fn catch_up(mut reader: Subscriber) {
    let mut at = Offset(0);
    while at.0 < RECORDS {
        match timeout(LIMIT, reader.next()).await.expect("a delivery in time") {
            Delivery::Batch { batch, after } => {
                for (offset, ..) in batch.after(after) {
                    assert_eq!(offset, at.next());
                    at = offset;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn reader(node: &motience_backend::Backend) -> Subscriber {
    let mut reader = node.relay.subscriber();
    reader.follow(ProducerId(1), StartPosition::Earliest).await.unwrap();
    reader
}

/// Functions that Redis has run so far.
async fn calls(redis: &Redis) -> u64 {
    let told = redis.command("INFO commandstats").await;
    let calls =
        told.lines().filter_map(|line| line.strip_prefix("cmdstat_fcall")?.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok());
    calls.sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_catch_up_beside_each_other_share_what_is_read() {
    let redis = Redis::start().await;
    let writer = node(&redis.url(), &[]).await;
    let mut devices = [Device::new(writer.relay.log(), P, "d").await];
    for group in 0..RECORDS / GROUP {
        let seqs: Vec<u64> = (1..=GROUP).map(|n| group * GROUP + n).collect();
        write(writer.relay.log(), &mut devices, &seqs).await.unwrap();
    }
    // A node whose ring has nothing of it, and which is told of nothing.
    let other = node(&redis.url(), &[("READ_BYTES", "4KiB")]).await;
    let alone = reader(&other).await;
    let before = calls(&redis).await;
    catch_up(alone).await;
    let one = calls(&redis).await - before;
    assert!(one > 30, "the log is read in many parts: {one}");

    let node = node(&redis.url(), &[("READ_BYTES", "4KiB")]).await;
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(reader(&node).await);
    }
    let before = calls(&redis).await;
    readers.into_iter().map(catch_up).collect::<JoinSet<_>>().join_all().await;
    let all = calls(&redis).await - before;
    assert!(all < 4 * one, "{all} calls for {READERS} readers, {one} for one");
}
