//! The history of PostgreSQL in partitions: nothing is lost while it is divided, whatever clocks say, and each record is kept once.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use motience_proto::model::{Cursor, DeviceId, LogEpoch, Offset, ProducerEpoch, ProducerId, RecordId, Role, Seq};
use motience_testing::{PgBouncer, Postgres};
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection};
use time::{Duration, OffsetDateTime, macros::datetime};

use super::{keep, keep_from, server, user};
use crate::{Division, HistoryQuery, HistoryRow, Store, Width};

const NOW: OffsetDateTime = datetime!(2025-03-01 12:00 UTC);
const DAILY: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);

/// As programs before the partitions write and erase.
const OLD_INSERT: &str = "INSERT INTO data_history (producer_id, device_id, payload, timestamp, received_at, log_epoch, log_offset, \
     sender_epoch, sender_seq, extra, log_id) SELECT 1, 'old', '1', now(), now(), 5, n, 5, n, NULL, NULL FROM generate_series(1, 2) AS n ON CONFLICT DO NOTHING";
const OLD_ERASE: &str = "DELETE FROM data_history WHERE ctid IN (SELECT ctid FROM data_history WHERE producer_id = 1 LIMIT 1000)";

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_divided_while_it_is_written_and_read() {
    let postgres = Postgres::start().await;
    postgres.database("pooled").await;
    let pooler = PgBouncer::start(&postgres).await;
    for (url, database) in [(postgres.url(), postgres.url()), (pooler.url("pooled"), postgres.url_of("pooled"))] {
        let store = Store::open(&server(&url)).await.unwrap();
        let producer = user(&store, "writes", Role::Producer).await.id.producer();
        let mut connection = PgConnection::connect(&database).await.unwrap();
        execute(&mut connection, "CREATE ROLE reports").await.ok();
        execute(&mut connection, "GRANT SELECT ON data_history TO reports").await.unwrap();
        // An imported row, of which nobody knows when it came.
        let imported =
            "INSERT INTO data_history (producer_id, payload, timestamp, log_id) SELECT id, '0', '2024-05-01 12:00:00Z', log_id FROM users";
        execute(&mut connection, imported).await.unwrap();
        let stop = AtomicBool::new(false);
        let writing = async {
            let mut written = 0;
            while !stop.load(Relaxed) || written < 20 {
                let rows = (1..=50).map(|n| row(written + n, NOW)).collect();
                assert_eq!(keep(&store, producer, rows).await, 50);
                written += 50;
            }
            written
        };
        let reading = async {
            let mut last = 0;
            while !stop.load(Relaxed) {
                let ids = ids(&store, producer).await;
                assert!(ids.len() >= last, "what was read once is there");
                last = ids.len();
            }
        };
        let dividing = async {
            let nodes = [&store; 3].map(|store| store.divide_history(NOW, Width::of(Some(DAILY))));
            for outcome in futures_util::future::join_all(nodes).await {
                // Another node is at it.
                assert!(matches!(outcome.unwrap(), Division::Spans | Division::Whole));
            }
            assert_eq!(store.divide_history(NOW, Width::of(Some(DAILY))).await.unwrap(), Division::Spans);
            stop.store(true, Relaxed);
        };
        let (written, (), ()) = tokio::join!(writing, reading, dividing);
        assert_eq!(ids(&store, producer).await.len(), usize::try_from(written).unwrap() + 1);
        let spans: Vec<&str> = vec!["20250303", "20250304", "20250305", "20250306", "20250307", "20250308"];
        let expected = ["before", "other"].into_iter().chain(spans).map(|name| format!("data_history_{name}")).collect::<Vec<_>>();
        assert_eq!(partitions(&mut connection).await, expected);

        // Who could read the table can go on, a node from before goes on, and what it would do wrong is refused.
        let granted: bool =
            sqlx::query_scalar("SELECT has_table_privilege('reports', 'data_history', 'SELECT')").fetch_one(&mut connection).await.unwrap();
        assert!(granted);
        assert_eq!(execute(&mut connection, OLD_INSERT).await.unwrap(), 2);
        assert_eq!(execute(&mut connection, OLD_INSERT).await.unwrap(), 0);
        assert!(execute(&mut connection, OLD_ERASE).await.unwrap_err().to_string().contains("ctid"));
        store.erase_rows(producer.user()).await.unwrap();
        assert!(ids(&store, producer).await.is_empty());
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_any_time_is_kept_once_across_partitions() {
    let postgres = Postgres::start().await;
    let store = Store::open(&server(&postgres.url())).await.unwrap();
    let producer = user(&store, "any", Role::Producer).await.id.producer();
    let width = Width::of(Some(DAILY));
    store.divide_history(NOW, width).await.unwrap();
    let late = [datetime!(1999-01-01 0:00 UTC), NOW, NOW + Duration::days(5), NOW + Duration::days(12), datetime!(2099-01-01 0:00 UTC)];
    let rows = (1..).zip(late).map(|(n, at)| row(n, at)).collect();
    assert_eq!(keep(&store, producer, rows).await, 5);
    let mut connection = PgConnection::connect(&postgres.url()).await.unwrap();
    let places = "SELECT string_agg(tableoid::regclass::text || ' ' || log_offset, ', ' ORDER BY id) FROM data_history";
    let placed = async |connection: &mut PgConnection| sqlx::query_scalar::<_, String>(places).fetch_one(connection).await.unwrap();
    let (before, other, span) = ("data_history_before", "data_history_other", "data_history_20250306");
    let expected = format!("{before} 1, {before} 2, {span} 3, {other} 4, {other} 5");
    assert_eq!(placed(&mut connection).await, expected);

    // A record that came ahead of its partition moves there once that is made.
    store.divide_history(NOW + Duration::days(6), width).await.unwrap();
    let expected = format!("{before} 1, {before} 2, {span} 3, data_history_20250313 4, {other} 5");
    assert_eq!(placed(&mut connection).await, expected);
    assert_eq!(ids(&store, producer).await.len(), 5);

    // The log lost its tail: records 2 and 4 come in again, later, and a new one; and once more to a node that knows nothing yet.
    let again = Store::open(&server(&postgres.url())).await.unwrap();
    for (store, epoch, new) in [(&store, 2, 6), (&again, 3, 7)] {
        let stands = store.history_cursor(producer).await.unwrap();
        let rows: Vec<_> = (1..)
            .zip([2, 4, new, new])
            .map(|(offset, seq)| HistoryRow { place: at(epoch, offset), ..row(seq, NOW + Duration::days(3)) })
            .collect();
        assert_eq!(keep_from(store, producer, stands, at(epoch, 4), rows).await, Some(1));
    }
    // And the first one again, which has not seen what the other wrote.
    let rows: Vec<_> =
        (5..).zip([7, 8]).map(|(offset, seq)| HistoryRow { place: at(3, offset), ..row(seq, NOW + Duration::days(9)) }).collect();
    assert_eq!(keep_from(&store, producer, Some(at(2, 4)), at(3, 6), rows.clone()).await, None);
    assert_eq!(keep_from(&store, producer, Some(at(3, 4)), at(3, 6), rows).await, Some(1));
    let numbers: Vec<String> =
        store.history(producer, &HistoryQuery::default()).await.unwrap().iter().map(|entry| entry.data.get().to_owned()).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6", "7", "8"]);

    // Rows of another account lie at the same places of other partitions, and stay.
    let other = user(&store, "stays", Role::Producer).await.id.producer();
    let rows = (1..).zip((0..10).map(|day| NOW + Duration::days(day))).map(|(n, at)| row(n, at)).collect();
    assert_eq!(keep(&store, other, rows).await, 10);
    store.erase_rows(producer.user()).await.unwrap();
    assert_eq!((ids(&store, producer).await.len(), ids(&store, other).await.len()), (0, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_from_the_future_put_the_division_off() {
    let postgres = Postgres::start().await;
    let store = Store::open(&server(&postgres.url())).await.unwrap();
    let producer = user(&store, "early", Role::Producer).await.id.producer();
    keep(&store, producer, vec![row(1, datetime!(2099-01-01 0:00 UTC))]).await;
    assert_eq!(store.divide_history(NOW, Width::of(None)).await.unwrap(), Division::Waits);
    assert_eq!(keep(&store, producer, vec![row(2, datetime!(2098-01-01 0:00 UTC))]).await, 1, "nothing is refused meanwhile");
    assert_eq!(store.divide_history(datetime!(2099-01-01 0:00 UTC), Width::of(None)).await.unwrap(), Division::Spans);
    assert_eq!(ids(&store, producer).await.len(), 2);
}

async fn execute(connection: &mut PgConnection, statement: &'static str) -> Result<u64, sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(|done| done.rows_affected())
}

async fn partitions(connection: &mut PgConnection) -> Vec<String> {
    let names = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'data_history'::regclass ORDER BY inhrelid::regclass::text DESC";
    let mut names: Vec<String> = sqlx::query_scalar(names).fetch_all(connection).await.unwrap();
    names.sort_by_key(|name| (name.contains("20"), name.clone()));
    names
}

async fn ids(store: &Store, producer: ProducerId) -> Vec<i64> {
    let (mut ids, mut after) = (Vec::new(), 0);
    loop {
        let part = store.history(producer, &HistoryQuery { after, ..HistoryQuery::default() }).await.unwrap();
        let Some(last) = part.last() else { return ids };
        after = last.id;
        ids.extend(part.iter().map(|entry| entry.id));
    }
}

fn at(epoch: u64, offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
}

fn row(n: u64, received_at: OffsetDateTime) -> HistoryRow {
    HistoryRow {
        place: at(1, n),
        record_id: RecordId { producer_epoch: ProducerEpoch(3), seq: Seq(n) },
        device: DeviceId::new("d").unwrap(),
        timestamp: received_at,
        received_at,
        extra: None,
        data: RawValue::from_string(n.to_string()).unwrap(),
    }
}
