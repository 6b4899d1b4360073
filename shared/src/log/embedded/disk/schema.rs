//! The file's tables, and the statements over them.
//!
//! `batches` holds one row for each appended batch: its entries as `seq, length, message`, one behind the other, little
//! endian. The columns `producer` hold the log's id; in a log of the first release that is the producer's number. Times are milliseconds since 1970 UTC.
//! Among the `facts`, `gone:LOG` is when the last of what retention removed of a log was written.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes};
use rusqlite::{Connection, OptionalExtension as _, params, types::Type};
use time::OffsetDateTime;

use crate::{
    log::{
        Batch, Entry, Retention, SessionName,
        embedded::state::{Change, Producer, Session},
    },
    model::{Epoch, Fence, LogEpoch, LogKey, Offset, RangeSet, RecordName, Seq, UserId},
};

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

/// Longest wait for a lock of the other connection.
const BUSY: Duration = Duration::from_secs(5);

pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode FULL makes each commit wait for the disk; NORMAL would not.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.execute_batch(TABLES)?;
    Ok(connection)
}

/// Removes what is past its time, of whichever producer.
pub(super) fn forget(connection: &Connection, before: OffsetDateTime) -> rusqlite::Result<()> {
    let before = millis(before);
    connection.execute(
        "INSERT INTO facts SELECT 'gone:' || producer, MAX(written) FROM batches WHERE written < ?1 GROUP BY producer
         ON CONFLICT (name) DO UPDATE SET value = MAX(value, excluded.value)",
        [before],
    )?;
    connection.execute("DELETE FROM batches WHERE written < ?1", [before])?;
    connection.execute("DELETE FROM ids WHERE at < ?1", [before])?;
    Ok(())
}

/// All changes in one transaction.
pub(super) fn write(connection: &mut Connection, changes: &[&Change], account: Option<UserId>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for change in changes {
        let producer = change.key.log.0 as i64;
        transaction
            .prepare_cached("INSERT INTO logs VALUES (?1, ?2, ?3) ON CONFLICT (producer) DO UPDATE SET last = ?2, lives = ?3")?
            .execute(params![producer, change.last.0 as i64, change.lives.to_string()])?;
        for (at, batch) in &change.batches {
            let sender = batch.entries().first().map_or(0, |entry| entry.name.epoch.0);
            transaction.prepare_cached("INSERT INTO batches VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
                producer,
                batch.last().0 as i64,
                batch.first.0 as i64,
                millis(*at),
                batch.bytes() as i64,
                sender as i64,
                encode(batch)
            ])?;
        }
        for (name, session) in &change.sessions {
            transaction
                .prepare_cached(
                    "INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (producer, name) DO UPDATE SET fence = ?3, epoch = ?4, seen = ?5, used = ?6",
                )?
                .execute(params![
                    producer,
                    name.to_string(),
                    session.fence.0 as i64,
                    session.epoch.0 as i64,
                    session.seen.to_string(),
                    millis(session.used)
                ])?;
        }
        for (at, id) in &change.ids {
            transaction
                .prepare_cached("INSERT INTO ids VALUES (?1, ?2, ?3) ON CONFLICT (producer, id) DO UPDATE SET at = ?3")?
                .execute(params![producer, &**id, millis(*at)])?;
        }
        if let Some((gone, at)) = change.trim {
            transaction
                .prepare_cached("DELETE FROM batches WHERE producer = ?1 AND last <= ?2")?
                .execute(params![producer, gone.0 as i64])?;
            transaction
                .prepare_cached("INSERT INTO facts VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = MAX(value, ?2)")?
                .execute(params![gone_fact(change.key), millis(at)])?;
        }
    }
    if let Some(user) = account {
        transaction
            .prepare_cached("INSERT INTO facts VALUES ('highest_account', ?1) ON CONFLICT (name) DO UPDATE SET value = MAX(value, ?1)")?
            .execute([user.0])?;
    }
    transaction.commit()
}

/// Under which name it is kept when the last of what was removed of this log was written.
fn gone_fact(key: LogKey) -> String {
    format!("gone:{}", key.log.0 as i64)
}

/// The highest number of an account that was noted.
pub(super) fn highest_account(connection: &Connection) -> rusqlite::Result<UserId> {
    let found =
        connection.prepare_cached("SELECT value FROM facts WHERE name = 'highest_account'")?.query_row([], |row| row.get(0)).optional()?;
    Ok(UserId(found.unwrap_or(0)))
}

pub(super) fn load(connection: &Connection, key: LogKey, retention: &Retention) -> rusqlite::Result<Producer> {
    let mut state = Producer::default();
    let mut log = connection.prepare_cached("SELECT last, lives FROM logs WHERE producer = ?1")?;
    let found = log.query_row([key.log.0 as i64], |row| Ok((offset(row.get(0)?), row.get::<_, String>(1)?))).optional()?;
    let Some((last, lives)) = found else { return Ok(state) };
    state.last = last;
    state.removed = last;
    state.lives = lives.parse().map_err(|e| damaged(1, e))?;
    let gone =
        connection.prepare_cached("SELECT value FROM facts WHERE name = ?1")?.query_row([gone_fact(key)], |row| row.get(0)).optional()?;
    state.marks.recall_gone(gone.map(time_of));

    let mut batches = connection.prepare_cached("SELECT first, last, bytes, written FROM batches WHERE producer = ?1 ORDER BY last")?;
    let mut rows = batches.query([key.log.0 as i64])?;
    let mut first = None;
    while let Some(row) = rows.next()? {
        first.get_or_insert(offset(row.get(0)?));
        let bytes: i64 = row.get(2)?;
        state.marks.add(offset(row.get(1)?), bytes as usize, time_of(row.get(3)?), retention);
    }
    if let Some(first) = first {
        state.removed = Offset(first.0 - 1);
    }

    let mut sessions = connection.prepare_cached("SELECT name, fence, epoch, seen, used FROM sessions WHERE producer = ?1")?;
    let mut rows = sessions.query([key.log.0 as i64])?;
    while let Some(row) = rows.next()? {
        let seen: RangeSet = row.get::<_, String>(3)?.parse().map_err(|e| damaged(3, e))?;
        let (fence, epoch): (i64, i64) = (row.get(1)?, row.get(2)?);
        let session = Session { fence: Fence(fence as u64), owner: 0, epoch: Epoch(epoch as u64), seen, used: time_of(row.get(4)?) };
        state.sessions.insert(SessionName::stored(&row.get::<_, String>(0)?), session);
    }

    let mut ids = connection.prepare_cached("SELECT id, at FROM ids WHERE producer = ?1 ORDER BY at")?;
    let mut rows = ids.query([key.log.0 as i64])?;
    while let Some(row) = rows.next()? {
        state.ids.insert(&Arc::from(row.get::<_, String>(0)?), time_of(row.get(1)?), retention);
    }
    Ok(state)
}

pub(super) fn read(
    connection: &Connection,
    key: LogKey,
    epoch: LogEpoch,
    after: Offset,
    bytes: usize,
) -> rusqlite::Result<Vec<Arc<Batch>>> {
    let mut statement =
        connection.prepare_cached("SELECT first, sender, entries, written FROM batches WHERE producer = ?1 AND last > ?2 ORDER BY last")?;
    let mut rows = statement.query(params![key.log.0 as i64, after.0 as i64])?;
    let (mut batches, mut taken) = (Vec::new(), 0);
    while taken < bytes
        && let Some(row) = rows.next()?
    {
        let sender: i64 = row.get(1)?;
        let entries = decode(Epoch(sender as u64), row.get::<_, Vec<u8>>(2)?.into())
            .ok_or_else(|| damaged(2, std::io::Error::other("a batch ends too early")))?;
        let batch = Batch::new(key, epoch, offset(row.get(0)?), entries).received(time_of(row.get(3)?));
        taken += batch.bytes();
        batches.push(Arc::new(batch));
    }
    Ok(batches)
}

/// The offset before the first batch written at `time` or later.
pub(super) fn before(connection: &Connection, key: LogKey, time: OffsetDateTime) -> rusqlite::Result<Option<Offset>> {
    connection
        .prepare_cached("SELECT first FROM batches WHERE producer = ?1 AND written >= ?2 ORDER BY last LIMIT 1")?
        .query_row(params![key.log.0 as i64, millis(time)], |row| row.get(0).map(|first: i64| offset(first - 1)))
        .optional()
}

fn encode(batch: &Batch) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.bytes() + batch.len() * 12);
    for entry in batch.entries() {
        out.put_u64_le(entry.name.seq.0);
        out.put_u32_le(u32::try_from(entry.message.len()).unwrap_or(u32::MAX));
        out.put_slice(&entry.message);
    }
    out
}

/// `None` where the bytes end too early.
fn decode(epoch: Epoch, mut bytes: Bytes) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while bytes.has_remaining() {
        let seq = Seq(bytes.try_get_u64_le().ok()?);
        let length = bytes.try_get_u32_le().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        entries.push(Entry { name: RecordName { epoch, seq }, message: bytes.split_to(length) });
    }
    (!entries.is_empty()).then_some(entries)
}

fn offset(stored: i64) -> Offset {
    Offset(stored.max(0) as u64)
}

fn millis(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX)
}

fn time_of(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn damaged(column: usize, why: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(why))
}
