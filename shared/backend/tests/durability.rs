//! The failures that each durability level survives: the tests that docs/delivery.md names.
//!
//! A crash of this process is played by copying its files while it runs and opening the copy: exactly what SIGKILL leaves.
//! A loss of power is played by cutting the end of a file, since the page cache outlives a process but not a machine.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use motience_backend::{self as backend, Backend, Config};
use motience_log::SessionName;
use motience_proto::model::{Cursor, DeviceId, LogKey, Offset, ProducerEpoch, ProducerId, Seq};
use motience_relay::{Delivery, Notice, Publisher, StartPosition, Subscriber, Ticket};
use motience_runtime::clock::Clock;
use motience_settings::env::Env;
use motience_store as store;
use motience_testing::Redis;
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(20);
const P: ProducerId = ProducerId(1);
const LOG: LogKey = LogKey::numbered(P);

async fn open(settings: &[(&str, &str)]) -> Result<Arc<Backend>, backend::Error> {
    let env = settings.iter().fold(Env::default(), |env, (k, v)| env.with(k, *v));
    let mut config = Config::from_env(&env).unwrap();
    config.store = store::Config::SqliteMemory;
    Backend::open(config, Clock::system()).await
}

async fn in_file(dir: &Path) -> Arc<Backend> {
    open(&[("DATA_DIR", dir.to_str().unwrap())]).await.unwrap()
}

async fn in_redis(redis: &Redis, replicas: u32) -> Arc<Backend> {
    in_redis_of(redis, redis, replicas).await
}

/// Opens a node whose accounts are kept beside another Redis, which may be gone by now.
async fn in_redis_of(accounts: &Redis, redis: &Redis, replicas: u32) -> Arc<Backend> {
    let env = Env::default().with("DATABASE_URL", "postgres://unused").with("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    let mut config = Config::from_env(&env).unwrap();
    config.store = store::Config::SqliteFile { path: accounts.accounts() };
    config.redis = Some(redis.url().into());
    config.replicas = replicas;
    Backend::open(config, Clock::system()).await.unwrap()
}

async fn publisher(node: &Backend) -> Publisher {
    let device = SessionName::device(&DeviceId::new("d").unwrap());
    node.relay.publisher(LOG, device, ProducerEpoch(1)).await.unwrap()
}

async fn submit(publisher: &Publisher, seqs: impl IntoIterator<Item = u64>) -> Ticket {
    let mut group = publisher.group();
    for n in seqs {
        let json = format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#);
        group.push(Seq(n), Bytes::from(json)).unwrap();
    }
    group.submit().await.unwrap()
}

async fn send(publisher: &Publisher, seqs: impl IntoIterator<Item = u64>) {
    let ticket = submit(publisher, seqs).await;
    timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
}

async fn follow(node: &Backend, from: StartPosition) -> Subscriber {
    let mut subscriber = node.relay.subscriber();
    timeout(LIMIT, subscriber.follow(P, from)).await.unwrap().unwrap();
    subscriber
}

async fn next(subscriber: &mut Subscriber) -> Delivery {
    timeout(LIMIT, subscriber.next()).await.expect("a delivery in time")
}

/// The numbers of the next `count` records.
async fn receive(subscriber: &mut Subscriber, count: usize) -> Vec<u64> {
    let mut got = Vec::new();
    while got.len() < count {
        let Delivery::Batch { batch, after } = next(subscriber).await else { panic!("only records are expected") };
        got.extend(batch.after(after).map(|(_, record_id, _)| record_id.seq.0));
    }
    got
}

async fn reset(subscriber: &mut Subscriber) -> Cursor {
    match next(subscriber).await {
        Delivery::Notice(Notice::Reset { cursor, .. }) => cursor,
        other => panic!("a reset is expected, not {other:?}"),
    }
}

async fn cursor(node: &Backend) -> Cursor {
    let head = node.relay.log().bounds(LOG).await.unwrap();
    Cursor { log_epoch: head.log_epoch(), offset: head.last }
}

/// A copy of a running node's folder as SIGKILL would leave it.
fn crash_image(dir: &Path) -> tempfile::TempDir {
    // A crash is of one moment: nothing is written while the files are copied one by one.
    let hold = std::fs::File::open(dir.join("log.hold")).unwrap();
    hold.lock().unwrap();
    image(dir)
}

/// A copy of a node's log.
fn image(dir: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    let folders = [(dir.to_owned(), image.path().to_owned()), (dir.join("log.segments"), image.path().join("log.segments"))];
    for (from, to) in folders {
        std::fs::create_dir_all(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    image
}

/// The segment that is being written.
fn last_segment(dir: &Path) -> std::path::PathBuf {
    let segments = std::fs::read_dir(dir.join("log.segments")).unwrap().map(|entry| entry.unwrap().path());
    segments.filter(|path| path.extension().is_some_and(|end| end == "segment")).max().unwrap()
}

#[tokio::test]
async fn memory_survives_nothing_and_says_so() {
    let node = open(&[("LOG_DURABILITY", "memory")]).await.unwrap();
    assert_eq!(node.relay.log().durability(), "memory");
    send(&publisher(&node).await, 1..=5).await;
    let place = cursor(&node).await;
    node.close().await;
    let again = open(&[("LOG_DURABILITY", "memory")]).await.unwrap();
    let mut late = follow(&again, StartPosition::After(place)).await;
    assert_eq!(reset(&mut late).await.offset, Offset(0), "a reader is told, never left waiting");
}

#[tokio::test]
async fn file_survives_a_crash_of_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let node = in_file(dir.path()).await;
    assert_eq!(node.relay.log().durability(), "file");
    send(&publisher(&node).await, 1..=5).await;
    let place = cursor(&node).await;

    let image = crash_image(dir.path());
    let again = in_file(image.path()).await;
    let device = publisher(&again).await;
    assert_eq!(device.seen().to_string(), "1-5", "what was acknowledged is not sent again");
    send(&device, [5, 6]).await;
    let mut late = follow(&again, StartPosition::After(Cursor { offset: Offset(3), ..place })).await;
    assert_eq!(reset(&mut late).await, Cursor { offset: Offset(3), ..cursor(&again).await }, "nothing before it was lost");
    assert_eq!(receive(&mut late, 3).await, [4, 5, 6]);
}

#[tokio::test]
async fn file_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let node = in_file(dir.path()).await;
        let device = publisher(&node).await;
        assert_eq!(device.seen().max().unwrap_or(0), round * 10);
        send(&device, round * 10 + 1..=round * 10 + 10).await;
        let mut all = follow(&node, StartPosition::Earliest).await;
        assert_eq!(receive(&mut all, (round * 10 + 10) as usize).await, (1..=round * 10 + 10).collect::<Vec<_>>());
        drop(device);
        node.close().await;
    }
}

#[tokio::test]
async fn file_notices_that_it_lost_its_tail() {
    let dir = tempfile::tempdir().unwrap();
    let node = in_file(dir.path()).await;
    let device = publisher(&node).await;
    for n in 1..=20 {
        send(&device, [n]).await;
    }
    let place = cursor(&node).await;
    for cut in [1, 200, 1_000, 60_000] {
        let image = crash_image(dir.path());
        let segment = last_segment(image.path());
        let length = segment.metadata().unwrap().len();
        std::fs::File::options().write(true).open(&segment).unwrap().set_len(length.saturating_sub(cut)).unwrap();
        let again = in_file(image.path()).await;
        let left = cursor(&again).await.offset;
        assert!(left < place.offset, "{cut} bytes held at least one record");
        let device = publisher(&again).await;
        assert_eq!(device.seen().max().unwrap_or(0), left.0, "what is lost may be sent again");
        let mut late = follow(&again, StartPosition::After(place)).await;
        assert_eq!(reset(&mut late).await.offset, left);
        send(&device, left.0 + 1..=20).await;
        assert_eq!(receive(&mut late, (20 - left.0) as usize).await, (left.0 + 1..=20).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn file_acknowledges_nothing_that_it_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let node = in_file(dir.path()).await;
    let device = publisher(&node).await;
    send(&device, [1]).await;
    let mut live = follow(&node, StartPosition::Live).await;
    // Whoever holds this lock, to make a copy for one, keeps the log from its files, as a full disk would.
    let thief = std::fs::File::open(dir.path().join("log.hold")).unwrap();
    thief.lock().unwrap();
    let ticket = submit(&device, [2]).await;
    assert_eq!(receive(&mut live, 1).await, [2], "live delivery waits for nothing");
    assert!(timeout(Duration::from_millis(300), device.committed(ticket)).await.is_err());
    let deadline = Instant::now() + LIMIT;
    while node.ready().await.is_ok() {
        assert!(Instant::now() < deadline, "a node that cannot write is not ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    thief.unlock().unwrap();
    timeout(LIMIT, device.committed(ticket)).await.unwrap().unwrap();
    assert_eq!(cursor(&node).await.offset, Offset(2), "written once, however often it was tried");
}

#[tokio::test]
async fn file_can_be_copied_while_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let node = in_file(dir.path()).await;
    let device = publisher(&node).await;
    send(&device, 1..=5).await;
    let hold = std::fs::File::open(dir.path().join("log.hold")).unwrap();
    hold.lock().unwrap();
    let ticket = submit(&device, [6]).await;
    let image = image(dir.path());
    hold.unlock().unwrap();
    timeout(LIMIT, device.committed(ticket)).await.unwrap().unwrap();
    let copy = in_file(image.path()).await;
    assert_eq!(publisher(&copy).await.seen().to_string(), "1-5");
    assert_eq!(receive(&mut follow(&copy, StartPosition::Earliest).await, 5).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn file_is_one_process_own() {
    let dir = tempfile::tempdir().unwrap();
    let _node = in_file(dir.path()).await;
    let second = open(&[("DATA_DIR", dir.path().to_str().unwrap())]).await.unwrap_err();
    let told = motience_runtime::causes(&second);
    assert!(told.contains("another process uses the log"), "{told}");
}

#[tokio::test]
async fn redis_survives_a_crash_of_the_process() {
    let redis = Redis::start().await;
    let node = in_redis(&redis, 0).await;
    send(&publisher(&node).await, 1..=5).await;
    let place = cursor(&node).await;
    // The first node is not closed: it vanishes, as far as the second can see.
    let again = in_redis(&redis, 0).await;
    assert_eq!(publisher(&again).await.seen().to_string(), "1-5");
    let mut late = follow(&again, StartPosition::After(Cursor { offset: Offset(3), ..place })).await;
    assert_eq!(receive(&mut late, 2).await, [4, 5], "Redis lives on, so the log does: no reset");
}

#[tokio::test]
async fn redis_survives_a_restart() {
    let mut redis = Redis::durable().await;
    let node = in_redis(&redis, 0).await;
    send(&publisher(&node).await, 1..=5).await;
    node.close().await;
    redis.restart().await;
    let again = in_redis(&redis, 0).await;
    assert_eq!(publisher(&again).await.seen().to_string(), "1-5");
    assert_eq!(receive(&mut follow(&again, StartPosition::Earliest).await, 5).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn redis_notices_a_failover() {
    let mut redis = Redis::start().await;
    let replica = Redis::replica_of(&redis).await;
    let node = in_redis(&redis, 0).await;
    let device = publisher(&node).await;
    send(&device, 1..=5).await;
    // Everything so far has reached the replica before it is cut off. WAIT waits for the last write of its own connection only.
    assert!(redis.command("INCR written\r\nWAIT 1 10000").await.contains("\n:1\r"));
    replica.pause();
    send(&device, 6..=8).await;
    let place = cursor(&node).await;
    redis.kill();
    replica.resume();
    replica.command("REPLICAOF NO ONE").await;
    let after = in_redis_of(&redis, &replica, 0).await;
    let device = publisher(&after).await;
    let left = device.seen().max().unwrap();
    assert!((5..=8).contains(&left), "{left}");
    send(&device, left + 1..=9).await;
    let mut late = follow(&after, StartPosition::After(place)).await;
    assert_eq!(reset(&mut late).await.offset, Offset(left));
    assert_eq!(receive(&mut late, (9 - left) as usize).await, (left + 1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn redis_survives_a_crash_of_redis() {
    let mut redis = Redis::durable().await;
    let node = in_redis(&redis, 0).await;
    assert_eq!(node.relay.log().durability(), "redis");
    let device = publisher(&node).await;
    send(&device, 1..=5).await;
    let mut live = follow(&node, StartPosition::Earliest).await;
    assert_eq!(receive(&mut live, 5).await.len(), 5);
    redis.kill();
    redis.start_again().await;
    send(&device, [6]).await;
    assert_eq!(reset(&mut live).await.offset, Offset(5));
    assert_eq!(receive(&mut live, 1).await, [6]);
}

#[tokio::test]
async fn redis_notices_that_it_lost_its_tail() {
    let mut redis = Redis::durable().await;
    let node = in_redis(&redis, 0).await;
    let device = publisher(&node).await;
    for n in 1..=20 {
        send(&device, [n]).await;
    }
    let mut live = follow(&node, StartPosition::Earliest).await;
    assert_eq!(receive(&mut live, 20).await.len(), 20);
    redis.kill();
    redis.cut_tail(1500);
    redis.start_again().await;
    send(&device, [21]).await;
    let shared = reset(&mut live).await.offset;
    assert!(shared < Offset(20) && shared > Offset(0), "{shared}");
    assert_eq!(receive(&mut live, 1).await, [21]);
    assert_eq!(cursor(&node).await.offset, shared.next(), "the offset is given out again, in another life");
    // A device that comes back learns what is gone and may send it again.
    drop(device);
    let again = publisher(&node).await;
    assert!(!again.seen().contains(20));
    send(&again, 1..=21).await;
    assert_eq!(cursor(&node).await.offset, Offset(21), "each once");
}

#[tokio::test]
async fn half_a_write_does_not_come_back_at_the_second_crash() {
    let mut redis = Redis::durable().await;
    let node = in_redis(&redis, 0).await;
    let device = publisher(&node).await;
    for n in 1..=20 {
        send(&device, [n]).await;
    }
    redis.kill();
    // Within the transaction that wrote record 20, whose last command alone is 14 bytes long.
    redis.cut_tail(40);
    redis.start_again().await;
    send(&device, [21]).await;
    let mut first = follow(&node, StartPosition::Earliest).await;
    let told = receive(&mut first, 20).await;
    assert_eq!(told.last(), Some(&21));
    rewritten(&redis).await;
    redis.kill();
    redis.start_again().await;
    send(&device, [22]).await;
    let mut second = follow(&node, StartPosition::Earliest).await;
    assert_eq!(receive(&mut second, 21).await, [told, vec![22]].concat());
}

/// Waits until Redis has written its append-only file anew.
async fn rewritten(redis: &Redis) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let info = redis.command("INFO persistence").await;
        let done = ["aof_rewrite_in_progress:0", "aof_rewrite_scheduled:0"].iter().all(|state| info.contains(state));
        if done && !info.contains("aof_last_rewrite_time_sec:-1") {
            return;
        }
        assert!(Instant::now() < deadline, "{info}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn redis_notices_that_it_was_wiped() {
    let mut redis = Redis::durable().await;
    let node = in_redis(&redis, 0).await;
    let device = publisher(&node).await;
    send(&device, 1..=20).await;
    let mut live = follow(&node, StartPosition::Live).await;
    let place = cursor(&node).await;
    redis.kill();
    redis.wipe();
    redis.start_again().await;
    send(&device, [21]).await;
    assert_eq!(reset(&mut live).await.offset, Offset(0));
    assert_eq!(receive(&mut live, 1).await, [21]);
    let mut late = follow(&node, StartPosition::After(place)).await;
    assert_eq!(reset(&mut late).await.offset, Offset(0));
    assert_eq!(receive(&mut late, 1).await, [21]);
}

#[tokio::test]
async fn redis_notices_that_it_was_flushed_while_it_ran() {
    let redis = Redis::start().await;
    let node = in_redis(&redis, 0).await;
    let device = publisher(&node).await;
    send(&device, 1..=20).await;
    let mut live = follow(&node, StartPosition::Live).await;
    let place = cursor(&node).await;
    redis.command("FLUSHALL").await;
    send(&device, 21..=60).await;
    let mut late = follow(&node, StartPosition::After(place)).await;
    for reader in [&mut live, &mut late] {
        assert_eq!(reset(reader).await.offset, Offset(0), "offsets are given out again, in another life");
        assert_eq!(receive(reader, 40).await, (21..=60).collect::<Vec<_>>());
    }
}

/// Records that a connection handed in, and that were not written before another connection replaced it, are not written twice.
#[tokio::test]
async fn redis_takes_no_late_write_of_an_earlier_connection() {
    let mut redis = Redis::durable().await;
    let node = in_redis(&redis, 0).await;
    let old = publisher(&node).await;
    send(&old, [1]).await;
    let new = publisher(&node).await;
    send(&new, [2, 3]).await;
    redis.kill();
    redis.start_again().await;
    // Both wrote last in an earlier epoch. The old one comes first now, with records that the other has written.
    let ticket = submit(&old, [2, 3, 4]).await;
    timeout(LIMIT, old.committed(ticket)).await.unwrap().unwrap();
    assert_eq!(cursor(&node).await.offset, Offset(4), "2 and 3 are left out");
    // The genuine one is asked to come again, and does not learn that it was replaced.
    let ticket = submit(&new, [4, 5]).await;
    let error = timeout(LIMIT, new.committed(ticket)).await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "the log began a new epoch");
    let again = publisher(&node).await;
    assert_eq!(again.seen().to_string(), "1-4");
    send(&again, [4, 5]).await;
    assert_eq!(cursor(&node).await.offset, Offset(5));
}

#[tokio::test]
async fn redis_fills_what_pubsub_lost() {
    let redis = Redis::start().await;
    let node = in_redis(&redis, 0).await;
    let device = publisher(&node).await;
    let mut live = follow(&node, StartPosition::Live).await;
    for n in 1..=50 {
        if n % 10 == 0 {
            redis.command("CLIENT KILL TYPE pubsub").await;
        }
        send(&device, [n]).await;
    }
    assert_eq!(receive(&mut live, 50).await, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn replicas_have_what_is_acknowledged() {
    let mut redis = Redis::start().await;
    let replica = Redis::replica_of(&redis).await;
    let node = in_redis(&redis, 1).await;
    assert_eq!(node.relay.log().durability(), "redis+1");
    let device = publisher(&node).await;
    send(&device, 1..=5).await;
    let mut live = follow(&node, StartPosition::Live).await;

    replica.pause();
    let ticket = submit(&device, [6]).await;
    assert_eq!(receive(&mut live, 1).await, [6], "live delivery waits for nothing");
    // Long enough for the wait to fail, and for opening again to fail behind it.
    assert!(timeout(Duration::from_secs(5), device.committed(ticket)).await.is_err(), "acknowledged without the replica");
    replica.resume();
    timeout(LIMIT, device.committed(ticket)).await.unwrap().unwrap();
    assert_eq!(cursor(&node).await.offset, Offset(6), "written once, however often it was tried");

    // The machine is lost; the replica takes over.
    redis.kill();
    replica.command("REPLICAOF NO ONE").await;
    let after = in_redis_of(&redis, &replica, 0).await;
    let device = publisher(&after).await;
    assert_eq!(device.seen().to_string(), "1-6");
    let mut all = follow(&after, StartPosition::Earliest).await;
    assert_eq!(receive(&mut all, 6).await, (1..=6).collect::<Vec<_>>());
}
