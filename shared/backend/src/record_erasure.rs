//! Records that are erased: of a device, of a span of time or offsets. They are gone from the log, from each node's memory and from the history
//! with the first round, which begins at once; a last round takes what was on its way then.
//!
//! Records that came after the first round began stay. Offsets, identities and dedup windows stay in the log, so that cursors hold, readers are told of
//! a gap, and a record that its device sends again is known.

use std::{sync::Arc, time::Duration};

use motience_auth::device_of_message;
use motience_cluster::{self as cluster, Event};
use motience_log::{Batch, Log};
use motience_proto::model::{Cursor, Offset, RangeSet};
use motience_runtime::{causes, clock::Clock};
use motience_store::{RecordErasure, Store};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::Error;

/// After this nothing that was read before an erasure is on its way into the history any more.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
/// Pause between two rounds.
const LOOKS_EVERY: Duration = Duration::from_secs(30);
/// How long one node has the lease of this work.
const LEASE: Duration = Duration::from_secs(600);
/// Bytes of the log that are read at once.
const READ: usize = 1 << 20;
/// Ranges of offsets that are gathered before they are erased.
const MAX_RANGES: usize = 100_000;

/// Erases records that somebody has asked to be erased.
pub(crate) struct RecordEraser {
    pub(crate) store: Store,
    pub(crate) log: Log,
    pub(crate) clock: Clock,
    /// The node's name.
    pub(crate) node: String,
    /// Told when somebody has asked at this node.
    pub(crate) asked: Arc<Notify>,
}

impl RecordEraser {
    /// Looks for erasures, at once when one was asked for here and again and again for those that other nodes left.
    pub(crate) async fn run(self) {
        loop {
            if let Err(e) = self.round().await {
                warn!(error = causes(&e), "records cannot be erased; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(LOOKS_EVERY) => {}
                () = self.asked.notified() => {}
            }
        }
    }

    /// One round over all erasures that are not done.
    async fn round(&self) -> Result<(), Error> {
        let erasures = self.store.open_record_erasures().await.map_err(failed)?;
        if erasures.is_empty() || !self.store.lease("record_erasure", &self.node, LEASE, self.clock.now()).await.map_err(failed)? {
            return Ok(());
        }
        for erasure in erasures {
            // The others do not wait for one whose log or rows cannot be had.
            if let Err(e) = self.erase(&erasure).await {
                warn!(error = causes(&e), producer = %erasure.key.producer, erasure = erasure.id, "records cannot be erased; trying again");
            }
        }
        self.store.release("record_erasure", &self.node).await.map_err(failed)
    }

    async fn erase(&self, erasure: &RecordErasure) -> Result<(), Error> {
        let mut erasure = erasure.clone();
        let settled = self.clock.now() - erasure.asked_at >= SETTLED_AFTER;
        let is_first = erasure.until.is_none();
        if is_first {
            let bounds = self.log.bounds(erasure.key).await?;
            let until = Cursor { log_epoch: bounds.log_epoch(), offset: bounds.last };
            self.store.set_erasure_until(erasure.id, until).await.map_err(failed)?;
            erasure.until = Some(until);
        }
        let records = self.erase_log(&erasure).await?;
        if let Err(e) = cluster::broadcast(&self.log, &Event::Erased { producer: erasure.key.producer }).await {
            warn!(error = %e, "cannot tell the other nodes to forget records that were erased");
        }
        let rows = self.store.erase_history(&erasure).await.map_err(failed)?;
        let done = (settled && !is_first).then(|| self.clock.now());
        if records > 0 || rows > 0 || done.is_some() {
            self.store.note_record_erasure(erasure.id, records, rows, done).await.map_err(failed)?;
        }
        if done.is_some() {
            info!(producer = %erasure.key.producer, erasure = erasure.id, "records were erased");
        }
        Ok(())
    }

    /// Erases them in the log; says how many there were.
    async fn erase_log(&self, erasure: &RecordErasure) -> Result<u64, Error> {
        let (key, log) = (erasure.key, &self.log);
        let bounds = log.bounds(key).await?;
        let until = erasure.until.map_or(bounds.last, |until| bounds.epochs.resume(until, bounds.last).offset);
        let last = erasure.erased.last.map_or(until, |last| until.min(Offset(last)));
        let mut at = Offset(bounds.first.0.saturating_sub(1).max(erasure.erased.first.unwrap_or(0).saturating_sub(1)));
        let (mut found, mut count) = (RangeSet::new(), 0);
        while at < last {
            let read = log.read(key, at, READ).await?;
            let end = read.batches.last().map(|batch| batch.last()).or(read.damaged.map(|(_, to)| to));
            let Some(end) = end.filter(|end| *end > at) else { break };
            for batch in read.batches.iter().filter(|batch| came_in_time(erasure, batch)) {
                for (offset, _, message) in batch.after(at).take_while(|(offset, ..)| *offset <= last) {
                    let is_meant = |device: &str| device_of_message(message).is_some_and(|of| of == device);
                    if !message.is_empty() && erasure.erased.device.as_deref().is_none_or(is_meant) {
                        found.insert(offset.0);
                        count += 1;
                    }
                }
            }
            at = end;
            if found.ranges() >= MAX_RANGES {
                log.erase_records(key, &std::mem::take(&mut found)).await?;
            }
            tokio::task::yield_now().await;
        }
        if !found.is_empty() {
            log.erase_records(key, &found).await?;
        }
        Ok(count)
    }
}

/// Whether a batch came at the times asked for. One that does not say when it came is as old as the log.
fn came_in_time(erasure: &RecordErasure, batch: &Batch) -> bool {
    let (from, to) = (erasure.erased.from, erasure.erased.to);
    batch.received.map_or(from.is_none(), |at| from.is_none_or(|from| at >= from) && to.is_none_or(|to| at <= to))
}

fn failed(source: motience_store::Error) -> Error {
    Error::Store { place: "of the erasures".to_owned(), source }
}
