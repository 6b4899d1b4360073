//! The history's statements that only PostgreSQL has.

use std::collections::HashMap;

use motience_proto::model::{Cursor, LogKey, ProducerId, RecordId};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Row as _, postgres::PgArguments, query::Query};
use time::OffsetDateTime;

use super::{
    copy::copy,
    json,
    names::Highest,
    rows::{
        ERASE, HistoryBatch, HistoryQuery, HistoryRow, Kept, Row, begin, by_clock, erased_offsets, erased_times, in_range, key, matching,
        of_present_log, rows_of, trim as oldest,
    },
};
use crate::{Error, RecordErasure, accounts::present_log, cursors::StoredCursor, engine::postgres::Connections};

/// Rows from which on they are copied. `COPY` takes several messages, and the driver lets TCP hold the last one back until the one before is
/// acknowledged: up to 40 ms, which only many rows are worth.
const MANY: usize = 500;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// All at once.
    Copied,
    /// All in one statement, which passes over those that are there: under the same place of the log.
    Inserted,
    /// Those that the database refuses, as strings of their JSON.
    Apart,
}

/// A row that is there already, or a value that JSONB cannot hold (a number beyond its range, say), must not fail the others: everything is then
/// done again, in a slower way.
pub(super) async fn keep_history(pool: &Connections, names: &Highest, batches: &[&HistoryBatch]) -> Result<Kept, Error> {
    let first = if batches.iter().map(|batch| batch.rows.len()).sum::<usize>() < MANY { Method::Inserted } else { Method::Copied };
    for method in [first, Method::Inserted] {
        match keep(pool, names, batches, method).await {
            Err(e) if method == Method::Copied && e.is_duplicate() => {}
            Err(e) if e.is_bad_value() => break,
            other => return other,
        }
    }
    keep(pool, names, batches, Method::Apart).await
}

async fn keep(pool: &Connections, names: &Highest, batches: &[&HistoryBatch], method: Method) -> Result<Kept, Error> {
    let mut transaction = pool.begin().await?;
    let moved = move_cursors(&mut transaction, batches).await?;
    let (rows, highest) = names.new_ones(&mut transaction, batches, rows_of(batches, &moved)).await?;
    let rows = match method {
        Method::Copied => copy(&mut transaction, &rows).await?,
        Method::Inserted => insert(&mut transaction, &rows, |data| json::storable(data).into_owned()).await?,
        Method::Apart => insert_apart(&mut transaction, &rows).await?,
    };
    transaction.commit().await?;
    names.remember(batches, &moved, &highest);
    Ok(Kept { rows, moved })
}

/// Moves the cursors that stand where they are expected, and names the others. Their rows stay locked until the transaction ends.
async fn move_cursors(transaction: &mut PgConnection, batches: &[&HistoryBatch]) -> Result<Vec<ProducerId>, Error> {
    let producers: Vec<i64> = batches.iter().map(|batch| batch.producer.0).collect();
    let rows: Vec<(i64, i64, i64, i64)> = sqlx::query_as(LOCK).persistent(false).bind(producers).fetch_all(&mut *transaction).await?;
    let stand: HashMap<i64, (i64, Cursor)> =
        rows.into_iter().map(|(id, epoch, offset, log)| (id, (log, StoredCursor::new(epoch, offset).into()))).collect();
    let (mut moved, mut first, mut next) = (Vec::new(), Vec::new(), Vec::new());
    for &batch in batches {
        let stands = stand.get(&batch.producer.0);
        // A row of a log that the number had before is written over.
        let of_this_log = stands.filter(|(log, _)| *log == batch.log.0.cast_signed());
        match stands {
            _ if of_this_log.map(|(_, cursor)| *cursor) != batch.expected => moved.push(batch.producer),
            Some(_) => next.push(batch),
            None => first.push(batch),
        }
    }
    if !next.is_empty() {
        cursors(UPDATE_CURSORS, &next).execute(&mut *transaction).await?;
    }
    if !first.is_empty() {
        let made: Vec<i64> = cursors(INSERT_CURSORS, &first).fetch_all(&mut *transaction).await?.iter().map(|row| row.get(0)).collect();
        // Another writer may have made it since the look above.
        moved.extend(first.iter().map(|batch| batch.producer).filter(|producer| !made.contains(&producer.0)));
    }
    Ok(moved)
}

/// A statement over the batches' cursors as three arrays.
fn cursors(statement: &'static str, batches: &[&HistoryBatch]) -> Query<'static, Postgres, PgArguments> {
    let column = |value: fn(&HistoryBatch) -> i64| batches.iter().map(|batch| value(batch)).collect::<Vec<_>>();
    sqlx::query(statement)
        .persistent(false)
        .bind(column(|batch| batch.producer.0))
        .bind(column(|batch| batch.cursor.log_epoch.0.cast_signed()))
        .bind(column(|batch| batch.cursor.offset.0.cast_signed()))
        .bind(column(|batch| batch.log.0.cast_signed()))
}

/// A page of rows that are few: found by their times, and put in order.
pub(super) async fn found_by_time(
    pool: &Connections,
    producer: i64,
    (from, to): (OffsetDateTime, OffsetDateTime),
    query: &HistoryQuery,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let bytes = i64::try_from(query.bytes).unwrap_or(i64::MAX);
    let select = sqlx::query_as(SELECT_FEW[query.clock()]).bind(producer).bind(query.after);
    Ok(select.bind(from).bind(to).bind(limit).bind(bytes).fetch_all(pool).await?)
}

/// A page of many rows: looked through in order, from all partitions at once.
pub(super) async fn found_in_order(
    pool: &Connections,
    producer: i64,
    (from, to): (OffsetDateTime, OffsetDateTime),
    query: &HistoryQuery,
    limit: i64,
) -> Result<Vec<Row>, Error> {
    let bytes = i64::try_from(query.bytes).unwrap_or(i64::MAX);
    let mut transaction = pool.begin_in_order().await?;
    let keep = pool.keeps_statements();
    let mut after = query.after;
    if let Some(before) = query.long_before() {
        let begin = sqlx::query_scalar(BEGIN).persistent(keep).bind(producer).bind(before);
        let begin: Option<i64> = begin.fetch_optional(&mut *transaction).await?;
        after = after.max(begin.unwrap_or(0));
    }
    let select = sqlx::query_as(SELECT[query.clock()]).persistent(keep).bind(producer).bind(after);
    let rows = select.bind(from).bind(to).bind(limit).bind(bytes).fetch_all(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(rows)
}

pub(super) async fn matching(
    pool: &Connections,
    producer: i64,
    (from, to): (OffsetDateTime, OffsetDateTime),
    query: &HistoryQuery,
) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(MATCHING[query.clock()]).bind(producer).bind(from).bind(to).fetch_one(pool).await?)
}

/// Deletes some rows of a producer that came before a time from a table. Planned once for all producers: to plan for each partition takes longer
/// than to find that nothing is too old.
pub(super) async fn trim(pool: &Connections, table: &str, producer: i64, before: OffsetDateTime) -> Result<u64, Error> {
    let mut transaction = pool.begin_in_order().await?;
    let mut gone = 0;
    for statement in oldest(table) {
        let query = sqlx::query(AssertSqlSafe(statement)).persistent(pool.keeps_statements());
        gone += query.bind(producer).bind(in_range(before)).execute(&mut *transaction).await?.rows_affected();
    }
    transaction.commit().await?;
    Ok(gone)
}

/// Deletes rows of an erasure with ids from the first to before the second.
pub(super) async fn erase(pool: &Connections, erasure: &RecordErasure, (from, until): (i64, i64)) -> Result<u64, Error> {
    let ((first, last), offsets) = (erased_times(&erasure.erased), erased_offsets(erasure));
    let query = sqlx::query(ERASE)
        .persistent(false)
        .bind(erasure.key.producer.0)
        .bind(erasure.key.log.0.cast_signed())
        .bind(from)
        .bind(until)
        .bind(erasure.erased.device.as_deref().unwrap_or_default())
        .bind(first)
        .bind(last)
        .bind(offsets[0])
        .bind(offsets[1])
        .bind(offsets[2])
        .bind(offsets[3]);
    Ok(query.execute(pool).await?.rows_affected())
}

pub(super) async fn names_kept(pool: &Connections, producer: i64, names: &[RecordId], until: i64) -> Result<Vec<(i64, i64)>, Error> {
    let epochs: Vec<i64> = names.iter().map(|name| name.producer_epoch.0.cast_signed()).collect();
    let seqs: Vec<i64> = names.iter().map(|name| name.seq.0.cast_signed()).collect();
    Ok(sqlx::query_as(NAMES).bind(producer).bind(until).bind(epochs).bind(seqs).fetch_all(pool).await?)
}

type Rows<'a> = [(LogKey, &'a HistoryRow)];

async fn insert(connection: &mut PgConnection, rows: &Rows<'_>, payload: impl Fn(&str) -> String) -> Result<u64, Error> {
    if rows.is_empty() {
        return Ok(0);
    }
    let column = |value: fn(&HistoryRow) -> i64| rows.iter().map(|(_, row)| value(row)).collect::<Vec<_>>();
    let done = sqlx::query(INSERT)
        .persistent(false)
        .bind(rows.iter().map(|(key, _)| key.producer.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| row.device.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| payload(row.data.get())).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| in_range(row.timestamp)).collect::<Vec<_>>())
        .bind(rows.iter().map(|(_, row)| in_range(row.received_at)).collect::<Vec<_>>())
        .bind(column(|row| row.place.log_epoch.0.cast_signed()))
        .bind(column(|row| row.place.offset.0.cast_signed()))
        .bind(column(|row| row.record_id.producer_epoch.0.cast_signed()))
        .bind(column(|row| row.record_id.seq.0.cast_signed()))
        .bind(rows.iter().map(|(_, row)| row.extra.as_deref().map(|extra| payload(extra.get()))).collect::<Vec<_>>())
        .bind(rows.iter().map(|(key, _)| key.log.0.cast_signed()).collect::<Vec<_>>())
        .execute(connection)
        .await?;
    Ok(done.rows_affected())
}

/// Halves what is refused until the bad value stands alone.
async fn insert_apart(transaction: &mut PgConnection, rows: &Rows<'_>) -> Result<u64, Error> {
    let mut added = 0;
    let mut left = vec![rows];
    while let Some(rows) = left.pop() {
        let mut attempt = transaction.begin().await?;
        match insert(&mut attempt, rows, |data| json::storable(data).into_owned()).await {
            Ok(n) => {
                attempt.commit().await?;
                added += n;
            }
            Err(e) if e.is_bad_value() => {
                attempt.rollback().await?;
                if let [(key, row)] = rows {
                    tracing::warn!(producer = key.producer.0, place = %row.place, "a record is kept as text: JSONB cannot hold its value");
                    added += insert(transaction, rows, json::quoted).await?;
                } else {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    // The first half next, so that rows are numbered in their order.
                    left.push(second);
                    left.push(first);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(added)
}

const LOCK: &str = "SELECT producer_id, log_epoch, log_offset, COALESCE(log_id, producer_id) FROM history_cursors WHERE producer_id = ANY($1) ORDER BY producer_id FOR UPDATE";
const UPDATE_CURSORS: &str = "UPDATE history_cursors SET log_epoch = new.epoch, log_offset = new.place, log_id = new.log \
     FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) AS new (producer, epoch, place, log) WHERE producer_id = new.producer";
const INSERT_CURSORS: &str = "INSERT INTO history_cursors (producer_id, log_epoch, log_offset, log_id) \
     SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[]) ON CONFLICT (producer_id) DO NOTHING RETURNING producer_id";
const INSERT: &str = "INSERT INTO data_history \
     (producer_id, device_id, payload, timestamp, received_at, log_epoch, log_offset, sender_epoch, sender_seq, extra, log_id) \
     SELECT producer::integer, device, payload::jsonb, at, received, epoch, log_offset, sender_epoch, sender_seq, extra::jsonb, log \
     FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], \
     $11::bigint[]) AS rows (producer, device, payload, at, received, epoch, log_offset, sender_epoch, sender_seq, extra, log) \
     ON CONFLICT DO NOTHING";
const NAMES: &str = concat!(
    "SELECT data_history.sender_epoch, data_history.sender_seq FROM data_history \
     JOIN UNNEST($3::bigint[], $4::bigint[]) AS names (sender_epoch, sender_seq) USING (sender_epoch, sender_seq) \
     WHERE producer_id = $1 AND id <= $2 AND ",
    of_present_log!()
);
// The casts make an imported table's INTEGER ids and zoneless times readable too.
// The server counts the bytes, because what it sends would have to be read to its end. 512 as in `rows::ENTRY`.
macro_rules! select {
    ($id:literal $(, $key:expr)?) => {
        by_clock!(
            concat!(
                "SELECT id, device_id, timestamp, payload, extra, received_at, log_epoch, log_offset FROM (SELECT page.*, \
                 SUM(OCTET_LENGTH(payload) + COALESCE(OCTET_LENGTH(extra), 0) + 512) \
                 OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes FROM (\
                 SELECT CAST(id AS BIGINT) AS id, device_id, CAST(timestamp AS TIMESTAMPTZ) AS timestamp, CAST(payload AS TEXT) AS payload, \
                 CAST(extra AS TEXT) AS extra, received_at, log_epoch, log_offset FROM data_history WHERE producer_id = $1 AND ",
                $id,
                " > $2 AND ",
                of_present_log!(),
                " AND "
            ),
            "$3",
            "$4",
            concat!(" ORDER BY ", $id, " LIMIT $5) AS page) AS sized WHERE bytes IS NULL OR bytes < $6 ORDER BY id")
            $(, $key)?
        )
    };
}

const MATCHING: [&str; 2] = matching!(key!());
const BEGIN: &str = begin!(concat!(" AND ", key!(), " < $2"));
const SELECT: [&str; 2] = select!("data_history.id");
/// [`SELECT`] in the order of an index of times: `id + 0` is an expression and no column, so no other index serves.
const SELECT_FEW: [&str; 2] = select!("data_history.id + 0", key!());
