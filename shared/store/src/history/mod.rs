//! The table `data_history`: records kept for later, where the operator asks for it. Reading is here, writing in [`keep`].
//!
//! Rows of one producer are numbered in the order of its log, and become visible in that order: a reader that has read up to an id has missed
//! nothing before it.

mod bounds;
mod copy;
mod erase;
mod json;
mod keep;
mod names;
mod partitions;
mod postgres;
mod rows;
mod sqlite;

use std::collections::HashSet;

use motience_proto::model::{Cursor, ProducerEpoch, ProducerId, RecordId, Seq};

pub use self::partitions::{Division, Width};
pub use self::rows::{HistoryBatch, HistoryEntry, HistoryQuery, HistoryRow, Kept, entry_bytes, kept_time};

pub(crate) use self::names::Highest;

use self::rows::{FEW, of_present_log};
use crate::{Engine, Error, MAX_PAGE, Store, accounts::present_log, limited, on};

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
                    if few {
                        postgres::found_by_time(&pools.reader, producer.0, (from, to), query, limit).await
                    } else {
                        postgres::found_in_order(&pools.reader, producer.0, (from, to), query, limit).await
                    }
                }
            }
        })
        .await?;
        rows.into_iter().map(|row| row.entry(producer)).collect()
    }

    /// The id of the row after which a reader of the log at `place` continues: of the last row of that log epoch up to there, or else of the one
    /// before the first row beyond. `None`: the history has nothing of that epoch.
    pub async fn history_id(&self, producer: ProducerId, place: Cursor) -> Result<Option<i64>, Error> {
        for (statement, before) in [(LAST_UNTIL, 0), (FIRST_BEYOND, 1)] {
            let id = on!(self, reader, |db| sqlx::query_scalar::<_, i64>(statement)
                .bind(producer.0)
                .bind(place.log_epoch.0.cast_signed())
                .bind(place.offset.0.cast_signed())
                .fetch_optional(db))?;
            if let Some(id) = id {
                return Ok(Some(id - before));
            }
        }
        Ok(None)
    }

    /// Which of `names` are among the rows up to the id `until`.
    pub async fn names_kept(&self, producer: ProducerId, names: &[RecordId], until: i64) -> Result<HashSet<RecordId>, Error> {
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
        let name =
            |(epoch, seq): (i64, i64)| RecordId { producer_epoch: ProducerEpoch(epoch.cast_unsigned()), seq: Seq(seq.cast_unsigned()) };
        Ok(rows.into_iter().map(name).collect())
    }
}

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
