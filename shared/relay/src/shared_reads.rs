//! Reads of logs on other machines, shared by the readers of one node: whoever asks for what another has just asked for gets the same answer.
//!
//! Records at one offset of one epoch never change but by an erasure, which has them forgotten here. So an answer with any records is as good for the
//! next reader, who goes on behind them; that there are none is not shared. Answers stay for a moment, so that readers who catch up beside each
//! other need not keep in step. Nobody gets one that is older than its own follow: what retention has removed before that is told as a gap.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use motience_log::{self as log, Fetch, Log};
use motience_proto::model::{Cursor, LogKey, Offset, ProducerId};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// How long an answer is shared.
const FOR: Duration = Duration::from_secs(10);
/// Answers of a node.
const MOST: usize = 256;
/// Bytes of messages in them; the newest may go beyond it.
const MOST_BYTES: usize = 16 << 20;

/// The answers that are shared, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct SharedReads(Mutex<VecDeque<Page>>);

#[derive(Debug)]
struct Page {
    key: LogKey,
    after: Offset,
    bytes: usize,
    begun: Instant,
    answer: Arc<OnceCell<Fetch>>,
}

impl SharedReads {
    /// Reads what comes after a cursor, like the log does, for a reader that has come at `since`. Cancel-safe: where the one who asks is cut off,
    /// another who waits for the same asks.
    pub(crate) async fn read(&self, log: &Log, key: LogKey, cursor: Cursor, bytes: usize, since: Instant) -> Result<Fetch, log::Error> {
        let after = cursor.offset;
        if !log.is_shared() {
            return log.read(key, after, bytes).await;
        }
        let answer = self.page(key, after, bytes, since);
        let own = AtomicBool::new(false);
        let asking = || async {
            own.store(true, Ordering::Relaxed);
            log.read(key, after, bytes).await
        };
        let outcome = answer.get_or_try_init(asking).await;
        if outcome.as_ref().is_ok_and(|fetch| !fetch.batches.is_empty() && fetch.log_epoch == cursor.log_epoch) {
            return outcome.cloned();
        }
        self.0.lock().retain(|page| !Arc::ptr_eq(&page.answer, &answer));
        // The log may have grown since another asked for its end, or have begun a new epoch.
        if own.into_inner() { outcome.cloned() } else { log.read(key, after, bytes).await }
    }

    /// Forgets everything: it may not have been told of an erasure.
    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Forgets what was read of a producer's logs.
    pub(crate) fn forget(&self, producer: ProducerId) {
        self.0.lock().retain(|page| page.key.producer != producer);
    }

    /// Forgets what is shared no longer.
    pub(crate) fn sweep(&self) {
        self.0.lock().retain(|page| page.begun.elapsed() < FOR);
    }

    fn page(&self, key: LogKey, after: Offset, bytes: usize, since: Instant) -> Arc<OnceCell<Fetch>> {
        let mut pages = self.0.lock();
        let is_it =
            |page: &&Page| (page.key, page.after, page.bytes) == (key, after, bytes) && page.begun >= since && page.begun.elapsed() < FOR;
        if let Some(page) = pages.iter().rev().find(is_it) {
            return Arc::clone(&page.answer);
        }
        let held = |pages: &VecDeque<Page>| pages.iter().filter_map(|page| page.answer.get()).map(size).sum::<usize>();
        while pages.len() >= MOST || held(&pages) > MOST_BYTES {
            pages.pop_front();
        }
        let answer = Arc::default();
        pages.push_back(Page { key, after, bytes, begun: Instant::now(), answer: Arc::clone(&answer) });
        answer
    }
}

fn size(fetch: &Fetch) -> usize {
    fetch.batches.iter().map(|batch| batch.bytes()).sum()
}
