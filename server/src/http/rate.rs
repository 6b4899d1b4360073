//! How often someone may try: limits by address and by account.

use motience_shared::{
    auth::RefreshClaims,
    env::{self, Env},
    http::{ApiError, ClientAddress},
    rate::{Buckets, Rate, TooOften},
};

use super::{Config, attempts::Attempts, requests::Requests};

/// How often what is asked may be asked.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Registrations from one address. RATE_LIMIT_REGISTER, 60/m.
    pub register: Rate,
    /// Registrations of one name. RATE_LIMIT_REGISTER_ACCOUNT, 10/m.
    pub register_account: Rate,
    /// Wrong logins from one address, to accounts that never logged in from there. RATE_LIMIT_LOGIN, 120/m.
    pub login: Rate,
    /// Wrong logins to one account from one address. RATE_LIMIT_LOGIN_ACCOUNT, 20/m.
    pub login_account: Rate,
    /// Wrong logins to one account from all addresses that it never logged in from. RATE_LIMIT_LOGIN_STRANGERS, 100/m.
    pub login_strangers: Rate,
    /// Refreshes from one address that are refused. RATE_LIMIT_REFRESH, 240/m.
    pub refresh: Rate,
    /// Refreshes of one login. RATE_LIMIT_REFRESH_LOGIN, 30/m.
    pub refresh_login: Rate,
    /// Refreshes of one account: of all its devices. RATE_LIMIT_REFRESH_ACCOUNT, 6000/m.
    pub refresh_account: Rate,
    /// Logouts from one address that end nothing. RATE_LIMIT_LOGOUT, 240/m.
    pub logout: Rate,
    /// Requests of one account, but for `POST /data`. RATE_LIMIT_REQUESTS, 1200/m.
    pub requests: Rate,
    /// Those for a part of a history among them. RATE_LIMIT_HISTORY, 600/m.
    pub history: Rate,
}

impl Rates {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let rate = |name: &str, count: u32| env.parse(name, Rate::per_minute(count));
        Ok(Self {
            register: rate("RATE_LIMIT_REGISTER", 60)?,
            register_account: rate("RATE_LIMIT_REGISTER_ACCOUNT", 10)?,
            login: rate("RATE_LIMIT_LOGIN", 120)?,
            login_account: rate("RATE_LIMIT_LOGIN_ACCOUNT", 20)?,
            login_strangers: rate("RATE_LIMIT_LOGIN_STRANGERS", 100)?,
            refresh: rate("RATE_LIMIT_REFRESH", 240)?,
            refresh_login: rate("RATE_LIMIT_REFRESH_LOGIN", 30)?,
            refresh_account: rate("RATE_LIMIT_REFRESH_ACCOUNT", 6000)?,
            logout: rate("RATE_LIMIT_LOGOUT", 240)?,
            requests: rate("RATE_LIMIT_REQUESTS", 1200)?,
            history: rate("RATE_LIMIT_HISTORY", 600)?,
        })
    }
}

/// All limits in force.
#[derive(Debug)]
pub struct Limiters {
    /// `POST /register`.
    pub register: Registrations,
    /// `POST /login`.
    pub logins: Attempts,
    /// `POST /refresh`.
    pub refresh: Refreshes,
    /// `POST /logout`.
    pub logout: Failures,
    /// Whatever else an account asks.
    pub requests: Requests,
}

impl Limiters {
    pub(super) fn new(config: &Config) -> Self {
        let rates = &config.rates;
        Self {
            register: Registrations { address: Buckets::new(rates.register), account: Buckets::new(rates.register_account) },
            logins: Attempts::new(rates),
            refresh: Refreshes {
                failures: Failures::new("refresh", rates.refresh),
                login: Buckets::new(rates.refresh_login),
                account: Buckets::new(rates.refresh_account),
            },
            logout: Failures::new("logout", rates.logout),
            requests: Requests::new(config),
        }
    }
}

/// Limits of registrations: each address, and each name.
#[derive(Debug)]
pub struct Registrations {
    address: Buckets,
    account: Buckets,
}

impl Registrations {
    /// Counts one attempt from this address; 429 where there were too many.
    pub fn address(&self, address: ClientAddress) -> Result<(), ApiError> {
        limited("register", self.address.take(address))
    }

    /// Counts one attempt at this name; 429 where there were too many.
    pub fn account(&self, account: &str) -> Result<(), ApiError> {
        limited("register_account", self.account.take(account))
    }
}

/// A limit of what an address does in vain: what succeeds is free, however many devices are behind one address.
#[derive(Debug)]
pub struct Failures {
    reason: &'static str,
    address: Buckets,
}

impl Failures {
    fn new(reason: &'static str, rate: Rate) -> Self {
        Self { reason, address: Buckets::new(rate) }
    }

    /// 429 where this address failed too often.
    pub fn check(&self, address: ClientAddress) -> Result<(), ApiError> {
        limited(self.reason, self.address.check(address))
    }

    /// Counts a failure of this address.
    pub fn failed(&self, address: ClientAddress) {
        self.address.charge(address);
    }
}

/// Limits of refreshes: what fails by address, what succeeds by login and by account, as each costs two writes.
#[derive(Debug)]
pub struct Refreshes {
    failures: Failures,
    login: Buckets,
    account: Buckets,
}

impl Refreshes {
    /// 429 where this address failed too often.
    pub fn check(&self, address: ClientAddress) -> Result<(), ApiError> {
        self.failures.check(address)
    }

    /// Counts a failure of this address.
    pub fn failed(&self, address: ClientAddress) {
        self.failures.failed(address);
    }

    /// Counts a refresh of this login; 429 where there were too many of it, or of its account.
    pub fn renews(&self, claims: &RefreshClaims) -> Result<(), ApiError> {
        limited("refresh_login", self.login.take(&claims.family))?;
        limited("refresh_account", self.account.take(claims.user))
    }
}

/// 429 with the limit that was met.
pub(crate) fn limited(reason: &'static str, outcome: Result<(), TooOften>) -> Result<(), ApiError> {
    outcome.map_err(|TooOften(wait)| ApiError::limited(reason, wait))
}
