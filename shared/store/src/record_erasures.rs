//! The table `record_erasures`: records of a producer that are to be erased, or were.

use futures_util::TryFutureExt as _;
use motience_proto::model::{Cursor, LogId, LogKey, ProducerId, UserId};
use motience_runtime::clock::{from_millis, millis};
use time::OffsetDateTime;

use super::{Error, MAX_OPEN_ERASURES, MAX_PAGE, Store, cursors::StoredCursor, is_storable, on, row::row};

/// The records that are to be erased: those for which everything holds that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Of this device.
    pub device: Option<String>,
    /// That came at this time or later.
    pub from: Option<OffsetDateTime>,
    /// That came at this time or earlier.
    pub to: Option<OffsetDateTime>,
    /// With this offset of the present log epoch or a later one.
    pub first: Option<u64>,
    /// With this offset or an earlier one.
    pub last: Option<u64>,
}

/// An erasure of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordErasure {
    /// Its id: later ones have higher ones.
    pub id: i64,
    /// The log that they are in.
    pub key: LogKey,
    /// Which records.
    pub erased: Erased,
    /// When it was asked for, to the millisecond.
    pub asked_at: OffsetDateTime,
    /// By which account; `None`: the operator's command line.
    pub asked_by: Option<UserId>,
    /// The end of the log when the first round began: what came later stays. `None`: none has begun.
    pub until: Option<Cursor>,
    /// Records erased in the log.
    pub records: u64,
    /// Rows erased in the history.
    pub history_rows: u64,
    /// When the last round was done.
    pub done_at: Option<OffsetDateTime>,
}

impl Store {
    /// Notes that records are to be erased; `None`: there is no such account. [`Error::TooManyErasures`]: others have to be done first.
    pub async fn begin_record_erasure(
        &self,
        producer: ProducerId,
        erased: &Erased,
        by: Option<UserId>,
        now: OffsetDateTime,
    ) -> Result<Option<RecordErasure>, Error> {
        if !is_storable(producer.0) {
            return Err(Error::Unstorable("producer_id"));
        }
        let open = on!(self, writer, |db| sqlx::query_scalar::<_, i64>(COUNT_OPEN).bind(producer.0).fetch_one(db))?;
        if open >= MAX_OPEN_ERASURES {
            return Err(Error::TooManyErasures);
        }
        let offset = |offset: Option<u64>| offset.map(|offset| i64::try_from(offset).unwrap_or(i64::MAX));
        let row = on!(self, writer, |db| sqlx::query_as::<_, Row>(BEGIN)
            .bind(producer.0)
            .bind(erased.device.as_deref())
            .bind(erased.from.map(millis))
            .bind(erased.to.map(millis))
            .bind(offset(erased.first))
            .bind(offset(erased.last))
            .bind(millis(now))
            .bind(by.map(|by| by.0))
            .fetch_optional(db))?;
        Ok(row.map(RecordErasure::from))
    }

    /// Erasures that are not done, the oldest first, as many as a page has.
    pub async fn open_record_erasures(&self) -> Result<Vec<RecordErasure>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(OPEN).bind(i64::from(MAX_PAGE)).fetch_all(db))?;
        Ok(rows.into_iter().map(RecordErasure::from).collect())
    }

    /// Erasures before an id, the newest first; of one producer, or of all.
    pub async fn record_erasures(
        &self,
        producer: Option<ProducerId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<RecordErasure>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST)
            .bind(producer.map(|producer| producer.0))
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(limit.min(MAX_PAGE)))
            .fetch_all(db))?;
        Ok(rows.into_iter().map(RecordErasure::from).collect())
    }

    /// Notes where the log ended when the first round began.
    pub async fn set_erasure_until(&self, id: i64, until: Cursor) -> Result<(), Error> {
        let (epoch, offset) = (until.log_epoch.0.cast_signed(), until.offset.0.cast_signed());
        on!(self, writer, |db| sqlx::query(UNTIL).bind(id).bind(epoch).bind(offset).execute(db).map_ok(drop))
    }

    /// Adds to what an erasure has erased; `done`: it was the last round.
    pub async fn note_record_erasure(&self, id: i64, records: u64, history_rows: u64, done: Option<OffsetDateTime>) -> Result<(), Error> {
        on!(self, writer, |db| sqlx::query(NOTE)
            .bind(id)
            .bind(records.cast_signed())
            .bind(history_rows.cast_signed())
            .bind(done.map(millis))
            .execute(db)
            .map_ok(drop))
    }
}

macro_rules! columns {
    () => {
        "CAST(record_erasures.id AS BIGINT) AS id, CAST(record_erasures.producer_id AS BIGINT) AS producer_id, record_erasures.log_id, \
         record_erasures.device_id, from_at, to_at, first_offset, last_offset, asked_at, CAST(asked_by AS BIGINT) AS asked_by, \
         until_epoch, until_offset, records, history_rows, done_at"
    };
}

const BEGIN: &str = concat!(
    "INSERT INTO record_erasures (producer_id, log_id, device_id, from_at, to_at, first_offset, last_offset, asked_at, asked_by) \
     SELECT users.id, COALESCE(users.log_id, users.id), $2, $3, $4, $5, $6, CAST($7 AS BIGINT), $8 FROM users WHERE users.id = $1 RETURNING ",
    columns!()
);
const COUNT_OPEN: &str = "SELECT COUNT(*) FROM record_erasures WHERE producer_id = $1 AND done_at IS NULL";
const OPEN: &str = concat!("SELECT ", columns!(), " FROM record_erasures WHERE done_at IS NULL ORDER BY record_erasures.id LIMIT $1");
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM record_erasures WHERE ($1 IS NULL OR producer_id = $1) AND record_erasures.id < $2 ORDER BY record_erasures.id DESC LIMIT $3"
);
const UNTIL: &str = "UPDATE record_erasures SET until_epoch = $2, until_offset = $3 WHERE id = $1";
const NOTE: &str = "UPDATE record_erasures SET records = records + $2, history_rows = history_rows + $3, done_at = $4 WHERE id = $1";

row! {
    struct Row {
        id: i64,
        producer_id: i64,
        log_id: i64,
        device_id: Option<String>,
        from_at: Option<i64>,
        to_at: Option<i64>,
        first_offset: Option<i64>,
        last_offset: Option<i64>,
        asked_at: i64,
        asked_by: Option<i64>,
        until_epoch: Option<i64>,
        until_offset: Option<i64>,
        records: i64,
        history_rows: i64,
        done_at: Option<i64>,
    }
}

impl From<Row> for RecordErasure {
    fn from(row: Row) -> Self {
        let offset = |offset: Option<i64>| offset.and_then(|offset| u64::try_from(offset).ok());
        let erased = Erased {
            device: row.device_id,
            from: row.from_at.map(from_millis),
            to: row.to_at.map(from_millis),
            first: offset(row.first_offset),
            last: offset(row.last_offset),
        };
        Self {
            id: row.id,
            key: LogKey { producer: ProducerId(row.producer_id), log: LogId(row.log_id.cast_unsigned()) },
            erased,
            asked_at: from_millis(row.asked_at),
            asked_by: row.asked_by.map(UserId),
            until: row.until_epoch.zip(row.until_offset).map(|(epoch, offset)| StoredCursor::new(epoch, offset).into()),
            records: row.records.cast_unsigned(),
            history_rows: row.history_rows.cast_unsigned(),
            done_at: row.done_at.map(from_millis),
        }
    }
}
