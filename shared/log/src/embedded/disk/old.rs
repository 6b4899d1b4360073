//! For tests: a log's file as it was before there were segments.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use motience_proto::model::{LogEpoch, LogKey, Offset, ProducerEpoch, RecordId, Seq};
use motience_runtime::clock::millis;
use rusqlite::Connection;
use time::macros::datetime;

use super::{
    compact::Maker,
    frame::Draft,
    rows::{BatchRow, LogRow, SessionRow, column},
    segment::{Name, Position},
};
use crate::{Batch, Entry};

/// Tables of version 1.
const TABLES: &str = "
CREATE TABLE logs (producer INTEGER PRIMARY KEY, last INTEGER NOT NULL, lives TEXT NOT NULL) STRICT;
CREATE TABLE batches (
    producer INTEGER NOT NULL, last INTEGER NOT NULL, first INTEGER NOT NULL,
    written INTEGER NOT NULL, bytes INTEGER NOT NULL, sender INTEGER NOT NULL, entries BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX batches_place ON batches (producer, last);
CREATE TABLE sessions (
    producer INTEGER NOT NULL, name TEXT NOT NULL, fence INTEGER NOT NULL, epoch INTEGER NOT NULL,
    seen TEXT NOT NULL, used INTEGER NOT NULL, PRIMARY KEY (producer, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE ids (
    producer INTEGER NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (producer, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
ALTER TABLE logs ADD COLUMN number INTEGER;
ALTER TABLE logs ADD COLUMN removed INTEGER;
ALTER TABLE logs ADD COLUMN gone_at INTEGER;
ALTER TABLE logs ADD COLUMN sum INTEGER;
ALTER TABLE batches ADD COLUMN sum INTEGER;
ALTER TABLE sessions ADD COLUMN sum INTEGER;
CREATE INDEX ids_at ON ids (at);
PRAGMA user_version = 1;
";

fn batch(key: LogKey, n: u64, message: String) -> Batch {
    let record_id = RecordId { producer_epoch: ProducerEpoch(7), seq: Seq(n) };
    Batch::new(key, LogEpoch(99), Offset(n), vec![Entry { record_id, message: Bytes::from(message) }])
}

/// Writes logs of so many records, of which the first ones are removed.
pub(in crate::embedded) fn write(dir: &Path, logs: &[(LogKey, u64, u64)]) {
    let connection = Connection::open(dir.join(super::FILE)).unwrap();
    connection.execute_batch(TABLES).unwrap();
    let now = millis(datetime!(2026-01-01 00:00 UTC));
    for (key, last, removed) in logs {
        let log = column(key.log);
        let row = LogRow {
            number: Some(key.producer.0),
            last: last.cast_signed(),
            epochs: "99:0".to_owned(),
            removed: Some(removed.cast_signed()),
            gone_at: None,
        };
        row.put(&connection, log).unwrap();
        for n in removed + 1..=*last {
            BatchRow::of(&batch(*key, n, crate::embedded::tests::message(*key, n)), now).put(&connection, log).unwrap();
        }
        let session = SessionRow { name: "d:d".to_owned(), fence: 3, producer_epoch: 7, seen: format!("1-{last}"), used: now };
        session.put(&connection, log).unwrap();
    }
}

/// Fills a folder with segments of so many records of so many producers.
pub(in crate::embedded) fn fill(folder: &Path, records: u64, producers: u64) -> std::io::Result<()> {
    let folder: Arc<Path> = folder.into();
    let (mut number, now) = (2, millis(datetime!(2026-01-01 00:00 UTC)));
    let mut maker = Maker::new(&folder, Name::numbered(number))?;
    for n in 0..records {
        let key = LogKey::numbered(motience_proto::model::ProducerId((n % producers).cast_signed()));
        let batch = batch(key, n / producers + 1, format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(140)));
        let producer_epoch = ProducerEpoch(7);
        maker.add(&Draft { key, producer_epoch, session: None, first: batch.first, at: now, entries: batch.entries(), ids: &[] })?;
        if maker.length() >= super::SEGMENT_BYTES {
            maker.finish()?;
            number += 1;
            maker = Maker::new(&folder, Name::numbered(number))?;
        }
    }
    maker.finish()?;
    // The database knows all of it, as after the last segment was full.
    let connection = super::schema::open(&folder.with_file_name(super::FILE)).map_err(std::io::Error::other)?;
    let end = Position { segment: number, at: 8 };
    super::schema::put_position(&connection, super::schema::CHECKPOINT, end).map_err(std::io::Error::other)
}
