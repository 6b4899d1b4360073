//! How long to wait before trying again: exponential, with full jitter.

use std::time::Duration;

/// Settings of the wait. Full jitter: anything between nothing and the ceiling, so that a thousand devices that lost
/// one server do not come back in one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first wait.
    pub base: Duration,
    /// Ceiling of every wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(500), max: Duration::from_secs(60) }
    }
}

impl Backoff {
    /// The longest the wait before attempt `attempt` may be, counted from 0.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }

    /// The wait before attempt `attempt`, where `random` is uniform in `0..1`.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        self.ceiling(attempt).mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_its_limit() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(60) };
        let seconds: Vec<_> = (0..8).map(|n| backoff.ceiling(n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    proptest! {
        #[test]
        fn a_delay_is_within_its_ceiling(attempt in any::<u32>(), random in 0.0_f64..1.0) {
            let backoff = Backoff::default();
            prop_assert!(backoff.delay(attempt, random) <= backoff.ceiling(attempt));
            prop_assert!(backoff.ceiling(attempt) <= backoff.max);
            prop_assert!(backoff.ceiling(attempt) <= backoff.ceiling(attempt.saturating_add(1)));
        }

        #[test]
        fn the_jitter_is_full(attempt in 0_u32..40) {
            let backoff = Backoff::default();
            prop_assert_eq!(backoff.delay(attempt, 0.0), Duration::ZERO);
            prop_assert_eq!(backoff.delay(attempt, 1.0), backoff.ceiling(attempt));
        }
    }
}
