//! Reading the file, whatever has become of it: a frame or a row that cannot be read, or whose checksum is another's, is as if it were not
//! there.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, ErrorKind},
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use bytes::Bytes;
use motience_proto::model::{Fence, LogEpoch, LogId, LogKey, Offset, ProducerEpoch, ProducerId, RangeSet};
use motience_runtime::clock::{from_millis, millis};
use rusqlite::{Connection, Error, ErrorCode, OptionalExtension as _, Row, types::Type};
use time::OffsetDateTime;
use tracing::error;

use super::{
    frame::{self, Slot},
    index::{Index, Run, some_after},
    rows::{LogRow, SessionRow, column, offset},
};
use crate::{
    Batch, Entry, Epochs, Retention, SessionName,
    embedded::{sessions::SessionEntry, state::Producer},
};

/// Damaged batches that one read passes over.
const SKIPS: usize = 1000;
/// How often a reader looks again for a segment that was replaced meanwhile.
const TRIES: usize = 10;
/// Bytes of frames that are read at once, and share their memory: a slow reader of one keeps all of them. A longer frame is read alone.
const WINDOW: u64 = 128 << 10;
/// Bytes of others that are read along rather than read around.
const GAP: u64 = 32 << 10;

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
pub(super) fn load(
    index: &Index,
    connection: &Connection,
    key: LogKey,
    retention: &Retention,
    now: OffsetDateTime,
) -> rusqlite::Result<Producer> {
    let mut state = Producer::default();
    let row = log_row(connection, key);
    if row.as_ref().is_err_and(is_damage) {
        error!(producer = %key.producer, "where this log stands is damaged in the log's file: it is taken from its batches");
    }
    let row = unless_damaged(row)?.unwrap_or_default();
    // The database may not know yet what has been removed since.
    let (removed, gone_at) = index.removed(key.log);
    let removed = row.removed.map(offset).max((removed > Offset(0)).then_some(removed));
    state.epochs = row.epochs.parse().unwrap_or_default();
    state.segments.recall_gone(row.gone_at.max(gone_at).map(from_millis));

    let (mut first, mut newest) = (None, OffsetDateTime::UNIX_EPOCH);
    for slots in all_slots(index, key, i64::MIN).map_err(|e| Error::ToSqlConversionFailure(Box::new(e)))? {
        for slot in slots.iter().filter(|slot| Some(slot.last()) > removed) {
            first.get_or_insert(slot.first);
            newest = newest.max(from_millis(slot.at).min(now));
            state.segments.add(slot.last(), slot.bytes as usize, newest, retention);
        }
    }
    state.last = offset(row.last).max(index.last(key.log)).max(removed.unwrap_or_default());
    // The first batches are only known to be removed where that was noted.
    state.removed = match (removed, first) {
        (Some(removed), _) => removed,
        (None, Some(first)) => Offset(first.0.saturating_sub(1)),
        (None, None) => state.last,
    };

    let devices = sessions(connection, key, &mut |row| {
        let Ok(seen) = row.seen.parse::<RangeSet>() else { return };
        let session = SessionEntry {
            fence: Fence(row.fence.cast_unsigned()),
            owner: 0,
            producer_epoch: ProducerEpoch(row.producer_epoch.cast_unsigned()),
            seen,
            before: None,
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

/// Asks for the logs that the database names, each with its producer.
pub(super) const LOGS: &str = "SELECT producer, COALESCE(number, producer) FROM logs";

/// Adds the logs that a question of the form of [`LOGS`] finds, as far as they can be read, to those that are known.
pub(super) fn add_keys(connection: &Connection, ask: &str, keys: &mut BTreeMap<LogId, LogKey>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(ask)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (log, number): (i64, i64) = (row.get(0)?, row.get(1)?);
        let log = LogId(log.cast_unsigned());
        keys.entry(log).or_insert(LogKey { producer: ProducerId(number), log });
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

/// Consecutive batches after `after`, up to about `bytes`: where the next one is damaged, the one behind the damage.
pub(super) fn read(index: &Index, key: LogKey, log_epoch: LogEpoch, after: Offset, bytes: usize) -> io::Result<Found> {
    let mut found = Found::default();
    let (mut at, mut taken, mut skips, mut tries) = (after, 0, 0, 0);
    while taken < bytes
        && let Some(run) = index.run_after(key.log, at, bytes - taken)
    {
        let mut is_end = false;
        let outcome = index.slots(key.log, &run).and_then(|slots| {
            frames(&run, some_after(&slots, at, bytes - taken), |slot, entries| {
                let is_next = found.batches.last().is_none_or(|last: &Arc<Batch>| last.last().next() == slot.first);
                match entries {
                    Some(entries) if is_next => {
                        let batch = Batch::new(key, log_epoch, slot.first, entries).received(from_millis(slot.at));
                        (at, taken) = (batch.last(), taken + batch.bytes());
                        found.batches.push(Arc::new(batch));
                    }
                    None if found.batches.is_empty() => {
                        (at, skips) = (slot.last(), skips + 1);
                        is_end = skips >= SKIPS;
                    }
                    // Readable batches come first.
                    _ => is_end = true,
                }
                !is_end
            })
        });
        match outcome {
            Err(e) if e.kind() == ErrorKind::NotFound && tries < TRIES => tries += 1,
            Err(e) if found.batches.is_empty() => return Err(e),
            Err(_) => break,
            Ok(()) if is_end || at < run.last => break,
            Ok(()) => {}
        }
    }
    if found.batches.is_empty() && at > after {
        found.skipped = Some(at);
    }
    Ok(found)
}

/// Reads the frames of a run, neighbours at once, until `each` has had enough. A frame that is damaged gives no entries.
fn frames(run: &Run, slots: &[Slot], mut each: impl FnMut(&Slot, Option<Vec<Entry>>) -> bool) -> io::Result<()> {
    let file = File::open(run.segment.path())?;
    let mut rest = slots;
    while let Some(first) = rest.first() {
        let from = u64::from(first.position);
        let (mut end, mut used, mut count) = (from, 0, 0);
        for slot in rest {
            let (at, length) = (u64::from(slot.position), u64::from(slot.length));
            if count > 0 && (at < end || at > end + GAP || at + length > from + WINDOW) {
                break;
            }
            (end, used, count) = (at + length, used + length, count + 1);
        }
        let window = window(&file, from, end - from);
        for slot in &rest[..count] {
            let at = (u64::from(slot.position) - from) as usize;
            let frame = match &window {
                Some(window) if window.len() >= at + slot.length as usize => {
                    let frame = window.slice(at..at + slot.length as usize);
                    // A message must not keep much more than itself in memory.
                    Some(if used * 2 < end - from { Bytes::copy_from_slice(&frame) } else { frame })
                }
                // A part of the disk that cannot be read takes no others with it.
                _ => self::window(&file, u64::from(slot.position), u64::from(slot.length)),
            };
            if !each(slot, frame.and_then(|frame| frame::read(&frame, slot))) {
                return Ok(());
            }
        }
        rest = &rest[count..];
    }
    Ok(())
}

/// Bytes of a file, fewer at its end; `None` where the disk does not give them.
fn window(file: &File, at: u64, length: u64) -> Option<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    bytes.truncate(read);
    Some(bytes.into())
}

/// The offset before the first batch written at `time` or later; `None` where the segments have none.
pub(super) fn offset_for_time(index: &Index, key: LogKey, time: OffsetDateTime) -> io::Result<Option<Offset>> {
    let time = millis(time);
    let slots = all_slots(index, key, time)?;
    let found = slots.iter().flat_map(|slots| slots.iter()).find(|slot| slot.at >= time);
    Ok(found.map(|slot| Offset(slot.first.0 - 1)))
}

/// All slots of a log in segments that have something of `since` or later. A segment may go after it was found, and then the next look finds
/// it no more: one that is missing twice is lost.
fn all_slots(index: &Index, key: LogKey, since: i64) -> io::Result<Vec<Arc<[Slot]>>> {
    let mut missing: Option<Run> = None;
    loop {
        let mut all = Vec::new();
        let failed = index.runs(key.log).into_iter().filter(|run| run.newest >= since).find_map(|run| match index.slots(key.log, &run) {
            Ok(slots) => {
                all.push(slots);
                None
            }
            Err(e) => Some((run, e)),
        });
        let Some((run, e)) = failed else { return Ok(all) };
        if e.kind() != ErrorKind::NotFound || missing.is_some_and(|missing| Arc::ptr_eq(&missing.segment, &run.segment)) {
            return Err(e);
        }
        missing = Some(run);
    }
}

/// Rows of the first release have no checksum and are believed.
pub(super) fn verify(stored: Option<i64>, counted: i64) -> rusqlite::Result<()> {
    if stored.is_none_or(|stored| stored == counted) { Ok(()) } else { Err(damaged()) }
}

pub(super) fn damaged() -> Error {
    Error::FromSqlConversionFailure(0, Type::Blob, Box::new(std::io::Error::other("a row is damaged")))
}
