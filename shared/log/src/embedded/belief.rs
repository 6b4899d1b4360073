//! How far the machine's clock is believed where much of a log would be removed because of its age.
//!
//! A machine that starts with a wrong clock (an empty battery, a virtual machine that slept) would take its whole log for too old. So
//! the log keeps a time of its own: it goes on with the time that really passes, and catches up with the clock only where nothing much
//! depends on it, or where an operator has confirmed the clock. A file remembers it across restarts.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;

/// The time of day, as the clock has it and as the log believes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) at: OffsetDateTime,
    /// Surely reached: never after `at`.
    pub(super) sure: OffsetDateTime,
}

/// Time of day as the log believes it.
#[derive(Debug)]
pub(super) struct Belief(Mutex<(Instant, OffsetDateTime)>);

impl Belief {
    pub(super) fn new(sure: OffsetDateTime) -> Self {
        Self(Mutex::new((Instant::now(), sure)))
    }

    /// Both times where the clock says `at`.
    pub(super) fn now(&self, at: OffsetDateTime) -> Now {
        self.after(Instant::now(), at)
    }

    fn after(&self, instant: Instant, at: OffsetDateTime) -> Now {
        let mut believed = self.0.lock();
        let passed = instant.saturating_duration_since(believed.0);
        let sure = believed.1.checked_add(time::Duration::try_from(passed).unwrap_or(time::Duration::MAX)).unwrap_or(at);
        if at < sure {
            // The clock was set back: it would have to be believed again, should it jump forward once more.
            *believed = (instant, at);
        }
        Now { at, sure: sure.min(at) }
    }

    /// Believes that it is at least `at`.
    pub(super) fn believe(&self, at: OffsetDateTime) {
        let mut believed = self.0.lock();
        let instant = Instant::now();
        let passed = time::Duration::try_from(instant.saturating_duration_since(believed.0)).unwrap_or(time::Duration::MAX);
        if believed.1.checked_add(passed).is_some_and(|sure| sure < at) {
            *believed = (instant, at);
        }
    }
}

impl Now {
    /// How far the clock is ahead of what is believed.
    pub(super) fn ahead(&self) -> Duration {
        (self.at - self.sure).try_into().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_not_believed() {
        let (start, day) = (Instant::now(), OffsetDateTime::UNIX_EPOCH);
        let belief = Belief(Mutex::new((start, day)));
        let at = |passed: u64, says: u64| {
            let now = belief.after(start + Duration::from_secs(passed), day + Duration::from_secs(says));
            (now.sure - day).whole_seconds()
        };
        assert_eq!(at(3600, 3600), 3600);
        assert_eq!(at(3700, 93_700), 3700, "25 hours ahead");
        assert_eq!(at(3800, 3800), 3800);
        // Back, and ahead again.
        assert_eq!(at(3900, 1000), 1000);
        assert_eq!(at(4000, 4000), 1100);
    }
}
