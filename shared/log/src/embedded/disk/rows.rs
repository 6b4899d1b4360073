//! The rows of the file's tables: what they hold, their checksums, and how values are written in them.

#[cfg(test)]
use bytes::BufMut as _;
use bytes::Bytes;
use motience_proto::model::{LogId, Offset};
use rusqlite::{Connection, params};

#[cfg(test)]
use crate::Batch;

/// A row of `logs`.
#[derive(Clone, Debug, Default)]
pub(super) struct LogRow {
    pub(super) number: Option<i64>,
    pub(super) last: i64,
    pub(super) epochs: String,
    pub(super) removed: Option<i64>,
    pub(super) gone_at: Option<i64>,
}

impl LogRow {
    pub(super) fn sum(&self, log: i64) -> i64 {
        let sum = Sum::default().number(log).number(self.last).text(&self.epochs);
        [self.number, self.removed, self.gone_at].into_iter().fold(sum, |sum, column| sum.number(column.unwrap_or(-1))).value()
    }

    pub(super) fn put(&self, connection: &Connection, log: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO logs (producer, number, last, lives, removed, gone_at, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (producer) DO UPDATE SET number = ?2, last = ?3, lives = ?4, removed = ?5, gone_at = ?6, sum = ?7",
            )?
            .execute(params![log, self.number, self.last, self.epochs, self.removed, self.gone_at, self.sum(log)])
            .map(drop)
    }
}

/// A row of `batches`, as the file had them before there were segments.
#[derive(Debug)]
pub(super) struct BatchRow {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) written: i64,
    pub(super) bytes: i64,
    pub(super) sender: i64,
    pub(super) entries: Bytes,
}

impl BatchRow {
    #[cfg(test)]
    pub(super) fn of(batch: &Batch, written: i64) -> Self {
        Self {
            first: batch.first.0 as i64,
            last: batch.last().0 as i64,
            written,
            bytes: batch.bytes() as i64,
            sender: batch.entries().first().map_or(0, |entry| entry.record_id.producer_epoch.0) as i64,
            entries: encode(batch).into(),
        }
    }

    pub(super) fn sum(&self, log: i64) -> i64 {
        let sum = Sum::default().number(log).number(self.first).number(self.last).number(self.written).number(self.bytes);
        sum.number(self.sender).bytes(&self.entries).value()
    }

    #[cfg(test)]
    pub(super) fn put(&self, connection: &Connection, log: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached("INSERT OR REPLACE INTO batches VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute(params![log, self.last, self.first, self.written, self.bytes, self.sender, &*self.entries, self.sum(log)])
            .map(drop)
    }
}

/// A row of `sessions`.
#[derive(Clone, Debug)]
pub(super) struct SessionRow {
    pub(super) name: String,
    pub(super) fence: i64,
    pub(super) producer_epoch: i64,
    pub(super) seen: String,
    pub(super) used: i64,
}

impl SessionRow {
    pub(super) fn sum(&self, log: i64) -> i64 {
        Sum::default()
            .number(log)
            .text(&self.name)
            .number(self.fence)
            .number(self.producer_epoch)
            .text(&self.seen)
            .number(self.used)
            .value()
    }

    pub(super) fn put(&self, connection: &Connection, log: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
                 ON CONFLICT (producer, name) DO UPDATE SET fence = ?3, epoch = ?4, seen = ?5, used = ?6, sum = ?7",
            )?
            .execute(params![log, self.name, self.fence, self.producer_epoch, self.seen, self.used, self.sum(log)])
            .map(drop)
    }
}

/// A checksum over the columns of a row: CRC-32, as in Ethernet.
#[derive(Default)]
struct Sum(crc32fast::Hasher);

impl Sum {
    fn number(mut self, number: i64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn value(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

/// A log's id as the columns `producer` hold it.
pub(super) fn column(log: LogId) -> i64 {
    log.0.cast_signed()
}

#[cfg(test)]
fn encode(batch: &Batch) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.bytes() + batch.len() * 12);
    for entry in batch.entries() {
        out.put_u64_le(entry.record_id.seq.0);
        out.put_u32_le(u32::try_from(entry.message.len()).unwrap_or(u32::MAX));
        out.put_slice(&entry.message);
    }
    out
}

pub(super) fn offset(stored: i64) -> Offset {
    Offset(stored.max(0).cast_unsigned())
}
