//! Logs as nodes of the last version wrote them: an entry of the stream for each record.

use std::time::Duration;

use motience_proto::model::Offset;
use motience_relay::{Delivery, StartPosition};
use motience_runtime::clock::{Clock, from_millis, millis};
use motience_testing::Redis;
use time::OffsetDateTime;
use tokio::time::timeout;

use super::{Device, LIMIT, P, all, keys, node, try_node, write};

/// An append of the last version: records `seqs` of the device `name` at the offsets from `first` on. Returns when they came, a minute ago, in
/// milliseconds since 1970.
async fn write_as_last_version(redis: &Redis, keys: &str, name: &str, first: u64, seqs: std::ops::RangeInclusive<u64>) -> i64 {
    let now = millis(Clock::system().now());
    let (came, mut offset, count) = (now - 60_000, first, *seqs.end());
    for seq in seqs {
        redis.command(&format!("XADD {keys}:log {offset}-{seq} 0000000000000007 '{{\"n\":{seq}}}{came:011x}'")).await;
        redis.command(&format!("ZADD {keys}:ids {now} d:{name}-{seq}")).await;
        offset += 1;
    }
    let (last, total) = (offset - 1, 18 * (offset - 1));
    redis.command(&format!("HSET {keys}:s:d:{name} epoch 7 seen 1-{count}")).await;
    redis.command(&format!("HSET {keys}:meta last {last} total {total} marked {total} since {came} redo {}", "\"\"")).await;
    redis.command(&format!("RPUSH {keys}:marks \"{last} {total} {came}\"")).await;
    came
}

/// Numbers that a reader from after `after` gets in one read, and the first offset of it.
async fn read_from(log: &motience_log::Log, after: u64) -> (u64, Vec<u64>) {
    let read = log.read(P, Offset(after), 1).await.unwrap();
    let batch = &read.batches[0];
    (batch.first.0, batch.after(Offset(after)).map(|(_, id, _)| id.seq.0).collect())
}

#[tokio::test]
async fn a_log_of_the_last_version_is_read_and_gone_on_with() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let (log, keys) = (node.relay.log(), keys(&node, P).await);
    let mut devices = [Device::new(log, P, "a").await];
    let came = write_as_last_version(&redis, &keys, "a", 1, 1..=4).await;
    // Whatever is there is read, at its time, from each position.
    assert_eq!(all(log, P).await.len(), 4);
    let read = log.read(P, Offset(2), 1 << 20).await.unwrap();
    assert_eq!((read.batches[0].first.0, read.batches[0].len()), (3, 2));
    assert_eq!(read.batches[0].received.map(millis), Some(came));
    assert_eq!(log.bounds(P).await.unwrap().first.0, 1);
    // The dedup window and the clients' ids count on.
    devices[0].reopen(log).await.unwrap();
    assert_eq!(devices[0].seen.to_string(), "1-4");
    let mut forgetful = [Device::new(log, P, "a").await];
    forgetful[0].seen = motience_proto::model::RangeSet::new();
    write(log, &mut forgetful, &[3, 4, 5, 6, 7]).await.unwrap();
    assert_eq!(all(log, P).await.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert!(redis.command(&format!("XLEN {keys}:log")).await.starts_with(":5\r"), "the new records are one entry");
    // Within a chunk, and across the border.
    assert_eq!(read_from(log, 3).await, (4, vec![4]));
    assert_eq!(read_from(log, 4).await, (5, vec![5, 6, 7]));
    assert_eq!(read_from(log, 6).await, (5, vec![7]));
    assert_eq!(log.offset_for_time(P, from_millis(came)).await.unwrap(), Offset(0));
    assert_eq!(log.offset_for_time(P, from_millis(came + 1)).await.unwrap(), Offset(4));
}

/// While a node of the last version still writes, its records come from the log: what it publishes is not read any more.
#[tokio::test]
async fn a_node_of_the_last_version_beside_this_one_is_read_from_the_log() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let (log, keys) = (node.relay.log(), keys(&node, P).await);
    let mut devices = [Device::new(log, P, "a").await];
    let mut reader = node.relay.subscriber();
    timeout(LIMIT, reader.follow(P.producer, StartPosition::Live)).await.unwrap().unwrap();
    write(log, &mut devices, &[1, 2, 3]).await.unwrap();
    write_as_last_version(&redis, &keys, "b", 4, 1..=2).await;
    redis.command(&format!("SPUBLISH {keys}:live \"1 4 0000000000000007 {} \"", "0".repeat(40))).await;
    write(log, &mut devices, &[4, 5]).await.unwrap();
    let mut numbers = Vec::new();
    while numbers.len() < 7 {
        let Delivery::Batch { batch, after } = timeout(LIMIT, reader.next()).await.unwrap() else { panic!("nothing is lost") };
        numbers.extend(batch.after(after).map(|(offset, id, _)| (offset.0, id.seq.0)));
    }
    assert_eq!(numbers, [(1, 1), (2, 2), (3, 3), (4, 1), (5, 2), (6, 4), (7, 5)]);
}

/// Retention counts records, whatever entries they stand in.
#[tokio::test]
async fn retention_passes_from_the_old_entries_to_the_new() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_RETENTION_BYTES", "200")]).await;
    let (log, keys) = (node.relay.log(), keys(&node, P).await);
    let mut devices = [Device::new(log, P, "a").await];
    write_as_last_version(&redis, &keys, "a", 1, 1..=4).await;
    devices[0].reopen(log).await.unwrap();
    let mut seq = 4;
    let deadline = tokio::time::Instant::now() + LIMIT;
    while log.bounds(P).await.unwrap().first.0 <= 6 {
        assert!(tokio::time::Instant::now() < deadline, "the oldest go");
        write(log, &mut devices, &[seq + 1, seq + 2, seq + 3]).await.unwrap();
        seq += 3;
    }
    let bounds = log.bounds(P).await.unwrap();
    assert_eq!((bounds.last.0, (bounds.first.0 - 5) % 3), (seq, 0), "cut between chunks: {bounds:?}");
    let (first, numbers) = read_from(log, 0).await;
    assert_eq!((first, numbers[0]), (bounds.first.0, bounds.first.0));
    assert!(log.has_lost(P, OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1)).await.unwrap());
}

#[tokio::test]
async fn a_newer_layout_is_refused_in_words_and_an_older_one_is_raised() {
    let redis = Redis::start().await;
    let first = node(&redis.url(), &[]).await;
    let key = format!("m:{}:layout", first.store.installation().await.unwrap());
    let layout = async || redis.command(&format!("GET {key}")).await;
    assert!(layout().await.contains("\r\n2\r\n"));
    first.close().await;
    redis.command(&format!("SET {key} 1")).await;
    node(&redis.url(), &[]).await.close().await;
    assert!(layout().await.contains("\r\n2\r\n"));
    redis.command(&format!("SET {key} 3")).await;
    let Err(error) = try_node(&redis.url(), &[]).await else { panic!("it is opened") };
    let error = error.to_string();
    assert!(["Redis at", "newer release", "layout 3", "up to 2", "upgrade"].iter().all(|part| error.contains(part)), "{error}");
    assert!(layout().await.contains("\r\n3\r\n"), "it is left as it was");
}
