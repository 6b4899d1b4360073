//! Log lines that a flood would repeat, held to one in a while.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Lets one event of each kind through in a while and counts the others. Kinds are names of ours, so that there are few.
#[derive(Debug)]
pub struct Sampler<K = &'static str> {
    every: Duration,
    kinds: Mutex<Option<HashMap<K, Seen>>>,
}

#[derive(Debug)]
struct Seen {
    passed: Instant,
    held: u64,
}

impl<K: Eq + Hash> Sampler<K> {
    /// One of each kind in `every`.
    pub const fn new(every: Duration) -> Self {
        Self { every, kinds: Mutex::new(None) }
    }

    /// Whether this one is to be logged, and how many were held back since the last that was.
    pub fn pass(&self, kind: K) -> Option<u64> {
        self.pass_at(kind, Instant::now())
    }

    fn pass_at(&self, kind: K, now: Instant) -> Option<u64> {
        let mut kinds = self.kinds.lock();
        match kinds.get_or_insert_default().get_mut(&kind) {
            Some(seen) if now.saturating_duration_since(seen.passed) < self.every => {
                seen.held += 1;
                None
            }
            Some(seen) => {
                seen.passed = now;
                Some(std::mem::take(&mut seen.held))
            }
            None => {
                kinds.get_or_insert_default().insert(kind, Seen { passed: now, held: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_in_a_while() {
        let sampler = Sampler::new(Duration::from_secs(60));
        let start = Instant::now();
        assert_eq!(sampler.pass_at("a", start), Some(0));
        assert_eq!((0..1000).filter_map(|n| sampler.pass_at("a", start + Duration::from_millis(n))).count(), 0);
        assert_eq!(sampler.pass_at("b", start), Some(0));
        assert_eq!(sampler.pass_at("a", start + Duration::from_secs(60)), Some(1000));
    }
}
