//! Bounds of the history beside its age: how many rows a producer has, and how long those of a class of its devices stay.

use futures_util::TryFutureExt as _;
use motience_proto::model::ProducerId;
use time::OffsetDateTime;

use super::{
    rows::{FIRST, in_range},
    sqlite,
};
use crate::{ClassRetention, Engine, Error, Store, limited, on};

impl Store {
    /// How many rows of a producer there are, and when the oldest came as far as they say so.
    pub async fn history_size(&self, producer: ProducerId) -> Result<(u64, Option<OffsetDateTime>), Error> {
        let count = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(COUNT).bind(producer.0).fetch_one(db))?;
        Ok((u64::try_from(count).unwrap_or(0), self.history_begin(producer).await?))
    }

    /// When the oldest row of a producer came; `None`: there is none that says so.
    pub async fn history_begin(&self, producer: ProducerId) -> Result<Option<OffsetDateTime>, Error> {
        on!(self, reader, |db| sqlx::query_scalar::<_, Option<OffsetDateTime>>(OLDEST).bind(producer.0).fetch_one(db))
    }

    /// The id of the newest row of a producer that it has one too many of, where it may have so many.
    pub async fn history_beyond(&self, producer: ProducerId, rows: u64) -> Result<Option<i64>, Error> {
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        on!(self, reader, |db| sqlx::query_scalar::<_, i64>(BEYOND).bind(producer.0).bind(rows).fetch_optional(db))
    }

    /// Removes some of the rows of a producer up to this id, the oldest first; says how many.
    pub async fn trim_history_until(&self, producer: ProducerId, id: i64) -> Result<u64, Error> {
        on!(self, writer, |db| sqlx::query(UNTIL).bind(producer.0).bind(id).execute(db).map_ok(|done| done.rows_affected()))
    }

    /// Removes some rows of the devices of a class that came before a time, and at `since` or later, where that is given; says how many.
    pub async fn trim_history_class(
        &self,
        producer: ProducerId,
        class: &ClassRetention,
        since: Option<OffsetDateTime>,
        before: OffsetDateTime,
    ) -> Result<u64, Error> {
        let (since, before) = (since.map_or(FIRST, in_range), in_range(before));
        limited(async {
            let gone = match &*self.0 {
                Engine::Sqlite(pools) => sqlx::query(OF_CLASS_IN_SQLITE)
                    .bind(producer.0)
                    .bind(sqlite::text(since))
                    .bind(sqlite::text(before))
                    .bind(&class.label)
                    .bind(&class.value)
                    .execute(&pools.writer)
                    .await?
                    .rows_affected(),
                Engine::Postgres(pools) => sqlx::query(OF_CLASS_IN_POSTGRES)
                    .bind(producer.0)
                    .bind(since)
                    .bind(before)
                    .bind(&class.label)
                    .bind(&class.value)
                    .execute(&pools.writer)
                    .await?
                    .rows_affected(),
            };
            Ok(gone)
        })
        .await
    }
}

const COUNT: &str = "SELECT COUNT(*) FROM data_history WHERE producer_id = $1";
const OLDEST: &str = "SELECT MIN(received_at) FROM data_history WHERE producer_id = $1";
const BEYOND: &str = "SELECT CAST(id AS BIGINT) FROM data_history WHERE producer_id = $1 ORDER BY data_history.id DESC LIMIT 1 OFFSET $2";
const UNTIL: &str = "DELETE FROM data_history WHERE producer_id = $1 AND id IN \
     (SELECT id FROM data_history WHERE producer_id = $1 AND id <= $2 ORDER BY id LIMIT 2000)";

/// By the index of times of arrival; `$condition` finds the devices that have the label `$4` with the value `$5`.
macro_rules! of_class {
    ($condition:literal) => {
        concat!(
            "DELETE FROM data_history WHERE producer_id = $1 AND id IN (SELECT id FROM data_history WHERE producer_id = $1 \
             AND received_at >= $2 AND received_at < $3 AND device_id IN (SELECT device_id FROM devices WHERE producer_id = $1 AND ",
            $condition,
            ") ORDER BY received_at LIMIT 2000)"
        )
    };
}
const OF_CLASS_IN_SQLITE: &str = of_class!("EXISTS (SELECT 1 FROM json_each(devices.labels) WHERE key = $4 AND value = $5)");
const OF_CLASS_IN_POSTGRES: &str = of_class!("CAST(devices.labels AS JSON) ->> $4 = $5");
