//! How often someone may try: limits by address and by account.

use motience_auth::RefreshClaims;
use motience_http::{ApiError, ClientAddress};
use motience_limits::{
    quota::Quotas,
    rate::{Buckets, Rate},
};

use super::{
    Config,
    attempts::Attempts,
    rates::{Rates, limited},
    requests::Requests,
};

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
    /// Enrolments, renewals and logins of devices.
    pub devices: Failures,
    /// `POST /account/reset`.
    pub reset: Failures,
    /// Whatever else an account asks.
    pub requests: Requests,
}

impl Limiters {
    pub(super) fn new(config: &Config, quotas: &Quotas) -> Self {
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
            devices: Failures::new("device", rates.device),
            reset: Failures::new("reset", rates.login),
            requests: Requests::new(config, quotas.clone()),
        }
    }

    /// Sets other rates from now on.
    pub fn set(&self, rates: &Rates) {
        self.register.address.set(rates.register);
        self.register.account.set(rates.register_account);
        self.logins.set(rates);
        self.refresh.failures.address.set(rates.refresh);
        self.refresh.login.set(rates.refresh_login);
        self.refresh.account.set(rates.refresh_account);
        self.logout.address.set(rates.logout);
        self.devices.address.set(rates.device);
        self.reset.address.set(rates.login);
        self.requests.set(rates);
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
