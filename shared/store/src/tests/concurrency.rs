//! Many callers at once: no lock errors, and each thing happens exactly once.

use motience_proto::model::{
    ConsumerId, Cursor, CursorName, DeviceId, LogEpoch, Offset, ProducerEpoch, ProducerId, RecordId, Role, Seq, Visibility,
};
use serde_json::value::RawValue;
use time::{Duration, OffsetDateTime};
use tokio::task::JoinSet;

use super::{Engines, log_of, user};
use crate::{Change, Error, HistoryBatch, HistoryQuery, HistoryRow, NewUser, Page, RefreshToken, Spend, Spending, Store};

const CALLERS: usize = 50;
/// Records of each producer.
const RECORDS: u64 = 150;
const LEASE: std::time::Duration = std::time::Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_callers_agree() {
    let engines = Engines::start().await;
    for (name, store) in &engines.stores {
        println!("{name}");
        writers_and_readers(store).await;
        one_name(store).await;
        one_subscription(store).await;
        one_token(store).await;
        one_history(store).await;
        one_lease(store).await;
        one_cursor(store).await;
    }
}

async fn writers_and_readers(store: &Store) {
    let done = all(|n| {
        let store = store.clone();
        async move {
            for round in 0..4 {
                user(&store, &format!("user {n} {round}"), Role::Producer).await;
                store.users(Role::Producer, Page::default()).await.unwrap();
            }
        }
    });
    assert_eq!(done.await.len(), CALLERS);
    assert_eq!(store.users(Role::Producer, Page::default()).await.unwrap().len(), 4 * CALLERS);
}

async fn one_name(store: &Store) {
    let results = all(|_| {
        let store = store.clone();
        let new =
            NewUser { username: "wanted".into(), password_hash: "h".into(), role: Role::Consumer, device_id: None, strict_device: false };
        async move { store.create_user(new).await }
    })
    .await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(Error::UsernameTaken))));
}

async fn one_subscription(store: &Store) {
    let producer = user(store, "p", Role::Producer).await.id.producer();
    let consumer = user(store, "c", Role::Consumer).await.id.consumer();
    for first in [Change::Created, Change::Reactivated] {
        let changes = all(|_| {
            let store = store.clone();
            async move { store.subscribe(consumer, producer, Visibility::Open, OffsetDateTime::UNIX_EPOCH).await.unwrap().1 }
        })
        .await;
        assert_eq!(changes.iter().filter(|change| **change == first).count(), 1);
        assert_eq!(changes.iter().filter(|change| **change == Change::Unchanged).count(), CALLERS - 1);
        assert_eq!(store.follower_count(producer, OffsetDateTime::UNIX_EPOCH).await.unwrap(), 1);
        assert!(store.unsubscribe(consumer, producer, OffsetDateTime::UNIX_EPOCH).await.unwrap().is_some());
    }
}

async fn one_token(store: &Store) {
    let owner = user(store, "o", Role::Consumer).await.id;
    let now = OffsetDateTime::UNIX_EPOCH;
    let token = RefreshToken { id: "t".into(), family: "f".into(), user: owner, expires_at: now + Duration::days(7) };
    store.add_refresh(&token, None).await.unwrap();
    let spent = all(|n| {
        let (store, token) = (store.clone(), token.clone());
        async move {
            let successor = format!("successor {n}");
            let spending = Spending { successor: &successor, client: "tab", leeway: LEASE };
            let spent = store.spend_refresh(&token, spending, now).await.unwrap();
            (successor, spent)
        }
    })
    .await;
    let fresh: Vec<_> = spent.iter().filter(|(_, spend)| matches!(spend, Spend::Fresh(_))).collect();
    assert_eq!(fresh.len(), 1);
    let again = |spend: &Spend| matches!(spend, Spend::Repeated { successor, .. } if *successor == fresh[0].0);
    assert_eq!(spent.iter().filter(|(_, spend)| again(spend)).count(), CALLERS - 1, "all others get what the one got");
}

/// Two nodes may write the same part of a log while it moves from one to the other: each goes on from where it finds the history.
async fn one_history(store: &Store) {
    let row = |offset| HistoryRow {
        place: Cursor { log_epoch: LogEpoch(1), offset: Offset(offset) },
        record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(offset) },
        device: DeviceId::new("d").unwrap(),
        timestamp: OffsetDateTime::UNIX_EPOCH,
        received_at: OffsetDateTime::UNIX_EPOCH,
        extra: None,
        data: RawValue::from_string(offset.to_string()).unwrap(),
    };
    let kept = all(|n| {
        let store = store.clone();
        async move {
            let mut kept = 0;
            loop {
                let mut wanted = Vec::new();
                for producer in [ProducerId(1), ProducerId(2)] {
                    let expected = store.history_cursor(producer).await.unwrap();
                    let at = expected.map_or(0, |cursor| cursor.offset.0);
                    let last = (at + 1 + n as u64 % 7).min(RECORDS);
                    if last > at {
                        let rows: Vec<_> = (at + 1..=last).map(row).collect();
                        wanted.push(HistoryBatch {
                            producer,
                            log: log_of(&store, producer).await,
                            expected,
                            cursor: rows.last().unwrap().place,
                            rows,
                        });
                    }
                }
                if wanted.is_empty() {
                    return kept;
                }
                if n % 2 == 0 {
                    wanted.reverse();
                }
                kept += store.keep_history(&wanted).await.unwrap().rows;
            }
        }
    })
    .await;
    assert_eq!(kept.iter().sum::<u64>(), 2 * RECORDS);
    for producer in [ProducerId(1), ProducerId(2)] {
        let kept = store.history(producer, &HistoryQuery::default()).await.unwrap();
        let offsets: Vec<u64> = kept.iter().map(|entry| entry.data.get().parse().unwrap()).collect();
        assert_eq!(offsets, (1..=RECORDS).collect::<Vec<_>>(), "the order of ids is the order of the log");
    }
}

async fn one_lease(store: &Store) {
    let now = OffsetDateTime::UNIX_EPOCH;
    let taken = all(|n| {
        let store = store.clone();
        async move { store.lease("history", &format!("node {n}"), LEASE, now).await.unwrap() }
    })
    .await;
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
}

/// Clients of one name confirm at once, each a stretch of its own: the furthest counts.
async fn one_cursor(store: &Store) {
    let (consumer, name) = (ConsumerId(1), CursorName::new("app").unwrap());
    all(|n| {
        let (store, name) = (store.clone(), name.clone());
        async move {
            for offset in [n as u64, 2 * n as u64] {
                let cursor = Cursor { log_epoch: LogEpoch(1), offset: Offset(offset) };
                let mut cursors = [(ProducerId(1), cursor), (ProducerId(2), cursor)];
                if n % 2 == 0 {
                    cursors.reverse();
                }
                store.confirm_many(consumer, &name, &cursors, OffsetDateTime::UNIX_EPOCH).await.unwrap();
            }
        }
    })
    .await;
    let stands: Vec<_> = store.cursors_named(consumer, &name).await.unwrap().iter().map(|(_, cursor)| cursor.offset.0).collect();
    assert_eq!(stands, [2 * (CALLERS as u64 - 1); 2]);
}

async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(call: impl Fn(usize) -> F) -> Vec<T> {
    let calls: JoinSet<T> = (0..CALLERS).map(call).collect();
    calls.join_all().await
}
