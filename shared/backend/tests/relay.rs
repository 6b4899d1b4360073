//! The relay over each log: what is acknowledged is delivered once and in order, whoever reads, from wherever.
//!
//! Every story runs against the in-process log and against a real Redis.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use motience_auth::{Client, DeviceStates, Grant, Scopes};
use motience_backend::{Backend, Config};
use motience_cluster::{Event, Reports};
use motience_limits::permits::{self, Permits};
use motience_log::{Log, Retention, SessionName, embedded};
use motience_proto::model::{
    ConsumerId, Cursor, CursorName, DeviceId, LogKey, Offset, ProducerEpoch, ProducerId, Role, Seq, Transport, Visibility,
};
use motience_relay::{
    Delivery, Hub, Limits, Notice, Publisher, Refusal, Relay, StartPosition, Subscriber, SubscriptionCache,
    pipeline::{Event as PipelineEvent, Item, Options, Reader, Start},
};
use motience_runtime::clock::Clock;
use motience_settings::env::Env;
use motience_store::{self as store, LogIds, NewUser, Store};
use motience_testing::Redis;
use time::OffsetDateTime;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);
const P: ProducerId = ProducerId(1);
const LOG: LogKey = LogKey::numbered(P);

/// One node over SQLite and the given log.
async fn node(redis: Option<&Redis>, settings: &[(&str, &str)]) -> Arc<Backend> {
    let env = settings.iter().fold(Env::default(), |env, (k, v)| env.with(k, *v));
    let mut config = Config::from_env(&env).unwrap();
    config.store = redis.map_or(store::Config::SqliteMemory, |redis| store::Config::SqliteFile { path: redis.accounts() });
    config.redis = redis.map(|r| r.url().to_owned().into());
    config.volatile = true;
    Backend::open(config, Clock::system()).await.unwrap()
}

/// One node over SQLite in memory and a log in files under `dir`.
async fn file_node(dir: &Path, settings: &[(&str, &str)]) -> Arc<Backend> {
    let env = settings.iter().fold(Env::default(), |env, (k, v)| env.with(k, *v));
    let mut config = Config::from_env(&env).unwrap();
    config.store = store::Config::SqliteMemory;
    config.data_dir = dir.to_owned();
    Backend::open(config, Clock::system()).await.unwrap()
}

/// Runs a story against each log.
macro_rules! stories {
    ($($name:ident $(= $settings:expr)?),+ $(,)?) => {$(
        mod $name {
            const SETTINGS: &[&[(&str, &str)]] = &[$(&$settings)?];

            #[tokio::test]
            async fn embedded() {
                super::$name(super::node(None, &SETTINGS.concat()).await).await;
            }

            #[tokio::test]
            async fn file() {
                let dir = tempfile::tempdir().unwrap();
                super::$name(super::file_node(dir.path(), &SETTINGS.concat()).await).await;
            }

            #[tokio::test]
            async fn redis() {
                let redis = super::Redis::start().await;
                super::$name(super::node(Some(&redis), &SETTINGS.concat()).await).await;
            }
        }
    )+};
}

stories!(
    records_arrive_once_and_in_order,
    a_newer_connection_fences_the_older,
    a_reconnect_learns_what_is_in_and_another_epoch_does_not,
    a_late_connection_of_a_process_that_is_gone_does_no_harm,
    cursors_begin_where_they_are_told,
    a_slow_reader_falls_back_to_the_log_and_loses_nothing,
    a_bad_record_is_refused_and_leaves_no_hole,
    a_pipeline_follows_subscriptions,
    a_reader_takes_little_at_a_time,
    a_clients_own_id_is_written_once,
    numbers_given_up_count_as_seen,
    holes_are_bounded_and_may_always_be_filled = [("LOG_MAX_DEDUP_RANGES", "4")],
    a_reader_may_begin_at_a_time,
    every_record_says_when_it_came,
    a_time_that_retention_has_passed_is_a_gap_too = [("LOG_RETENTION_BYTES", "33KiB"), ("RING_BYTES", "5000")],
    retention_leaves_a_gap_notice = [("LOG_RETENTION_BYTES", "33KiB"), ("RING_BYTES", "5000")],
    what_is_too_old_is_removed = [("LOG_RETENTION", "1s")],
    an_erased_log_holds_nothing,
    erased_records_are_gone_and_come_not_back,
    a_backlog_says_what_retention_cuts = [("LOG_RETENTION_BYTES", "256KiB")],
);

fn json(n: u64) -> Bytes {
    Bytes::from(format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"n":{n}}}}}"#))
}

fn device() -> SessionName {
    SessionName::device(&DeviceId::new("d").unwrap())
}

async fn send(publisher: &Publisher, seqs: impl IntoIterator<Item = u64>) {
    let mut group = publisher.group();
    for n in seqs {
        group.push(Seq(n), json(n)).unwrap();
    }
    let ticket = group.submit().await.unwrap();
    timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
}

/// A position in the present epoch of the log.
fn after(offset: u64) -> StartPosition {
    StartPosition::After(Cursor { offset: Offset(offset), ..Cursor::default() })
}

/// The next `count` messages as (offset, n).
async fn receive(subscriber: &mut Subscriber, count: usize) -> Vec<(u64, u64)> {
    let mut got = Vec::new();
    while got.len() < count {
        match timeout(LIMIT, subscriber.next()).await.expect("a delivery in time") {
            Delivery::Batch { batch, after } => got.extend(batch.after(after).map(|(offset, _, message)| (offset.0, number(message)))),
            other => panic!("{other:?}"),
        }
    }
    got
}

fn number(message: &[u8]) -> u64 {
    let value: serde_json::Value = serde_json::from_slice(message).unwrap();
    assert_eq!(value["producer_id"], "1");
    value["data"]["n"].as_u64().unwrap()
}

async fn records_arrive_once_and_in_order(node: Arc<Backend>) {
    let mut early = node.relay.subscriber();
    early.follow(P, StartPosition::Live).await.unwrap();
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, [1, 2, 3]).await;
    send(&publisher, [3, 2, 4]).await;
    assert_eq!(receive(&mut early, 4).await, [(1, 1), (2, 2), (3, 3), (4, 4)]);
    assert_eq!(publisher.seen().to_string(), "1-4");
    assert_eq!(node.reports.own_streams()[0].records, 4);
    node.ready().await.unwrap();
    drop(publisher);
    node.close().await;
}

async fn a_newer_connection_fences_the_older(node: Arc<Backend>) {
    let older = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&older, [1]).await;
    let newer = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    assert!(newer.fence() > older.fence());
    let mut group = older.group();
    group.push(Seq(2), json(2)).unwrap();
    let ticket = group.submit().await.unwrap();
    let refused = timeout(LIMIT, older.committed(ticket)).await.unwrap().unwrap_err();
    assert_eq!(refused.to_string(), "a newer connection of this device took over");
    send(&newer, [2]).await;
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(2));
}

/// A device began a new outbox, and a connection of its former process is dealt with only now.
async fn a_late_connection_of_a_process_that_is_gone_does_no_harm(node: Arc<Backend>) {
    let open = async |epoch| node.relay.publisher(LOG, device(), ProducerEpoch(epoch)).await.unwrap();
    send(&open(1).await, 1..=3).await;
    let new = open(2).await;
    send(&new, 1..=2).await;
    // The late one may even bring records.
    let late = open(1).await;
    assert_eq!(late.seen().to_string(), "1-3");
    send(&late, 3..=4).await;
    let back = open(2).await;
    assert_eq!(back.seen().to_string(), "1-2", "what is in is known");
    send(&back, 1..=3).await;
    let mut reader = node.relay.subscriber();
    reader.follow(P, StartPosition::Earliest).await.unwrap();
    let numbers: Vec<u64> = receive(&mut reader, 7).await.into_iter().map(|(_, n)| n).collect();
    assert_eq!(numbers, [1, 2, 3, 1, 2, 4, 3]);
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(7), "each of the two epochs once");
}

async fn a_reconnect_learns_what_is_in_and_another_epoch_does_not(node: Arc<Backend>) {
    let first = node.relay.publisher(LOG, device(), ProducerEpoch(7)).await.unwrap();
    send(&first, [1, 2, 5]).await;
    drop(first);
    let again = node.relay.publisher(LOG, device(), ProducerEpoch(7)).await.unwrap();
    assert_eq!(again.seen().to_string(), "1-2,5");
    send(&again, [1, 2, 3, 4, 5]).await;
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(5));
    let reborn = node.relay.publisher(LOG, device(), ProducerEpoch(8)).await.unwrap();
    assert!(reborn.seen().is_empty());
    send(&reborn, [1]).await;
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(6));
}

async fn cursors_begin_where_they_are_told(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, 1..=10).await;
    for (from, expected) in [(StartPosition::Earliest, 1..=12_u64), (after(7), 8..=12), (StartPosition::Live, 11..=12)] {
        let mut subscriber = node.relay.subscriber();
        subscriber.follow(P, from).await.unwrap();
        if from == StartPosition::Earliest {
            send(&publisher, [11, 12]).await;
        } else if from == StartPosition::Live {
            // The earlier rounds have appended; this one begins after them.
            send(&publisher, [13, 14]).await;
            assert_eq!(receive(&mut subscriber, 2).await, [(13, 13), (14, 14)]);
            continue;
        }
        let got: Vec<u64> = receive(&mut subscriber, expected.clone().count()).await.into_iter().map(|(offset, _)| offset).collect();
        assert_eq!(got, expected.collect::<Vec<_>>());
    }
}

/// Each record's data, and each gap with its cause, up to the offset `until`.
async fn told(subscriber: &mut Subscriber, until: u64) -> Vec<String> {
    let (mut told, mut at) = (Vec::new(), 0);
    while at < until {
        match timeout(LIMIT, subscriber.next()).await.expect("a delivery in time") {
            Delivery::Batch { batch, after } => {
                told.extend(batch.after(after).map(|(offset, _, message)| format!("{offset}:{}", number(message))));
                at = batch.last().0;
            }
            Delivery::Notice(Notice::Gap { from, to, cause, .. }) => {
                told.push(format!("{from}-{to} {}", cause.as_str()));
                at = to.0;
            }
            other => panic!("{other:?}"),
        }
    }
    told
}

async fn erased_records_are_gone_and_come_not_back(node: Arc<Backend>) {
    let log = node.relay.log();
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    let mut early = node.relay.subscriber();
    early.follow(P, StartPosition::Live).await.unwrap();
    send(&publisher, 1..=40).await;
    send(&publisher, 41..=60).await;
    for erased in ["3-5,20,41-60", "3-4"] {
        log.erase_records(LOG, &erased.parse().unwrap()).await.unwrap();
    }
    node.broadcast(Event::Erased { producer: P }).await;
    let expected: Vec<String> = (1..=40)
        .map(|n| match n {
            3 => "3-5 erased".to_owned(),
            20 => "20-20 erased".to_owned(),
            n => format!("{n}:{n}"),
        })
        .filter(|told| !told.starts_with("4:") && !told.starts_with("5:"))
        .chain(["41-60 erased".to_owned()])
        .collect();
    // From the ring nothing is read that was erased, once the node has heard of it.
    let mut late = node.relay.subscriber();
    late.follow(P, StartPosition::Earliest).await.unwrap();
    let mut from_start = told(&mut late, 60).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    while from_start != expected {
        assert!(tokio::time::Instant::now() < deadline, "{from_start:?}");
        late = node.relay.subscriber();
        late.follow(P, StartPosition::Earliest).await.unwrap();
        from_start = told(&mut late, 60).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(log.bounds(LOG).await.unwrap().last, Offset(60));
    // A cursor within what was erased goes on behind it.
    let mut within = node.relay.subscriber();
    within.follow(P, after(4)).await.unwrap();
    assert_eq!(told(&mut within, 6).await[..2], ["5-5 erased", "6:6"]);
    // A record that is sent again is known, and a new one comes behind.
    send(&publisher, 1..=60).await;
    drop(publisher);
    let again = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    assert_eq!(again.seen().to_string(), "1-60");
    send(&again, [3, 20, 61]).await;
    assert_eq!(told(&mut late, 61).await, ["61:61"]);
    let fetched = log.read(LOG, Offset(0), 1 << 20).await.unwrap();
    assert!(fetched.damaged.is_none());
    let left: usize = fetched.batches.iter().flat_map(|batch| batch.entries()).filter(|entry| !entry.is_erased()).count();
    assert_eq!(left, 37);
    log.erase_records(LOG, &"61".parse().unwrap()).await.unwrap();
    node.broadcast(Event::Erased { producer: P }).await;
    // The event may take a moment.
    let heard = async {
        loop {
            let mut last = node.relay.subscriber();
            last.follow(P, after(60)).await.unwrap();
            if told(&mut last, 61).await == ["61-61 erased"] {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, heard).await.expect("nothing that was erased stays in memory");
}

async fn a_slow_reader_falls_back_to_the_log_and_loses_nothing(node: Arc<Backend>) {
    let mut slow = node.relay.subscriber();
    slow.follow(P, StartPosition::Live).await.unwrap();
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    // Several times what a ring holds.
    let total = 30_000;
    for start in (1..=total).step_by(1000) {
        send(&publisher, start..start + 1000).await;
    }
    let got = receive(&mut slow, total as usize).await;
    assert!(got.iter().enumerate().all(|(i, &(offset, n))| offset == i as u64 + 1 && n == offset), "each once, in order");
}

async fn a_bad_record_is_refused_and_leaves_no_hole(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    let mut group = publisher.group();
    group.push(Seq(1), json(1)).unwrap();
    let refused = group.push(Seq(2), Bytes::from_static(b"{\"producer_id\":\"9\"}")).unwrap_err();
    assert!(matches!(refused, Refusal::Invalid(i) if i.code() == "unknown_field"));
    group.skip(Seq(2)).unwrap();
    group.push(Seq(3), json(3)).unwrap();
    let ticket = group.submit().await.unwrap();
    publisher.committed(ticket).await.unwrap();
    assert_eq!(publisher.seen().to_string(), "1-3");
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(2));
}

async fn a_pipeline_follows_subscriptions(node: Arc<Backend>) {
    let user = |name: &str, role| NewUser { username: name.into(), password_hash: "x".into(), role, device_id: None, strict_device: false };
    let account = node.store.create_user(user("p", Role::Producer)).await.unwrap();
    let producer = account.id.producer();
    let consumer: ConsumerId = node.store.create_user(user("c", Role::Consumer)).await.unwrap().id.consumer();
    assert_eq!(producer, P);
    let clock = Clock::system();
    let grant = Grant {
        user: account.id,
        username: "c".into(),
        role: Role::Consumer,
        device_id: None,
        strict_device: false,
        log: LOG.log,
        family: "f".into(),
        scopes: Scopes::all(),
        issued_at: clock.now(),
        expires_at: clock.now() + LIMIT,
    };
    let standing = Arc::new(node.standing(grant, Client { transport: Transport::Http, address: None, device: None }));
    let reader = Reader::Subscriptions(consumer);
    let mut pipeline = node.relay.pipeline(reader, &Start::default(), Options::default(), standing).await.unwrap();
    assert_eq!(node.relay.subscriber_count(P).await.unwrap(), 0);

    node.store.subscribe(consumer, P, Visibility::Open, clock.now()).await.unwrap();
    node.broadcast(Event::Subscribed { consumer, producer: P }).await;
    assert_eq!(timeout(LIMIT, pipeline.next()).await.unwrap(), PipelineEvent::Changed);
    assert_eq!(pipeline.take_begun().len(), 1);
    let publisher = node.relay.publisher(account.log_key(), device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, [1]).await;
    assert_eq!(timeout(LIMIT, pipeline.next()).await.unwrap(), PipelineEvent::Ready);
    assert!(matches!(pipeline.take(), Some(Item::Record(record)) if record.offset == Offset(1)));
    assert!(pipeline.take().is_none());

    node.store.unsubscribe(consumer, P, clock.now()).await.unwrap();
    node.broadcast(Event::Unsubscribed { consumer, producer: P }).await;
    assert_eq!(timeout(LIMIT, pipeline.next()).await.unwrap(), PipelineEvent::Changed);
    send(&publisher, [2]).await;
    assert!(pipeline.take().is_none() && pipeline.cursors().is_empty(), "nothing is delivered after the end of a subscription");
}

async fn a_reader_takes_little_at_a_time(node: Arc<Backend>) {
    const RECORDS: u64 = 300;
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    let mut live = node.relay.subscriber();
    live.follow(P, StartPosition::Live).await.unwrap();
    let mut group = publisher.group();
    for n in 1..=RECORDS {
        let json = format!(r#"{{"device_id":"d","timestamp":1,"data":{{"n":{n},"pad":"{n:0>3000}"}}}}"#);
        group.push(Seq(n), json.into()).unwrap();
    }
    let ticket = group.submit().await.unwrap();
    timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
    let mut replay = node.relay.subscriber();
    replay.follow(P, StartPosition::Earliest).await.unwrap();
    // Nearly a mebibyte was written in one step; from memory or from the log, it is read in parts, and a turn comes to an end.
    for mut reader in [live, replay] {
        let mut next = 1;
        while next <= RECORDS {
            let mut turn = 0;
            let mut delivery = Some(timeout(LIMIT, reader.next()).await.unwrap());
            while let Some(given) = delivery {
                assert!(given.bytes() <= (64 << 10) + 4096, "{} bytes are kept alive", given.bytes());
                turn += given.bytes();
                let Delivery::Batch { batch, after } = given else { panic!("{given:?}") };
                for (offset, _, _) in batch.after(after) {
                    assert_eq!(offset, Offset(next));
                    next += 1;
                }
                delivery = reader.try_next();
            }
            assert!(turn < 400 << 10, "{turn} bytes in one turn");
        }
    }
}

async fn a_clients_own_id_is_written_once(node: Arc<Backend>) {
    let first = node.relay.ephemeral_publisher(LOG).await.unwrap();
    let again = node.relay.ephemeral_publisher(LOG).await.unwrap();
    for (publisher, ids) in [(&first, ["a", "b", "a"]), (&again, ["b", "c", "a"])] {
        let mut group = publisher.group();
        for id in ids {
            group.push_unnumbered(Some(id), json(1));
        }
        let ticket = group.submit().await.unwrap();
        timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
    }
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(3), "a, b and c");
}

async fn numbers_given_up_count_as_seen(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, [1]).await;
    let mut group = publisher.group();
    group.skip_all(&"2-5000000,7000000".parse().unwrap());
    let ticket = group.submit().await.unwrap();
    timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
    drop(publisher);
    let again = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    assert_eq!(again.seen().to_string(), "1-5000000,7000000");
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(1));
}

async fn holes_are_bounded_and_may_always_be_filled(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, [1, 3, 5, 7]).await;
    let mut group = publisher.group();
    assert!(matches!(group.push(Seq(9), json(9)), Err(Refusal::TooScattered(4))));
    // Nor does a number whose record is refused leave one more.
    assert!(matches!(group.skip(Seq(9)), Err(Refusal::TooScattered(4))));
    drop(group);
    drop(publisher);
    // The sender comes back: a record that fills a hole is taken, and so is a later one once there is room.
    let again = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    assert_eq!(again.seen().to_string(), "1,3,5,7");
    send(&again, [8, 2, 10]).await;
    let mut group = again.group();
    assert_eq!(group.skip_all(&"4,12-20,30".parse().unwrap()).to_string(), "4,12-20", "as many as there is room for");
    let ticket = group.submit().await.unwrap();
    timeout(LIMIT, again.committed(ticket)).await.unwrap().unwrap();
    drop(again);
    let last = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    assert_eq!(last.seen().to_string(), "1-5,7-8,10,12-20");
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(7));
}

async fn a_reader_may_begin_at_a_time(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, 1..=10).await;
    let long_ago = StartPosition::Time(node.clock.now() - Duration::from_secs(3600));
    let mut subscriber = node.relay.subscriber();
    subscriber.follow(P, long_ago).await.unwrap();
    assert_eq!(receive(&mut subscriber, 10).await[0].0, 1);
}

async fn retention_leaves_a_gap_notice(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    // Ten times what is kept.
    let total = 3000;
    for n in (1..=total).step_by(20) {
        send(&publisher, n..n + 20).await;
    }
    let head = node.relay.log().bounds(LOG).await.unwrap();
    let kept = total - head.first.0 + 1;
    assert!((200..700).contains(&kept), "{kept} of about 300 fit");
    let mut late = node.relay.subscriber();
    late.follow(P, after(3)).await.unwrap();
    let Delivery::Notice(Notice::Gap { from, to, .. }) = timeout(LIMIT, late.next()).await.unwrap() else { panic!("a gap comes first") };
    assert_eq!((from, to.next()), (Offset(4), head.first));
    let got = receive(&mut late, kept as usize).await;
    assert_eq!((got[0].0, got[got.len() - 1].0), (head.first.0, total));
    let mut earliest = node.relay.subscriber();
    earliest.follow(P, StartPosition::Earliest).await.unwrap();
    assert_eq!(receive(&mut earliest, kept as usize).await[0].0, head.first.0, "who asks for the oldest misses nothing");
}

async fn an_erased_log_holds_nothing(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, 1..=50).await;
    drop(publisher);
    let log = node.relay.log();
    assert!(!log.read(LOG, Offset(0), 1 << 20).await.unwrap().batches.is_empty());
    for _ in 0..2 {
        log.erase(LOG).await.unwrap();
        let bounds = log.bounds(LOG).await.unwrap();
        assert!(bounds.first > bounds.last, "{bounds:?}");
        assert!(log.read(LOG, Offset(0), 1 << 20).await.unwrap().batches.is_empty());
    }
}

async fn what_is_too_old_is_removed(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    let deadline = tokio::time::Instant::now() + LIMIT;
    let mut n = 0;
    while node.relay.log().bounds(LOG).await.unwrap().first == Offset(1) {
        assert!(tokio::time::Instant::now() < deadline, "the first record is older than a second");
        n += 1;
        send(&publisher, [n]).await;
    }
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().last, Offset(n));
}

#[tokio::test]
async fn a_file_remembers_across_a_restart_what_retention_removed() {
    let dir = tempfile::tempdir().unwrap();
    let settings = [("LOG_RETENTION_BYTES", "33KiB")];
    let node = file_node(dir.path(), &settings).await;
    let begin = node.clock.now() - Duration::from_secs(1);
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    for n in 0..100 {
        send(&publisher, n * 10 + 1..=n * 10 + 10).await;
    }
    let first = node.relay.log().bounds(LOG).await.unwrap().first;
    assert!(first > Offset(1));
    drop(publisher);
    node.close().await;
    drop(node);

    let node = file_node(dir.path(), &settings).await;
    assert_eq!(node.relay.log().bounds(LOG).await.unwrap().first, first);
    assert_told_of_gap(&node, begin, first).await;
    // Of a time after what is gone nothing is missing.
    assert!(!node.relay.log().has_lost(LOG, node.clock.now() + Duration::from_secs(1)).await.unwrap());
}

#[tokio::test]
async fn a_file_remembers_what_it_removed_at_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_738_150_500));
    let start = async |retention| {
        let mut config = Config::from_env(&Env::default().with("LOG_RETENTION", retention)).unwrap();
        config.store = store::Config::SqliteMemory;
        config.data_dir = dir.path().to_owned();
        Backend::open(config, clock.clone()).await.unwrap()
    };
    let begin = clock.now();
    let node = start("1h").await;
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, 1..=10).await;
    hand.advance(Duration::from_secs(7200));
    send(&publisher, 11..=20).await;
    drop(publisher);
    node.close().await;
    drop(node);
    start("1h").await.close().await;

    // More is kept from now on, but what is gone does not come back.
    let node = start("24h").await;
    assert_told_of_gap(&node, begin, Offset(11)).await;
}

/// A reader that asks for what came since `begin` hears that all before `first` is gone.
async fn assert_told_of_gap(node: &Backend, begin: OffsetDateTime, first: Offset) {
    let mut late = node.relay.subscriber();
    late.follow(P, StartPosition::Time(begin)).await.unwrap();
    let Delivery::Notice(Notice::Gap { from, to, .. }) = timeout(LIMIT, late.next()).await.unwrap() else { panic!("a gap comes first") };
    assert_eq!((from, to.next()), (Offset(1), first));
    assert_eq!(receive(&mut late, 1).await[0].0, first.0);
}

#[tokio::test]
async fn two_nodes_meet_in_redis() {
    let redis = Redis::start().await;
    let (a, b) = (node(Some(&redis), &[]).await, node(Some(&redis), &[]).await);
    let mut there = b.relay.subscriber();
    there.follow(P, StartPosition::Live).await.unwrap();
    let here = a.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&here, 1..=100).await;
    assert_eq!(receive(&mut there, 100).await.len(), 100);
    // The device moves to the other node: its old connection can no longer write.
    let moved = b.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    assert_eq!(moved.seen().to_string(), "1-100");
    let mut group = here.group();
    group.push(Seq(101), json(101)).unwrap();
    let ticket = group.submit().await.unwrap();
    assert!(timeout(LIMIT, here.committed(ticket)).await.unwrap().is_err());
    send(&moved, [101]).await;
    assert_eq!(receive(&mut there, 1).await, [(101, 101)]);
}

#[tokio::test]
async fn a_restart_of_redis_loses_nothing_that_was_acknowledged() {
    let mut redis = Redis::durable().await;
    let node = node(Some(&redis), &[]).await;
    let mut subscriber = node.relay.subscriber();
    subscriber.follow(P, StartPosition::Live).await.unwrap();
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, [1, 2]).await;
    assert_eq!(receive(&mut subscriber, 2).await.len(), 2);
    redis.restart().await;
    // Sent while the subscription may still be away: the log fills what pub/sub lost.
    send(&publisher, [3, 4]).await;
    let Delivery::Notice(Notice::Reset { cursor, .. }) = timeout(LIMIT, subscriber.next()).await.unwrap() else {
        panic!("the new life is told")
    };
    assert_eq!(cursor.offset, Offset(2), "nothing was lost, so delivery goes on where it was");
    assert_eq!(receive(&mut subscriber, 2).await, [(3, 3), (4, 4)]);
}

async fn every_record_says_when_it_came(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    let mut live = node.relay.subscriber();
    live.follow(P, StartPosition::Live).await.unwrap();
    let begin = node.clock.now() - Duration::from_millis(1);
    send(&publisher, 1..=3).await;
    send(&publisher, 4..=4).await;
    let end = node.clock.now();
    // From the ring, from the log by a reader, and from the log itself.
    let mut late = node.relay.subscriber();
    late.follow(P, StartPosition::Earliest).await.unwrap();
    for reader in [&mut live, &mut late] {
        let mut seen = 0;
        while seen < 4 {
            let Delivery::Batch { batch, after } = timeout(LIMIT, reader.next()).await.unwrap() else { panic!("records only") };
            let received = batch.received.unwrap();
            assert!(begin <= received && received <= end, "{received} is not between {begin} and {end}");
            seen += batch.after(after).count();
        }
    }
    let read = node.relay.log().read(LOG, Offset(0), 1 << 20).await.unwrap();
    assert!(read.batches.iter().all(|batch| batch.received.is_some_and(|at| begin <= at && at <= end)));
}

async fn a_time_that_retention_has_passed_is_a_gap_too(node: Arc<Backend>) {
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    let begin = node.clock.now() - Duration::from_secs(1);
    // While nothing is removed, a time before everything is the beginning.
    send(&publisher, 1..=10).await;
    let mut early = node.relay.subscriber();
    early.follow(P, StartPosition::Time(begin)).await.unwrap();
    assert_eq!(receive(&mut early, 10).await[0], (1, 1));
    for n in 1..100 {
        send(&publisher, n * 10 + 1..=n * 10 + 10).await;
    }
    let first = node.relay.log().bounds(LOG).await.unwrap().first;
    assert!(first > Offset(1));
    assert_told_of_gap(&node, begin, first).await;
    // Of a time after what is gone nothing is missing.
    let mut recent = node.relay.subscriber();
    recent.follow(P, StartPosition::Time(node.clock.now() + Duration::from_secs(1))).await.unwrap();
    send(&publisher, [1001]).await;
    assert!(matches!(timeout(LIMIT, recent.next()).await.unwrap(), Delivery::Batch { .. }));
}

/// A relay that hears of nothing, over a log with `records` records: each signal is still on its way.
async fn before_any_signal(records: u64) -> (Relay, Publisher) {
    let clock = Clock::system();
    let log = Log::Embedded(embedded::Log::in_memory(Retention::default(), clock.clone(), Arc::new(|_| {})));
    let store = Store::open(&store::Config::SqliteMemory).await.unwrap();
    let logs = LogIds::new(store.clone());
    let reports = Reports::new("deaf", Limits::default().devices, clock.clone());
    let hub = Arc::new(Hub::new(1 << 20, 64 << 10));
    let relay = Relay::new(
        log,
        (store, logs),
        hub,
        Arc::new(SubscriptionCache::new()),
        reports,
        clock,
        (Limits::default(), Permits::new(permits::Limits::default()), DeviceStates::default()),
    );
    let publisher = relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    send(&publisher, 1..=records).await;
    (relay, publisher)
}

#[tokio::test]
async fn a_reader_ahead_of_what_its_node_has_heard_is_not_sent_back() {
    let (relay, publisher) = before_any_signal(3).await;
    let mut first = relay.subscriber();
    first.follow(P, StartPosition::Earliest).await.unwrap();
    send(&publisher, [4, 5]).await;
    assert_eq!(receive(&mut first, 5).await.last(), Some(&(5, 5)), "read from the log, past what was heard");
    assert!(timeout(Duration::from_millis(50), first.next()).await.is_err(), "nothing more, and no reset");

    // A record after the cursor that another node gave out.
    send(&publisher, [6, 7]).await;
    let cursor = Cursor { offset: Offset(6), ..first.cursor(P).unwrap() };
    let mut second = relay.subscriber();
    second.follow(P, StartPosition::After(cursor)).await.unwrap();
    assert_eq!(receive(&mut second, 1).await, [(7, 7)]);
    assert!(timeout(Duration::from_millis(50), second.next()).await.is_err(), "nothing more, and no reset");
    assert_eq!(receive(&mut first, 2).await, [(6, 6), (7, 7)], "what one reader found out wakes the others");

    // A cursor that nobody gave out.
    let mut third = relay.subscriber();
    third.follow(P, StartPosition::After(Cursor { offset: Offset(50), ..cursor })).await.unwrap();
    let delivery = timeout(LIMIT, third.next()).await.unwrap();
    assert!(matches!(delivery, Delivery::Notice(Notice::Reset { cursor, .. }) if cursor.offset == Offset(7)), "{delivery:?}");
}

/// A durable consumer that confirms too little is found, with what it has yet to confirm and when retention removes it.
async fn a_backlog_says_what_retention_cuts(node: Arc<Backend>) {
    let (consumer, name) = (ConsumerId(7), CursorName::new("app").unwrap());
    let publisher = node.relay.publisher(LOG, device(), ProducerEpoch(1)).await.unwrap();
    for n in 0..40 {
        send(&publisher, n * 10 + 1..=n * 10 + 10).await;
    }
    let outline = node.relay.log().outline(LOG).await.unwrap();
    let (epoch, last) = (outline.bounds.log_epoch(), outline.bounds.last);
    let confirm = async |offset| {
        let cursor = Cursor { log_epoch: epoch, offset };
        node.store.confirm(consumer, &name, P, cursor, Clock::system().now()).await.unwrap();
        node.backlogs.worst(10).await.unwrap()
    };
    let worst = confirm(Offset(200)).await;
    let [one] = &worst.furthest[..] else { panic!("{worst:?}") };
    let ahead = outline.bounds.first.0.saturating_sub(201);
    assert_eq!((one.backlog.records, one.backlog.removed), (200 - ahead, ahead), "{one:?}");
    assert!(one.waiting.is_some_and(|waiting| waiting < LIMIT), "{one:?}");
    let cut = one.backlog.cut.unwrap();
    assert!(cut.left > Duration::ZERO && cut.left <= Duration::from_secs(24 * 3600), "{cut:?}");
    assert_eq!((worst.first_cut.len(), worst.cursors), (1, 1));
    let listed = node.store.cursors(consumer, None, 10).await.unwrap();
    assert_eq!(node.backlogs.of(consumer, &listed[0]).await.unwrap().backlog.records, 200 - ahead);
    assert!(confirm(last).await.furthest.is_empty(), "everything is confirmed");
}
