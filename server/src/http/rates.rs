//! How often someone may ask, as settings.

use motience_http::ApiError;
use motience_limits::rate::{Rate, TooOften};
use motience_settings::env::{self, Env};

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

/// 429 with the limit that was met.
pub(crate) fn limited(reason: &'static str, outcome: Result<(), TooOften>) -> Result<(), ApiError> {
    outcome.map_err(|TooOften(wait)| ApiError::limited(reason, wait))
}
