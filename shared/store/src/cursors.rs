//! The table `cursors`: how far a consumer has confirmed, by names of its own choice and for each producer.
//!
//! A cursor is of one log: where a producer's number has become another's, with a log of its own, it is as if there were none.

use std::collections::BTreeMap;

use futures_util::TryFutureExt;
use motience_proto::model::{ConsumerId, Cursor, CursorName, LogEpoch, Offset, ProducerId};
use time::OffsetDateTime;

use motience_runtime::clock::{from_millis, millis};

use super::{Engine, Error, MAX_NAMES, MAX_PAGE, Store, accounts::present_log, limited, on, row::row};

/// Where a list of the cursors of all consumers goes on.
pub type AfterCursor = (ConsumerId, CursorName, ProducerId);

/// A cursor that a consumer has the server remember.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCursor {
    /// The consumer's name for it.
    pub name: CursorName,
    /// In whose log.
    pub producer: ProducerId,
    /// Everything up to here was confirmed.
    pub cursor: Cursor,
    /// When it last moved.
    pub updated_at: OffsetDateTime,
}

impl Store {
    /// Where a name stands in a producer's log.
    pub async fn cursor(&self, consumer: ConsumerId, name: &CursorName, producer: ProducerId) -> Result<Option<Cursor>, Error> {
        let row = on!(self, reader, |db| sqlx::query_as::<_, StoredCursor>(FIND)
            .bind(consumer.0)
            .bind(name.as_str())
            .bind(producer.0)
            .fetch_optional(db))?;
        Ok(row.map(Into::into))
    }

    /// Where a name stands, in every log it stands in: what a reader that comes back goes on from.
    pub async fn cursors_named(&self, consumer: ConsumerId, name: &CursorName) -> Result<Vec<(ProducerId, Cursor)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, i64, i64)>(NAMED).bind(consumer.0).bind(name.as_str()).fetch_all(db))?;
        Ok(rows.into_iter().map(|(producer, epoch, offset)| (ProducerId(producer), StoredCursor::new(epoch, offset).into())).collect())
    }

    /// The cursors of a consumer in order of name and producer, beginning after `after`; at most `limit`, and [`MAX_PAGE`].
    pub async fn cursors(
        &self,
        consumer: ConsumerId,
        after: Option<(&CursorName, ProducerId)>,
        limit: u32,
    ) -> Result<Vec<NamedCursor>, Error> {
        // No name is empty, so nothing stands before this.
        let (name, producer) = after.map_or(("", 0), |(name, producer)| (name.as_str(), producer.0));
        let limit = i64::from(limit.min(MAX_PAGE));
        let rows =
            on!(self, reader, |db| sqlx::query_as::<_, Row>(LIST).bind(consumer.0).bind(name).bind(producer).bind(limit).fetch_all(db))?;
        rows.into_iter().map(Row::named).collect()
    }

    /// The cursors of all consumers in order of consumer, name and producer, beginning after `after`; at most `limit`, and [`MAX_PAGE`].
    pub async fn all_cursors(&self, after: Option<&AfterCursor>, limit: u32) -> Result<Vec<(ConsumerId, NamedCursor)>, Error> {
        let (consumer, name, producer) = after.map_or((0, "", 0), |(consumer, name, producer)| (consumer.0, name.as_str(), producer.0));
        let limit = i64::from(limit.min(MAX_PAGE));
        let rows =
            on!(self, reader, |db| sqlx::query_as::<_, AnyRow>(ALL).bind(consumer).bind(name).bind(producer).bind(limit).fetch_all(db))?;
        rows.into_iter().map(AnyRow::named).collect()
    }

    /// Moves a name forward in a producer's log. Within one log epoch it never moves back, so two clients of one name cannot
    /// rewind each other; a cursor of another epoch replaces the old one.
    pub async fn confirm(
        &self,
        consumer: ConsumerId,
        name: &CursorName,
        producer: ProducerId,
        cursor: Cursor,
        now: OffsetDateTime,
    ) -> Result<(), Error> {
        self.confirm_many(consumer, name, &[(producer, cursor)], now).await
    }

    /// Confirms several logs at once. Of two cursors for one log the later counts, or the further one of the same log epoch.
    pub async fn confirm_many(
        &self,
        consumer: ConsumerId,
        name: &CursorName,
        cursors: &[(ProducerId, Cursor)],
        now: OffsetDateTime,
    ) -> Result<(), Error> {
        // In order of producer, so that two of these never wait for each other in a circle; and each row once.
        let mut last: BTreeMap<ProducerId, Cursor> = BTreeMap::new();
        for &(producer, cursor) in cursors {
            if i64::try_from(cursor.offset.0).is_err() {
                return Err(Error::Unstorable("offset"));
            }
            last.entry(producer)
                .and_modify(|was| {
                    if was.log_epoch != cursor.log_epoch || was.offset < cursor.offset {
                        *was = cursor;
                    }
                })
                .or_insert(cursor);
        }
        if last.is_empty() {
            return Ok(());
        }
        if self.upsert(consumer, name, &last, now).await? > 0 {
            return Ok(());
        }
        // Nothing moved: because all of them stood further already, or because there is no room for the name.
        let known = on!(self, writer, |db| sqlx::query_scalar::<_, i32>(KNOWN).bind(consumer.0).bind(name.as_str()).fetch_optional(db))?;
        known.map(drop).ok_or(Error::TooManyNames)
    }

    /// Forgets a name, and tells in how many logs it stood.
    pub async fn delete_cursors(&self, consumer: ConsumerId, name: &CursorName) -> Result<u64, Error> {
        on!(self, writer, |db| sqlx::query(DELETE).bind(consumer.0).bind(name.as_str()).execute(db).map_ok(|done| done.rows_affected()))
    }

    /// One statement, whatever the number of cursors; gives how many rows it wrote.
    async fn upsert(
        &self,
        consumer: ConsumerId,
        name: &CursorName,
        cursors: &BTreeMap<ProducerId, Cursor>,
        now: OffsetDateTime,
    ) -> Result<u64, Error> {
        let rows = cursors.iter().map(|(producer, at)| (producer.0, at.log_epoch.0.cast_signed(), at.offset.0.cast_signed()));
        let (consumer, name, now) = (consumer.0, name.as_str(), millis(now));
        limited(async {
            Ok(match &*self.0 {
                Engine::Sqlite(pools) => {
                    let json: Vec<String> = rows.map(|(producer, epoch, offset)| format!("[{producer},{epoch},{offset}]")).collect();
                    let statement = sqlx::query(UPSERT_SQLITE).bind(consumer).bind(name).bind(now).bind(MAX_NAMES);
                    statement.bind(format!("[{}]", json.join(","))).execute(&pools.writer).await?.rows_affected()
                }
                Engine::Postgres(pools) => {
                    let (mut producers, mut epochs, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
                    for (producer, epoch, offset) in rows {
                        producers.push(producer);
                        epochs.push(epoch);
                        offsets.push(offset);
                    }
                    let statement = sqlx::query(UPSERT_POSTGRES).bind(consumer).bind(name).bind(now).bind(MAX_NAMES);
                    statement.bind(producers).bind(epochs).bind(offsets).execute(&pools.writer).await?.rows_affected()
                }
            })
        })
        .await
    }
}

/// Whether a row is of the log that its producer has.
macro_rules! is_present {
    () => {
        concat!("COALESCE(cursors.log_id, cursors.producer_id) = ", present_log!("cursors.producer_id"))
    };
}

const FIND: &str =
    concat!("SELECT log_epoch, log_offset FROM cursors WHERE consumer_id = $1 AND name = $2 AND producer_id = $3 AND ", is_present!());
const NAMED: &str = concat!(
    "SELECT producer_id, log_epoch, log_offset FROM cursors WHERE consumer_id = $1 AND name = $2 AND ",
    is_present!(),
    " ORDER BY producer_id"
);
const LIST: &str = concat!(
    "SELECT name, producer_id, log_epoch, log_offset, updated_at FROM cursors \
     WHERE consumer_id = $1 AND (name, producer_id) > ($2, $3) AND ",
    is_present!(),
    " ORDER BY name, producer_id LIMIT $4"
);
const ALL: &str = concat!(
    "SELECT consumer_id, name, producer_id, log_epoch, log_offset, updated_at FROM cursors \
     WHERE (consumer_id, name, producer_id) > ($1, $2, $3) AND ",
    is_present!(),
    " ORDER BY consumer_id, name, producer_id LIMIT $4"
);
const KNOWN: &str = "SELECT 1 FROM cursors WHERE consumer_id = $1 AND name = $2 LIMIT 1";
const DELETE: &str = "DELETE FROM cursors WHERE consumer_id = $1 AND name = $2";

/// The upsert over the rows `new (producer, epoch, place)` of either database.
macro_rules! upsert {
    ($new:literal) => {
        concat!(
            "INSERT INTO cursors (consumer_id, name, producer_id, log_epoch, log_offset, updated_at, log_id) \
             SELECT $1, $2, producer, epoch, place, $3, ",
            present_log!("producer"),
            " FROM ",
            $new,
            " WHERE EXISTS (SELECT 1 FROM cursors WHERE consumer_id = $1 AND name = $2) \
               OR (SELECT COUNT(DISTINCT name) FROM cursors WHERE consumer_id = $1) < $4 \
             ORDER BY producer \
             ON CONFLICT (consumer_id, name, producer_id) DO UPDATE \
             SET log_epoch = EXCLUDED.log_epoch, log_offset = EXCLUDED.log_offset, updated_at = EXCLUDED.updated_at, \
                 log_id = EXCLUDED.log_id \
             WHERE cursors.log_epoch <> EXCLUDED.log_epoch OR cursors.log_offset < EXCLUDED.log_offset"
        )
    };
}

const UPSERT_POSTGRES: &str = upsert!("UNNEST($5::bigint[], $6::bigint[], $7::bigint[]) AS new (producer, epoch, place)");
const UPSERT_SQLITE: &str = upsert!(
    "(SELECT json_extract(value, '$[0]') AS producer, json_extract(value, '$[1]') AS epoch, json_extract(value, '$[2]') AS place \
     FROM json_each($5)) AS new"
);

row! {
    /// A cursor as all our tables hold it: both numbers by their bits.
    pub(super) struct StoredCursor {
        log_epoch: i64,
        log_offset: i64,
    }
}

impl StoredCursor {
    pub(super) fn new(log_epoch: i64, log_offset: i64) -> Self {
        Self { log_epoch, log_offset }
    }
}

impl From<StoredCursor> for Cursor {
    fn from(stored: StoredCursor) -> Self {
        Self { log_epoch: LogEpoch(stored.log_epoch.cast_unsigned()), offset: Offset(stored.log_offset.cast_unsigned()) }
    }
}

row! {
    struct Row {
        name: String,
        producer_id: i64,
        log_epoch: i64,
        log_offset: i64,
        updated_at: i64,
    }
}

impl Row {
    fn named(self) -> Result<NamedCursor, Error> {
        let name = CursorName::new(&self.name).map_err(|e| Error::Other(sqlx::Error::Decode(Box::new(e))))?;
        let cursor = StoredCursor::new(self.log_epoch, self.log_offset).into();
        Ok(NamedCursor { name, producer: ProducerId(self.producer_id), cursor, updated_at: from_millis(self.updated_at) })
    }
}

row! {
    struct AnyRow {
        consumer_id: i64,
        name: String,
        producer_id: i64,
        log_epoch: i64,
        log_offset: i64,
        updated_at: i64,
    }
}

impl AnyRow {
    fn named(self) -> Result<(ConsumerId, NamedCursor), Error> {
        let Self { consumer_id, name, producer_id, log_epoch, log_offset, updated_at } = self;
        Ok((ConsumerId(consumer_id), Row { name, producer_id, log_epoch, log_offset, updated_at }.named()?))
    }
}
