//! Pauses between attempts, for everything on a node that tries again. The device's redial has its own law (`device/src/backoff.rs`).

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};

/// Pauses of one series of attempts. Their bound doubles with each, and a pause is a random part of it, at least half: many nodes that lost
/// one server do not come back at the same moment.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// Pauses of at most `first` at the beginning, and of at most `longest` later.
    pub fn new(first: Duration, longest: Duration) -> Self {
        // `backon` adds up to the same again to each of its steps.
        let steps = ExponentialBuilder::new().with_min_delay(first / 2).with_max_delay(longest / 2).without_max_times().with_jitter();
        Self(steps.build())
    }

    /// The pause before the next attempt.
    pub fn pause(&mut self) -> Duration {
        self.0.next().expect("attempts are not counted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let series = || {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
            (0..100).map(|_| backoff.pause().as_secs_f64()).collect::<Vec<_>>()
        };
        let pauses = series();
        for (pause, bound) in pauses.iter().zip([0.1, 0.2, 0.4, 0.8, 1.0].into_iter().chain(std::iter::repeat(1.0))) {
            assert!((bound / 2.0..=bound).contains(pause), "{pause} of {bound}");
        }
        assert_ne!(pauses, series());
    }
}
