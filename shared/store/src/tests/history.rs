//! The history of records: the same values come back, once each, from every engine.

use motience_proto::model::{Cursor, DeviceId, DeviceState, LogEpoch, Offset, ProducerEpoch, ProducerId, RecordId, Role, Seq};
use serde_json::{Value, value::RawValue};
use time::{Duration, OffsetDateTime, macros::datetime};

use super::{Engines, keep, user};
use crate::{ClassRetention, Erased, Error, HistoryEntry, HistoryQuery, HistoryRow, MAX_OPEN_ERASURES, OwnRetention, Store, kept_time};

const PRODUCER: ProducerId = ProducerId(7);
const RECEIVED: OffsetDateTime = datetime!(2025-01-29 11:35:01 UTC);

#[tokio::test(flavor = "multi_thread")]
async fn history_is_the_same_on_every_engine() {
    let engines = Engines::start().await;
    for (name, store) in &engines.stores {
        println!("{name}");
        comes_back(store).await;
        is_read_up_to_its_bytes(store).await;
        is_found_by_time(store).await;
        many_are_found_where_they_begin(store).await;
        takes_what_jsonb_refuses(store).await;
        is_written_in_any_way(store).await;
        goes_by_age_and_by_erasure(store).await;
        goes_by_rows_and_by_class(store).await;
    }
    let (_, postgres) = engines.stores.last().unwrap();
    keeps_what_jsonb_cannot_hold(postgres).await;
}

/// A year of simulated time, a row for each day and producer: the too old ones go piece by piece, and others by an erasure.
async fn goes_by_age_and_by_erasure(store: &Store) {
    let producer = user(store, "keeps-a-month", Role::Producer).await.id.producer();
    let other = user(store, "keeps-all", Role::Producer).await.id.producer();
    let start = datetime!(2025-01-01 00:00 UTC);
    for of in [producer, other] {
        let mut rows: Vec<_> = (1..=365).map(|day| row(9, day, start, "1")).collect();
        for (day, row) in rows.iter_mut().enumerate() {
            row.received_at = start + Duration::days(day as i64);
            row.record_id.producer_epoch = ProducerEpoch(of.0.cast_unsigned());
        }
        assert_eq!(keep(store, of, rows).await, 365);
    }
    let left = async |of| store.history(of, &HistoryQuery::default()).await.unwrap().len();
    for day in (0..365).step_by(7) {
        let before = start + Duration::days(day - 30);
        while store.trim_history(producer, before).await.unwrap() > 0 {}
        assert_eq!(left(producer).await, usize::try_from(365 - (day - 30).max(0)).unwrap(), "{day}");
    }
    assert_eq!(left(other).await, 365);

    let times = Erased { device: Some("rpi_001".to_owned()), from: Some(start), to: Some(start + Duration::days(9)), ..Erased::default() };
    let offsets = Erased { first: Some(364), ..Erased::default() };
    for (erased, gone) in
        [(Erased { device: Some("none".to_owned()), ..times.clone() }, 0), (times, 10), (offsets.clone(), 2), (offsets, 0)]
    {
        let erasure = store.begin_record_erasure(other, &erased, None, RECEIVED).await.unwrap().unwrap();
        assert_eq!(store.erase_history(&erasure).await.unwrap(), gone, "{erased:?}");
        store.note_record_erasure(erasure.id, 0, gone, Some(RECEIVED)).await.unwrap();
    }
    assert_eq!(left(other).await, 353);
    // Behind the end of the log that an erasure was begun at nothing is erased.
    let rest = Erased { first: Some(1), ..Erased::default() };
    let erasure = store.begin_record_erasure(other, &rest, None, RECEIVED).await.unwrap().unwrap();
    store.set_erasure_until(erasure.id, Cursor { log_epoch: LogEpoch(9), offset: Offset(300) }).await.unwrap();
    let open = store.open_record_erasures().await.unwrap();
    assert_eq!(open.iter().map(|open| (open.id, open.erased.clone())).collect::<Vec<_>>(), [(erasure.id, rest)]);
    store.erase_history(&open[0]).await.unwrap();
    assert_eq!(left(other).await, 63);
    store.note_record_erasure(erasure.id, 1, 2, Some(RECEIVED)).await.unwrap();
    let listed = store.record_erasures(Some(other), None, 10).await.unwrap();
    assert_eq!((listed.len(), listed[0].records, listed[0].history_rows, listed[0].done_at), (5, 1, 2, Some(RECEIVED)));
    // As many as may be under way at once, of one producer; one that is done makes room.
    let nobodys = Erased { device: Some("nobody".to_owned()), ..Erased::default() };
    let begin = async |of| store.begin_record_erasure(of, &nobodys, None, RECEIVED).await;
    let one = begin(other).await.unwrap().unwrap();
    for _ in 1..MAX_OPEN_ERASURES {
        begin(other).await.unwrap().unwrap();
    }
    assert!(matches!(begin(other).await, Err(Error::TooManyErasures)));
    begin(producer).await.unwrap().unwrap();
    store.note_record_erasure(one.id, 0, 0, Some(RECEIVED)).await.unwrap();
    begin(other).await.unwrap().unwrap();
    assert!(matches!(begin(other).await, Err(Error::TooManyErasures)));
    let class = ClassRetention { label: "kind".into(), value: "camera".into(), history_age: std::time::Duration::from_secs(3) };
    let history_age = Some(std::time::Duration::from_secs(7));
    let own = OwnRetention { log_bytes: Some(5), history_age, classes: vec![class], ..OwnRetention::default() };
    store.set_retention(other, &own).await.unwrap();
    assert_eq!((store.retention(other).await.unwrap(), store.retentions().await.unwrap()), (own.clone(), vec![(other, own)]));
    store.set_retention(other, &OwnRetention::default()).await.unwrap();
    assert_eq!(store.retention(other).await.unwrap(), OwnRetention::default());
}

/// Rows beyond a number go, the oldest first; and those of devices with a label, before others of their age.
async fn goes_by_rows_and_by_class(store: &Store) {
    let producer = user(store, "has-a-plan", Role::Producer).await.id.producer();
    let start = datetime!(2025-01-01 00:00 UTC);
    assert_eq!(store.history_begin(producer).await.unwrap(), None);
    let mut rows: Vec<_> = (1..=100).map(|hour| row(9, hour, start, "1")).collect();
    for (hour, row) in rows.iter_mut().enumerate() {
        row.received_at = start + Duration::hours(hour as i64);
        row.device = DeviceId::new(["cam", "meter", "other"][hour % 3]).unwrap();
        row.record_id.producer_epoch = ProducerEpoch(producer.0.cast_unsigned());
    }
    assert_eq!(keep(store, producer, rows).await, 100);
    assert_eq!(store.history_size(producer).await.unwrap(), (100, Some(start)));
    for (device, kind) in [("cam", "camera"), ("meter", "meter")] {
        let device = DeviceId::new(device).unwrap();
        store.set_device_state(producer, &device, DeviceState::Quarantined, 10, start).await.unwrap();
        let labels = [("kind".to_owned(), kind.to_owned())].into();
        store.label_device(producer, &device, &labels).await.unwrap().unwrap();
    }
    let class = |value: &str| ClassRetention { label: "kind".into(), value: value.into(), history_age: std::time::Duration::ZERO };
    let before = start + Duration::hours(50);
    assert_eq!(store.trim_history_class(producer, &class("none"), None, before).await.unwrap(), 0);
    assert_eq!(store.trim_history_class(producer, &class("camera"), Some(start + Duration::hours(48)), before).await.unwrap(), 1);
    assert_eq!(store.trim_history_class(producer, &class("camera"), None, before).await.unwrap(), 16);
    assert_eq!(store.trim_history_class(producer, &class("camera"), None, before).await.unwrap(), 0);
    assert_eq!(store.history_size(producer).await.unwrap(), (83, Some(start + Duration::hours(1))));
    assert_eq!(store.history_beyond(producer, 83).await.unwrap(), None);
    let beyond = store.history_beyond(producer, 20).await.unwrap().unwrap();
    assert_eq!(
        (store.trim_history_until(producer, beyond).await.unwrap(), store.trim_history_until(producer, beyond).await.unwrap()),
        (63, 0)
    );
    assert_eq!(store.history_size(producer).await.unwrap(), (20, Some(start + Duration::hours(80))));
}

async fn comes_back(store: &Store) {
    let data = r#"{"temperature":24.3,"text":"\"a\" é 😀","list":[1,2.50,-7,1000.0,true,null],"nested":{"a":{"b":[]}},"big":12345678901234567890}"#;
    // A log's epoch is random: its highest bit may be set.
    let epoch = u64::MAX;
    let rows: Vec<_> = (1..=3).map(|offset| row(epoch, offset, datetime!(2025-01-29 11:35:00.123456789 UTC), data)).collect();
    keep(store, PRODUCER, rows.clone()).await;
    // Rows that were written before, and a new one: a writer that repeats itself after a crash.
    let mut again = rows.clone();
    again.push(row(epoch, 4, datetime!(2025-01-29 11:36 UTC), "1"));
    assert_eq!(keep(store, PRODUCER, again).await, 1);
    assert_eq!(keep(store, PRODUCER, vec![]).await, 0);
    // Another log epoch reuses the offsets.
    keep(store, PRODUCER, vec![row(5, 1, datetime!(2025-01-29 11:37 UTC), "[]")]).await;

    let all = store.history(PRODUCER, &HistoryQuery::default()).await.unwrap();
    assert_eq!(all.len(), 5);
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id));
    let first = &all[0];
    assert_eq!((first.producer_id, first.device_id.as_str()), (PRODUCER, "rpi_001"));
    assert_eq!(first.timestamp, datetime!(2025-01-29 11:35:00.123456 UTC));
    assert_eq!(first.timestamp, kept_time(rows[0].timestamp));
    assert_eq!(first.place, Some(rows[0].place));
    assert_eq!(value(first), serde_json::from_str::<Value>(data).unwrap());
    assert_eq!(first.received_at, Some(rows[0].received_at));
    assert_eq!(first.extra.as_ref().map(|extra| extra.get().replace(' ', "")), Some(r#"{"battery":81}"#.to_owned()));
    assert!(store.history(ProducerId(8), &HistoryQuery::default()).await.unwrap().is_empty());
    assert!(store.history(ProducerId(i64::MAX), &HistoryQuery::default()).await.unwrap().is_empty());

    let page = |after| async move { store.history(PRODUCER, &HistoryQuery { after, limit: 2, ..HistoryQuery::default() }).await.unwrap() };
    let (one, two) = (page(0).await, page(all[1].id).await);
    let paged: Vec<_> = one.iter().chain(&two).map(|entry| entry.id).collect();
    assert_eq!(paged, all[..4].iter().map(|entry| entry.id).collect::<Vec<_>>());
}

async fn is_read_up_to_its_bytes(store: &Store) {
    let producer = ProducerId(21);
    let long = format!("\"{}\"", "x".repeat(100_000));
    let data = ["1", &long, &long, "2", &long, "3"];
    let rows = (1..).zip(data).map(|(offset, data)| row(1, offset, datetime!(2025-01-29 11:35 UTC), data)).collect();
    keep(store, producer, rows).await;
    let mut after = 0;
    let mut parts = Vec::new();
    loop {
        let query = HistoryQuery { after, bytes: 150_000, ..HistoryQuery::default() };
        let part = store.history(producer, &query).await.unwrap();
        let Some((last, before)) = part.split_last() else { break };
        // The last may go beyond the limit, and nothing comes after it.
        assert!(before.iter().map(HistoryEntry::bytes).sum::<usize>() < 150_000);
        after = last.id;
        parts.push(part.len());
    }
    assert_eq!(parts, [3, 3]);
}

async fn is_found_by_time(store: &Store) {
    let producer = ProducerId(9);
    let times = [
        datetime!(2025-01-01 00:00:00 UTC),
        datetime!(2025-01-01 00:00:00.5 UTC),
        datetime!(2025-01-01 00:00:01 UTC),
        datetime!(2025-01-01 02:00:00 +01:00),
        datetime!(9999-12-31 23:59:59.999999999 UTC),
        datetime!(-4800-01-01 00:00:00 UTC),
    ];
    let rows: Vec<_> = (1..).zip(times).map(|(offset, at)| row(1, offset, at, &offset.to_string())).collect();
    keep(store, producer, rows).await;
    let found = |from: Option<OffsetDateTime>, to: Option<OffsetDateTime>| async move {
        let query = HistoryQuery { from, to, by_device: true, ..HistoryQuery::default() };
        let entries = store.history(producer, &query).await.unwrap();
        // Records that are still in the log only are chosen by the same rule.
        assert_eq!(times.iter().filter(|at| query.includes(kept_time(**at), None)).count(), entries.len());
        entries.iter().map(|entry| entry.data.get().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(found(None, None).await, "1 2 3 4 5 6");
    assert_eq!(found(Some(times[0]), Some(times[2])).await, "1 2 3");
    assert_eq!(found(Some(times[1]), Some(times[1])).await, "2");
    assert_eq!(found(Some(times[2]), None).await, "3 4 5");
    assert_eq!(found(Some(datetime!(2025-01-01 01:00 UTC)), Some(datetime!(2025-01-01 01:00 UTC))).await, "4");
    assert_eq!(found(None, Some(times[0])).await, "1 6");
    // By when they came, which is one time for all of these.
    let came = async |from, to| store.history(producer, &HistoryQuery { from, to, ..HistoryQuery::default() }).await.unwrap().len();
    assert_eq!(came(Some(RECEIVED), Some(RECEIVED)).await, 6);
    assert_eq!(came(Some(RECEIVED + Duration::MICROSECOND), None).await, 0);
    assert_eq!(came(None, Some(RECEIVED - Duration::MICROSECOND)).await, 0);
}

/// More rows than are put in order after they were found: those before are passed over, and imported ones are not forgotten.
async fn many_are_found_where_they_begin(store: &Store) {
    let producer = ProducerId(22);
    for part in 0..3 {
        let mut rows: Vec<_> = (1..=5000).map(|n| row(1, part * 5000 + n, RECEIVED, "1")).collect();
        for row in &mut rows {
            row.received_at = RECEIVED + Duration::minutes(row.place.offset.0.cast_signed());
        }
        // A node's clock is behind.
        rows[2500].received_at -= Duration::minutes(30);
        keep(store, producer, rows).await;
    }
    let first = async |from: u64, after| {
        let from = Some(RECEIVED + Duration::minutes(from.cast_signed()));
        let page = store.history(producer, &HistoryQuery { from, after, limit: 3, ..HistoryQuery::default() }).await.unwrap();
        let offsets: Vec<u64> = page.iter().map(|row| row.place.unwrap().offset.0).collect();
        (offsets, page.last().map_or(0, |row| row.id))
    };
    let (page, last) = first(2499, 0).await;
    assert_eq!(page, [2499, 2500, 2502]);
    assert_eq!(first(2499, last).await.0, [2503, 2504, 2505]);
    assert_eq!(first(2471, 0).await.0, [2471, 2472, 2473]);
    assert_eq!(first(14_998, 0).await.0, [14_998, 14_999, 15_000]);
    assert_eq!(first(0, 0).await.0, [1, 2, 3]);
}

async fn takes_what_jsonb_refuses(store: &Store) {
    let producer = ProducerId(10);
    let given = [r#"{"a":"x\u0000y"}"#, r#"{"\ud800":"\udc00"}"#, r#"{"a":"\\u0000 \ud83d\ude00"}"#];
    let rows: Vec<_> = (1..).zip(given).map(|(offset, data)| row(1, offset, OffsetDateTime::UNIX_EPOCH, data)).collect();
    keep(store, producer, rows).await;
    let kept: Vec<_> = store.history(producer, &HistoryQuery::default()).await.unwrap().iter().map(value).collect();
    let expected = [r#"{"a":"x\ufffdy"}"#, r#"{"\ufffd":"\ufffd"}"#, r#"{"a":"\\u0000 \ud83d\ude00"}"#];
    assert_eq!(kept, expected.map(|json| serde_json::from_str::<Value>(json).unwrap()));
}

/// Characters that mean something to `COPY`, which PostgreSQL is given many rows by, and a row whose place is taken already.
async fn is_written_in_any_way(store: &Store) {
    let producer = ProducerId(12);
    let devices = [r"back\slash\.", r"\N", "é"];
    let rows: Vec<_> = (1..)
        .zip(devices)
        .map(|(n, device)| HistoryRow { device: DeviceId::new(device).unwrap(), ..row(1, n, OffsetDateTime::UNIX_EPOCH, r#""\t\\\n""#) })
        .collect();
    let others = |from: u64| (from..from + 600).map(|n| row(1, n, OffsetDateTime::UNIX_EPOCH, "1"));
    let written: Vec<_> = rows.iter().map(|row| row.device.as_str().to_owned()).collect();
    assert_eq!(keep(store, producer, rows.into_iter().chain(others(100)).collect()).await, 603);
    let taken = row(1, 1, OffsetDateTime::UNIX_EPOCH, "1");
    let taken = HistoryRow { record_id: RecordId { seq: Seq(99), ..taken.record_id }, ..taken };
    assert_eq!(keep(store, producer, [taken].into_iter().chain(others(1000)).collect()).await, 600);
    let kept = store.history(producer, &HistoryQuery::default()).await.unwrap();
    assert_eq!(kept[..written.len()].iter().map(|row| row.device_id.clone()).collect::<Vec<_>>(), written);
    assert_eq!((kept[0].data.get(), kept.len()), (r#""\t\\\n""#, 1000));
}

async fn keeps_what_jsonb_cannot_hold(postgres: &Store) {
    let producer = ProducerId(11);
    let rows: Vec<_> = (1..)
        .zip(["1", "1e400000", "3", "4", "-1e400000"])
        .map(|(offset, data)| row(1, offset, OffsetDateTime::UNIX_EPOCH, data))
        .chain([HistoryRow { extra: Some(json(r#"{"a":1e400000}"#)), ..row(1, 6, OffsetDateTime::UNIX_EPOCH, "6") }])
        .collect();
    keep(postgres, producer, rows).await;
    let rows = postgres.history(producer, &HistoryQuery::default()).await.unwrap();
    let kept: Vec<_> = rows.iter().map(|e| e.data.get().to_owned()).collect();
    assert_eq!(kept, ["1", r#""1e400000""#, "3", "4", r#""-1e400000""#, r#""6""#]);
    assert_eq!(rows[5].extra.as_ref().unwrap().get(), r#"{"a":1e400000}"#);
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// Named by its place: each is another record.
fn row(epoch: u64, offset: u64, timestamp: OffsetDateTime, data: &str) -> HistoryRow {
    HistoryRow {
        place: Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) },
        record_id: RecordId { producer_epoch: ProducerEpoch(epoch), seq: Seq(offset) },
        device: DeviceId::new("rpi_001").unwrap(),
        timestamp,
        received_at: RECEIVED,
        extra: Some(json(r#"{"battery":81}"#)),
        data: json(data),
    }
}

fn value(entry: &HistoryEntry) -> Value {
    serde_json::from_str(entry.data.get()).unwrap()
}
