//! Opening the log: the segments are listed, the last one is looked through and a torn end cut off, and the database is brought up to date
//! with what came after its checkpoint.

use std::{collections::HashSet, fs, io, path::Path, sync::Arc};

use motience_proto::model::{LogKey, Offset};
use motience_runtime::private;
use rusqlite::Connection;
use tracing::{error, warn};

use super::{
    Cause, Error,
    dirty::{Dirty, set_back},
    frame::{self, Encoder, Frame, MAGIC, Slot},
    index::{Index, filed},
    load,
    rows::offset,
    schema,
    segment::{End, FOLDER, Name, Piece, Position, Segment, list, scan},
    writer::Tail,
};

/// The segments of a log that has been opened.
pub(super) struct Recovered {
    pub(super) folder: Arc<Path>,
    pub(super) index: Index,
    pub(super) tail: Tail,
    pub(super) end: Position,
    /// Segments in which there is damage.
    pub(super) spoiled: HashSet<Name>,
}

/// Opens the segments in `dir`, and brings the database up to date.
pub(super) fn recover(dir: &Path, connection: &mut Connection) -> Result<Recovered, Error> {
    let folder: Arc<Path> = dir.join(FOLDER).into();
    let io = |e| Error::Io(folder.to_path_buf(), e);
    let sqlite = |e| Error::sqlite(dir, e);
    private::folder(&folder).map_err(io)?;
    let checkpoint = load::unless_damaged(schema::position(connection, schema::CHECKPOINT)).map_err(sqlite)?;
    let begun = load::unless_damaged(schema::position(connection, schema::BEGUN)).map_err(sqlite)?.max(checkpoint);
    let (index, mut dirty) = (Index::default(), Dirty::default());
    let mut spoiled = HashSet::new();
    let tail = open_segments(&folder, checkpoint, &index, &mut Found { dirty: &mut dirty, spoiled: &mut spoiled }).map_err(io)?;
    let end = Position { segment: tail.segment.name.first, at: tail.segment.length() };
    if begun > Some(end) {
        let mut restored = step_back(connection, &index).map_err(|e| e.within(dir))?;
        restored.merge(dirty);
        dirty = restored;
    }
    if !dirty.is_empty() || checkpoint != Some(end) {
        dirty.write(connection, end, true).map_err(sqlite)?;
    }
    let mut after = None;
    loop {
        let keys = load::unless_damaged(schema::keys(connection, after, 1000).map(Some)).map_err(sqlite)?.unwrap_or_default();
        let Some(last) = keys.last() else { break };
        after = Some(last.log);
        for key in keys {
            if let Ok(Some(row)) = load::log_row(connection, key) {
                index.trim(key, row.removed.map(offset).unwrap_or_default(), row.gone_at);
            }
        }
    }
    Ok(Recovered { folder, index, tail, end, spoiled })
}

/// News that the segments tell beside their batches.
struct Found<'a> {
    dirty: &'a mut Dirty,
    spoiled: &'a mut HashSet<Name>,
}

fn open_segments(folder: &Arc<Path>, checkpoint: Option<Position>, index: &Index, found: &mut Found<'_>) -> io::Result<Tail> {
    let (mut segments, stale) = list(folder)?;
    for path in stale {
        // Where it cannot be removed now, it is stale at the next start too.
        let _ = fs::remove_file(path);
    }
    let last = segments.pop().unwrap_or_else(|| Segment::new(folder, Name::numbered(1), 0));
    for segment in segments {
        let segment = Arc::new(segment);
        index.begin(&segment);
        let is_known = checkpoint.is_some_and(|checkpoint| segment.name.last < checkpoint.segment);
        if is_known && let Some(runs) = filed::open(&segment) {
            runs.into_iter().for_each(|(key, run)| index.add_run(key, run));
            continue;
        }
        let (bytes, mut slots) = (bytes(&segment)?, Vec::new());
        scan(&bytes, &mut |piece| take(&segment, checkpoint, piece, found, &mut slots));
        index.add(&segment, slots);
    }
    let bytes = if last.path().exists() { bytes(&last)? } else { bytes::Bytes::new() };
    let (mut ends, mut pieces) = (End::default(), Vec::new());
    let mut decoder = scan(&bytes, &mut |piece| {
        ends.see(&piece);
        pieces.push(piece);
    });
    let end = ends.of(bytes.len() as u64);
    if end < bytes.len() as u64 {
        warn!(segment = %last.path().display(), bytes = bytes.len() as u64 - end, "the log ends within a write: it is cut off there");
    }
    last.set_length(end);
    let (file, last) = (last.write()?, Arc::new(last));
    index.begin(&last);
    let mut slots = Vec::new();
    for piece in pieces {
        if piece.position() < end {
            take(&last, checkpoint, piece, found, &mut slots);
        }
    }
    index.add(&last, slots);
    Ok(Tail { segment: last, file, encoder: Encoder::after(end, decoder.next(end)) })
}

/// Takes over a piece of a segment: its batch to the index, and what the database does not know yet.
fn take(segment: &Segment, checkpoint: Option<Position>, piece: Piece, found: &mut Found<'_>, slots: &mut Vec<(LogKey, Slot)>) {
    match piece {
        Piece::Damaged { position, end } | Piece::Orphan { position, end, .. } => {
            found.spoiled.insert(segment.name);
            error!(
                segment = %segment.path().display(), from = position, to = end,
                "a part of the log's file is damaged: readers are told, and go on behind it (`motience-server log check` tells more)"
            );
        }
        Piece::Frame { position, length, frame, .. } => {
            if checkpoint.is_none_or(|checkpoint| checkpoint <= Position { segment: segment.name.first, at: position }) {
                found.dirty.frame(&frame);
            }
            if let Frame::Append(append) = frame {
                let slot = Slot::of(append.producer_epoch, append.first, append.at, &append.entries, (position, length));
                slots.extend(slot.map(|slot| (append.key, slot)));
            }
        }
    }
}

fn bytes(segment: &Segment) -> io::Result<bytes::Bytes> {
    let bytes = segment.bytes()?;
    // One flipped bit makes no other version: then its frames can be read.
    let is_other = bytes.starts_with(&MAGIC[..6]) && !bytes.starts_with(&MAGIC) && bytes.get(7) == Some(&MAGIC[7]);
    if is_other && bytes.get(MAGIC.len()..).and_then(frame::whole).is_none() {
        let why = format!("{}: another version of motience-server wrote this segment", segment.path().display());
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    Ok(bytes)
}

/// The segments have lost an end that the database knows of: a disk that lied about a sync, a copy of another day. Logs that were in it are set
/// back to what there is, with those windows and ids that their frames tell; a window that knows a lost record would keep it from coming again.
fn step_back(connection: &mut Connection, index: &Index) -> Result<Dirty, Cause> {
    let (mut logs, mut after) = (HashSet::new(), None);
    loop {
        let keys = load::unless_damaged(schema::keys(connection, after, 1000).map(Some))?.unwrap_or_default();
        let Some(last) = keys.last() else { break };
        after = Some(last.log);
        for key in keys {
            let Some(row) = load::unless_damaged(load::log_row(connection, key))? else { continue };
            let kept = index.last(key.log).max(row.removed.map(offset).unwrap_or(Offset(0)));
            if offset(row.last) > kept {
                if logs.is_empty() {
                    // A crash from here on makes the next start read all segments.
                    schema::forget_position(connection, schema::CHECKPOINT)?;
                }
                warn!(producer = %key.producer, lost = offset(row.last).0 - kept.0, "this log has lost its newest records: its readers are told");
                set_back(connection, key, &row, kept)?;
                logs.insert(key);
            }
        }
    }
    let mut restored = Dirty::default();
    if logs.is_empty() {
        return Ok(restored);
    }
    for segment in index.segments() {
        scan(&segment.bytes()?, &mut |piece| {
            if let Piece::Frame { frame, .. } = piece {
                let key = match &frame {
                    Frame::Append(append) => append.key,
                    Frame::Note(note) => note.key,
                };
                if logs.contains(&key) {
                    restored.frame(&frame);
                }
            }
        });
    }
    Ok(restored)
}
