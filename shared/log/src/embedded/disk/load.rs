//! Reading the file, whatever has become of it: a row that cannot be read, or whose checksum is another's, is as if it were not there.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use motience_proto::model::{Fence, LogEpoch, LogKey, Offset, ProducerEpoch, RangeSet, RecordId, Seq};
use motience_runtime::clock::{from_millis, millis};
use rusqlite::{Connection, Error, ErrorCode, OptionalExtension as _, Row, params, types::Type};
use time::OffsetDateTime;
use tracing::error;

use super::rows::{BatchRow, LogRow, SessionRow, column, offset};
use crate::{
    Batch, Entry, Epochs, Retention, SessionName,
    embedded::{sessions::SessionEntry, state::Producer},
};

const BATCH: &str = "SELECT first, last, written, bytes, sender, entries, sum FROM batches WHERE producer = ?1 AND last = ?2";
const BATCHES: &str =
    "SELECT first, last, written, bytes, sender, entries, sum FROM batches WHERE producer = ?1 AND last > ?2 ORDER BY last";
/// From the index alone: it is whole where a row's own page may not be.
const NEXT: &str = "SELECT last FROM batches INDEXED BY batches_place WHERE producer = ?1 AND last > ?2 ORDER BY last LIMIT 1";
/// Damaged batches that one read passes over.
const SKIPS: usize = 1000;

/// Outcome of a read.
#[derive(Debug, Default)]
pub(in crate::embedded) struct Found {
    /// Consecutive batches.
    pub(in crate::embedded) batches: Vec<Arc<Batch>>,
    /// Where there are none: nothing up to here can be read, and nobody has looked further.
    pub(in crate::embedded) skipped: Option<Offset>,
}

/// Whether the file itself is to blame: trying again would not help.
pub(super) fn is_damage(error: &Error) -> bool {
    match error {
        Error::SqliteFailure(e, _) => matches!(e.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase),
        Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::IntegralValueOutOfRange(..) | Error::Utf8Error(..) => {
            true
        }
        _ => false,
    }
}

/// Value that was read; `None` where the file is damaged.
pub(super) fn unless_damaged<T>(found: rusqlite::Result<Option<T>>) -> rusqlite::Result<Option<T>> {
    match found {
        Err(e) if is_damage(&e) => Ok(None),
        found => found,
    }
}

/// Loads the state of a log without its entries.
pub(super) fn load(connection: &Connection, key: LogKey, retention: &Retention, now: OffsetDateTime) -> rusqlite::Result<Producer> {
    let mut state = Producer::default();
    let row = log_row(connection, key);
    if row.as_ref().is_err_and(is_damage) {
        error!(producer = %key.producer, "where this log stands is damaged in the log's file: it is taken from its batches");
    }
    let row = unless_damaged(row)?;
    let known = row.as_ref().map(|row| offset(row.last));
    let row = row.unwrap_or_default();
    let removed = row.removed.map(offset);
    state.epochs = row.epochs.parse().unwrap_or_default();
    state.segments.recall_gone(row.gone_at.map(from_millis));

    let (mut first, mut newest, mut at) = (None, OffsetDateTime::UNIX_EPOCH, removed.unwrap_or_default().0.cast_signed());
    let mut ends = Vec::new();
    loop {
        let walked = walk(connection, key, &mut at, &mut |from, to, bytes, written| {
            // Headers have no checksum of their own: what cannot be is left out of account.
            if known.is_some_and(|last| to > last) {
                return;
            }
            first.get_or_insert(from.min(to));
            newest = newest.max(written.min(now));
            state.segments.add(to, bytes, newest, retention);
            if known.is_none() {
                ends.push(to);
            }
        });
        match walked {
            Ok(()) => break,
            Err(e) if is_damage(&e) => match unless_damaged(next_place(connection, key, at))? {
                // This one cannot be read; behind it others may be.
                Some(damaged) => at = damaged,
                None => break,
            },
            Err(e) => return Err(e),
        }
    }
    state.last = match known {
        Some(last) => last,
        // The last that is what it says.
        None => {
            let mut whole = Offset(0);
            while let Some(end) = ends.pop() {
                if unless_damaged(one(connection, key, LogEpoch(0), end.0.cast_signed()))?.is_some() {
                    whole = end;
                    break;
                }
            }
            whole
        }
    };
    // Removal of the first batches is only known to be removed where that was noted.
    state.removed = match (removed, first) {
        (Some(removed), _) => removed.min(state.last),
        (None, Some(first)) => Offset(first.0.saturating_sub(1)).min(state.last),
        (None, None) => state.last,
    };
    state.leftover =
        removed.is_some() && unless_damaged(next_place(connection, key, 0))?.is_some_and(|place| offset(place) <= state.removed);

    let devices = sessions(connection, key, &mut |row| {
        let Ok(seen) = row.seen.parse::<RangeSet>() else { return };
        let session = SessionEntry {
            fence: Fence(row.fence.cast_unsigned()),
            owner: 0,
            producer_epoch: ProducerEpoch(row.producer_epoch.cast_unsigned()),
            seen,
            used: from_millis(row.used),
            held: std::sync::Weak::new(),
        };
        state.devices.put(SessionName::stored(&row.name), session);
    });
    if !is_whole(devices)? {
        error!(producer = %key.producer, "what the log's file knows of devices is damaged: some may have their newest records twice");
    }
    let known = ids(connection, key, &mut |id, at| {
        state.ids.insert(&Arc::from(id), from_millis(at), &mut Vec::new());
    });
    if !is_whole(known)? {
        error!(producer = %key.producer, "what the log's file knows of clients' ids is damaged: some are forgotten");
    }
    Ok(state)
}

fn is_whole(read: rusqlite::Result<bool>) -> rusqlite::Result<bool> {
    match read {
        Err(e) if is_damage(&e) => Ok(false),
        read => read,
    }
}

/// Where a log stands; `None` where nothing is known of it.
pub(super) fn log_row(connection: &Connection, key: LogKey) -> rusqlite::Result<Option<LogRow>> {
    let log = column(key.log);
    let mut statement = connection.prepare_cached("SELECT number, last, lives, removed, gone_at, sum FROM logs WHERE producer = ?1")?;
    let row = |row: &Row<'_>| {
        let found = LogRow { number: row.get(0)?, last: row.get(1)?, epochs: row.get(2)?, removed: row.get(3)?, gone_at: row.get(4)? };
        verify(row.get(5)?, found.sum(log))?;
        found.epochs.parse::<Epochs>().map_err(|e| Error::FromSqlConversionFailure(2, Type::Text, Box::new(e)))?;
        Ok(found)
    };
    statement.query_row([log], row).optional()
}

/// Batches after `*at`, without their entries: first and last offset, bytes, and when they were written. `*at` goes along.
fn walk(
    connection: &Connection,
    key: LogKey,
    at: &mut i64,
    found: &mut impl FnMut(Offset, Offset, usize, OffsetDateTime),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT first, last, MIN(bytes, LENGTH(entries)), written FROM batches WHERE producer = ?1 AND last > ?2 ORDER BY last",
    )?;
    let mut rows = statement.query(params![column(key.log), *at])?;
    while let Some(row) = rows.next()? {
        let (first, last, bytes, written): (i64, i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        found(offset(first), offset(last), usize::try_from(bytes).unwrap_or(0), from_millis(written));
        *at = last;
    }
    Ok(())
}

/// The senders of a log, the longest idle first; `false` where some cannot be believed.
pub(super) fn sessions(connection: &Connection, key: LogKey, found: &mut impl FnMut(SessionRow)) -> rusqlite::Result<bool> {
    let log = column(key.log);
    let mut statement =
        connection.prepare_cached("SELECT name, fence, epoch, seen, used, sum FROM sessions WHERE producer = ?1 ORDER BY used")?;
    let (mut rows, mut whole) = (statement.query([log])?, true);
    while let Some(row) = rows.next()? {
        let read = || -> rusqlite::Result<SessionRow> {
            let session =
                SessionRow { name: row.get(0)?, fence: row.get(1)?, producer_epoch: row.get(2)?, seen: row.get(3)?, used: row.get(4)? };
            verify(row.get(5)?, session.sum(log))?;
            Ok(session)
        };
        match read() {
            Ok(session) => found(session),
            Err(e) if is_damage(&e) => whole = false,
            Err(e) => return Err(e),
        }
    }
    Ok(whole)
}

/// Clients' ids of a log, oldest first; `false` where some cannot be read.
pub(super) fn ids(connection: &Connection, key: LogKey, found: &mut impl FnMut(String, i64)) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("SELECT id, at FROM ids WHERE producer = ?1 ORDER BY at")?;
    let (mut rows, mut whole) = (statement.query([column(key.log)])?, true);
    while let Some(row) = rows.next()? {
        match (row.get(0), row.get(1)) {
            (Ok(id), Ok(at)) => found(id, at),
            _ => whole = false,
        }
    }
    Ok(whole)
}

/// Consecutive batches after `after`, up to about `bytes`: where the next one is damaged, the one behind the damage. An error where the
/// index does not tell what comes next.
pub(super) fn read(connection: &Connection, key: LogKey, log_epoch: LogEpoch, after: Offset, bytes: usize) -> rusqlite::Result<Found> {
    let mut found = Found::default();
    let mut at = after.0.cast_signed();
    match run(connection, key, log_epoch, at, bytes, &mut found.batches) {
        Err(e) if !is_damage(&e) => return Err(e),
        Err(_) if found.batches.is_empty() => {}
        // Readable batches come first.
        _ => return Ok(found),
    }
    for _ in 0..SKIPS {
        let Some(last) = next_place(connection, key, at)? else { return Ok(found) };
        if let Some(batch) = unless_damaged(one(connection, key, log_epoch, last))? {
            found.batches.push(Arc::new(batch));
            return Ok(found);
        }
        at = last;
    }
    found.skipped = Some(offset(at));
    Ok(found)
}

/// Consecutive batches after `at`, as far as they can be read.
fn run(
    connection: &Connection,
    key: LogKey,
    log_epoch: LogEpoch,
    at: i64,
    bytes: usize,
    batches: &mut Vec<Arc<Batch>>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(BATCHES)?;
    let mut rows = statement.query(params![column(key.log), at])?;
    let mut taken = 0;
    while taken < bytes
        && let Some(row) = rows.next()?
    {
        let batch = batch_of(row, key, log_epoch)?;
        if batches.last().is_some_and(|offset_for_time: &Arc<Batch>| offset_for_time.last().next() != batch.first) {
            break;
        }
        taken += batch.bytes();
        batches.push(Arc::new(batch));
    }
    Ok(())
}

/// The batch that ends at `last`.
fn one(connection: &Connection, key: LogKey, log_epoch: LogEpoch, last: i64) -> rusqlite::Result<Option<Batch>> {
    connection.prepare_cached(BATCH)?.query_row(params![column(key.log), last], |row| batch_of(row, key, log_epoch)).optional()
}

/// The end of the next batch after `at`, whether it can be read or not.
pub(super) fn next_place(connection: &Connection, key: LogKey, at: i64) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached(NEXT)?.query_row(params![column(key.log), at], |row| row.get(0)).optional()
}

fn batch_of(row: &Row<'_>, key: LogKey, log_epoch: LogEpoch) -> rusqlite::Result<Batch> {
    let (row, batch) = checked_row(row, column(key.log), key, log_epoch)?;
    Ok(batch.received(from_millis(row.written)))
}

/// A row of `first, last, written, bytes, sender, entries, sum`, and the batch that it holds.
pub(super) fn checked_row(row: &Row<'_>, log: i64, key: LogKey, log_epoch: LogEpoch) -> rusqlite::Result<(BatchRow, Batch)> {
    let found = BatchRow {
        first: row.get(0)?,
        last: row.get(1)?,
        written: row.get(2)?,
        bytes: row.get(3)?,
        sender: row.get(4)?,
        entries: row.get::<_, Vec<u8>>(5)?.into(),
    };
    verify(row.get(6)?, found.sum(log))?;
    let entries = decode(ProducerEpoch(found.sender.cast_unsigned()), found.entries.clone()).ok_or_else(damaged)?;
    let batch = Batch::new(key, log_epoch, offset(found.first), entries);
    if found.first > 0 && batch.last() == offset(found.last) { Ok((found, batch)) } else { Err(damaged()) }
}

/// The offset before the first batch written at `time` or later; `Some(None)` where the file is damaged and cannot tell.
pub(super) fn offset_for_time(connection: &Connection, key: LogKey, time: OffsetDateTime) -> rusqlite::Result<Option<Option<Offset>>> {
    let found = connection
        .prepare_cached("SELECT first FROM batches WHERE producer = ?1 AND written >= ?2 ORDER BY last LIMIT 1")
        .and_then(|mut statement| {
            let params = params![column(key.log), millis(time)];
            statement.query_row(params, |row| row.get(0).map(|first: i64| offset(first.saturating_sub(1)))).optional()
        });
    match found {
        Err(e) if is_damage(&e) => Ok(Some(None)),
        found => Ok(found?.map(Some)),
    }
}

/// `None` where the bytes end too early.
fn decode(producer_epoch: ProducerEpoch, mut bytes: Bytes) -> Option<Vec<Entry>> {
    let mut entries = Vec::new();
    while bytes.has_remaining() {
        let seq = Seq(bytes.try_get_u64_le().ok()?);
        let length = bytes.try_get_u32_le().ok()? as usize;
        if length > bytes.len() {
            return None;
        }
        entries.push(Entry { record_id: RecordId { producer_epoch, seq }, message: bytes.split_to(length) });
    }
    (!entries.is_empty()).then_some(entries)
}

/// Rows of the first release have no checksum and are believed.
fn verify(stored: Option<i64>, counted: i64) -> rusqlite::Result<()> {
    if stored.is_none_or(|stored| stored == counted) { Ok(()) } else { Err(damaged()) }
}

fn damaged() -> Error {
    Error::FromSqlConversionFailure(0, Type::Blob, Box::new(std::io::Error::other("a row is damaged")))
}
