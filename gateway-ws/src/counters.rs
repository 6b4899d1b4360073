//! Counters of one side of the gateway, for its `/stats` and for the metrics.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use metrics::Counter;
use motience_runtime::telemetry::kept;
use serde::Serialize;

/// Counters of one side.
pub(crate) struct Counters {
    side: &'static str,
    connections: AtomicU64,
    records: AtomicU64,
    bytes: AtomicU64,
    started: Instant,
    records_total: OnceLock<Counter>,
    bytes_total: OnceLock<Counter>,
}

/// The answer of `/stats`.
#[derive(Serialize)]
pub(crate) struct Stats {
    connections: u64,
    records: u64,
    bytes: u64,
    uptime_seconds: u64,
}

/// One open connection; counted until dropped.
pub(crate) struct Open<'c>(&'c Counters);

impl Counters {
    pub(crate) fn new(side: &'static str) -> Self {
        let zero = AtomicU64::default;
        let (records_total, bytes_total) = (OnceLock::new(), OnceLock::new());
        Self { side, connections: zero(), records: zero(), bytes: zero(), started: Instant::now(), records_total, bytes_total }
    }

    pub(crate) fn open(&self) -> Open<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("motience_websocket_connections", "side" => self.side).increment(1);
        Open(self)
    }

    /// Counts records that went through, in one step for many.
    pub(crate) fn count(&self, records: u64, bytes: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        kept(&self.records_total, || metrics::counter!("motience_websocket_records_total", "side" => self.side)).increment(records);
        kept(&self.bytes_total, || metrics::counter!("motience_websocket_bytes_total", "side" => self.side)).increment(bytes);
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            connections: self.connections.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            uptime_seconds: self.started.elapsed().as_secs(),
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("motience_websocket_connections", "side" => self.0.side).decrement(1);
    }
}
