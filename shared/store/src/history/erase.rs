//! Rows that are erased, or that are too old.

use motience_proto::model::ProducerId;
use time::OffsetDateTime;

use super::{postgres, sqlite};
use crate::{Engine, Error, RecordErasure, Store, limited, on};

/// Ids of history rows that one statement looks through, so that it ends in time however few of them are the producer's.
const LOOKED_THROUGH: i64 = 100_000;

impl Store {
    /// Deletes rows of a producer that came before `before`, as many as one statement takes; says how many there were.
    pub async fn trim_history(&self, producer: ProducerId, before: OffsetDateTime) -> Result<u64, Error> {
        limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => sqlite::trim(&pools.writer, producer.0, before).await,
                Engine::Postgres(pools) => postgres::trim(&pools.writer, "data_history", producer.0, before).await,
            }
        })
        .await
    }

    /// Erases the rows of these records from the history, a few at a time; says how many there were.
    pub async fn erase_history(&self, erasure: &RecordErasure) -> Result<u64, Error> {
        let producer = erasure.key.producer.0;
        let (Some(mut at), Some(last)) =
            on!(self, reader, |db| sqlx::query_as::<_, (Option<i64>, Option<i64>)>(IDS).bind(producer).fetch_one(db))?
        else {
            return Ok(0);
        };
        let mut gone = 0;
        while at <= last {
            let ids = (at, at.saturating_add(LOOKED_THROUGH).min(last + 1));
            gone += limited(async {
                match &*self.0 {
                    Engine::Sqlite(pools) => sqlite::erase(&pools.writer, erasure, ids).await,
                    Engine::Postgres(pools) => postgres::erase(&pools.writer, erasure, ids).await,
                }
            })
            .await?;
            at = ids.1;
            tokio::task::consume_budget().await;
        }
        Ok(gone)
    }
}

const IDS: &str = "SELECT CAST(MIN(id) AS BIGINT), CAST(MAX(id) AS BIGINT) FROM data_history WHERE producer_id = $1";
