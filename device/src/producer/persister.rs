//! Persister, the task of the outbox's file: writes what has gathered, tells who waits, tries again where the disk fails.

use std::{sync::Arc, time::Duration};

use tokio::{
    task,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::{
    backoff::Backoff,
    outbox::{
        self, Group, Urgency,
        disk::{Refusal, Store},
    },
};

/// How long acknowledged records may stay in the file when no others are written.
const LAZY: Duration = Duration::from_secs(30);
/// Waits after the disk failed.
const RETRY: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(10) };
/// How often the last group is tried when the producer ends.
const LAST_TRIES: usize = 3;

pub(super) struct Persister {
    /// `None`: the runtime went away while it was written.
    store: Option<Store>,
    shared: Arc<Shared>,
    close: CancellationToken,
    interval: Duration,
    /// Failures in a row.
    failures: u32,
}

impl Persister {
    pub(super) fn new(store: Store, shared: Arc<Shared>, close: CancellationToken) -> Self {
        let interval = shared.lock().outbox.config().commit_interval;
        Self { store: Some(store), shared, close, interval, failures: 0 }
    }

    pub(super) async fn run(mut self) {
        let close = self.close.clone();
        // Since when records, and what has time, wait for the disk.
        let (mut soon, mut lazy) = (None, None);
        let mut not_before = Instant::now();
        loop {
            let urgency = self.shared.lock().outbox.urgency();
            let now = Instant::now();
            if urgency < Urgency::Soon {
                soon = None;
            }
            let due = match urgency {
                Urgency::None => None,
                Urgency::Lazy => Some(*lazy.get_or_insert(now) + LAZY),
                Urgency::Soon => Some(*soon.get_or_insert(now) + self.interval),
                Urgency::Now => Some(now),
            };
            let due = due.map(|due| due.max(not_before));
            let wait = async {
                match due {
                    Some(due) => time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = close.cancelled() => break,
                () = wait => {
                    (soon, lazy) = (None, None);
                    self.save(false).await;
                    let pause = if self.failures == 0 { Duration::ZERO } else { RETRY.ceiling(self.failures - 1) };
                    not_before = Instant::now() + pause;
                }
                () = self.shared.save.notified() => {}
            }
        }
        for _ in 0..LAST_TRIES {
            if self.save(true).await {
                break;
            }
        }
        // Closing the file writes, too.
        let store = self.store.take();
        let _ = task::spawn_blocking(move || drop(store)).await;
    }

    /// Writes one group. Whether it is on disk. Not cancel-safe, and never cancelled.
    async fn save(&mut self, closing: bool) -> bool {
        let Some(mut store) = self.store.take() else { return false };
        let group = self.shared.lock().outbox.collect(closing);
        let written = task::spawn_blocking(move || {
            let result = store.save(&group);
            let size = store.size();
            (store, group, result, size)
        });
        // An error says that the runtime is going away.
        let Ok((store, group, result, size)) = written.await else { return false };
        self.store = Some(store);
        let saved = match result {
            Ok(()) => {
                self.saved(&group, size);
                true
            }
            Err(Refusal::Restart) => {
                self.failures = 0;
                let mut state = self.shared.lock();
                state.outbox.failed(&group);
                state.outbox.restart();
                false
            }
            Err(Refusal::Later(error)) => {
                self.failed(&group, error);
                false
            }
        };
        self.shared.wake();
        saved
    }

    fn saved(&mut self, group: &Group, size: u64) {
        if self.failures > 0 {
            tracing::info!("the outbox is written again");
        }
        self.failures = 0;
        let mut state = self.shared.lock();
        state.outbox.saved(&group.reservation);
        state.counters.disk.bytes = Some(size);
        state.disk = None;
        drop(state);
        // Numbers may have become usable.
        self.shared.work.notify_one();
    }

    fn failed(&mut self, group: &Group, error: outbox::Error) {
        if self.failures == 0 {
            tracing::error!(%error, "records are not on disk");
        }
        self.failures = self.failures.saturating_add(1);
        let mut state = self.shared.lock();
        state.outbox.failed(group);
        if matches!(error, outbox::Error::NoSpace(_)) {
            let dropped = state.outbox.shed();
            state.dropped(dropped);
        }
        state.disk = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use motience_proto::model::Seq;

    use super::*;
    use crate::{
        client::Lane,
        outbox::{Config, Outbox, disk::sim::Disk},
        producer::Stats,
    };

    /// Takes a record of `size` bytes.
    fn push(shared: &Shared, size: usize) -> Seq {
        let seq = shared.lock().enqueue(Lane::Ordered, Bytes::from(vec![b'x'; size])).unwrap().0;
        shared.save.notify_one();
        seq
    }

    async fn until(shared: &Shared, holds: impl Fn(&Shared) -> bool) {
        let wait = async {
            while !holds(shared) {
                time::sleep(Duration::from_millis(2)).await;
            }
        };
        time::timeout(Duration::from_secs(20), wait).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_tried_again_and_the_end_is_clean() {
        let disk = Disk::new();
        let (store, loaded) = Store::open(disk.clone()).unwrap();
        let config = Config { policy: outbox::Policy::Block, commit_interval: Duration::from_millis(1), ..Config::default() };
        let shared = Arc::new(Shared::new(Outbox::restore(config.clone(), loaded), Stats::default()));
        let close = CancellationToken::new();
        let persister = tokio::spawn(Persister::new(store, shared.clone(), close.clone()).run());
        let first = push(&shared, 10);
        until(&shared, |shared| shared.lock().outbox.is_saved(first)).await;
        disk.set_room(disk.bytes().len() as u64);
        let mut last = first;
        while shared.lock().disk.is_none() {
            last = push(&shared, 300_000);
            until(&shared, |shared| shared.lock().outbox.is_saved(last) || shared.lock().disk.is_some()).await;
        }
        let stats = shared.lock().stats();
        assert!(stats.disk.error.unwrap().starts_with("no room on disk"));
        assert!(stats.outbox.unsaved > 0 && shared.lock().outbox.contains(first));
        // Its sender has given up waiting; it is as if it had not been enqueued.
        assert!(shared.lock().abandon_unsaved(last));
        let other = push(&shared, 300_000);
        disk.set_room(u64::MAX);
        until(&shared, |shared| shared.lock().outbox.is_saved(other)).await;
        assert_eq!(shared.lock().stats().disk.error, None);
        close.cancel();
        persister.await.unwrap();
        let (_, loaded) = Store::open(disk).unwrap();
        assert_eq!((loaded.reservation.last, loaded.reservation.reserved), (other.0, other.0), "no number is skipped after a good end");
        assert!(loaded.reservation.abandoned.contains(last.0) && loaded.items.iter().any(|item| item.seq == first));
    }
}
