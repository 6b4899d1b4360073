//! Batches of a file from before there were segments: read once, into segments.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use bytes::{Buf as _, Bytes};
use motience_proto::model::{LogEpoch, LogId, LogKey, Offset, ProducerEpoch, RecordId, Seq};
use motience_runtime::{
    clock::{from_millis, millis},
    private,
};
use rusqlite::{Connection, Row, params};
use tracing::{info, warn};

use super::{
    Cause,
    compact::Maker,
    frame::Draft,
    load::{LOGS, add_keys, damaged, is_damage, unless_damaged, verify},
    rows::{BatchRow, column, offset},
    schema,
    segment::{FOLDER, Name, sync},
};
use crate::{Batch, Entry};

/// Batches read at once.
const ROWS: usize = 1000;
const BATCHES: &str =
    "SELECT first, last, written, bytes, sender, entries, sum FROM batches WHERE producer = ?1 AND last > ?2 ORDER BY last";
/// From the index alone: it is whole where a row's own page may not be.
const NEXT: &str = "SELECT last FROM batches INDEXED BY batches_place WHERE producer = ?1 AND last > ?2 ORDER BY last LIMIT 1";

/// Brings the batches of the database into segments, if it has any. A crash leaves either all of it to do again, or nothing: the folder of
/// segments appears at once, with a file that says where it came from, and then the database lets go of the batches.
pub(super) fn import(dir: &Path, connection: &Connection, segment_bytes: u64) -> Result<(), super::Error> {
    let (folder, unfinished) = (dir.join(FOLDER), dir.join("log.import"));
    let sqlite = |e| super::Error::sqlite(dir, e);
    let io = |e| super::Error::Io(folder.clone(), e);
    let marker = folder.join("imported");
    if !schema::has_batches(connection).map_err(sqlite)? {
        let _ = fs::remove_file(marker);
        return Ok(());
    }
    if !marker.exists() {
        if folder.exists() {
            let aside = dir.join(format!("log.replaced-{}", schema::stamp()));
            warn!(kept = %aside.display(), "the log's file is older than the segments beside it: they are put aside");
            fs::rename(&folder, aside).map_err(io)?;
        }
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(io)?;
        }
        private::folder(&unfinished).map_err(io)?;
        let records = copy(connection, &unfinished, segment_bytes).map_err(|e| e.within(dir))?;
        let marked = || {
            fs::File::create(unfinished.join("imported"))?.sync_all()?;
            sync(&unfinished)?;
            fs::rename(&unfinished, &folder)?;
            sync(dir)
        };
        marked().map_err(io)?;
        info!(records, "the log's file was read into segments");
    }
    schema::drop_batches(connection).map_err(sqlite)?;
    if let Err(e) = schema::shrink(connection) {
        warn!(error = %e, "the log's file keeps its size although it is empty now");
    }
    fs::remove_file(marker).map_err(io)
}

fn copy(connection: &Connection, folder: &Path, segment_bytes: u64) -> Result<u64, Cause> {
    let folder: Arc<Path> = folder.into();
    let (mut number, mut records) = (1, 0);
    let mut maker = Maker::new(&folder, Name::numbered(number))?;
    for key in keys(connection)?.into_values() {
        let mut at = Offset(0);
        while let Some(batches) = some(connection, key, &mut at)? {
            for batch in &batches {
                let producer_epoch = batch.entries().first().map_or(ProducerEpoch(0), |entry| entry.record_id.producer_epoch);
                let written = batch.received.map_or(0, millis);
                maker.add(&Draft {
                    key,
                    producer_epoch,
                    session: None,
                    first: batch.first,
                    at: written,
                    entries: batch.entries(),
                    ids: &[],
                })?;
                records += batch.len() as u64;
                if maker.length() >= segment_bytes {
                    maker.finish()?;
                    number += 1;
                    maker = Maker::new(&folder, Name::numbered(number))?;
                }
            }
        }
    }
    maker.finish()?;
    Ok(records)
}

/// All logs that `logs` names, and those whose batches alone are left.
fn keys(connection: &Connection) -> rusqlite::Result<BTreeMap<LogId, LogKey>> {
    let mut keys = BTreeMap::new();
    for ask in [
        LOGS,
        "SELECT DISTINCT producer, producer FROM batches INDEXED BY batches_place",
        "SELECT DISTINCT producer, producer FROM batches NOT INDEXED",
    ] {
        add_keys(connection, ask, &mut keys).or_else(|e| if is_damage(&e) { Ok(()) } else { Err(e) })?;
    }
    Ok(keys)
}

/// Some batches of a log after `at`, which goes along; `None`: no more. Damaged rows are left out.
fn some(connection: &Connection, key: LogKey, at: &mut Offset) -> rusqlite::Result<Option<Vec<Batch>>> {
    let (log, mut batches) = (column(key.log), Vec::new());
    let mut read = || -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(BATCHES)?;
        let mut rows = statement.query(params![log, at.0.cast_signed()])?;
        while batches.len() < ROWS
            && let Some(row) = rows.next()?
        {
            let batch = batch_of(row, key)?;
            *at = batch.last();
            batches.push(batch);
        }
        Ok(())
    };
    match read() {
        Err(e) if is_damage(&e) => {}
        read => return read.map(|()| (!batches.is_empty()).then_some(batches)),
    }
    let mut next = connection.prepare_cached(NEXT)?;
    let damaged =
        unless_damaged(rusqlite::OptionalExtension::optional(next.query_row(params![log, at.0.cast_signed()], |row| row.get(0))))?;
    let Some(damaged) = damaged else { return Ok((!batches.is_empty()).then_some(batches)) };
    *at = offset(damaged);
    Ok(Some(batches))
}

fn batch_of(row: &Row<'_>, key: LogKey) -> rusqlite::Result<Batch> {
    let found = BatchRow {
        first: row.get(0)?,
        last: row.get(1)?,
        written: row.get(2)?,
        bytes: row.get(3)?,
        sender: row.get(4)?,
        entries: row.get::<_, Vec<u8>>(5)?.into(),
    };
    verify(row.get(6)?, found.sum(column(key.log)))?;
    let entries = decode(ProducerEpoch(found.sender.cast_unsigned()), found.entries.clone()).ok_or_else(damaged)?;
    let batch = Batch::new(key, LogEpoch(0), offset(found.first), entries);
    let batch = batch.received(from_millis(found.written));
    if found.first > 0 && batch.last() == offset(found.last) { Ok(batch) } else { Err(damaged()) }
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
