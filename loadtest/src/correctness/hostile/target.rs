//! The attacker's target, and how often an attack reached it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde::{Deserialize, Serialize};

use crate::common::server::Addresses;

/// Addresses to attack, and the accounts to attack as.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Target {
    pub(super) addresses: Addresses,
    /// The attacker's own producer, with a log to read from.
    pub(super) producer: i64,
    pub(super) producer_token: String,
    /// A consumer that is subscribed to it.
    pub(super) consumer_token: String,
    /// Another one, for whoever takes as many connections as an account may have, and would leave none to the other attacks.
    pub(super) crowd_token: String,
    /// A login that may be ended.
    pub(super) refresh_token: String,
}

/// How often an attack reached the node: connections, requests or messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Count(Arc<AtomicU64>);

impl Count {
    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
