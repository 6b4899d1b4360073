//! Writing the table `data_history`: each record once.
//!
//! Rows go in together with the writer's place in each producer's log (`history_cursors`), in one transaction, which moves that place
//! only where it stands as the writer believes. So of two writers that read the same part of a log one writes it, and a writer that
//! does not know what became of its last transaction learns it from the table. Beside that a row is unique by its place in the log and
//! by the record's name.

use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{Engine, Error, Store, cursors::Place, is_storable, limited, on, postgres, sqlite, users::present_log};
use crate::model::{Cursor, DeviceId, LogId, LogKey, ProducerId, RecordName};

/// A record to be kept.
#[derive(Clone, Debug)]
pub struct HistoryRow {
    /// Its place in the log.
    pub place: Cursor,
    /// Its name, whatever its place.
    pub name: RecordName,
    /// The device that sent it.
    pub device: DeviceId,
    /// The device's time.
    pub timestamp: OffsetDateTime,
    /// When it arrived.
    pub received_at: OffsetDateTime,
    /// The record's `data`, as the device wrote it.
    pub data: Box<RawValue>,
    /// What else it wrote, as one object.
    pub extra: Option<Box<RawValue>>,
}

/// What was read from one producer's log.
#[derive(Clone, Debug)]
pub struct HistoryBatch {
    /// Whose log.
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

/// What [`Store::keep_history`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Rows added; those that were there already are not counted.
    pub rows: u64,
    /// Producers of whom nothing was kept, because the history did not stand where it was expected: another writer has gone on from
    /// there, or an earlier call that seemed to fail had not failed.
    pub moved: Vec<ProducerId>,
}

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
                Engine::Postgres(pools) => postgres::keep_history(&pools.writer, &batches).await,
            }
        })
        .await
    }

    /// How far the history has come in a producer's log.
    pub async fn history_cursor(&self, producer: ProducerId) -> Result<Option<Cursor>, Error> {
        Ok(self.history_cursors(producer, producer).await?.pop().map(|(_, cursor)| cursor))
    }

    /// The same for all producers from `first` to `last`, both included, in order of id.
    pub async fn history_cursors(&self, first: ProducerId, last: ProducerId) -> Result<Vec<(ProducerId, Cursor)>, Error> {
        let rows = on!(self, reader, |db| sqlx::query_as::<_, (i64, i64, i64)>(CURSORS).bind(first.0).bind(last.0).fetch_all(db))?;
        Ok(rows.into_iter().map(|(producer, epoch, offset)| (ProducerId(producer), Place::new(epoch, offset).into())).collect())
    }
}

const CURSORS: &str = concat!(
    "SELECT producer_id, log_epoch, log_offset FROM history_cursors WHERE producer_id BETWEEN $1 AND $2 AND COALESCE(log_id, producer_id) = ",
    present_log!("history_cursors.producer_id"),
    " ORDER BY producer_id"
);

/// Rows with their log, in order.
pub(super) fn rows_of<'a>(batches: &[&'a HistoryBatch], moved: &[ProducerId]) -> Vec<(LogKey, &'a HistoryRow)> {
    let kept = batches.iter().filter(|batch| !moved.contains(&batch.producer));
    kept.flat_map(|batch| batch.rows.iter().map(|row| (LogKey { producer: batch.producer, log: batch.log }, row))).collect()
}
