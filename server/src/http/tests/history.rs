//! The history over HTTP: one list of what is kept and what only the log holds, whatever the writer does meanwhile.

use std::{cell::Cell, collections::BTreeSet};

use motience_log::Batch;
use motience_proto::model::{Cursor, DeviceId, LogEpoch, Offset, ProducerEpoch, ProducerId, RecordId, Seq, record::Parts};
use motience_store::{HistoryBatch, HistoryRow};
use serde_json::{json, value::RawValue};
use time::{Duration as Span, OffsetDateTime};

use super::*;

/// Rows from before there was a log.
async fn keep(platform: &Platform, producer: &User, rows: u64) {
    let first = datetime!(2025-01-29 11:35:00 UTC);
    let row = |n: u64| HistoryRow {
        place: Cursor { log_epoch: LogEpoch(1), offset: Offset(n) },
        record_id: RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(n) },
        device: DeviceId::new("d").unwrap(),
        timestamp: first + Span::seconds(n as i64),
        received_at: OffsetDateTime::UNIX_EPOCH,
        data: RawValue::from_string(n.to_string()).unwrap(),
        extra: None,
    };
    let rows: Vec<_> = (1..=rows).map(row).collect();
    let batch =
        HistoryBatch { producer: producer.id.producer(), log: producer.log, expected: None, cursor: rows.last().unwrap().place, rows };
    assert!(platform.services.backend.store.keep_history(&[batch]).await.unwrap().moved.is_empty());
}

/// Puts records into the log whose data are these numbers, and their seconds too.
pub(super) async fn log(platform: &Platform, producer: &User, numbers: impl Iterator<Item = u64>) {
    let publisher = platform.services.backend.relay.ephemeral_publisher(producer.log_key()).await.unwrap();
    for n in numbers {
        let at = format!("2025-01-29T{:02}:{:02}:{:02}Z", 12 + n / 3600, n / 60 % 60, n % 60);
        let ticket = publisher.submit(json!({"device_id": "d", "timestamp": at, "data": n}).to_string().into()).await.unwrap();
        publisher.committed(ticket).await.unwrap();
    }
}

/// Does what the history writer does, up to `entries` further entries of the log.
pub(super) async fn write(platform: &Platform, producer: &User, entries: usize) {
    let (backend, key, producer) = (&platform.services.backend, producer.log_key(), producer.id.producer());
    let expected = backend.store.history_cursor(producer).await.unwrap();
    let bounds = backend.relay.log().bounds(key).await.unwrap();
    let at = expected.map_or(Offset(0), |cursor| bounds.epochs.resume(cursor, bounds.last).offset);
    let read = backend.relay.log().read(key, at, 1 << 20).await.unwrap();
    let all = read.batches.iter().flat_map(|batch: &Arc<Batch>| batch.after(at).map(|entry| (batch.received.unwrap(), entry)));
    let rows: Vec<_> = all
        .take(entries)
        .map(|(received_at, (offset, record_id, message))| {
            let extra = Parts::of(message).unwrap().others();
            let message: Value = serde_json::from_slice(message).unwrap();
            HistoryRow {
                place: Cursor { log_epoch: read.log_epoch, offset },
                record_id,
                device: DeviceId::new(message["device_id"].as_str().unwrap()).unwrap(),
                timestamp: OffsetDateTime::parse(message["timestamp"].as_str().unwrap(), &time::format_description::well_known::Rfc3339)
                    .unwrap(),
                received_at,
                extra,
                data: RawValue::from_string(message["data"].to_string()).unwrap(),
            }
        })
        .collect();
    if let Some(last) = rows.last() {
        let batch = HistoryBatch { producer, log: key.log, expected, cursor: last.place, rows };
        assert!(backend.store.keep_history(&[batch]).await.unwrap().moved.is_empty());
    }
}

/// One part: the data, the last id, and the query of the next part.
pub(super) async fn part(platform: &Platform, path: &str, token: &str, query: &str) -> (Vec<u64>, Option<i64>, Option<String>) {
    let answer = platform.dsm(Method::GET, &format!("{path}{query}"), Some(token), Sent::Nothing).await;
    let list = answer.json(200);
    let list = list.as_array().unwrap();
    let link = answer.headers.get(header::LINK);
    let next = link.map(|link| link.to_str().unwrap().strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap().to_owned());
    // Relative to this very address, so it holds under the alias too.
    assert!(next.as_ref().is_none_or(|next| next.starts_with('?')));
    (list.iter().map(|one| one["data"].as_u64().unwrap()).collect(), list.last().map(|one| one["id"].as_i64().unwrap()), next)
}

pub(super) async fn whole(platform: &Platform, path: &str, token: &str, query: &str) -> Vec<u64> {
    let (mut seen, mut query) = (Vec::new(), Some(query.to_owned()));
    while let Some(this) = query {
        let (some, _, next) = part(platform, path, token, &this).await;
        seen.extend(some);
        query = next;
    }
    seen
}

#[tokio::test]
async fn the_history_is_read_in_parts_by_following_its_links() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    keep(&platform, &producer, 10).await;
    let path = format!("/api/history/{}", producer.id);
    let query = "?limit=3&by=device&from=2025-01-29T12:35:02%2B01:00&to=2025-01-29+11:35:09";
    assert_eq!(whole(&platform, &path, &token, query).await, (2..=9).collect::<Vec<_>>());
    let first = platform.dsm(Method::GET, &path, Some(&token), Sent::Nothing).await.json(200);
    assert_eq!((&first[0]["producer_id"], &first[0]["device_id"]), (&json!(producer.id.to_string()), &json!("d")));
}

#[tokio::test]
async fn what_only_the_log_holds_is_read_too() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let path = format!("/history/{}", producer.id);
    assert_eq!(part(&platform, &path, &token, "").await, (vec![], None, None));
    log(&platform, &producer, 0..10).await;
    // Nothing is kept (PERSIST=false).
    for limit in [1, 3, 10, 1000] {
        assert_eq!(whole(&platform, &path, &token, &format!("?limit={limit}")).await, (0..10).collect::<Vec<_>>());
    }
    let some = "?limit=2&by=device&from=2025-01-29T12:00:03Z&to=1738152007000";
    assert_eq!(whole(&platform, &path, &token, some).await, [3, 4, 5, 6, 7]);
    // Part of it is.
    write(&platform, &producer, 4).await;
    for limit in [1, 3, 4, 5, 1000] {
        assert_eq!(whole(&platform, &path, &token, &format!("?limit={limit}")).await, (0..10).collect::<Vec<_>>());
    }
    assert_eq!(whole(&platform, &path, &token, some).await, [3, 4, 5, 6, 7]);
    let first = platform.dsm(Method::GET, &path, Some(&token), Sent::Nothing).await.json(200);
    let ids: BTreeSet<i64> = first.as_array().unwrap().iter().map(|one| one["id"].as_i64().unwrap()).collect();
    assert_eq!(ids.len(), 10);
    assert_eq!(first[9]["producer_id"], producer.id.to_string());
    // A record has the same values from database and log.
    let before = whole_values(&platform, &path, &token).await;
    write(&platform, &producer, 100).await;
    assert_eq!(whole_values(&platform, &path, &token).await, before);
}

async fn whole_values(platform: &Platform, path: &str, token: &str) -> Vec<Value> {
    let mut list = platform.dsm(Method::GET, path, Some(token), Sent::Nothing).await.json(200);
    for one in list.as_array_mut().unwrap() {
        one.as_object_mut().unwrap().remove("id");
    }
    list.as_array().unwrap().clone()
}

/// A reader takes part after part, by links or by the last id, while records come in and the writer keeps some of them: between the
/// reader's requests, and within them.
#[tokio::test]
async fn each_record_is_read_once_while_the_writer_goes_on() {
    const RECORDS: u64 = 120;
    let platform = platform(&[]).await;
    for round in 0..40 {
        let (producer, token) = platform.account(Role::Producer, &format!("p{round}")).await;
        let path = format!("/history/{}", producer.id);
        let (done, lazy) = (Cell::new(false), fastrand::u8(1..10));
        let writing = async {
            let mut sent = 0;
            while sent < RECORDS {
                let more = fastrand::u64(0..5).min(RECORDS - sent);
                log(&platform, &producer, sent..sent + more).await;
                sent += more;
                // Now close behind the log, now far.
                if fastrand::u8(0..lazy) == 0 {
                    write(&platform, &producer, fastrand::usize(0..5 * usize::from(lazy))).await;
                }
            }
            done.set(true);
        };
        let reading = async {
            let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
            loop {
                let last_look = done.get();
                let limit = fastrand::u64(1..6);
                let (some, last, next) = part(&platform, &path, &token, &query).await;
                let found = some.len();
                seen.extend(some);
                query = match (next, last) {
                    (Some(next), _) if round % 2 == 0 => next,
                    (_, Some(last)) => format!("?limit={limit}&after={last}"),
                    (_, None) if last_look && found == 0 => return seen,
                    (_, None) => query,
                };
            }
        };
        let ((), seen) = tokio::join!(writing, reading);
        assert_eq!(seen, (0..RECORDS).collect::<Vec<_>>(), "round {round}");
    }
}

#[tokio::test]
async fn what_retention_took_from_the_log_is_read_from_the_database() {
    let platform = platform(&[("LOG_RETENTION_BYTES", "2KiB")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let path = format!("/history/{}", producer.id);
    log(&platform, &producer, 0..10).await;
    // Read from the log, and then that part of the log goes.
    let (some, _, next) = part(&platform, &path, &token, "?limit=5").await;
    assert_eq!(some, [0, 1, 2, 3, 4]);
    write(&platform, &producer, 10).await;
    log(&platform, &producer, 10..100).await;
    let bounds = platform.services.backend.relay.log().bounds(producer.log_key()).await.unwrap();
    assert!(bounds.first > Offset(20), "{bounds:?}");
    let seen = whole(&platform, &path, &token, &next.unwrap()).await;
    assert_eq!(seen[..5], [5, 6, 7, 8, 9]);
    assert_eq!(seen[5..], (bounds.first.0 - 1..100).collect::<Vec<_>>());
}

/// The database knows the log by an earlier epoch, whose tail is lost; some of its records came in again.
#[tokio::test]
async fn a_record_that_came_again_is_read_once() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let path = format!("/history/{}", producer.id);
    log(&platform, &producer, 0..6).await;
    let (backend, id) = (&platform.services.backend, ProducerId(producer.id.0));
    let read = backend.relay.log().read(producer.log_key(), Offset(0), 1 << 20).await.unwrap();
    let names: Vec<RecordId> = read.batches.iter().flat_map(|batch| batch.after(Offset(0)).map(|(_, record_id, _)| record_id)).collect();
    let row = |place: u64, n: usize| HistoryRow {
        place: Cursor { log_epoch: LogEpoch(9), offset: Offset(place) },
        record_id: names[n],
        device: DeviceId::new("d").unwrap(),
        timestamp: datetime!(2025-01-29 12:00:00 UTC),
        received_at: OffsetDateTime::UNIX_EPOCH,
        data: RawValue::from_string(n.to_string()).unwrap(),
        extra: None,
    };
    let rows = vec![row(1, 3), row(2, 1)];
    let batch = HistoryBatch { producer: id, log: producer.log, expected: None, cursor: rows[1].place, rows };
    backend.store.keep_history(&[batch]).await.unwrap();
    assert_eq!(whole(&platform, &path, &token, "").await, [3, 1, 0, 2, 4, 5]);
    assert_eq!(whole(&platform, &path, &token, "?limit=2").await, [3, 1, 0, 2, 4, 5]);
    write(&platform, &producer, 100).await;
    assert_eq!(whole(&platform, &path, &token, "?limit=2").await, [3, 1, 0, 2, 4, 5]);
}

#[tokio::test]
async fn the_history_is_for_the_producer_and_its_active_subscribers() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let (_, rival) = platform.account(Role::Producer, "q").await;
    let (consumer, reader) = platform.account(Role::Consumer, "c").await;
    keep(&platform, &producer, 1).await;
    let path = format!("/history/{}", producer.id);
    let read = async |token: &str| platform.dsm(Method::GET, &path, Some(token), Sent::Nothing).await;
    assert_eq!(read(&token).await.json(200).as_array().unwrap().len(), 1);
    read(&rival).await.problem(403, "forbidden");
    read(&reader).await.problem(403, "forbidden");
    let store = &platform.services.backend.store;
    store.subscribe(consumer.id.consumer(), producer.id.producer(), Visibility::Open, platform.services.backend.clock.now()).await.unwrap();
    read(&reader).await.json(200);
    store.unsubscribe(consumer.id.consumer(), producer.id.producer(), platform.services.backend.clock.now()).await.unwrap();
    read(&reader).await.problem(403, "forbidden");
    for (query, field) in [
        ("from=yesterday", "from"),
        ("to=2025-01-29", "to"),
        ("limit=0", "limit"),
        ("after=-1", "after"),
        ("kept=-1", "kept"),
        ("epoch=x", "epoch"),
    ] {
        let answer = platform.dsm(Method::GET, &format!("{path}?{query}"), Some(&token), Sent::Nothing).await;
        assert_eq!(answer.problem(422, "invalid_field")["field"], field);
    }
}

#[tokio::test]
async fn what_else_a_device_wrote_and_when_it_came_is_told_alike_from_either_half() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let path = format!("/history/{}", producer.id);
    let sent = [
        json!({"device_id": "d", "timestamp": "2020-01-01T00:00:00Z", "data": 1, "location": {"lat": 1.5}, "id": "own"}),
        json!({"device_id": "d", "timestamp": "2020-01-01T00:00:01Z", "data": 2}),
    ];
    for (n, record) in sent.iter().enumerate() {
        if n > 0 {
            platform.time.advance(Duration::from_millis(60_123));
        }
        platform.dsm(Method::POST, "/data", Some(&token), self::Sent::Json(record.clone())).await.json(200);
    }
    let whole = json!({
        "producer_id": producer.id.to_string(), "device_id": "d", "timestamp": "2020-01-01T00:00:00Z", "data": 1,
        "received_at": "2026-01-01T00:00:00Z", "location": {"lat": 1.5}, "sent_id": "own",
    });
    for kept in 0..=2 {
        let all = whole_values(&platform, &path, &token).await;
        assert_eq!((all.len(), &all[0], &all[1]["received_at"]), (2, &whole, &json!("2026-01-01T00:01:00.123Z")), "{kept} of them kept");
        // Times are of the arrival, as those of a stream are; or of the device, where that is asked for.
        for (query, found) in [
            ("?from=2026-01-01T00:00:01Z", vec![2]),
            ("?to=2026-01-01T00:00:00Z", vec![1]),
            ("?from=1577836800000&to=1577836801000", vec![]),
            ("?by=device&from=1577836800500&to=1577836801000", vec![2]),
            ("?by=received&from=2025-12-31 23:59:59", vec![1, 2]),
        ] {
            assert_eq!(self::whole(&platform, &path, &token, &query.replace(' ', "%20")).await, found, "{query}");
        }
        write(&platform, &producer, 1).await;
    }
    platform.dsm(Method::GET, &format!("{path}?by=mine"), Some(&token), Sent::Nothing).await.problem(422, "invalid_field");
}

#[tokio::test]
async fn a_filter_and_a_projection_hold_for_the_history_too() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let path = format!("/history/{}", producer.id);
    let sent: Vec<Value> = (0..20)
        .map(|n| json!({"device_id": format!("d{}", n % 2), "timestamp": format!("2025-01-29T12:00:{n:02}Z"), "data": {"n": n, "other": true}}))
        .collect();
    platform.dsm(Method::POST, "/data", Some(&token), Sent::Json(json!(sent))).await.json(200);
    let read = async |query: &str| {
        let (mut found, mut query) = (Vec::new(), Some(query.to_owned()));
        while let Some(this) = query {
            let answer = platform.dsm(Method::GET, &format!("{path}{this}"), Some(&token), Sent::Nothing).await;
            let link = answer.headers.get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
            query = link.map(|link| link.split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned());
            found.extend(answer.json(200).as_array().unwrap().iter().map(|one| one["data"].clone()));
        }
        found
    };
    for kept in [0, 12] {
        write(&platform, &producer, kept).await;
        for limit in [1, 3, 1000] {
            let found = read(&format!("?limit={limit}&where=/data/n%3E%3D10&where=/device_id%3D%22d1%22&fields=/data/n")).await;
            assert_eq!(found, [11, 13, 15, 17, 19].map(|n| json!({"n": n})), "{kept} kept, {limit} in a part");
        }
        assert_eq!(read("?where=/timestamp%3C%222025-01-29T12:00:02Z%22&fields=/data/other").await, vec![json!({"other": true}); 2]);
        assert!(read("?where=/data/n%3E100").await.is_empty());
    }
    let answer = platform.dsm(Method::GET, &format!("{path}?where=/data/n+%3F"), Some(&token), Sent::Nothing).await;
    assert_eq!(answer.problem(400, "invalid_expression")["column"], 9);
}

#[tokio::test]
async fn buckets_are_the_numbers_of_records_wherever_these_are_kept() {
    let platform = platform(&[]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    let (_, rival) = platform.account(Role::Producer, "q").await;
    let path = format!("/history/{}", producer.id);
    log(&platform, &producer, 0..150).await;
    let of = |minute: u64, first: u64, last: u64| {
        let (count, avg) = (last - first + 1, (first + last) as f64 / 2.0);
        json!({"device_id": "d", "start": format!("2025-01-29T12:{minute:02}:00Z"), "records": count,
            "values": {"/data": {"count": count, "avg": avg, "min": first as f64, "max": last as f64}}})
    };
    for kept in [0, 70, 150] {
        write(&platform, &producer, kept).await;
        let read = async |query: &str| platform.dsm(Method::GET, &format!("{path}?by=device&{query}"), Some(&token), Sent::Nothing).await;
        assert_eq!(read("bucket=1m").await.json(200), json!([of(0, 0, 59), of(1, 60, 119), of(2, 120, 149)]), "{kept} kept");
        let some = read("bucket=60s&from=2025-01-29T12:00:30Z&to=2025-01-29T12:01:29Z&where=/data%3C80&limit=1").await;
        assert_eq!(some.json(200), json!([of(0, 30, 59), of(1, 60, 79)]));
        assert_eq!(read("bucket=24h&aggregate=last").await.json(200)[0]["values"], json!({"/data": {"count": 150, "last": 149.0}}));
        assert_eq!(read("bucket=1h&from=2030-01-01T00:00:00Z").await.json(200), json!([]));
        for (query, field) in [("bucket=1d", "bucket"), ("bucket=2m&aggregate=median", "aggregate"), ("bucket=10ms", "bucket")] {
            assert_eq!(read(query).await.problem(422, "invalid_field")["field"], field);
        }
    }
    platform.dsm(Method::GET, &format!("{path}?bucket=1m"), Some(&rival), Sent::Nothing).await.problem(403, "forbidden");
}

#[tokio::test]
async fn buckets_too_many_for_one_answer_come_in_parts() {
    let platform = platform(&[("HTTP_MAX_PAGE_BYTES", "64KiB")]).await;
    let (producer, token) = platform.account(Role::Producer, "p").await;
    log(&platform, &producer, 0..3000).await;
    let path = format!("/history/{}", producer.id);
    let (mut records, mut parts, mut query) = (0, 0, Some("?by=device&bucket=2s&aggregate=max&where=/data%3E%3D0".to_owned()));
    while let Some(this) = query {
        let answer = platform.dsm(Method::GET, &format!("{path}{this}"), Some(&token), Sent::Nothing).await;
        let link = answer.headers.get(header::LINK).map(|link| link.to_str().unwrap().to_owned());
        query = link.map(|link| link.split_once('<').unwrap().1.split_once('>').unwrap().0.to_owned());
        for bucket in answer.json(200).as_array().unwrap() {
            records += bucket["records"].as_u64().unwrap();
            let first = bucket["values"]["/data"]["max"].as_f64().unwrap() as u64 / 2 * 2;
            let start = format!("2025-01-29T{:02}:{:02}:{:02}Z", 12 + first / 3600, first / 60 % 60, first % 60);
            assert_eq!(bucket["start"], start);
        }
        parts += 1;
    }
    assert_eq!(records, 3000);
    assert!(parts > 1, "{parts} part");
}
