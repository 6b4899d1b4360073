//! Each record is kept once, whoever writes it and however often.

use motience_proto::model::{Cursor, DeviceId, LogEpoch, LogKey, Offset, ProducerEpoch, ProducerId, RecordId, Seq};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{Engines, keep, keep_from};
use crate::{Error, HistoryBatch, HistoryQuery, HistoryRow, Store};

const PRODUCER: ProducerId = ProducerId(7);

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_kept_once_on_every_engine() {
    let engines = Engines::start().await;
    for (name, store) in &engines.stores {
        println!("{name}");
        only_from_where_the_history_stands(store).await;
        one_row_for_one_name(store).await;
        others_are_kept_beside_one_that_moved(store).await;
        a_reader_of_the_log_finds_its_place(store).await;
        all_or_nothing(store).await;
    }
}

async fn only_from_where_the_history_stands(store: &Store) {
    assert_eq!(store.history_cursor(PRODUCER).await.unwrap(), None);
    let (one, two) = (at(1, 1), at(1, 2));
    assert_eq!(keep_from(store, PRODUCER, Some(one), two, vec![row(two, 2)]).await, None, "there is no history yet");
    assert_eq!(keep_from(store, PRODUCER, None, one, vec![row(one, 1)]).await, Some(1));
    assert_eq!(keep_from(store, PRODUCER, None, one, vec![row(one, 1)]).await, None, "the same call again");
    assert_eq!(keep_from(store, PRODUCER, Some(at(2, 1)), two, vec![row(two, 2)]).await, None, "another log epoch");
    assert_eq!(store.history_cursor(PRODUCER).await.unwrap(), Some(one));
    assert_eq!(keep_from(store, PRODUCER, Some(one), two, vec![row(two, 2)]).await, Some(1));
    // A gap or a reset moves it without a row; the bits of a log epoch are kept.
    let far = at(u64::MAX, 90);
    assert_eq!(keep_from(store, PRODUCER, Some(two), far, vec![]).await, Some(0));
    assert_eq!(store.history_cursor(PRODUCER).await.unwrap(), Some(far));
    assert_eq!(seqs(store, PRODUCER).await, [1, 2]);
}

/// A log that lost its tail gives the same offsets to other records, and takes in some records again.
async fn one_row_for_one_name(store: &Store) {
    let producer = ProducerId(8);
    let before: Vec<_> = (1..=5).map(|n| row(at(1, n), n)).collect();
    assert_eq!(keep(store, producer, before).await, 5);
    // The log fell back to offset 2; records 5, 6, 4 come in, in this order.
    assert_eq!(keep_from(store, producer, Some(at(1, 5)), at(2, 2), vec![]).await, Some(0));
    let again: Vec<_> = (3..).zip([5, 6, 4]).map(|(offset, seq)| row(at(2, offset), seq)).collect();
    assert_eq!(keep(store, producer, again).await, 1);
    assert_eq!(seqs(store, producer).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(keep(store, ProducerId(9), vec![row(at(1, 1), 5)]).await, 1, "another producer's names are its own");
    let names = [4, 6, 7].map(name);
    let kept = store.history(producer, &HistoryQuery::default()).await.unwrap();
    assert_eq!(store.names_kept(producer, &names, kept[4].id).await.unwrap(), [names[0]].into());
    assert_eq!(store.names_kept(producer, &names, kept[5].id).await.unwrap(), [names[0], names[1]].into());
    assert!(store.names_kept(producer, &[], i64::MAX).await.unwrap().is_empty());
}

async fn others_are_kept_beside_one_that_moved(store: &Store) {
    let (moved, fine) = (ProducerId(20), ProducerId(21));
    keep(store, moved, vec![row(at(1, 1), 1)]).await;
    let batch = |producer, expected| HistoryBatch {
        producer,
        log: LogKey::numbered(producer).log,
        expected,
        cursor: at(1, 2),
        rows: vec![row(at(1, 2), 2)],
    };
    let kept = store.keep_history(&[batch(fine, None), batch(moved, None)]).await.unwrap();
    assert_eq!((kept.rows, kept.moved), (1, vec![moved]));
    assert_eq!((seqs(store, moved).await, seqs(store, fine).await), (vec![1], vec![2]));
    assert_eq!(store.history_cursors(moved, fine).await.unwrap(), [(moved, at(1, 1)), (fine, at(1, 2))]);
    let twice = [batch(fine, Some(at(1, 2))), batch(fine, Some(at(1, 2)))];
    assert!(matches!(store.keep_history(&twice).await, Err(Error::Unstorable("producer_id"))));
    let foreign = [batch(ProducerId(i64::MAX), None)];
    assert!(matches!(store.keep_history(&foreign).await, Err(Error::Unstorable("producer_id"))));
    assert_eq!(store.keep_history(&[]).await.unwrap().rows, 0);
}

async fn a_reader_of_the_log_finds_its_place(store: &Store) {
    let producer = ProducerId(30);
    keep(store, producer, [3, 4, 7].map(|n| row(at(1, n), n)).to_vec()).await;
    keep(store, producer, vec![row(at(2, 5), 9)]).await;
    let ids: Vec<i64> = store.history(producer, &HistoryQuery::default()).await.unwrap().iter().map(|entry| entry.id).collect();
    let id = async |place| store.history_id(producer, place).await.unwrap();
    assert_eq!(id(at(1, 3)).await, Some(ids[0]));
    assert_eq!(id(at(1, 6)).await, Some(ids[1]), "what was not kept is passed over");
    assert_eq!(id(at(1, 99)).await, Some(ids[2]));
    assert_eq!(id(at(1, 1)).await, Some(ids[0] - 1), "before the first");
    assert_eq!(id(at(2, 2)).await, Some(ids[3] - 1));
    assert_eq!(id(at(3, 2)).await, None);
}

/// A batch that cannot be kept moves no cursor.
async fn all_or_nothing(store: &Store) {
    let producer = ProducerId(40);
    store
        .keep_history(&[HistoryBatch {
            producer,
            log: LogKey::numbered(producer).log,
            expected: None,
            cursor: at(1, 1),
            rows: vec![row(at(1, 1), 1)],
        }])
        .await
        .unwrap();
    let too_long = HistoryRow { device: DeviceId::new(&"x".repeat(255)).unwrap(), ..row(at(1, 2), 2) };
    assert_eq!(keep(store, producer, vec![too_long]).await, 1);
    store.close().await;
    let lost = [HistoryBatch {
        producer,
        log: LogKey::numbered(producer).log,
        expected: Some(at(1, 2)),
        cursor: at(1, 3),
        rows: vec![row(at(1, 3), 3)],
    }];
    assert!(store.keep_history(&lost).await.unwrap_err().is_unavailable());
}

async fn seqs(store: &Store, producer: ProducerId) -> Vec<u64> {
    let kept = store.history(producer, &HistoryQuery::default()).await.unwrap();
    assert!(kept.windows(2).all(|pair| pair[0].id < pair[1].id));
    kept.iter().map(|entry| entry.data.get().parse().unwrap()).collect()
}

fn at(epoch: u64, offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
}

/// A sender's epoch is random: its highest bit may be set.
fn name(seq: u64) -> RecordId {
    RecordId { producer_epoch: ProducerEpoch(u64::MAX), seq: Seq(seq) }
}

fn row(place: Cursor, seq: u64) -> HistoryRow {
    HistoryRow {
        place,
        record_id: name(seq),
        device: DeviceId::new("rpi_001").unwrap(),
        timestamp: OffsetDateTime::UNIX_EPOCH,
        received_at: OffsetDateTime::UNIX_EPOCH,
        extra: None,
        data: RawValue::from_string(seq.to_string()).unwrap(),
    }
}
