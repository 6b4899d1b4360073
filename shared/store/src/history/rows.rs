//! Rows of the table `data_history`, read and written, and the parts of statements that both databases share.

use motience_proto::model::{Cursor, DeviceId, LogId, LogKey, ProducerId, RecordId};
use serde_json::value::RawValue;
use time::{Duration, OffsetDateTime, macros::datetime};

use crate::{Erased, Error, MAX_PAGE, RecordErasure, cursors::StoredCursor, row::row};

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
    pub(super) fn is_of_times(&self) -> bool {
        self.from.is_some() || self.to.is_some()
    }

    /// Up to when all records came before those asked for; `None`: that cannot be said.
    pub(super) fn long_before(&self) -> Option<OffsetDateTime> {
        self.from.filter(|_| !self.by_device).map(|from| in_range(from).saturating_sub(SKEW)).map(in_range)
    }

    pub(super) fn times(&self) -> (OffsetDateTime, OffsetDateTime) {
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
    /// The producer of the record.
    pub producer_id: ProducerId,
    /// Its place in the log; an imported row has none.
    pub place: Option<Cursor>,
    /// The device that sent it.
    pub device_id: String,
    /// The device's time, to the microsecond.
    pub timestamp: OffsetDateTime,
    /// The record's `data`: the same value, though PostgreSQL orders members and spells numbers its own way (`1e3` is `1000`) and keeps
    /// the last of members with one name.
    pub data: Box<RawValue>,
    /// Other members that the device wrote, as one object; likewise.
    pub extra: Option<Box<RawValue>>,
    /// When it came, to the microsecond; an imported row does not say.
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

/// A record to be kept.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    /// Its place in the log.
    pub place: Cursor,
    /// Its name, whatever its place.
    pub record_id: RecordId,
    /// The device that sent it.
    pub device: DeviceId,
    /// The device's time.
    pub timestamp: OffsetDateTime,
    /// When it arrived.
    pub received_at: OffsetDateTime,
    /// The record's `data`, as the device wrote it.
    pub data: Box<RawValue>,
    /// Other members that it wrote, as one object.
    pub extra: Option<Box<RawValue>>,
}

/// Records that were read from one producer's log.
#[derive(Clone, Debug)]
pub struct HistoryBatch {
    /// The producer of the log.
    pub producer: ProducerId,
    /// Which log: rows of one that the producer's number had before are kept, and are not shown as the present one's.
    pub log: LogId,
    /// Where the history must stand for this to follow; `None`: nothing was read from this log before.
    pub expected: Option<Cursor>,
    /// Where it stands after this.
    pub cursor: Cursor,
    /// The records between, in order of place; there may be none.
    pub rows: Vec<HistoryRow>,
}

/// Outcome of [`keep_history`](crate::Store::keep_history).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Rows added; those that were there already are not counted.
    pub rows: u64,
    /// Producers of whom nothing was kept, because the history did not stand where it was expected: another writer has gone on from
    /// there, or an earlier call that seemed to fail had not failed.
    pub moved: Vec<ProducerId>,
}

/// Rows with their log, in order.
pub(super) fn rows_of<'a>(batches: &[&'a HistoryBatch], moved: &[ProducerId]) -> Vec<(LogKey, &'a HistoryRow)> {
    let kept = batches.iter().filter(|batch| !moved.contains(&batch.producer));
    kept.flat_map(|batch| batch.rows.iter().map(|row| (LogKey { producer: batch.producer, log: batch.log }, row))).collect()
}

/// Whether a row is of the log that the producer `$1` has.
macro_rules! of_present_log {
    () => {
        concat!("COALESCE(data_history.log_id, data_history.producer_id) = ", present_log!("$1"))
    };
}
pub(super) use of_present_log;

row! {
    /// A row of either database's `SELECT`.
    pub(super) struct Row {
        id: i64,
        // An imported table allows none.
        device_id: Option<String>,
        timestamp: OffsetDateTime,
        payload: String,
        extra: Option<String>,
        received_at: Option<OffsetDateTime>,
        log_epoch: Option<i64>,
        log_offset: Option<i64>,
    }
}

impl Row {
    /// Bytes that it counts, as [`HistoryEntry::bytes`].
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.extra.as_ref().map_or(0, String::len) + ENTRY
    }

    pub(super) fn entry(self, producer_id: ProducerId) -> Result<HistoryEntry, Error> {
        let bytes = self.bytes();
        let json = |text| RawValue::from_string(text).map_err(|e| Error::Other(sqlx::Error::Decode(Box::new(e))));
        let (data, extra) = (json(self.payload)?, self.extra.map(json).transpose()?);
        // Kept as text, where the database could not hold it as an object.
        let extra = match extra.as_deref().map(|extra| serde_json::from_str::<String>(extra.get())) {
            Some(Ok(text)) => Some(json(text)?),
            _ => extra,
        };
        let place = self.log_epoch.zip(self.log_offset).map(|(epoch, offset)| StoredCursor::new(epoch, offset).into());
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

/// Times of arrival rise with the ids, but for this much: each is of the clock of the node that took the record in.
const SKEW: Duration = Duration::hours(1);

/// The id behind which the producer `$1` has everything that came long after `$2`, so that the rows before need not be looked through. Not where
/// rows are imported: of those nobody knows when they came.
macro_rules! begin {
    ($key:expr) => {
        concat!(
            "SELECT CAST(id AS BIGINT) FROM data_history WHERE producer_id = $1 AND received_at < $2",
            $key,
            " AND NOT EXISTS (SELECT 1 FROM data_history WHERE producer_id = $1 AND received_at IS NULL) ORDER BY received_at DESC LIMIT 1"
        )
    };
}
pub(super) use begin;

/// Two statements, for times of arrival and for those of the device, with their condition on the parameters `$first` and `$last` between
/// `$before` and `$after`. A row that does not say when it came goes by the device's time.
///
/// With a `$key` these are statements for a table divided by that: it stands between the times exactly where the time of arrival does, and is
/// below all times where there is none.
macro_rules! by_clock {
    ($before:expr, $first:literal, $last:literal, $after:expr) => {
        by_clock!(@ $before, $first, $last, $after, "", "")
    };
    ($before:expr, $first:literal, $last:literal, $after:expr, $key:expr) => {
        by_clock!(@ $before, $first, $last, $after,
            concat!(" AND ", $key, " BETWEEN ", $first, " AND ", $last), concat!(" AND ", $key, " < ", $first))
    };
    (@ $before:expr, $first:literal, $last:literal, $after:expr, $came:expr, $imported:expr) => {
        [
            concat!(
                $before,
                "((data_history.received_at BETWEEN ",
                $first,
                " AND ",
                $last,
                $came,
                ") OR (data_history.received_at IS NULL AND data_history.timestamp BETWEEN ",
                $first,
                " AND ",
                $last,
                $imported,
                "))",
                $after
            ),
            concat!($before, "data_history.timestamp BETWEEN ", $first, " AND ", $last, $after),
        ]
    };
}
pub(super) use by_clock;

/// The key of the partitions of PostgreSQL: imported rows have no time of arrival.
macro_rules! key {
    () => {
        "COALESCE(received_at, '-infinity'::timestamptz)"
    };
}
pub(super) use key;

/// Deletes rows of an erasure: of the producer `$1` and the log `$2`, with ids from `$3` to before `$4`, of the device `$5` or of any, that came from
/// `$6` to `$7`, with offsets from `$8` to `$9`, and not behind the offset `$11` of the epoch `$10`.
pub(super) const ERASE: &str = "DELETE FROM data_history WHERE producer_id = $1 AND COALESCE(log_id, producer_id) = $2 AND id >= $3 AND id < $4 \
     AND ($5 = '' OR device_id = $5) AND COALESCE(received_at, timestamp) BETWEEN $6 AND $7 \
     AND ($8 = 0 OR log_offset >= $8) AND ($9 = 9223372036854775807 OR log_offset <= $9) \
     AND (log_epoch IS NULL OR log_epoch <> $10 OR log_offset <= $11)";

/// Deletes some rows of the producer `$1` that came before `$2` from a table: those that say when they came, and imported ones, which go by the
/// device's time.
pub(super) fn trim(table: &str) -> [String; 2] {
    [
        format!(
            "DELETE FROM {table} WHERE producer_id = $1 AND received_at <= (SELECT MAX(received_at) FROM (SELECT received_at FROM {table} \
             WHERE producer_id = $1 AND received_at < $2 ORDER BY received_at LIMIT 2000) AS oldest)"
        ),
        format!(
            "DELETE FROM {table} WHERE producer_id = $1 AND id IN (SELECT id FROM {table} \
             WHERE producer_id = $1 AND received_at IS NULL AND timestamp < $2 LIMIT 2000)"
        ),
    ]
}

/// Bounds of an erasure's times.
pub(super) fn erased_times(erased: &Erased) -> (OffsetDateTime, OffsetDateTime) {
    (erased.from.map_or(FIRST, in_range), erased.to.map_or(LAST, in_range))
}

/// Bounds of an erasure's offsets, and the end of the log that it was begun at.
pub(super) fn erased_offsets(erasure: &RecordErasure) -> [i64; 4] {
    let Erased { first, last, .. } = erasure.erased;
    let signed = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
    let (epoch, offset) = erasure.until.map_or((0, i64::MAX), |until| (until.log_epoch.0.cast_signed(), until.offset.0.cast_signed()));
    [first.map_or(0, signed), last.map_or(i64::MAX, signed), epoch, offset]
}

/// How many rows of the times asked for there are, up to one more than [`FEW`]: by arrival, and by the device.
macro_rules! matching {
    ($($key:expr)?) => {
        by_clock!(
            "SELECT COUNT(*) FROM (SELECT 1 AS one FROM data_history WHERE producer_id = $1 AND ",
            "$2",
            "$3",
            " LIMIT 10001) AS matching"
            $(, $key)?
        )
    };
}
pub(super) use matching;

// Range that both databases can hold and compare; also the bounds of RFC 3339.
pub(super) const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00 UTC);
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
