//! The history's statements that only SQLite has.

use futures_util::TryStreamExt as _;
use motience_proto::model::RecordId;
use sqlx::{AssertSqlSafe, SqlitePool};
use time::{OffsetDateTime, UtcOffset, format_description::BorrowedFormatItem, macros::format_description};

use super::{
    json,
    rows::{
        ERASE, HistoryBatch, HistoryQuery, Kept, Row, begin, by_clock, erased_offsets, erased_times, in_range, matching, of_present_log,
        rows_of, trim as oldest,
    },
};
use crate::{Error, RecordErasure, accounts::present_log, cursors::StoredCursor};

pub(super) async fn keep_history(pool: &SqlitePool, batches: &[&HistoryBatch]) -> Result<Kept, Error> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let mut kept = Kept::default();
    for batch in batches {
        let stands: Option<StoredCursor> =
            sqlx::query_as(STANDS).bind(batch.producer.0).bind(batch.log.0.cast_signed()).fetch_optional(&mut *transaction).await?;
        if stands.map(Into::into) != batch.expected {
            kept.moved.push(batch.producer);
            continue;
        }
        sqlx::query(MOVE)
            .bind(batch.producer.0)
            .bind(batch.cursor.log_epoch.0.cast_signed())
            .bind(batch.cursor.offset.0.cast_signed())
            .bind(batch.log.0.cast_signed())
            .execute(&mut *transaction)
            .await?;
    }
    for (key, row) in rows_of(batches, &kept.moved) {
        let added = sqlx::query(INSERT)
            .bind(key.producer.0)
            .bind(row.device.as_str())
            .bind(json::storable(row.data.get()))
            .bind(text(row.timestamp))
            .bind(text(row.received_at))
            .bind(row.place.log_epoch.0.cast_signed())
            .bind(row.place.offset.0.cast_signed())
            .bind(row.record_id.producer_epoch.0.cast_signed())
            .bind(row.record_id.seq.0.cast_signed())
            .bind(row.extra.as_deref().map(|extra| json::storable(extra.get())))
            .bind(key.log.0.cast_signed())
            .execute(&mut *transaction)
            .await?;
        kept.rows += added.rows_affected();
    }
    transaction.commit().await?;
    Ok(kept)
}

pub(super) async fn history(
    pool: &SqlitePool,
    producer: i64,
    (from, to): (OffsetDateTime, OffsetDateTime),
    query: &HistoryQuery,
    limit: i64,
    few: bool,
) -> Result<Vec<Row>, Error> {
    let most = query.bytes;
    let mut after = query.after;
    if let Some(before) = query.long_before().filter(|_| !few) {
        let begin: Option<i64> = sqlx::query_scalar(BEGIN).bind(producer).bind(text(before)).fetch_optional(pool).await?;
        after = after.max(begin.unwrap_or(0));
    }
    let select = if few { SELECT_FEW } else { SELECT }[query.clock()];
    let query = sqlx::query_as(select).bind(producer).bind(after).bind(text(from)).bind(text(to)).bind(limit);
    let mut rows = query.fetch(pool);
    let (mut found, mut size) = (Vec::new(), 0_usize);
    while size < most
        && let Some(row) = rows.try_next().await?
    {
        let row: Row = row;
        size = size.saturating_add(row.bytes());
        found.push(row);
    }
    Ok(found)
}

pub(super) async fn matching(
    pool: &SqlitePool,
    producer: i64,
    (from, to): (OffsetDateTime, OffsetDateTime),
    query: &HistoryQuery,
) -> Result<i64, Error> {
    Ok(sqlx::query_scalar(MATCHING[query.clock()]).bind(producer).bind(text(from)).bind(text(to)).fetch_one(pool).await?)
}

/// Deletes some rows of a producer that came before a time.
pub(super) async fn trim(pool: &SqlitePool, producer: i64, before: OffsetDateTime) -> Result<u64, Error> {
    let mut gone = 0;
    for statement in oldest("data_history") {
        gone +=
            sqlx::query(AssertSqlSafe(statement)).persistent(false).bind(producer).bind(text(before)).execute(pool).await?.rows_affected();
    }
    Ok(gone)
}

/// Deletes rows of an erasure with ids from the first to before the second.
pub(super) async fn erase(pool: &SqlitePool, erasure: &RecordErasure, (from, until): (i64, i64)) -> Result<u64, Error> {
    let ((first, last), offsets) = (erased_times(&erasure.erased), erased_offsets(erasure));
    let query = sqlx::query(ERASE)
        .persistent(false)
        .bind(erasure.key.producer.0)
        .bind(erasure.key.log.0.cast_signed())
        .bind(from)
        .bind(until)
        .bind(erasure.erased.device.as_deref().unwrap_or_default())
        .bind(text(first))
        .bind(text(last))
        .bind(offsets[0])
        .bind(offsets[1])
        .bind(offsets[2])
        .bind(offsets[3]);
    Ok(query.execute(pool).await?.rows_affected())
}

pub(super) async fn names_kept(pool: &SqlitePool, producer: i64, names: &[RecordId], until: i64) -> Result<Vec<(i64, i64)>, Error> {
    let json: Vec<String> =
        names.iter().map(|name| format!("[{},{}]", name.producer_epoch.0.cast_signed(), name.seq.0.cast_signed())).collect();
    Ok(sqlx::query_as(NAMES).bind(producer).bind(until).bind(format!("[{}]", json.join(","))).fetch_all(pool).await?)
}

const STANDS: &str = "SELECT log_epoch, log_offset FROM history_cursors WHERE producer_id = $1 AND COALESCE(log_id, producer_id) = $2";
const MOVE: &str = "INSERT INTO history_cursors (producer_id, log_epoch, log_offset, log_id) VALUES ($1, $2, $3, $4) \
     ON CONFLICT (producer_id) DO UPDATE SET log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset, log_id = EXCLUDED.log_id";
const INSERT: &str = "INSERT INTO data_history \
     (producer_id, device_id, payload, timestamp, received_at, log_epoch, log_offset, sender_epoch, sender_seq, extra, log_id) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING";
macro_rules! select {
    ($id:literal) => {
        by_clock!(
            concat!(
                "SELECT id, device_id, timestamp, payload, extra, received_at, log_epoch, log_offset FROM data_history \
                 WHERE producer_id = $1 AND ",
                $id,
                " > $2 AND ",
                of_present_log!(),
                " AND "
            ),
            "$3",
            "$4",
            concat!(" ORDER BY ", $id, " LIMIT $5")
        )
    };
}

const BEGIN: &str = begin!("");
const MATCHING: [&str; 2] = matching!();
const SELECT: [&str; 2] = select!("id");
/// [`SELECT`] in the order of an index of times: `id + 0` is an expression and no column, so no other index serves.
const SELECT_FEW: [&str; 2] = select!("id + 0");
const NAMES: &str = concat!(
    "SELECT sender_epoch, sender_seq FROM data_history WHERE producer_id = $1 AND id <= $2 AND ",
    of_present_log!(),
    " AND (sender_epoch, sender_seq) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each($3))"
);

/// One width, so that the order of the texts is the order of the times.
const TIME: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

pub(super) fn text(at: OffsetDateTime) -> String {
    in_range(at).to_offset(UtcOffset::UTC).format(&TIME).expect("every time in range has these parts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sqlite::memory;

    #[tokio::test]
    async fn few_rows_of_a_time_are_found_by_it() {
        let pools = memory().await.unwrap();
        for (statement, index) in [SELECT_FEW, MATCHING].into_iter().flat_map(|both| both.into_iter().zip(["received", "time"])) {
            let plan: Vec<(i64, i64, i64, String)> =
                sqlx::query_as(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"))).fetch_all(&pools.reader).await.unwrap();
            let found_by = |index: &str, bound: &str| plan.iter().any(|(_, _, _, step)| step.contains(index) && step.contains(bound));
            assert!(found_by("data_history_time", "timestamp>"), "{plan:?}");
            assert_eq!(found_by("data_history_received", "received_at>"), index == "received", "{plan:?}");
            assert!(!found_by("SCAN data_history", "") && !found_by("data_history_page", ""), "{plan:?}");
        }
    }
}
