//! The database beside the segments, `log.db`: where each log stands, its senders and client ids. Its tables, and the statements that write
//! them.
//!
//! Until version 2 the table `batches` held one row for each appended batch: its entries as `seq, length, message`, one behind the other, little
//! endian. The columns `producer` hold the log's id, which in a log of the first release is the producer's number. Times are
//! milliseconds since 1970 UTC. The columns `sum` hold a checksum over the other columns of their row, by which damage to the
//! file is noticed; rows of the first release have none. Among the `facts`, `believed` and `confirmed` are times of day
//! ([`super::super::belief`]), and `format` is the version, as in `user_version`.

use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use motience_proto::model::{LogId, LogKey, ProducerId, UserId};
use motience_runtime::clock::{from_millis, millis};
use rusqlite::{Connection, OptionalExtension as _, params};
use time::OffsetDateTime;

use super::{rows::column, segment::Position};

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS logs (producer INTEGER PRIMARY KEY, last INTEGER NOT NULL, lives TEXT NOT NULL) STRICT;
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
const COLUMNS: &str = "
ALTER TABLE logs ADD COLUMN number INTEGER;
ALTER TABLE logs ADD COLUMN removed INTEGER;
ALTER TABLE logs ADD COLUMN gone_at INTEGER;
ALTER TABLE logs ADD COLUMN sum INTEGER;
ALTER TABLE sessions ADD COLUMN sum INTEGER;
CREATE INDEX IF NOT EXISTS ids_at ON ids (at);
PRAGMA user_version = 2;
";

/// Version of the tables, and of the data folder's log as a whole: a later one cannot be read by this program.
pub(super) const VERSION: i64 = 2;
/// Longest wait for a lock of the other connection.
pub(super) const BUSY: Duration = Duration::from_secs(5);
/// Longest journal that is left once it was written back.
const JOURNAL_BYTES: i64 = 16 << 20;
/// Rows removed in one step.
const SLICE: i64 = 1000;
/// Names of the facts that say up to where segments are known here: surely, and perhaps.
pub(super) const CHECKPOINT: [&str; 2] = ["checkpoint", "checkpoint_sum"];
pub(super) const BEGUN: [&str; 2] = ["begun", "begun_sum"];

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
        let is_old = has_batches(&transaction)?;
        transaction.execute_batch(TABLES)?;
        transaction.execute_batch(COLUMNS)?;
        if is_old {
            transaction.execute_batch("ALTER TABLE batches ADD COLUMN sum INTEGER; PRAGMA user_version = 1")?;
        }
        transaction.commit()?;
    }
    Ok(connection)
}

/// Notes this version among the facts too: the file's header has no checksum, and one flipped bit makes no newer version.
pub(super) fn put_version(connection: &Connection) -> rusqlite::Result<()> {
    raise_fact(connection, "format", VERSION)
}

/// The version of a file that a newer program has written; `None` where this one can work with it.
pub(super) fn newer(path: &Path) -> Option<i64> {
    if !path.exists() {
        return None;
    }
    let versions = |connection: Connection| Ok([version(&connection)?, fact(&connection, "format")?.unwrap_or(0)]);
    // A file that cannot be read is somebody else's concern.
    let versions = Connection::open(path).and_then(versions).ok()?;
    versions.into_iter().min().filter(|version| *version > VERSION)
}

pub(super) fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

pub(super) fn forget_session(connection: &Connection, log: i64, name: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM sessions WHERE producer = ?1 AND name = ?2")?.execute(params![log, name]).map(drop)
}

pub(super) fn forget_id(connection: &Connection, log: i64, id: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM ids WHERE producer = ?1 AND id = ?2")?.execute(params![log, id]).map(drop)
}

/// Forgets all senders and client ids of a log.
pub(super) fn forget_senders(connection: &Connection, log: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM sessions WHERE producer = ?1", [log])?;
    connection.execute("DELETE FROM ids WHERE producer = ?1", [log]).map(drop)
}

pub(super) fn put_id(connection: &Connection, log: i64, id: &str, at: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO ids VALUES (?1, ?2, ?3) ON CONFLICT (producer, id) DO UPDATE SET at = ?3")?
        .execute(params![log, id, at])
        .map(drop)
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

/// Notes a position, with a checksum: it decides what is read again after a crash.
pub(super) fn put_position(connection: &Connection, names: [&str; 2], position: Position) -> rusqlite::Result<()> {
    let value = position.segment.cast_signed() << 32 | position.at.cast_signed();
    let mut statement =
        connection.prepare_cached("INSERT INTO facts VALUES (?1, ?2), (?3, ?4) ON CONFLICT (name) DO UPDATE SET value = excluded.value")?;
    statement.execute(params![names[0], value, names[1], sum_of(value)]).map(drop)
}

/// Makes a position unknown.
pub(super) fn forget_position(connection: &Connection, names: [&str; 2]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM facts WHERE name IN (?1, ?2)", names).map(drop)
}

/// A position that was noted; `None` where none was, or it is damaged.
pub(super) fn position(connection: &Connection, names: [&str; 2]) -> rusqlite::Result<Option<Position>> {
    let (value, sum) = (fact(connection, names[0])?, fact(connection, names[1])?);
    let value = value.filter(|value| sum == Some(sum_of(*value)));
    Ok(value.map(|value| Position { segment: (value >> 32).cast_unsigned(), at: (value & 0xffff_ffff).cast_unsigned() }))
}

fn sum_of(value: i64) -> i64 {
    i64::from(crc32fast::hash(&value.to_le_bytes()))
}

/// Whether the file still holds batches, as it did before there were segments.
pub(super) fn has_batches(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT COUNT(*) FROM sqlite_schema WHERE name = 'batches'", [], |row| row.get::<_, i64>(0)).map(|count| count > 0)
}

/// Lets go of the batches, which are in segments.
pub(super) fn drop_batches(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN IMMEDIATE; DROP TABLE batches; PRAGMA user_version = 2; COMMIT")
}

/// Gives room back that nothing is in.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("VACUUM")
}

/// Milliseconds since 1970, for the name of what is put aside.
pub(super) fn stamp() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}
