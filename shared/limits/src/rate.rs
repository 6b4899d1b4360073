//! How often something may happen: rates as settings write them, and buckets that are filled by the clock and emptied by what happens.
//!
//! Each bucket is one number (GCRA): the moment at which it will be full again. Attempts beyond the rate move that moment further into the
//! future, as a debt, so that attempts which are counted only after they failed are still held to the rate in the long run.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, Hash, RandomState},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use motience_settings::env::Value;
use parking_lot::{Mutex, MutexGuard, RwLock};

/// Most keys of one set of buckets; a key costs about 32 bytes.
const MAX_KEYS: usize = 100_000;
/// Keys after which those whose bucket is full again are forgotten for the first time.
const FIRST_SWEEP: usize = 10_000;

/// So many in so long, all of them at once if need be; or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<(NonZeroU32, Duration)>);

impl Rate {
    /// No limit.
    pub const OFF: Self = Self(None);

    /// So many a minute; 0 is no limit.
    pub const fn per_minute(count: u32) -> Self {
        match NonZeroU32::new(count) {
            Some(count) => Self(Some((count, Duration::from_secs(60)))),
            None => Self::OFF,
        }
    }
}

impl Value for Rate {
    /// `20/m` (s, m or h), or `off`.
    fn parse(text: &str) -> Result<Self, String> {
        let rate = || {
            let (count, unit) = text.split_once('/')?;
            let period = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            Some(Self(Some((count.parse().ok()?, Duration::from_secs(period)))))
        };
        if text == "off" { Ok(Self::OFF) } else { rate().ok_or_else(|| "must be a rate such as 20/m (s, m or h), or off".to_owned()) }
    }
}

/// The rate allows no more for so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too often: come back in {0:?}")]
pub struct TooOften(pub Duration);

/// A rate in nanoseconds: what one costs, and what a full bucket is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    each: u64,
    whole: u64,
}

impl Pace {
    fn of(rate: Rate) -> Option<Self> {
        let (count, period) = rate.0?;
        let whole = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
        let each = (whole / u64::from(count.get())).max(1);
        Some(Self { each, whole: each.saturating_mul(u64::from(count.get())) })
    }

    /// State of a bucket after `cost` more. A cost over a whole bucket counts as a whole bucket.
    fn after(self, full_at: u64, now: u64, cost: u32) -> u64 {
        full_at.max(now).saturating_add(self.each.saturating_mul(u64::from(cost)).min(self.whole))
    }

    fn check(self, after: u64, now: u64) -> Result<(), TooOften> {
        let over = after.saturating_sub(now).saturating_sub(self.whole);
        if over == 0 { Ok(()) } else { Err(TooOften(Duration::from_nanos(over))) }
    }
}

/// One bucket, for whoever owns it.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    pace: Option<Pace>,
    start: Instant,
    full_at: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate) -> Self {
        Self { pace: Pace::of(rate), start: Instant::now(), full_at: 0 }
    }

    /// Takes `cost` out, if there is so much in it.
    pub fn take(&mut self, cost: u32) -> Result<(), TooOften> {
        let Some(pace) = self.pace else { return Ok(()) };
        let now = since(self.start);
        let after = pace.after(self.full_at, now, cost);
        pace.check(after, now)?;
        self.full_at = after;
        Ok(())
    }
}

/// A bucket for each key. Keys come from clients, as long as these like, so only their hash is kept: a key that shares a bucket with
/// another, by a chance of 2^-64, is no harm.
#[derive(Debug)]
pub struct Buckets {
    pace: RwLock<Option<Pace>>,
    start: Instant,
    hasher: RandomState,
    keys: Mutex<Keys>,
}

#[derive(Debug)]
struct Keys {
    full_at: HashMap<u64, u64>,
    /// Number of keys at which it is next worth looking for those to forget: looking goes through all of them.
    sweep_at: usize,
}

impl Buckets {
    /// Full buckets of this rate.
    pub fn new(rate: Rate) -> Self {
        let keys = Keys { full_at: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { pace: RwLock::new(Pace::of(rate)), start: Instant::now(), hasher: RandomState::new(), keys: Mutex::new(keys) }
    }

    /// Sets another rate, with full buckets; nothing changes where the rate is the same.
    pub fn set(&self, rate: Rate) {
        let (mut pace, newer) = (self.pace.write(), Pace::of(rate));
        if *pace != newer {
            *pace = newer;
            self.keys().full_at.clear();
        }
    }

    /// Takes one out of this key's bucket, if there is one in it.
    pub fn take(&self, key: impl Hash) -> Result<(), TooOften> {
        let Some(pace) = *self.pace.read() else { return Ok(()) };
        let now = since(self.start);
        let mut keys = self.keys();
        let full_at = keys.entry(self.hasher.hash_one(key), now);
        let after = pace.after(*full_at, now, 1);
        pace.check(after, now)?;
        *full_at = after;
        Ok(())
    }

    /// Whether there is one in this key's bucket, which stays in it.
    pub fn check(&self, key: impl Hash) -> Result<(), TooOften> {
        let Some(pace) = *self.pace.read() else { return Ok(()) };
        let now = since(self.start);
        let full_at = self.keys().full_at.get(&self.hasher.hash_one(key)).copied().unwrap_or(0);
        pace.check(pace.after(full_at, now, 1), now)
    }

    /// Takes one out of this key's bucket, be it there or not: what is missing has to come in again before anything else is allowed.
    pub fn charge(&self, key: impl Hash) {
        let Some(pace) = *self.pace.read() else { return };
        let now = since(self.start);
        let mut keys = self.keys();
        let full_at = keys.entry(self.hasher.hash_one(key), now);
        *full_at = pace.after(*full_at, now, 1);
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock()
    }
}

impl Keys {
    fn entry(&mut self, key: u64, now: u64) -> &mut u64 {
        if self.full_at.len() >= self.sweep_at {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= MAX_KEYS {
                // Whoever can make so many keys goes round any limit for each; the hash is random, so nobody chooses which ones go.
                let mut stays = false;
                self.full_at.retain(|_, _| {
                    stays = !stays;
                    stays
                });
            }
            self.sweep_at = (2 * self.full_at.len()).clamp(FIRST_SWEEP, MAX_KEYS);
        }
        self.full_at.entry(key).or_default()
    }
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        Rate::parse(text).unwrap()
    }

    #[test]
    fn rates_are_read() {
        assert_eq!(rate("off"), Rate::OFF);
        assert_eq!(rate("20/m"), Rate::per_minute(20));
        for bad in ["5", "0/m", "5/d", "-1/m", ""] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_goes_beyond_the_rate_is_told_when_to_come_back() {
        let buckets = Buckets::new(rate("2/h"));
        buckets.take("a").unwrap();
        buckets.check("a").unwrap();
        buckets.take("a").unwrap();
        let TooOften(wait) = buckets.take("a").unwrap_err();
        assert!(wait > Duration::from_secs(1700) && wait <= Duration::from_secs(1800), "{wait:?}");
        assert!(buckets.check("a").is_err());
        buckets.take("b").unwrap();
        let off = Buckets::new(Rate::OFF);
        (0..1000).for_each(|_| off.take("a").unwrap());
    }

    #[test]
    fn another_rate_holds_at_once() {
        let buckets = Buckets::new(rate("1/h"));
        buckets.take("a").unwrap();
        assert!(buckets.take("a").is_err());
        buckets.set(Rate::OFF);
        (0..100).for_each(|_| buckets.take("a").unwrap());
        buckets.set(rate("2/h"));
        buckets.take("a").unwrap();
        buckets.take("a").unwrap();
        buckets.set(rate("2/h"));
        assert!(buckets.take("a").is_err(), "the rate is the same");
    }

    #[test]
    fn what_was_counted_too_late_is_a_debt() {
        let buckets = Buckets::new(rate("2/h"));
        (0..6).for_each(|_| buckets.charge("a"));
        let TooOften(wait) = buckets.check("a").unwrap_err();
        assert!(wait > Duration::from_secs(8900), "{wait:?}");
    }

    #[test]
    fn a_cost_beyond_the_whole_bucket_is_all_of_it() {
        let mut bucket = Bucket::new(rate("10/h"));
        bucket.take(1000).unwrap();
        assert!(bucket.take(1).is_err());
        let mut bucket = Bucket::new(rate("10/h"));
        bucket.take(1).unwrap();
        assert!(bucket.take(1000).is_err(), "a bucket that is not full does not hold it");
        bucket.take(9).unwrap();
    }

    #[test]
    fn keys_are_bounded_and_those_that_have_recovered_go_first() {
        // So fast that a bucket is full again as soon as it is looked at.
        let buckets = Buckets::new(rate("1000000000/s"));
        (0..5 * FIRST_SWEEP).for_each(|key| buckets.take(key).unwrap());
        assert!(buckets.keys().full_at.len() <= FIRST_SWEEP, "{} keys", buckets.keys().full_at.len());
        let slow = Buckets::new(rate("2/h"));
        (0..3 * MAX_KEYS).for_each(|key| slow.take(key).unwrap());
        assert!(slow.keys().full_at.len() <= MAX_KEYS, "{} keys", slow.keys().full_at.len());
    }
}
