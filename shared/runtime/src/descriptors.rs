//! File descriptors: every connection takes one, and a process that has none left hears nobody, its operator neither.

use std::{
    fs,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Descriptors that connections of the services leave: for the operations port, the database, Redis, files.
const RESERVE: usize = 64;

/// Connections of the services that may be open.
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);
/// Those that are.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// The right of one connection to a descriptor; ends when dropped.
#[derive(Debug)]
pub struct Descriptor(());

/// Raises the process's limit as far as the system allows, and says so where it stays under `connections`, the most that the settings
/// allow at once.
pub fn prepare(connections: usize) {
    let allowed = raise();
    let used = fs::read_dir("/proc/self/fd").map_or(RESERVE, Iterator::count);
    MOST.store(allowed.saturating_sub(used + RESERVE).max(1), Relaxed);
    metrics::gauge!("motience_descriptors_allowed").set(allowed as f64);
    if allowed < connections.saturating_add(used + RESERVE) {
        warn!(
            allowed,
            connections,
            "the settings allow more connections than the system allows open files: raise LimitNOFILE= or `ulimit -n`, or lower \
             HTTP_MAX_CONNECTIONS and WSS_MAX_CONNECTIONS"
        );
    }
}

fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let limit = match (current, maximum) {
        (Some(soft), hard) if hard.is_none_or(|hard| soft < hard) => {
            // Where there is no hard limit the kernel has one of its own; this many is enough.
            let wanted = hard.unwrap_or(1 << 20);
            match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
                Ok(()) => Some(wanted),
                Err(e) => {
                    debug!(error = %e, "the limit of open files stays");
                    current
                }
            }
        }
        _ => current,
    };
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// A descriptor for a connection of a service; `None`: only the reserve is left.
pub fn take() -> Option<Descriptor> {
    OPEN.fetch_update(Relaxed, Relaxed, |open| (open < MOST.load(Relaxed)).then_some(open + 1)).ok().map(|_| Descriptor(()))
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Relaxed);
    }
}
