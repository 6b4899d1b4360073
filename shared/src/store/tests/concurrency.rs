//! Many callers at once: no lock errors, and each thing happens exactly once.

use serde_json::value::RawValue;
use time::{Duration, OffsetDateTime};
use tokio::task::JoinSet;

use super::{Engines, user};
use crate::{
    model::{DeviceId, LogEpoch, Offset, ProducerId, Role},
    store::{Change, Error, HistoryQuery, HistoryRow, NewUser, Page, RefreshToken, Spend, Store},
};

const CALLERS: usize = 50;

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
        let new = NewUser { username: "wanted".into(), password_hash: "h".into(), role: Role::Consumer, device_id: None };
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
            async move { store.subscribe(consumer, producer).await.unwrap().1 }
        })
        .await;
        assert_eq!(changes.iter().filter(|change| **change == first).count(), 1);
        assert_eq!(changes.iter().filter(|change| **change == Change::Unchanged).count(), CALLERS - 1);
        assert_eq!(store.follower_count(producer).await.unwrap(), 1);
        assert!(store.unsubscribe(consumer, producer).await.unwrap().is_some());
    }
}

async fn one_token(store: &Store) {
    let owner = user(store, "o", Role::Consumer).await.id;
    let now = OffsetDateTime::UNIX_EPOCH;
    store
        .add_refresh(&RefreshToken { id: "t".into(), family: "f".into(), user: owner, expires_at: now + Duration::days(7) })
        .await
        .unwrap();
    let spent = all(|_| {
        let store = store.clone();
        async move { store.spend_refresh("t", now).await.unwrap() }
    })
    .await;
    assert_eq!(spent.iter().filter(|s| matches!(s, Spend::Fresh(_))).count(), 1);
    assert_eq!(spent.iter().filter(|s| matches!(s, Spend::Reused(_))).count(), CALLERS - 1);
}

/// Two nodes may write the same part of a log while it moves from one to the other: overlapping batches, in any order.
async fn one_history(store: &Store) {
    let row = |offset| HistoryRow {
        producer: ProducerId(1),
        epoch: LogEpoch(1),
        offset: Offset(offset),
        device: DeviceId::new("d").unwrap(),
        timestamp: OffsetDateTime::UNIX_EPOCH,
        received_at: OffsetDateTime::UNIX_EPOCH,
        data: RawValue::from_string(offset.to_string()).unwrap(),
    };
    all(|n| {
        let store = store.clone();
        let mut rows: Vec<_> = (0..100).map(|i| row(n as u64 + i)).collect();
        if n % 2 == 0 {
            rows.reverse();
        }
        async move { store.append_history(&rows).await.unwrap() }
    })
    .await;
    let kept = store.history(ProducerId(1), &HistoryQuery::default()).await.unwrap();
    let mut offsets: Vec<u64> = kept.iter().map(|entry| entry.data.get().parse().unwrap()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..149).collect::<Vec<_>>());
}

async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(call: impl Fn(usize) -> F) -> Vec<T> {
    let calls: JoinSet<T> = (0..CALLERS).map(call).collect();
    calls.join_all().await
}
