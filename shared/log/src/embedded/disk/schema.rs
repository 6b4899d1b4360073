//! The file's tables, and the statements that write them.
//!
//! `batches` holds one row for each appended batch: its entries as `seq, length, message`, one behind the other, little
//! endian. The columns `producer` hold the log's id, which in a log of the first release is the producer's number. Times are
//! milliseconds since 1970 UTC. The columns `sum` hold a checksum over the other columns of their row, by which damage to the
//! file is noticed; rows of the first release have none. Among the `facts`, `believed` and `confirmed` are times of day
//! ([`super::super::belief`]).

use std::{path::Path, time::Duration};

use motience_proto::model::{LogId, LogKey, Offset, ProducerId, UserId};
use motience_runtime::clock::{from_millis, millis};
use rusqlite::{Connection, OptionalExtension as _, params};
use time::OffsetDateTime;

use super::rows::{BatchRow, LogRow, SessionRow, column};
use crate::embedded::state::Change;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS logs (producer INTEGER PRIMARY KEY, last INTEGER NOT NULL, lives TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS batches (
    producer INTEGER NOT NULL, last INTEGER NOT NULL, first INTEGER NOT NULL,
    written INTEGER NOT NULL, bytes INTEGER NOT NULL, sender INTEGER NOT NULL, entries BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS batches_place ON batches (producer, last);
CREATE TABLE IF NOT EXISTS sessions (
    producer INTEGER NOT NULL, name TEXT NOT NULL, fence INTEGER NOT NULL, epoch INTEGER NOT NULL,
    seen TEXT NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (producer, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ids (
    producer INTEGER NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (producer, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// Columns that the first release's tables lack. `number`: the producer whose log it is; `removed`: the last offset that retention has removed;
/// `gone_at`: when that was written.
const VERSION_1: &str = "
ALTER TABLE logs ADD COLUMN number INTEGER;
ALTER TABLE logs ADD COLUMN removed INTEGER;
ALTER TABLE logs ADD COLUMN gone_at INTEGER;
ALTER TABLE logs ADD COLUMN sum INTEGER;
ALTER TABLE batches ADD COLUMN sum INTEGER;
ALTER TABLE sessions ADD COLUMN sum INTEGER;
CREATE INDEX IF NOT EXISTS ids_at ON ids (at);
PRAGMA user_version = 1;
";

/// Longest wait for a lock of the other connection.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Longest journal that is left once it was written back.
const JOURNAL_BYTES: i64 = 16 << 20;
/// Rows removed in one step, and bytes of their messages, about.
pub(super) const SLICE: i64 = 1000;
const SLICE_BYTES: i64 = 4 << 20;

pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode FULL makes each commit wait for the disk; NORMAL would not.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", JOURNAL_BYTES)?;
    connection.set_prepared_statement_cache_capacity(32);
    if version(&connection)? == 0 {
        let transaction = connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(VERSION_1)?;
        transaction.commit()?;
    }
    Ok(connection)
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// All changes in one transaction.
pub(super) fn write(connection: &mut Connection, changes: &[&Change], account: Option<UserId>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        let log = column(change.key.log);
        let row = LogRow {
            number: Some(change.key.producer.0),
            last: change.last.0 as i64,
            epochs: change.epochs.to_string(),
            removed: Some(change.removed.0 as i64),
            gone_at: change.gone_at.map(millis),
        };
        row.put(&transaction, log)?;
        for (at, batch) in &change.batches {
            BatchRow::of(batch, millis(*at)).put(&transaction, log)?;
        }
        // First, since a sender that was forgotten may have come back.
        for name in &change.gone {
            transaction.prepare_cached("DELETE FROM sessions WHERE producer = ?1 AND name = ?2")?.execute(params![log, name.text()])?;
        }
        for (name, session) in &change.sessions {
            let row = SessionRow {
                name: name.text().to_owned(),
                fence: session.fence.0 as i64,
                producer_epoch: session.producer_epoch.0 as i64,
                seen: session.seen.to_string(),
                used: millis(session.used),
            };
            row.put(&transaction, log)?;
        }
        for id in &change.ids_gone {
            transaction.prepare_cached("DELETE FROM ids WHERE producer = ?1 AND id = ?2")?.execute(params![log, &**id])?;
        }
        for (at, id) in &change.ids {
            put_id(&transaction, log, id, millis(*at))?;
        }
    }
    if let Some(user) = account {
        raise_fact(&transaction, "highest_account", user.0)?;
    }
    transaction.commit()
}

pub(super) fn put_id(connection: &Connection, log: i64, id: &str, at: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO ids VALUES (?1, ?2, ?3) ON CONFLICT (producer, id) DO UPDATE SET at = ?3")?
        .execute(params![log, id, at])
        .map(drop)
}

/// Removes some of a log's oldest batches up to `up_to`; says whether those were the last of them.
pub(super) fn trim_some(connection: &mut Connection, log: LogId, up_to: Offset) -> rusqlite::Result<bool> {
    let (log, up_to) = (column(log), up_to.0 as i64);
    let transaction = connection.transaction()?;
    let (mut rows, mut bytes, mut end) = (0, 0, None);
    {
        let mut oldest =
            transaction.prepare_cached("SELECT last, bytes FROM batches WHERE producer = ?1 AND last <= ?2 ORDER BY last LIMIT ?3")?;
        let mut found = oldest.query(params![log, up_to, SLICE])?;
        while bytes < SLICE_BYTES
            && let Some(row) = found.next()?
        {
            end = Some(row.get::<_, i64>(0)?);
            bytes += row.get::<_, i64>(1)?.clamp(0, SLICE_BYTES);
            rows += 1;
        }
    }
    if let Some(end) = end {
        transaction.prepare_cached("DELETE FROM batches WHERE producer = ?1 AND last <= ?2")?.execute(params![log, end])?;
    }
    transaction.commit()?;
    Ok(rows < SLICE && bytes < SLICE_BYTES)
}

/// Notes the time that is believed, and removes some of the clients' ids from before `ids`, whichever log they are of; says whether none
/// is left.
pub(super) fn forget_some(connection: &mut Connection, believed: OffsetDateTime, ids: OffsetDateTime) -> rusqlite::Result<bool> {
    let transaction = connection.transaction()?;
    transaction
        .prepare_cached("INSERT INTO facts VALUES ('believed', ?1) ON CONFLICT (name) DO UPDATE SET value = ?1")?
        .execute([millis(believed)])?;
    let ids = transaction
        .prepare_cached("DELETE FROM ids WHERE (producer, id) IN (SELECT producer, id FROM ids WHERE at < ?1 ORDER BY at LIMIT ?2)")?
        .execute(params![millis(ids), SLICE])?;
    transaction.commit()?;
    Ok((ids as i64) < SLICE)
}

/// The highest number of an account that was noted.
pub(super) fn highest_account(connection: &Connection) -> rusqlite::Result<UserId> {
    Ok(UserId(fact(connection, "highest_account")?.unwrap_or(0)))
}

/// The time of day that was believed last, or was confirmed since. A new file believes the clock.
pub(super) fn believed(connection: &Connection, now: OffsetDateTime) -> rusqlite::Result<OffsetDateTime> {
    connection.prepare_cached("INSERT OR IGNORE INTO facts VALUES ('believed', ?1)")?.execute([millis(now)])?;
    let believed = fact(connection, "believed")?.map_or(now, from_millis);
    Ok(believed.max(confirmed(connection)?.unwrap_or(believed)))
}

/// The time at which an operator said last that the clock is right.
pub(super) fn confirmed(connection: &Connection) -> rusqlite::Result<Option<OffsetDateTime>> {
    Ok(fact(connection, "confirmed")?.map(from_millis))
}

pub(super) fn fact(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT value FROM facts WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

/// Notes a fact that never becomes less.
pub(super) fn raise_fact(connection: &Connection, name: &str, value: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO facts VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = MAX(value, ?2)")?
        .execute(params![name, value])
        .map(drop)
}

/// Some logs after `after`, by their ids. Those of the first release that were not written since are left out: their producers are not known.
pub(super) fn keys(connection: &Connection, after: Option<LogId>, most: usize) -> rusqlite::Result<Vec<LogKey>> {
    let mut statement = connection.prepare_cached(
        "SELECT producer, number FROM logs WHERE number IS NOT NULL AND (?1 IS NULL OR producer > ?1) ORDER BY producer LIMIT ?2",
    )?;
    let key = |row: &rusqlite::Row<'_>| {
        let (log, number): (i64, i64) = (row.get(0)?, row.get(1)?);
        Ok(LogKey { producer: ProducerId(number), log: LogId(log.cast_unsigned()) })
    };
    statement.query_map(params![after.map(column), most as i64], key)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_goes_in_slices() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = open(&dir.path().join("log.db")).unwrap();
        let transaction = connection.transaction().unwrap();
        for (log, size) in [(1, 10), (2, 100_000)] {
            for last in 1..=if log == 1 { 3500 } else { 100 } {
                let entries = vec![0; size].into();
                let row = BatchRow { first: last, last, written: 0, bytes: size as i64, sender: 1, entries };
                row.put(&transaction, log).unwrap();
            }
        }
        transaction.commit().unwrap();
        let count = |connection: &Connection, log: i64| {
            connection.query_row("SELECT COUNT(*) FROM batches WHERE producer = ?1", [log], |row| row.get::<_, i64>(0)).unwrap()
        };
        // By rows, and by bytes.
        for (log, up_to, most, left) in [(1, 3200, SLICE, 300), (2, 95, SLICE_BYTES / 100_000 + 1, 5)] {
            let (mut before, mut steps) = (count(&connection, log), 0);
            while !trim_some(&mut connection, LogId(log as u64), Offset(up_to)).unwrap() {
                let now = count(&connection, log);
                assert!((1..=most).contains(&(before - now)), "{} rows in one step", before - now);
                (before, steps) = (now, steps + 1);
            }
            assert_eq!(count(&connection, log), left);
            assert!(steps >= 2);
        }
    }
}
