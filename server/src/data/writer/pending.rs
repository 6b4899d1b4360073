//! Rows that the history writer has read and not yet committed: at most about one batch.

use std::collections::HashMap;

use motience_proto::model::{Cursor, LogKey, ProducerId};
use motience_store::{HistoryBatch, HistoryRow};
use time::OffsetDateTime;

/// Rows of one transaction, about.
const ROWS: usize = 1000;
/// Bytes of data in one transaction, about.
const BYTES: usize = 4 << 20;

/// A batch for each producer of whom something was read.
#[derive(Default)]
pub(super) struct Pending {
    batches: Vec<HistoryBatch>,
    by_producer: HashMap<ProducerId, usize>,
    rows: usize,
    bytes: usize,
    /// When the oldest of the rows came.
    oldest: Option<OffsetDateTime>,
}

impl Pending {
    /// Adds rows that follow what was added before, which end at `cursor`. `expected` is where the history stands before all of them.
    pub(super) fn add(&mut self, key: LogKey, expected: Option<Cursor>, cursor: Cursor, rows: Vec<HistoryRow>) {
        self.rows += rows.len();
        self.oldest = self.oldest.into_iter().chain(rows.iter().map(|row| row.received_at)).min();
        self.bytes += rows.iter().map(|row| row.data.get().len() + row.extra.as_ref().map_or(0, |extra| extra.get().len())).sum::<usize>();
        let next = self.batches.len();
        let at = *self.by_producer.entry(key.producer).or_insert(next);
        match self.batches.get_mut(at) {
            Some(batch) => {
                batch.cursor = cursor;
                batch.rows.extend(rows);
            }
            None => self.batches.push(HistoryBatch { producer: key.producer, log: key.log, expected, cursor, rows }),
        }
    }

    pub(super) fn batches(&self) -> &[HistoryBatch] {
        &self.batches
    }

    pub(super) fn oldest(&self) -> Option<OffsetDateTime> {
        self.oldest
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Whether there is nothing to commit, not even a place.
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether it is time to commit.
    pub(super) fn is_full(&self) -> bool {
        self.rows >= ROWS || self.bytes >= BYTES
    }

    /// Takes everything out.
    pub(super) fn take(&mut self) -> Vec<HistoryBatch> {
        std::mem::take(self).batches
    }
}
