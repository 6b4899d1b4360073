//! The outbox's settings.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Where records are kept until they are acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In memory: gone with the process.
    #[default]
    Memory,
    /// In this file as well, which is made where it is missing. One process at a time.
    Disk(PathBuf),
}

/// Behaviour of a full outbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The sender waits, up to the time limit, and then hears an error.
    Block,
    /// The oldest record that is not in flight makes room, and is counted.
    #[default]
    DropOldest,
}

/// In which order a backlog and what is new are sent after a break.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// As they were enqueued.
    #[default]
    OldestFirst,
    /// Live records, enqueued after the connection came up, go first, and the backlog fills the rest: one record in
    /// four where both wait, and at most three quarters of what may be in flight.
    LiveFirst,
}

/// Settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where records are kept.
    pub storage: Storage,
    /// Most records.
    pub records: usize,
    /// Most bytes, [`super::OVERHEAD`] for each record included. All of them are in memory, too.
    pub bytes: usize,
    /// Behaviour past them.
    pub policy: Policy,
    /// In which order they are sent.
    pub order: Order,
    /// How long a sender waits under [`Policy::Block`], and for a disk that fails under either policy.
    pub block_timeout: Duration,
    /// How long records gather before they are written to disk together.
    pub commit_interval: Duration,
    /// So many bytes are written at once, without waiting for more.
    pub commit_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            storage: Storage::default(),
            records: 100_000,
            bytes: 64 * 1024 * 1024,
            policy: Policy::default(),
            order: Order::default(),
            block_timeout: Duration::from_secs(10),
            commit_interval: Duration::from_millis(100),
            commit_bytes: 1024 * 1024,
        }
    }
}
