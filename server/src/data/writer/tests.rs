//! The history writer, cut off at any moment: each record is kept once, in the order of the log.

use bytes::Bytes;
use motience_log::{Entry, SessionName};
use motience_proto::model::{LogEpoch, ProducerEpoch, RecordId, Role, Seq};
use motience_relay::StartPosition;
use motience_store::{self as store, HistoryQuery};
use motience_testing::{Postgres, Redis};
use serde_json::json;
use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    data::reader::{QUIET, finish},
    http::tests::{Platform, platform, platform_on},
};

/// Longest wait for what a test waits for.
pub(in crate::data) const LIMIT: Duration = Duration::from_secs(30);

pub(in crate::data) async fn producer(platform: &Platform, name: &str) -> ProducerId {
    platform.account(Role::Producer, name).await.0.id.producer()
}

/// Sends the records `from..to`, whose data are these numbers.
pub(in crate::data) async fn send(platform: &Platform, producer: ProducerId, from: u64, to: u64) {
    let relay = &platform.services.backend.relay;
    let publisher = relay.ephemeral_publisher(relay.log_of(producer).await.unwrap()).await.unwrap();
    for n in from..to {
        let ticket = publisher.submit(record(n).into()).await.unwrap();
        publisher.committed(ticket).await.unwrap();
    }
}

fn record(n: u64) -> String {
    json!({"device_id": "d", "timestamp": "2025-01-29T11:35:00Z", "data": n}).to_string()
}

/// The data of what was kept, in order.
async fn kept(platform: &Platform, producer: ProducerId) -> Vec<u64> {
    let (store, mut query, mut kept) = (&platform.services.backend.store, HistoryQuery::default(), Vec::new());
    while let Ok(entries) = store.history(producer, &query).await
        && let Some(last) = entries.last()
    {
        query.after = last.id;
        kept.extend(entries.iter().map(|entry| entry.data.get().parse::<u64>().unwrap()));
    }
    kept
}

async fn wait_for(platform: &Platform, producer: ProducerId, records: usize) {
    let deadline = Instant::now() + LIMIT;
    while kept(platform, producer).await.len() < records {
        assert!(Instant::now() < deadline, "the history is not written in time");
        sleep(Duration::from_millis(20)).await;
    }
}

fn start(platform: &Platform) -> (JoinHandle<()>, CancellationToken) {
    let stop = CancellationToken::new();
    (tokio::spawn(history_writer(Arc::clone(&platform.services), stop.clone())), stop)
}

async fn stopped((writing, stop): (JoinHandle<()>, CancellationToken)) {
    stop.cancel();
    timeout(LIMIT, writing).await.expect("it ends by itself").unwrap();
}

#[tokio::test]
async fn what_comes_in_while_the_node_stops_is_kept() {
    let platform = platform(&[]).await;
    let (known, new) = (producer(&platform, "known").await, producer(&platform, "new").await);
    let (writing, stop) = start(&platform);
    send(&platform, known, 0, 1).await;
    wait_for(&platform, known, 1).await;
    stop.cancel();
    send(&platform, known, 1, 51).await;
    send(&platform, new, 0, 50).await;
    timeout(LIMIT, writing).await.expect("it ends by itself").unwrap();
    assert_eq!(kept(&platform, known).await, (0..51).collect::<Vec<_>>());
    assert_eq!(kept(&platform, new).await, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_producer_behind_the_newest_one_is_followed_once_it_sends() {
    let platform = platform(&[]).await;
    let late = producer(&platform, "late").await;
    let mut writer = Writer::new(Arc::clone(&platform.services));
    writer.reader.newest = late.0 + 1;
    send(&platform, late, 0, 3).await;
    writer.reader.look().await;
    finish(&mut writer).await;
    assert_eq!(kept(&platform, late).await, [0, 1, 2]);
    // Another goes on from there: there is nothing left to read.
    let mut next = Writer::new(Arc::clone(&platform.services));
    next.reader.look().await;
    assert!(timeout(QUIET, next.reader.next()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_writers_at_once_keep_each_record_once() {
    const RECORDS: u64 = 1500;
    let platform = platform(&[]).await;
    let producers = [producer(&platform, "a").await, producer(&platform, "b").await];
    // As two nodes would that both believe to hold the lease.
    let writers = [start(&platform), start(&platform)];
    tokio::join!(send(&platform, producers[0], 0, RECORDS), send(&platform, producers[1], 0, RECORDS));
    for producer in producers {
        wait_for(&platform, producer, RECORDS as usize).await;
        assert_eq!(kept(&platform, producer).await, (0..RECORDS).collect::<Vec<_>>());
    }
    for writer in writers {
        stopped(writer).await;
    }
    assert_eq!(kept(&platform, producers[0]).await.len() as u64, RECORDS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_that_is_killed_is_gone_on_from() {
    const RECORDS: u64 = 2000;
    let platform = platform(&[]).await;
    let producer = producer(&platform, "p").await;
    // Wherever a writer is cut off, in the midst of a commit too, the next one goes on.
    let killing = async {
        for round in 1..=20_u64 {
            let (writing, _stop) = start(&platform);
            wait_for(&platform, producer, (round * 40) as usize).await;
            sleep(Duration::from_micros(fastrand::u64(0..20_000))).await;
            writing.abort();
            assert!(writing.await.unwrap_err().is_cancelled());
        }
    };
    tokio::join!(killing, send(&platform, producer, 0, RECORDS));
    stopped(start(&platform)).await;
    assert_eq!(kept(&platform, producer).await, (0..RECORDS).collect::<Vec<_>>());
    let stands = platform.services.backend.store.history_cursor(producer).await.unwrap();
    assert_eq!(stands.map(|cursor| cursor.offset), Some(Offset(RECORDS)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_was_away_gets_what_came_in_meanwhile() {
    let mut postgres = Postgres::start().await;
    let platform = platform_on(&[], store::Config::Postgres { url: postgres.url().into(), max_connections: 4 }).await;
    let producer = producer(&platform, "p").await;
    let writer = start(&platform);
    send(&platform, producer, 0, 100).await;
    wait_for(&platform, producer, 100).await;
    let mut follower = platform.services.backend.relay.subscriber();
    follower.follow(producer, StartPosition::Live).await.unwrap();

    // In the midst of the flow, so that a commit is running.
    tokio::join!(send(&platform, producer, 100, 1000), postgres.stop());
    send(&platform, producer, 1000, 3000).await;
    // Live delivery goes on without it.
    let mut seen = Offset(0);
    while seen < Offset(3000) {
        let delivery = timeout(LIMIT, follower.next()).await.expect("delivery needs no database");
        if let Delivery::Batch { batch, .. } = delivery {
            seen = batch.last();
        }
    }
    postgres.start_again().await;
    wait_for(&platform, producer, 3000).await;
    assert_eq!(kept(&platform, producer).await, (0..3000).collect::<Vec<_>>());
    stopped(writer).await;
    assert_eq!(kept(&platform, producer).await.len(), 3000);
}

#[tokio::test]
async fn a_log_that_lost_its_tail_leaves_one_row_for_each_record() {
    let platform = platform(&[]).await;
    let producer = producer(&platform, "p").await;
    let mut writer = Writer::new(Arc::clone(&platform.services));
    writer.reader.look().await;
    let key = platform.services.backend.relay.log_of(producer).await.unwrap();
    let batch = |epoch, first, seqs: &[u64]| {
        let entry = |&seq: &u64| Entry {
            record_id: RecordId { producer_epoch: ProducerEpoch(7), seq: Seq(seq) },
            message: Bytes::from(record(seq)),
        };
        let batch = Batch::new(key, LogEpoch(epoch), Offset(first), seqs.iter().map(entry).collect());
        Delivery::Batch { batch: Arc::new(batch), after: Offset(first - 1) }
    };
    let reset = Delivery::Notice(Notice::Reset { producer, cursor: Cursor { log_epoch: LogEpoch(2), offset: Offset(2) } });
    // Records 3 and 4 were lost by the log after they were kept; they come again, the other way round.
    for delivery in [batch(1, 1, &[1, 2]), batch(1, 3, &[3, 4]), reset, batch(2, 3, &[4, 5]), batch(2, 5, &[3, 6])] {
        writer.take(delivery);
        if fastrand::bool() {
            writer.settle().await;
        }
    }
    // Records that retention removed move the cursor too.
    writer.take(Delivery::Notice(Notice::Gap { producer, from: Offset(7), to: Offset(9), cause: GapCause::Retention }));
    writer.settle().await;
    assert_eq!(kept(&platform, producer).await, [1, 2, 3, 4, 5, 6]);
    let stands = platform.services.backend.store.history_cursor(producer).await.unwrap().unwrap();
    assert_eq!(stands.offset, Offset(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_a_cluster_one_node_writes_and_another_goes_on() {
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    let (redis, postgres) = (redis.url(), postgres.url());
    let settings = [("REDIS_URL", redis.as_str()), ("DATABASE_URL", &postgres), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")];
    let database = || store::Config::Postgres { url: postgres.as_str().into(), max_connections: 4 };
    let nodes = [platform_on(&settings, database()).await, platform_on(&settings, database()).await];
    let producer = producer(&nodes[0], "p").await;
    let (first, _stop) = start(&nodes[0]);
    send(&nodes[1], producer, 0, 100).await;
    wait_for(&nodes[0], producer, 100).await;
    let second = start(&nodes[1]);
    tokio::join!(send(&nodes[0], producer, 100, 400), async {
        wait_for(&nodes[1], producer, 200).await;
        first.abort();
        assert!(first.await.unwrap_err().is_cancelled());
    });
    // The dead node's lease ends by the other's clock.
    nodes[1].time.advance(Duration::from_secs(11));
    // The first may have kept all of it before it died; these only the second can keep.
    send(&nodes[0], producer, 400, 450).await;
    wait_for(&nodes[1], producer, 450).await;
    assert_eq!(kept(&nodes[1], producer).await, (0..450).collect::<Vec<_>>());

    // In order, it is handed over at once.
    stopped(second).await;
    let third = start(&nodes[0]);
    send(&nodes[0], producer, 450, 500).await;
    wait_for(&nodes[0], producer, 500).await;
    stopped(third).await;
    assert_eq!(kept(&nodes[0], producer).await, (0..500).collect::<Vec<_>>());
}

/// A device that comes back resends what the log says it has not seen.
async fn resend(platform: &Platform, producer: ProducerId, until: u64) -> u64 {
    let name = SessionName::device(&DeviceId::new("d").unwrap());
    let relay = &platform.services.backend.relay;
    let publisher = relay.publisher(relay.log_of(producer).await.unwrap(), name, ProducerEpoch(7)).await.unwrap();
    let (seen, mut sent) = (publisher.seen(), 0);
    for seq in (1..=until).filter(|seq| !seen.contains(*seq)) {
        let mut group = publisher.group();
        group.push(Seq(seq), record(seq).into()).unwrap();
        let ticket = group.submit().await.unwrap();
        publisher.committed(ticket).await.unwrap();
        sent += 1;
    }
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_redis_that_lost_its_tail_or_all_leaves_one_row_for_each_record() {
    let (mut redis, postgres) = (Redis::durable().await, Postgres::start().await);
    let (url, database) = (redis.url(), postgres.url());
    let settings = [("REDIS_URL", url.as_str()), ("DATABASE_URL", &database), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")];
    let config = store::Config::Postgres { url: database.as_str().into(), max_connections: 4 };
    let platform = platform_on(&settings, config).await;
    let producer = producer(&platform, "p").await;
    let writer = start(&platform);
    resend(&platform, producer, 200).await;
    wait_for(&platform, producer, 200).await;
    let mut records = 200;
    for wiped in [false, true] {
        redis.stop().await;
        if wiped {
            redis.wipe();
        } else {
            redis.cut_tail(1500);
        }
        redis.start_again().await;
        let sent = answers(&platform, producer, records + 100).await;
        assert!(sent > 100, "the log lost something: {sent}");
        records += 100;
        wait_for(&platform, producer, records as usize).await;
        let mut kept = kept(&platform, producer).await;
        kept.sort_unstable();
        assert_eq!(kept, (1..=records).collect::<Vec<_>>());
    }
    stopped(writer).await;
}

/// [`resend`] once Redis answers again.
async fn answers(platform: &Platform, producer: ProducerId, until: u64) -> u64 {
    let deadline = Instant::now() + LIMIT;
    while platform.services.backend.relay.log().ping().await.is_err() {
        assert!(Instant::now() < deadline, "Redis does not come back");
        sleep(Duration::from_millis(50)).await;
    }
    resend(platform, producer, until).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_stranger_publishes_is_not_kept_and_hides_nothing() {
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    let (url, database) = (redis.url(), postgres.url());
    let settings = [("REDIS_URL", url.as_str()), ("DATABASE_URL", &database), ("JWT_SECRET", "0123456789abcdef0123456789abcdef")];
    let platform = platform_on(&settings, store::Config::Postgres { url: database.as_str().into(), max_connections: 4 }).await;
    let producer = producer(&platform, "p").await;
    let writer = start(&platform);
    send(&platform, producer, 0, 1).await;
    wait_for(&platform, producer, 1).await;
    let backend = &platform.services.backend;
    let key = backend.relay.log_of(producer).await.unwrap();
    let channel = format!("m:{}:{{{key}}}:live", backend.store.installation().await.unwrap());
    let head = backend.relay.log().bounds(key).await.unwrap();
    for (n, place, seal) in [(666, 2, ""), (667, 2, &"0".repeat(40)[..]), (668, 90, "")] {
        let forged = format!("{} {place} 0 {seal} \n{} 1\n{}", head.log_epoch(), record(n).len(), record(n));
        let typed = forged.replace('"', "\\\"").replace('\n', "\\n");
        let heard = redis.command(&format!("SPUBLISH {channel} \"{typed}\"")).await;
        assert!(heard.starts_with(":1"), "the node listens: {heard}");
    }
    send(&platform, producer, 1, 10).await;
    wait_for(&platform, producer, 10).await;
    assert_eq!(kept(&platform, producer).await, (0..10).collect::<Vec<_>>());
    stopped(writer).await;
}
