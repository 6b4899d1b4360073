//! Reading the table `data_history`: records kept for later, where the operator asks for it.
//!
//! Rows of one producer are numbered in the order of its log, and become visible in that order: whoever has read up to an id has
//! missed nothing before it.

use std::collections::HashSet;

use serde_json::value::RawValue;
use time::{OffsetDateTime, macros::datetime};

use super::{Engine, Error, MAX_PAGE, Store, cursors::Place, limited, on, postgres, sqlite, users::present_log};
use crate::model::{Cursor, Epoch, ProducerId, RecordName, Seq};

/// Which records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The earliest time, itself included.
    pub from: Option<OffsetDateTime>,
    /// The latest time, itself included.
    pub to: Option<OffsetDateTime>,
    /// Whether these are times of the device, and not of the arrival. Where that is not known, those of the device stand for it.
    pub by_device: bool,
    /// The last id already seen; 0 at the start.
    pub after: i64,
    /// Most records wanted; more than [`MAX_PAGE`] count as that.
    pub limit: u32,
    /// Bytes of records ([`HistoryEntry::bytes`]) after which no more are read: the last may go beyond them.
    pub bytes: usize,
}

impl HistoryQuery {
    /// Whether the times asked for include those of a record, which are as exact as [`kept_time`] makes them.
    pub fn includes(&self, timestamp: OffsetDateTime, received_at: Option<OffsetDateTime>) -> bool {
        let (from, to) = self.times();
        let at = received_at.filter(|_| !self.by_device).unwrap_or(timestamp);
        (kept_time(from)..=kept_time(to)).contains(&at)
    }

    /// Which of the statements of [`by_clock`] serves it.
    pub(super) fn clock(&self) -> usize {
        usize::from(self.by_device)
    }

    /// Whether the times asked for include any from `first` to `last`, which are as exact as [`kept_time`] makes them.
    pub fn overlaps(&self, (first, last): (OffsetDateTime, OffsetDateTime)) -> bool {
        let (from, to) = self.times();
        kept_time(from) <= last && first <= kept_time(to)
    }

    /// Whether only some times are asked for.
    fn is_of_times(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    fn times(&self) -> (OffsetDateTime, OffsetDateTime) {
        (self.from.map_or(FIRST, in_range), self.to.map_or(LAST, in_range))
    }
}

impl Default for HistoryQuery {
    fn default() -> Self {
        Self { from: None, to: None, by_device: false, after: 0, limit: MAX_PAGE, bytes: usize::MAX }
    }
}

/// A record that was kept.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// Rises in the order in which records were kept.
    pub id: i64,
    /// Whose record.
    pub producer_id: ProducerId,
    /// Its place in the log; an adopted row has none.
    pub place: Option<Cursor>,
    /// The device that sent it.
    pub device_id: String,
    /// The device's time, to the microsecond.
    pub timestamp: OffsetDateTime,
    /// The record's `data`: the same value, though PostgreSQL orders members and spells numbers its own way (`1e3` is `1000`) and keeps
    /// the last of members with one name.
    pub data: Box<RawValue>,
    /// What else the device wrote, as one object; likewise.
    pub extra: Option<Box<RawValue>>,
    /// When it came, to the microsecond; an adopted row does not say.
    pub received_at: Option<OffsetDateTime>,
    /// As the database holds it, which may spell `extra` otherwise.
    bytes: usize,
}

/// Bytes that an entry counts beside its `data`: its other members as JSON have no more.
const ENTRY: usize = 512;

/// Bytes that a record counts with this `data` and `extra`, where records are read up to a number of bytes.
pub fn entry_bytes(data: &RawValue, extra: Option<&RawValue>) -> usize {
    data.get().len() + extra.map_or(0, |extra| extra.get().len()) + ENTRY
}

impl HistoryEntry {
    /// Bytes that it counts as part of a page.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Store {
    /// The kept records of a producer, in order of id.
    pub async fn history(&self, producer: ProducerId, query: &HistoryQuery) -> Result<Vec<HistoryEntry>, Error> {
        let limit = i64::from(query.limit.min(MAX_PAGE));
        let (from, to) = query.times();
        let rows = limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => {
                    let few = query.is_of_times() && sqlite::matching(&pools.reader, producer.0, (from, to), query).await? <= FEW;
                    sqlite::history(&pools.reader, producer.0, (from, to), query, limit, few).await
                }
                Engine::Postgres(pools) => {
                    let few = query.is_of_times() && postgres::matching(&pools.reader, producer.0, (from, to), query).await? <= FEW;
                    postgres::history(&pools.reader, producer.0, (from, to), query, limit, few).await
                }
            }
        })
        .await?;
        rows.into_iter().map(|row| row.entry(producer)).collect()
    }

    /// The id of the row that a reader of the log at `place` goes on after: of the last row of that life up to there, or else of the one
    /// before the first row beyond. `None`: the history holds nothing of that life.
    pub async fn history_id(&self, producer: ProducerId, place: Cursor) -> Result<Option<i64>, Error> {
        for (statement, before) in [(LAST_UNTIL, 0), (FIRST_BEYOND, 1)] {
            let id = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(statement)
                .bind(producer.0)
                .bind(place.epoch.0.cast_signed())
                .bind(place.offset.0.cast_signed())
                .fetch_optional(db))?;
            if let Some(id) = id {
                return Ok(Some(id - before));
            }
        }
        Ok(None)
    }

    /// Which of `names` are among the rows up to the id `until`.
    pub async fn names_kept(&self, producer: ProducerId, names: &[RecordName], until: i64) -> Result<HashSet<RecordName>, Error> {
        if names.is_empty() {
            return Ok(HashSet::new());
        }
        let rows = limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => sqlite::names_kept(&pools.reader, producer.0, names, until).await,
                Engine::Postgres(pools) => postgres::names_kept(&pools.reader, producer.0, names, until).await,
            }
        })
        .await?;
        let name = |(epoch, seq): (i64, i64)| RecordName { epoch: Epoch(epoch.cast_unsigned()), seq: Seq(seq.cast_unsigned()) };
        Ok(rows.into_iter().map(name).collect())
    }
}

/// Whether a row is of the log that the producer `$1` has.
macro_rules! of_present_log {
    () => {
        concat!("COALESCE(data_history.log_id, data_history.producer_id) = ", present_log!("$1"))
    };
}
pub(super) use of_present_log;

const LAST_UNTIL: &str = concat!(
    "SELECT CAST(id AS BIGINT) FROM data_history WHERE producer_id = $1 AND log_epoch = $2 AND log_offset <= $3 AND ",
    of_present_log!(),
    " ORDER BY log_offset DESC LIMIT 1"
);
const FIRST_BEYOND: &str = concat!(
    "SELECT CAST(id AS BIGINT) FROM data_history WHERE producer_id = $1 AND log_epoch = $2 AND log_offset > $3 AND ",
    of_present_log!(),
    " ORDER BY log_offset LIMIT 1"
);

/// What the `SELECT` of either database gives.
#[derive(sqlx::FromRow)]
pub(super) struct Row {
    id: i64,
    // An adopted table allows none.
    device_id: Option<String>,
    timestamp: OffsetDateTime,
    payload: String,
    extra: Option<String>,
    received_at: Option<OffsetDateTime>,
    log_epoch: Option<i64>,
    log_offset: Option<i64>,
}

impl Row {
    /// Bytes that it counts, as [`HistoryEntry::bytes`].
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.extra.as_ref().map_or(0, String::len) + ENTRY
    }

    fn entry(self, producer_id: ProducerId) -> Result<HistoryEntry, Error> {
        let bytes = self.bytes();
        let json = |text| RawValue::from_string(text).map_err(|e| Error::Other(sqlx::Error::Decode(Box::new(e))));
        let (data, extra) = (json(self.payload)?, self.extra.map(json).transpose()?);
        // Kept as text, where the database could not hold it as an object.
        let extra = match extra.as_deref().map(|extra| serde_json::from_str::<String>(extra.get())) {
            Some(Ok(text)) => Some(json(text)?),
            _ => extra,
        };
        let place = self.log_epoch.zip(self.log_offset).map(|(epoch, offset)| Place::new(epoch, offset).into());
        let device_id = self.device_id.unwrap_or_default();
        Ok(HistoryEntry {
            id: self.id,
            producer_id,
            place,
            device_id,
            timestamp: self.timestamp,
            data,
            extra,
            received_at: self.received_at,
            bytes,
        })
    }
}

/// Rows of the times asked for up to which they are found by time and then put in order, rather than looked for in order: of these few,
/// far apart, the whole history of a producer would be looked through.
pub(super) const FEW: i64 = 10_000;

/// Two statements, for times of arrival and for those of the device, with their condition on the parameters `$first` and `$last` between
/// `$before` and `$after`. A row that does not say when it came goes by the device's time.
macro_rules! by_clock {
    ($before:expr, $first:literal, $last:literal, $after:expr) => {
        [
            concat!(
                $before,
                "(data_history.received_at BETWEEN ",
                $first,
                " AND ",
                $last,
                " OR (data_history.received_at IS NULL AND data_history.timestamp BETWEEN ",
                $first,
                " AND ",
                $last,
                "))",
                $after
            ),
            concat!($before, "data_history.timestamp BETWEEN ", $first, " AND ", $last, $after),
        ]
    };
}
pub(super) use by_clock;

/// How many rows of the times asked for there are, up to one more than [`FEW`]: by arrival, and by the device.
pub(super) const MATCHING: [&str; 2] = by_clock!(
    "SELECT COUNT(*) FROM (SELECT 1 AS one FROM data_history WHERE producer_id = $1 AND ",
    "$2",
    "$3",
    " LIMIT 10001) AS matching"
);

// What both databases can hold and compare; also the bounds of RFC 3339.
const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999999 UTC);

/// A device's clock may say anything that can be written; the databases cannot hold all of it.
pub(super) fn in_range(at: OffsetDateTime) -> OffsetDateTime {
    at.clamp(FIRST, LAST)
}

/// A device's time as it comes back from the history: what both databases can hold, to the microsecond.
pub fn kept_time(at: OffsetDateTime) -> OffsetDateTime {
    let at = in_range(at);
    at.replace_nanosecond(at.nanosecond() / 1000 * 1000).expect("fewer nanoseconds than there were")
}
