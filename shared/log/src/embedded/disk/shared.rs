//! State that the writer, the readers and maintenance share.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use parking_lot::Mutex;

use super::{dirty::Dirty, index::Index, segment::Position};

/// News in the segments up to `end` that the database does not have yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) dirty: Dirty,
    pub(super) end: Position,
}

/// State of the log that the writer, the readers and maintenance share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) folder: Arc<Path>,
    pub(super) index: Arc<Index>,
    pub(super) pending: Arc<Mutex<Pending>>,
    /// Whether the last attempt to write failed.
    pub(super) failing: Arc<AtomicBool>,
    /// Whether that was for want of room.
    pub(super) full: Arc<AtomicBool>,
    /// When maintenance last stopped getting on: files that cannot be written or removed.
    pub(super) stalled: Arc<Mutex<Option<Instant>>>,
    /// Whether the log is being closed.
    pub(super) closing: Arc<AtomicBool>,
    /// Bytes after which the next segment begins.
    pub(super) segment_bytes: u64,
}
