//! Names of records that are kept already: a record that comes a second time, as after a log that lost its tail, is passed over.
//!
//! Within one partition the database sees to it; across partitions the writer does. Looking for each name in every partition would cost more
//! than writing it. But a device counts its records upwards: a number above all that are kept of its producer epoch is new, and only what is below, a
//! backlog that comes late, is looked for. These highest numbers are remembered, and believed for as long as nobody else has written: the
//! history then stands where this process left it, which the transaction that writes has found out before.

use std::collections::{HashMap, HashSet};

use motience_proto::model::{Cursor, LogId, LogKey, ProducerId};
use parking_lot::Mutex;
use sqlx::PgConnection;

use super::rows::{HistoryBatch, HistoryRow};
use crate::Error;

/// Most producer epochs that are remembered: some megabytes.
const MOST: usize = 100_000;

/// The highest numbers that are kept.
#[derive(Debug, Default)]
pub(crate) struct Highest(Mutex<HashMap<ProducerId, Known>>);

/// The highest numbers of one producer, by producer epoch, where the history stands at a place of its log.
#[derive(Clone, Debug)]
struct Known {
    log: LogId,
    place: Cursor,
    numbers: HashMap<i64, i64>,
}

/// Rows of one transaction, in order.
pub(super) type Rows<'a> = Vec<(LogKey, &'a HistoryRow)>;
/// Numbers by producer and producer epoch.
pub(super) type Numbers = HashMap<(i64, i64), i64>;

impl Highest {
    /// The rows that are not kept yet, and the highest numbers once they are. In the transaction that has moved the history's cursors.
    pub(super) async fn new_ones<'a>(
        &self,
        connection: &mut PgConnection,
        batches: &[&HistoryBatch],
        mut rows: Rows<'a>,
    ) -> Result<(Rows<'a>, Numbers), Error> {
        let epochs: HashSet<(i64, i64)> = rows.iter().map(epoch).collect();
        let mut highest = self.known(batches, &epochs);
        let unknown = epochs.iter().filter(|epoch| !highest.contains_key(*epoch)).copied();
        let (producers, epochs): (Vec<i64>, Vec<i64>) = unknown.unzip();
        if !producers.is_empty() {
            let found: Vec<(i64, i64, i64)> =
                sqlx::query_as(HIGHEST).persistent(false).bind(producers).bind(epochs).fetch_all(&mut *connection).await?;
            highest.extend(found.into_iter().map(|(producer, epoch, number)| ((producer, epoch), number)));
        }
        let is_low = |row: &&(LogKey, &HistoryRow)| number(row) <= highest.get(&epoch(row)).copied().unwrap_or(i64::MIN);
        let low: Vec<_> = rows.iter().filter(is_low).map(name).collect();
        let mut seen: HashSet<(i64, i64, i64)> = HashSet::new();
        if !low.is_empty() {
            let column = |value: fn(&(i64, i64, i64)) -> i64| low.iter().map(value).collect::<Vec<_>>();
            let columns = (column(|name| name.0), column(|name| name.1), column(|name| name.2));
            let query = sqlx::query_as::<_, (i64, i64, i64)>(KEPT).persistent(false);
            seen.extend(query.bind(columns.0).bind(columns.1).bind(columns.2).fetch_all(connection).await?);
        }
        rows.retain(|row| seen.insert(name(row)));
        for row in &rows {
            let highest = highest.entry(epoch(row)).or_insert(i64::MIN);
            *highest = number(row).max(*highest);
        }
        Ok((rows, highest))
    }

    /// Remembers what was committed.
    pub(super) fn remember(&self, batches: &[&HistoryBatch], moved: &[ProducerId], highest: &Numbers) {
        let mut all = self.0.lock();
        if all.values().map(|known| known.numbers.len() + 1).sum::<usize>() > MOST {
            all.clear();
        }
        for batch in batches {
            let known = all.remove(&batch.producer).filter(|known| known.is_before(batch));
            if !moved.contains(&batch.producer) {
                let numbers = known.map(|known| known.numbers).unwrap_or_default();
                all.insert(batch.producer, Known { log: batch.log, place: batch.cursor, numbers });
            }
        }
        for (&(producer, epoch), &number) in highest {
            if let Some(known) = all.get_mut(&ProducerId(producer)) {
                known.numbers.insert(epoch, number);
            }
        }
    }

    fn known(&self, batches: &[&HistoryBatch], epochs: &HashSet<(i64, i64)>) -> Numbers {
        let all = self.0.lock();
        let known: HashMap<i64, &Known> = batches
            .iter()
            .filter_map(|batch| Some((batch.producer.0, all.get(&batch.producer).filter(|known| known.is_before(batch))?)))
            .collect();
        epochs.iter().filter_map(|epoch| Some((*epoch, *known.get(&epoch.0)?.numbers.get(&epoch.1)?))).collect()
    }
}

impl Known {
    /// Whether the history stands where this was found, as the batch expects.
    fn is_before(&self, batch: &HistoryBatch) -> bool {
        self.log == batch.log && batch.expected == Some(self.place)
    }
}

fn epoch((key, row): &(LogKey, &HistoryRow)) -> (i64, i64) {
    (key.producer.0, row.record_id.producer_epoch.0.cast_signed())
}

fn number((_, row): &(LogKey, &HistoryRow)) -> i64 {
    row.record_id.seq.0.cast_signed()
}

fn name(row: &(LogKey, &HistoryRow)) -> (i64, i64, i64) {
    let (producer, epoch) = epoch(row);
    (producer, epoch, number(row))
}

const HIGHEST: &str = "SELECT producer, epoch, highest FROM UNNEST($1::bigint[], $2::bigint[]) AS wanted (producer, epoch), LATERAL \
     (SELECT MAX(sender_seq) AS highest FROM data_history WHERE producer_id = producer AND sender_epoch = epoch) AS kept WHERE highest IS NOT NULL";
const KEPT: &str = "SELECT producer, epoch, seq FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[]) AS wanted (producer, epoch, seq) \
     WHERE EXISTS (SELECT 1 FROM data_history WHERE producer_id = producer AND sender_epoch = epoch AND sender_seq = seq)";
