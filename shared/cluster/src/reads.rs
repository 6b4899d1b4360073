//! When reports were read: those who ask for them at once, or soon after each other, share one reading.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use motience_proto::model::LogKey;
use parking_lot::Mutex;

use crate::window::LOOK_EVERY;

/// When something was read last; held while it is read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read(Arc<tokio::sync::Mutex<Option<Instant>>>);

/// The logs whose reports were read lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads(Arc<Mutex<HashMap<LogKey, Read>>>);

impl Read {
    /// Reads, unless that was done so lately. Those who waited for another do not each wait for a log that is away.
    pub(crate) async fn unless_within(&self, lately: Duration, read: impl Future<Output = ()>) {
        let mut last = self.0.lock().await;
        if last.is_none_or(|at| at.elapsed() >= lately) {
            read.await;
            *last = Some(Instant::now());
        }
    }
}

impl Reads {
    pub(crate) fn of(&self, key: LogKey) -> Read {
        self.0.lock().entry(key).or_default().clone()
    }

    /// Forgets what is too old to serve anybody.
    pub(crate) fn prune(&self) {
        // Whoever holds or waits for a lock has a reference of its own.
        self.0.lock().retain(|_, Read(read)| {
            Arc::strong_count(read) > 1 || read.try_lock().is_ok_and(|read| read.is_some_and(|at| at.elapsed() < LOOK_EVERY))
        });
    }
}
