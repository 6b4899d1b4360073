//! When the reports about each log were read: pages of many devices that follow each other, or are asked for at once, are of one reading.

use std::{collections::HashMap, sync::Arc, time::Instant};

use motience_proto::model::LogKey;
use parking_lot::Mutex;

use crate::window::LOOK_EVERY;

/// When something was read last; held while it is read.
pub(crate) type Read = Arc<tokio::sync::Mutex<Option<Instant>>>;

/// The logs whose reports were read lately.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads(Arc<Mutex<HashMap<LogKey, Read>>>);

impl Reads {
    pub(crate) fn of(&self, key: LogKey) -> Read {
        Arc::clone(self.0.lock().entry(key).or_default())
    }

    /// Forgets what is too old to serve anybody.
    pub(crate) fn prune(&self) {
        // Whoever holds or waits for a lock has a reference of its own.
        self.0.lock().retain(|_, read| {
            Arc::strong_count(read) > 1 || read.try_lock().is_ok_and(|read| read.is_some_and(|at| at.elapsed() < LOOK_EVERY))
        });
    }
}
