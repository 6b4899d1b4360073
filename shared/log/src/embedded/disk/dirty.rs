//! News of senders and logs that the segments hold and the database does not know yet, and how it gets there.
//!
//! The database is a copy that lags: rows are whole states, so they may be written more than once and in several steps. After a crash the frames
//! behind the checkpoint are read again. Rows may be ahead of the checkpoint, up to the position `begun`, where a crash interrupted the steps.

use std::{collections::HashMap, sync::Arc};

use motience_proto::model::{Fence, LogKey, Offset, ProducerEpoch, RangeSet};
use motience_runtime::clock::millis;
use rusqlite::Connection;

use super::{
    frame::{Append, Frame},
    load,
    rows::{LogRow, SessionRow, column},
    schema,
    segment::Position,
};
use crate::{
    SessionName,
    embedded::state::{Change, Note},
};

/// Rows written in one step.
const ROWS: usize = 1000;

/// States that changed since the last checkpoint.
#[derive(Debug, Default)]
pub(super) struct Dirty(HashMap<LogKey, DirtyLog>);

#[derive(Debug, Default)]
struct DirtyLog {
    last: Offset,
    note: Option<Note>,
    /// `None`: forgotten.
    sessions: HashMap<SessionName, Option<DirtySession>>,
    ids: HashMap<Arc<str>, Option<i64>>,
}

#[derive(Debug)]
struct DirtySession {
    fence: Fence,
    producer_epoch: ProducerEpoch,
    seen: RangeSet,
    used: i64,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over what a change says.
    pub(super) fn change(&mut self, change: &Change) {
        if change.is_empty() {
            return;
        }
        if let Some(note) = &change.note {
            self.note(note);
        }
        let log = self.0.entry(change.key).or_default();
        log.last = log.last.max(change.last);
        for appended in &change.appends {
            let at = millis(appended.at);
            if let Some((name, session)) = &appended.session {
                let (fence, producer_epoch) = (session.fence, session.producer_epoch);
                log.sessions.insert(name.clone(), Some(DirtySession { fence, producer_epoch, seen: session.seen.clone(), used: at }));
            }
            log.ids.extend(appended.ids.iter().map(|id| (Arc::clone(id), Some(at))));
        }
    }

    /// Takes over what a frame says.
    pub(super) fn frame(&mut self, frame: &Frame) {
        match frame {
            Frame::Note(note) => self.note(note),
            Frame::Append(append) => self.append(append),
        }
    }

    fn append(&mut self, append: &Append) {
        let log = self.0.entry(append.key).or_default();
        log.last = log.last.max(Offset((append.first.0 + append.entries.len() as u64).saturating_sub(1)));
        if let Some((name, fence, seen)) = &append.session {
            let session = DirtySession { fence: *fence, producer_epoch: append.producer_epoch, seen: seen.clone(), used: append.at };
            log.sessions.insert(name.clone(), Some(session));
        }
        log.ids.extend(append.ids.iter().map(|id| (Arc::clone(id), Some(append.at))));
    }

    fn note(&mut self, note: &Note) {
        let log = self.0.entry(note.key).or_default();
        log.sessions.extend(note.gone.iter().map(|name| (name.clone(), None)));
        log.ids.extend(note.ids_gone.iter().map(|id| (Arc::clone(id), None)));
        log.note = Some(Note { gone: Vec::new(), ids_gone: Vec::new(), ..note.clone() });
    }

    /// Adds what came later.
    pub(super) fn merge(&mut self, later: Self) {
        for (key, later) in later.0 {
            let log = self.0.entry(key).or_default();
            log.last = log.last.max(later.last);
            log.note = later.note.or(log.note.take());
            log.sessions.extend(later.sessions);
            log.ids.extend(later.ids);
        }
    }

    /// Writes all of it, of the segments up to `end`. First where logs stand: a sender's window is never in the database before its log's last
    /// offset is, so a log that has lost its tail is known by that.
    ///
    /// Without `is_whole` the next start reads all segments again: the database lacks something that they may have.
    pub(super) fn write(&self, connection: &mut Connection, end: Position, is_whole: bool) -> rusqlite::Result<()> {
        schema::put_position(connection, schema::BEGUN, end)?;
        let mut step = Step { connection, rows: 0 };
        step.begin()?;
        for (key, log) in &self.0 {
            step.count()?;
            log.put_log(step.connection, *key)?;
        }
        for (key, log) in &self.0 {
            let producer = column(key.log);
            for (name, session) in &log.sessions {
                step.count()?;
                match session {
                    Some(session) => session.row(name).put(step.connection, producer)?,
                    None => schema::forget_session(step.connection, producer, name.text())?,
                }
            }
            for (id, at) in &log.ids {
                step.count()?;
                match at {
                    Some(at) => schema::put_id(step.connection, producer, id, *at)?,
                    None => schema::forget_id(step.connection, producer, id)?,
                }
            }
        }
        if is_whole {
            schema::put_position(step.connection, schema::CHECKPOINT, end)?;
        }
        step.end()
    }
}

impl DirtyLog {
    fn put_log(&self, connection: &Connection, key: LogKey) -> rusqlite::Result<()> {
        let known = load::unless_damaged(load::log_row(connection, key))?;
        let mut row = known.unwrap_or_default();
        row.number = Some(key.producer.0);
        row.last = row.last.max(self.last.0.cast_signed());
        if let Some(note) = &self.note {
            let known = row.epochs.parse::<crate::Epochs>().unwrap_or_default();
            // A note that is read again may be older than what is known.
            if !known.iter().any(|(log_epoch, _)| log_epoch == note.epochs.present()) {
                row.epochs = note.epochs.to_string();
            }
            row.removed = row.removed.max(Some(note.removed.0.cast_signed()));
            row.last = row.last.max(note.removed.0.cast_signed());
            row.gone_at = row.gone_at.max(note.gone_at);
        }
        row.put(connection, column(key.log))
    }
}

impl DirtySession {
    fn row(&self, name: &SessionName) -> SessionRow {
        SessionRow {
            name: name.text().to_owned(),
            fence: self.fence.0.cast_signed(),
            producer_epoch: self.producer_epoch.0.cast_signed(),
            seen: self.seen.to_string(),
            used: self.used,
        }
    }
}

/// Transactions of so many rows each, so that nobody who needs the database waits for long.
struct Step<'c> {
    connection: &'c mut Connection,
    rows: usize,
}

impl Step<'_> {
    fn begin(&mut self) -> rusqlite::Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")
    }

    fn count(&mut self) -> rusqlite::Result<()> {
        self.rows += 1;
        if self.rows.is_multiple_of(ROWS) {
            self.connection.execute_batch("COMMIT; BEGIN IMMEDIATE")?;
        }
        Ok(())
    }

    fn end(self) -> rusqlite::Result<()> {
        self.connection.execute_batch("COMMIT")
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
    }
}

/// Sets a log back to `last` after it has lost its tail: of its senders and ids nothing is believed that the segments do not say again.
pub(super) fn set_back(connection: &mut Connection, key: LogKey, row: &LogRow, last: Offset) -> rusqlite::Result<()> {
    let (transaction, producer) = (connection.transaction()?, column(key.log));
    LogRow { last: last.0.cast_signed(), ..row.clone() }.put(&transaction, producer)?;
    schema::forget_senders(&transaction, producer)?;
    transaction.commit()
}
