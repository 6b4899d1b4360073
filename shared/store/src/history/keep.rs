//! Writes the table `data_history`: each record once.
//!
//! One transaction inserts the rows and moves the writer's cursor in each producer's log (`history_cursors`) from the place that the writer expects to
//! the place behind its rows. Of two writers that read the same part of a log one therefore writes it, and a writer that does not know the
//! outcome of its last transaction learns it from the table. Rows are also unique by their place in the log and by record id.

use motience_proto::model::{Cursor, ProducerId};

use super::{
    postgres,
    rows::{HistoryBatch, Kept},
    sqlite,
};
use crate::{Engine, Error, Store, accounts::present_log, cursors::StoredCursor, is_storable, limited, on};

impl Store {
    /// Keeps what was read, at most one batch for each producer, in one transaction. A record that is already there is passed over.
    pub async fn keep_history(&self, batches: &[HistoryBatch]) -> Result<Kept, Error> {
        if batches.is_empty() {
            return Ok(Kept::default());
        }
        // One order for all writers, so that two of them never wait for each other in a circle.
        let mut batches: Vec<&HistoryBatch> = batches.iter().collect();
        batches.sort_by_key(|batch| batch.producer);
        let twice = batches.windows(2).any(|pair| pair[0].producer == pair[1].producer);
        if twice || !batches.iter().all(|batch| is_storable(batch.producer.0)) {
            return Err(Error::Unstorable("producer_id"));
        }
        limited(async {
            match &*self.0 {
                Engine::Sqlite(pools) => sqlite::keep_history(&pools.writer, &batches).await,
                Engine::Postgres(pools) => postgres::keep_history(&pools.writer, &self.1, &batches).await,
            }
        })
        .await
    }

    /// How far the history has come in a producer's log.
    pub async fn history_cursor(&self, producer: ProducerId) -> Result<Option<Cursor>, Error> {
        Ok(self.history_cursors(producer, producer).await?.pop().map(|(_, cursor)| cursor))
    }

    /// How far the history has come for all producers from `first` to `last`, both included, in order of id.
    pub async fn history_cursors(&self, first: ProducerId, last: ProducerId) -> Result<Vec<(ProducerId, Cursor)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, i64, i64)>(CURSORS).bind(first.0).bind(last.0).fetch_all(db))?;
        Ok(rows.into_iter().map(|(producer, epoch, offset)| (ProducerId(producer), StoredCursor::new(epoch, offset).into())).collect())
    }
}

const CURSORS: &str = concat!(
    "SELECT producer_id, log_epoch, log_offset FROM history_cursors WHERE producer_id BETWEEN $1 AND $2 AND COALESCE(log_id, producer_id) = ",
    present_log!("history_cursors.producer_id"),
    " ORDER BY producer_id"
);
