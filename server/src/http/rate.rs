//! How often someone may try: token buckets by address and by account.

use std::{
    fmt,
    hash::{BuildHasher as _, Hash, RandomState},
    num::NonZeroU32,
    str::FromStr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};
use motience_shared::{
    env::{self, Env},
    http::ApiError,
};

/// New keys of one limiter after which those that have recovered are forgotten.
const FORGET_EVERY: usize = 10_000;

/// So many in so long, all of them at once if need be; or no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<(NonZeroU32, Duration)>);

/// The text is no rate.
#[derive(Clone, Debug, thiserror::Error)]
#[error("write a rate like 20/m (s, m or h), or off")]
pub struct InvalidRate;

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        if text == "off" {
            return Ok(Self(None));
        }
        let (count, unit) = text.split_once('/').ok_or(InvalidRate)?;
        let period = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(InvalidRate),
        };
        Ok(Self(Some((count.parse().map_err(|_| InvalidRate)?, Duration::from_secs(period)))))
    }
}

/// The rates of the accounts service.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Registrations from one address. RATE_LIMIT_REGISTER, 60/m.
    pub register: Rate,
    /// Registrations of one name. RATE_LIMIT_REGISTER_ACCOUNT, 10/m.
    pub register_account: Rate,
    /// Logins from one address. RATE_LIMIT_LOGIN, 120/m.
    pub login: Rate,
    /// Logins to one account. RATE_LIMIT_LOGIN_ACCOUNT, 20/m.
    pub login_account: Rate,
    /// Refreshes from one address. RATE_LIMIT_REFRESH, 240/m.
    pub refresh: Rate,
    /// Refreshes of one account. RATE_LIMIT_REFRESH_ACCOUNT, 60/m.
    pub refresh_account: Rate,
}

impl Rates {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let rate = |name: &str, count: u32| env.parse(name, Rate(NonZeroU32::new(count).map(|n| (n, Duration::from_secs(60)))));
        Ok(Self {
            register: rate("RATE_LIMIT_REGISTER", 60)?,
            register_account: rate("RATE_LIMIT_REGISTER_ACCOUNT", 10)?,
            login: rate("RATE_LIMIT_LOGIN", 120)?,
            login_account: rate("RATE_LIMIT_LOGIN_ACCOUNT", 20)?,
            refresh: rate("RATE_LIMIT_REFRESH", 240)?,
            refresh_account: rate("RATE_LIMIT_REFRESH_ACCOUNT", 60)?,
        })
    }
}

/// One operation's limits: each address, and each account.
pub struct Limiter {
    address: Option<Buckets>,
    account: Option<Buckets>,
}

impl Limiter {
    fn new(address: Rate, account: Rate) -> Self {
        Self { address: Buckets::new(address), account: Buckets::new(account) }
    }

    /// Counts one attempt from this address; 429 where there were too many.
    pub fn address(&self, address: super::ClientAddress) -> Result<(), ApiError> {
        self.address.as_ref().map_or(Ok(()), |buckets| buckets.take(&address))
    }

    /// Counts one attempt at this account; 429 where there were too many.
    pub fn account(&self, account: &str) -> Result<(), ApiError> {
        self.account.as_ref().map_or(Ok(()), |buckets| buckets.take(account))
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").finish_non_exhaustive()
    }
}

/// All limits in force.
#[derive(Debug)]
pub struct Limiters {
    /// `POST /register`.
    pub register: Limiter,
    /// `POST /login`.
    pub login: Limiter,
    /// `POST /refresh`.
    pub refresh: Limiter,
}

impl Limiters {
    pub(super) fn new(rates: &Rates) -> Self {
        Self {
            register: Limiter::new(rates.register, rates.register_account),
            login: Limiter::new(rates.login, rates.login_account),
            refresh: Limiter::new(rates.refresh, rates.refresh_account),
        }
    }
}

/// A bucket for each key. Keys come from clients, as long as these like, so only their hash is kept: a name that shares
/// a bucket with another, by a chance of 2^-64, is no harm.
struct Buckets {
    limiter: DefaultKeyedRateLimiter<u64>,
    hasher: RandomState,
    /// Keys at which it is next worth looking for those to forget.
    forget_at: AtomicUsize,
}

impl Buckets {
    fn new(rate: Rate) -> Option<Self> {
        let (count, period) = rate.0?;
        // Cannot be `None`: neither the period nor the count is zero.
        let quota = Quota::with_period(period / count.get())?.allow_burst(count);
        let limiter = DefaultKeyedRateLimiter::keyed(quota);
        Some(Self { limiter, hasher: RandomState::new(), forget_at: AtomicUsize::new(FORGET_EVERY) })
    }

    fn take<K: Hash + ?Sized>(&self, key: &K) -> Result<(), ApiError> {
        // Looking goes through all keys, so it is done once for many new ones, not for each.
        if self.limiter.len() >= self.forget_at.load(Ordering::Relaxed) {
            self.limiter.retain_recent();
            self.forget_at.store(self.limiter.len() + FORGET_EVERY, Ordering::Relaxed);
        }
        let key = self.hasher.hash_one(key);
        self.limiter.check_key(&key).map_err(|until| ApiError::too_many(until.wait_time_from(DefaultClock::default().now())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_beyond_the_rate_are_told_when_to_come_back() {
        let limiter = Limiter::new("off".parse().unwrap(), "2/h".parse().unwrap());
        limiter.account("a").unwrap();
        limiter.account("a").unwrap();
        assert_eq!(limiter.account("a").unwrap_err().status(), 429);
        limiter.account("b").unwrap();
        for bad in ["5", "0/m", "5/d", "-1/m", ""] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_have_recovered_are_forgotten() {
        // So fast that a bucket is full again as soon as it is looked at.
        let buckets = Buckets::new("1000000000/s".parse().unwrap()).unwrap();
        for key in 0..5 * FORGET_EVERY {
            buckets.take(&key).unwrap();
        }
        assert!(buckets.limiter.len() <= FORGET_EVERY, "{} keys", buckets.limiter.len());
    }
}
