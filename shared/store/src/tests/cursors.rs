//! Named cursors and leases: the same on every engine.

use std::time::Duration;

use motience_proto::model::{ConsumerId, Cursor, CursorName, LogEpoch, Offset, ProducerId};
use time::{OffsetDateTime, macros::datetime};

use super::Engines;
use crate::{Error, MAX_NAMES, Store};

const CONSUMER: ConsumerId = ConsumerId(5);
const NOW: OffsetDateTime = datetime!(2026-01-01 00:00 UTC);

#[tokio::test(flavor = "multi_thread")]
async fn cursors_and_leases_are_the_same_on_every_engine() {
    let engines = Engines::start().await;
    for (engine, store) in &engines.stores {
        println!("{engine}");
        moves_forward_only(store).await;
        several_at_once(store).await;
        all_are_listed_in_parts(store).await;
        is_listed_in_parts_and_forgotten(store).await;
        names_are_bounded(store).await;
        a_lease_has_one_holder(store).await;
    }
}

async fn moves_forward_only(store: &Store) {
    let (app, producer) = (name("app"), ProducerId(1));
    assert_eq!(store.cursor(CONSUMER, &app, producer).await.unwrap(), None);
    // The highest bit of a log epoch may be set.
    let epoch = u64::MAX;
    for (confirmed, stands) in
        [(at(epoch, 5), at(epoch, 5)), (at(epoch, 3), at(epoch, 5)), (at(epoch, 9), at(epoch, 9)), (at(2, 4), at(2, 4))]
    {
        store.confirm(CONSUMER, &app, producer, confirmed, NOW).await.unwrap();
        assert_eq!(store.cursor(CONSUMER, &app, producer).await.unwrap(), Some(stands), "{confirmed} was confirmed");
    }
    assert_eq!(store.cursor(CONSUMER, &app, ProducerId(2)).await.unwrap(), None);
    assert_eq!(store.cursor(CONSUMER, &name("App"), producer).await.unwrap(), None);
    assert_eq!(store.cursor(ConsumerId(6), &app, producer).await.unwrap(), None);
    let refused = store.confirm(CONSUMER, &app, producer, at(2, u64::MAX), NOW).await;
    assert!(matches!(refused, Err(Error::Unstorable("offset"))), "{refused:?}");
}

async fn several_at_once(store: &Store) {
    let app = name("several");
    let confirm = async |cursors: &[(i64, Cursor)]| {
        let cursors: Vec<_> = cursors.iter().map(|&(producer, cursor)| (ProducerId(producer), cursor)).collect();
        store.confirm_many(CONSUMER, &app, &cursors, NOW).await.unwrap();
        let stands = store.cursors_named(CONSUMER, &app).await.unwrap();
        stands.into_iter().map(|(producer, cursor)| (producer.0, cursor)).collect::<Vec<_>>()
    };
    assert_eq!(confirm(&[]).await, []);
    assert_eq!(confirm(&[(2, at(1, 5)), (1, at(1, 7)), (2, at(1, 4))]).await, [(1, at(1, 7)), (2, at(1, 5))]);
    assert_eq!(confirm(&[(1, at(1, 1)), (2, at(1, 6)), (3, at(9, 1))]).await, [(1, at(1, 7)), (2, at(1, 6)), (3, at(9, 1))]);
    assert_eq!(store.delete_cursors(CONSUMER, &app).await.unwrap(), 3);
}

async fn all_are_listed_in_parts(store: &Store) {
    for (consumer, producer) in [(70, 1), (71, 2), (71, 3)] {
        store.confirm(ConsumerId(consumer), &name("all"), ProducerId(producer), at(1, 1), NOW).await.unwrap();
    }
    let (mut found, mut after) = (Vec::new(), Some((ConsumerId(69), name("zzz"), ProducerId(9))));
    while let Some((consumer, last)) = store
        .all_cursors(after.as_ref(), 2)
        .await
        .unwrap()
        .into_iter()
        .inspect(|(consumer, one)| found.push((consumer.0, one.producer.0)))
        .last()
    {
        after = Some((consumer, last.name, last.producer));
    }
    assert_eq!(found, [(70, 1), (71, 2), (71, 3)]);
    assert!(store.all_cursors(None, 1000).await.unwrap().len() > 3, "all of them, without a beginning");
    for consumer in [70, 71] {
        store.delete_cursors(ConsumerId(consumer), &name("all")).await.unwrap();
    }
}

async fn is_listed_in_parts_and_forgotten(store: &Store) {
    let consumer = ConsumerId(6);
    for (n, (name_of, producer)) in (1..).zip([("b", 2), ("b", 10), ("B", 1), ("a.1", 7), ("a_1", 7)]) {
        store.confirm(consumer, &name(name_of), ProducerId(producer), at(1, n), NOW).await.unwrap();
    }
    let mut seen = Vec::new();
    while let Some(last) = {
        let after = seen.last().map(|(name, producer): &(CursorName, ProducerId)| (name, *producer));
        let part = store.cursors(consumer, after, 2).await.unwrap();
        assert!(part.len() <= 2 && part.iter().all(|one| one.updated_at == NOW));
        seen.extend(part.iter().map(|one| (one.name.clone(), one.producer)));
        part.last().cloned()
    } {
        assert_eq!(store.cursor(consumer, &last.name, last.producer).await.unwrap(), Some(last.cursor));
    }
    let seen: Vec<_> = seen.iter().map(|(name, producer)| (name.as_str(), producer.0)).collect();
    assert_eq!(seen, [("B", 1), ("a.1", 7), ("a_1", 7), ("b", 2), ("b", 10)]);
    assert_eq!(store.delete_cursors(consumer, &name("b")).await.unwrap(), 2);
    assert_eq!(store.delete_cursors(consumer, &name("b")).await.unwrap(), 0);
    assert_eq!(store.delete_cursors(CONSUMER, &name("a.1")).await.unwrap(), 0, "another's");
    assert_eq!(store.cursors(consumer, None, u32::MAX).await.unwrap().len(), 3);
}

async fn names_are_bounded(store: &Store) {
    let consumer = ConsumerId(7);
    for n in 0..MAX_NAMES {
        store.confirm(consumer, &name(&format!("n{n}")), ProducerId(1), at(1, 1), NOW).await.unwrap();
    }
    let one_more = name("one-more");
    let refused = store.confirm(consumer, &one_more, ProducerId(1), at(1, 1), NOW).await;
    assert!(matches!(refused, Err(Error::TooManyNames)), "{refused:?}");
    // Those that are there go on, also in further logs; without one of them there is room.
    store.confirm(consumer, &name("n0"), ProducerId(2), at(1, 1), NOW).await.unwrap();
    store.confirm(consumer, &name("n1"), ProducerId(1), at(1, 1), NOW).await.unwrap();
    store.delete_cursors(consumer, &name("n2")).await.unwrap();
    store.confirm(consumer, &one_more, ProducerId(1), at(1, 1), NOW).await.unwrap();
    assert_eq!(store.cursors(consumer, None, u32::MAX).await.unwrap().len() as i64, MAX_NAMES + 1);
}

async fn a_lease_has_one_holder(store: &Store) {
    let ttl = Duration::from_secs(10);
    let take = async |holder: &str, second: i64| store.lease("work", holder, ttl, NOW + time::Duration::seconds(second)).await.unwrap();
    assert!(take("a", 0).await);
    assert!(!take("b", 9).await);
    assert!(take("a", 9).await, "its holder renews it");
    assert!(!take("b", 18).await);
    assert!(take("b", 19).await, "it has ended");
    assert!(!take("a", 20).await);
    store.release("work", "a").await.unwrap();
    assert!(!take("a", 20).await, "another's is left alone");
    store.release("work", "b").await.unwrap();
    assert!(take("a", 20).await);
    assert!(store.lease("other work", "b", ttl, NOW).await.unwrap());
}

fn name(text: &str) -> CursorName {
    CursorName::new(text).unwrap()
}

fn at(epoch: u64, offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
}
