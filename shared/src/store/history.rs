//! The table `data_history`: records kept for later, where the operator asks for it.

use serde_json::value::RawValue;
use time::{OffsetDateTime, macros::datetime};

use super::{Engine, Error, MAX_PAGE, Store, is_storable, limited, postgres, sqlite};
use crate::model::{DeviceId, LogEpoch, Offset, ProducerId};

/// A record to be kept. Its place in the log names it.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    /// Whose record.
    pub producer: ProducerId,
    /// The life of the log it is in.
    pub epoch: LogEpoch,
    /// Its place in that log.
    pub offset: Offset,
    /// The device that sent it.
    pub device: DeviceId,
    /// The device's time.
    pub timestamp: OffsetDateTime,
    /// When it arrived.
    pub received_at: OffsetDateTime,
    /// The record's `data`, as the device wrote it.
    pub data: Box<RawValue>,
}

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The earliest device time, itself included.
    pub from: Option<OffsetDateTime>,
    /// The latest device time, itself included.
    pub to: Option<OffsetDateTime>,
    /// The last id already seen; 0 at the start.
    pub after: i64,
    /// Most records wanted; more than [`MAX_PAGE`] count as that.
    pub limit: u32,
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { from: None, to: None, after: 0, limit: MAX_PAGE }
    }
}

/// A record that was kept.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// Rises in the order in which records were kept.
    pub id: i64,
    /// Whose record.
    pub producer_id: ProducerId,
    /// The device that sent it.
    pub device_id: String,
    /// The device's time, to the microsecond.
    pub timestamp: OffsetDateTime,
    /// The record's `data`: the same value, though PostgreSQL orders members and spells numbers its own way (`1e3` is `1000`) and keeps
    /// the last of members with one name.
    pub data: Box<RawValue>,
}

impl Store {
    /// Keeps records, all or none of them. One that is already there (the same producer, epoch and offset) is passed over.
    pub async fn append_history(&self, rows: &[HistoryRow]) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        if !rows.iter().all(|row| is_storable(row.producer.0)) {
            return Err(Error::Unstorable("producer_id"));
        }
        // One order for all writers: two batches that share rows then never wait for each other in a circle.
        let mut rows: Vec<&HistoryRow> = rows.iter().collect();
        rows.sort_by_key(|row| (row.producer, row.epoch, row.offset));
        limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => sqlite::append_history(&pools.writer, &rows).await,
                Engine::Postgres(pools) => postgres::append_history(&pools.writer, &rows).await,
            }
        })
        .await
    }

    /// The kept records of a producer, in order of id.
    pub async fn history(&self, producer: ProducerId, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, Error> {
        let limit = i64::from(query.limit.min(MAX_PAGE));
        let (from, to) = (query.from.map_or(FIRST, in_range), query.to.map_or(LAST, in_range));
        let rows = limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => sqlite::history(&pools.reader, producer.0, from, to, query.after, limit).await,
                Engine::Postgres(pools) => postgres::history(&pools.reader, producer.0, from, to, query.after, limit).await,
            }
        })
        .await?;
        rows.into_iter().map(|row| row.entry(producer)).collect()
    }
}

/// What the `SELECT` of either database gives.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    id: i64,
    // An adopted table allows none.
    device_id: Option<String>,
    timestamp: OffsetDateTime,
    payload: String,
}

impl Row {
    fn entry(self, producer_id: ProducerId) -> Result<HistoryEntry, Error> {
        let data = RawValue::from_string(self.payload).map_err(|e| Error::Other(sqlx::Error::Decode(Box::new(e))))?;
        Ok(HistoryEntry { id: self.id, producer_id, device_id: self.device_id.unwrap_or_default(), timestamp: self.timestamp, data })
    }
}

// What both databases can hold and compare; also the bounds of RFC 3339.
const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999999 UTC);

/// A device's clock may say anything that can be written; the databases cannot hold all of it.
pub(super) fn in_range(at: OffsetDateTime) -> OffsetDateTime {
    at.clamp(FIRST, LAST)
}
