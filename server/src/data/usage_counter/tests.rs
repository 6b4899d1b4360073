//! The counter of usage, cut off while it writes: each record is counted once.

use std::pin::pin;

use futures_util::poll;
use motience_store::UsageQuery;
use tokio::time::timeout;

use super::*;
use crate::{
    data::{
        reader::finish,
        writer::tests::{LIMIT, producer, send},
    },
    http::tests::platform,
};

#[tokio::test]
async fn what_was_taken_is_counted_though_the_writing_was_cut_short() {
    let platform = platform(&[]).await;
    let producer = producer(&platform, "p").await;
    send(&platform, producer, 0, 10).await;
    let mut counter = Counter::new(Arc::clone(&platform.services));
    counter.reader.look().await;
    let delivery = timeout(LIMIT, counter.reader.next()).await.expect("a delivery in time");
    {
        let taking = pin!(counter.take_in(delivery));
        assert!(poll!(taking).is_pending(), "the store has yet to answer");
    }
    finish(&mut counter).await;
    let query = UsageQuery { users: Vec::new(), from: 0, to: i64::MAX, summed: true };
    let counted = platform.services.backend.store.usage(&query, 0).await.unwrap();
    assert_eq!(counted.iter().map(|hour| (hour.producer, hour.records)).collect::<Vec<_>>(), [(producer, 10)]);
}
