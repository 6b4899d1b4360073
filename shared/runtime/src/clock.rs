//! The time of day as a dependency, so that expiry can be tested without waiting.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;

/// Tells the time. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Mutex<OffsetDateTime>>>);

/// The hand that moves a manual [`Clock`].
#[derive(Clone, Debug)]
pub struct Manual(Arc<Mutex<OffsetDateTime>>);

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self(None)
    }

    /// A clock that stands at `start` until moved.
    pub fn manual(start: OffsetDateTime) -> (Self, Manual) {
        let now = Arc::new(Mutex::new(start));
        (Self(Some(Arc::clone(&now))), Manual(now))
    }

    /// The time now, in UTC.
    pub fn now(&self) -> OffsetDateTime {
        match &self.0 {
            #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
            None => OffsetDateTime::now_utc(),
            Some(now) => *now.lock(),
        }
    }
}

impl Manual {
    /// Moves the clock forward by `by`.
    pub fn advance(&self, by: std::time::Duration) {
        *self.0.lock() += by;
    }
}

/// Milliseconds since 1970 in UTC, as databases and nodes keep and tell a time.
pub fn millis(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).expect("years of four digits are within 64 bits of milliseconds")
}

/// The time that [`millis`] made; the beginning of 1970 for a number beyond the years of four digits.
pub fn from_millis(millis: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Returns at a moment; never where there is none. Cancel-safe.
pub async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let (clock, hand) = Clock::manual(OffsetDateTime::UNIX_EPOCH);
        assert_eq!(clock.now(), OffsetDateTime::UNIX_EPOCH);
        hand.advance(std::time::Duration::from_secs(60));
        assert_eq!(clock.now().unix_timestamp(), 60);
    }
}
