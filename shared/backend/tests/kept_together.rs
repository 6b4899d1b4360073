//! An organisation keeps so much together: beyond it the largest of its producers give up their oldest records, and the others nothing.

#![allow(clippy::unwrap_used, clippy::allow_attributes, reason = "tests")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use motience_backend::{Backend, Config};
use motience_log::SessionName;
use motience_proto::model::{Cursor, DeviceId, GapCause, LogKey, Offset, PlanLimits, ProducerEpoch, Role, Seq};
use motience_relay::{Delivery, Notice, StartPosition};
use motience_runtime::clock::Clock;
use motience_settings::env::Env;
use motience_store::{self as store, NewUser, Organisation};
use motience_testing::{Postgres, Redis};
use tokio::time::{Instant, sleep, timeout};

const LIMIT: Duration = Duration::from_secs(20);
const RECORD: u64 = 1000;
/// All that the organisation keeps.
const MOST: u64 = 400 * RECORD;
/// A log is removed by parts, sixty-four of all that one may keep: before there is a plan that is a mebibyte.
const PART: u64 = (1 << 20) / 64;

async fn node(store: store::Config, redis: Option<&Redis>, data: Option<&tempfile::TempDir>) -> Arc<Backend> {
    let env = Env::default().with("LOG_RETENTION_BYTES", "1MiB").with("RING_BYTES", "5000");
    let mut config = Config::from_env(&env).unwrap();
    config.store = store;
    config.redis = redis.map(|redis| redis.url().to_owned().into());
    match data {
        Some(dir) => config.data_dir = dir.path().to_owned(),
        None => config.volatile = true,
    }
    Backend::open(config, Clock::system()).await.unwrap()
}

#[tokio::test]
async fn in_memory() {
    story(node(store::Config::SqliteMemory, None, None).await).await;
}

#[tokio::test]
async fn in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    story(node(store::Config::SqliteMemory, None, Some(&dir)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster() {
    let (redis, postgres) = (Redis::start().await, Postgres::start().await);
    let store = store::Config::Postgres { url: postgres.url().into(), max_connections: 3 };
    story(node(store, Some(&redis), None).await).await;
}

async fn producer(node: &Backend, name: &str) -> LogKey {
    let new = NewUser { username: name.into(), password_hash: "none".into(), role: Role::Producer, device_id: None, strict_device: false };
    node.create_account(new).await.unwrap().log_key()
}

/// So many records of a kilobyte each, from the number `first` on.
async fn send(node: &Backend, key: LogKey, first: u64, count: u64) {
    let device = SessionName::device(&DeviceId::new("d").unwrap());
    let publisher = node.relay.publisher(key, device, ProducerEpoch(1)).await.unwrap();
    for begin in (first..first + count).step_by(10) {
        let mut group = publisher.group();
        for n in begin..(begin + 10).min(first + count) {
            let text = format!("{n:0>890}");
            let record = format!(r#"{{"device_id":"d","timestamp":"2025-01-29T11:35:00Z","data":{{"n":"{text}"}}}}"#);
            group.push(Seq(n), Bytes::from(record)).unwrap();
        }
        let ticket = group.submit().await.unwrap();
        timeout(LIMIT, publisher.committed(ticket)).await.unwrap().unwrap();
    }
}

/// The first and the last offset of a log.
async fn bounds(node: &Backend, key: LogKey) -> (u64, u64) {
    let bounds = node.relay.log().bounds(key).await.unwrap();
    (bounds.first.0, bounds.last.0)
}

/// Has the node look again until all together keep no more than they may.
async fn settled(node: &Backend, keys: &[LogKey]) -> u64 {
    let accounts: Vec<_> = keys.iter().map(|key| key.producer.user()).collect();
    let deadline = Instant::now() + LIMIT;
    loop {
        node.quotas_changed().await;
        let kept = node.log_bytes_of(&accounts).await.unwrap();
        if kept <= MOST {
            return kept;
        }
        assert!(Instant::now() < deadline, "{kept} bytes are kept");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn story(node: Arc<Backend>) {
    let [large, small, other] = [producer(&node, "large").await, producer(&node, "small").await, producer(&node, "other").await];
    let organisation = Organisation { id: "o1".into(), name: "acme".into(), plan: None, created_at: node.clock.now() };
    assert!(node.store.add_organisation(&organisation, None).await.unwrap());
    for key in [large, small] {
        assert!(node.store.own_account("o1", key.producer.user()).await.unwrap());
    }
    send(&node, large, 1, 600).await;
    send(&node, small, 1, 100).await;
    send(&node, other, 1, 600).await;
    let before = node.log_bytes_of(&[large.producer.user()]).await.unwrap();
    assert!((600 * RECORD * 9 / 10..650 * RECORD).contains(&before), "{before}");

    // The largest gives up its oldest records, although nobody writes to its log; the others give up none.
    let plan = PlanLimits { total_log_bytes: Some(MOST), ..PlanLimits::default() };
    node.store.set_plan("together", &plan, node.clock.now()).await.unwrap();
    assert!(node.store.give_organisation_plan("o1", Some("together")).await.unwrap());
    let kept = settled(&node, &[large, small]).await;
    assert!(kept > MOST - 3 * PART, "no more goes than has to: {kept}");
    let (first, last) = bounds(&node, large).await;
    assert!((200..400).contains(&first) && last == 600, "{first}");
    assert_eq!((bounds(&node, small).await, bounds(&node, other).await), ((1, 100), (1, 600)));
    // Its readers are told as of any retention, and so is whoever asks how much is kept.
    let mut reader = node.relay.subscriber();
    let after = StartPosition::After(Cursor { offset: Offset(3), ..Cursor::default() });
    reader.follow(large.producer, after).await.unwrap();
    let Delivery::Notice(Notice::Gap { from, to, cause, .. }) = timeout(LIMIT, reader.next()).await.unwrap() else {
        panic!("a gap comes first")
    };
    assert_eq!((from, to.next(), cause), (Offset(4), Offset(first), GapCause::Retention));
    let told = node.kept(large).await.unwrap();
    assert_eq!((told.total.log_bytes, told.total.history_rows), (Some(MOST), None));
    assert!((told.bounds.log_bytes as u64) < MOST && told.bounds.log_bytes as u64 >= 290 * RECORD, "{told:?}");
    assert_eq!(told.first.unwrap().0.as_str(), "bytes");
    assert_eq!(node.kept(other).await.unwrap().bounds.log_bytes, 1 << 20);

    // The small one grows: the large one makes room, until both are of one size.
    send(&node, small, 101, 50).await;
    settled(&node, &[large, small]).await;
    assert_eq!(bounds(&node, small).await, (1, 150));
    assert!(bounds(&node, large).await.0 > first);
    send(&node, small, 151, 250).await;
    let kept = settled(&node, &[large, small]).await;
    let each = [node.log_bytes_of(&[large.producer.user()]).await.unwrap(), node.log_bytes_of(&[small.producer.user()]).await.unwrap()];
    assert!(each[0].abs_diff(each[1]) <= 2 * PART && kept > MOST - 4 * PART, "{each:?}");
    assert!(bounds(&node, small).await.0 > 1);

    // Without the plan each keeps what the platform keeps.
    assert!(node.store.give_organisation_plan("o1", None).await.unwrap());
    node.quotas_changed().await;
    assert_eq!(node.kept(large).await.unwrap().bounds.log_bytes, 1 << 20);
    node.close().await;
}
