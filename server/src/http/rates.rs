//! How often someone may ask, as settings.

use motience_http::ApiError;
use motience_limits::rate::{Rate, TooOften};
use motience_settings::env::settings;

settings! {
    /// How often what is asked may be asked: attempts per s, m or h, or `off`.
    #[derive(Clone, Copy, Debug)]
    pub struct Rates {
        /// Registrations from one address.
        RATE_LIMIT_REGISTER = "60/m" => register: Rate;
        /// Registrations of one name.
        RATE_LIMIT_REGISTER_ACCOUNT = "10/m" => register_account: Rate;
        /// Wrong logins from one address, to accounts that never logged in from there, and wrong tokens for a new password. Right ones are free.
        RATE_LIMIT_LOGIN = "120/m" => login: Rate;
        /// Wrong logins to one account from one address.
        RATE_LIMIT_LOGIN_ACCOUNT = "20/m" => login_account: Rate;
        /// Wrong logins to one account from all addresses that it never logged in from. They do not hold up the other addresses.
        RATE_LIMIT_LOGIN_STRANGERS = "100/m" => login_strangers: Rate;
        /// Refreshes from one address that are refused. Those that succeed are free.
        RATE_LIMIT_REFRESH = "240/m" => refresh: Rate;
        /// Refreshes of one login, which is one device.
        RATE_LIMIT_REFRESH_LOGIN = "30/m" => refresh_login: Rate;
        /// Refreshes of one account: of all its devices.
        RATE_LIMIT_REFRESH_ACCOUNT = "6000/m" => refresh_account: Rate;
        /// Logouts from one address that end nothing.
        RATE_LIMIT_LOGOUT = "240/m" => logout: Rate;
        /// Enrolments, renewals and logins of devices from one address that are refused. Those that succeed are free.
        RATE_LIMIT_DEVICE = "240/m" => device: Rate;
        /// Requests of one account to ap, sm and dsm, except POST /data.
        RATE_LIMIT_REQUESTS = "1200/m" => requests: Rate;
        /// Requests for a part of a history among them.
        RATE_LIMIT_HISTORY = "600/m" => history: Rate;
    }
}

/// 429 with the limit that was met.
pub(crate) fn limited(reason: &'static str, outcome: Result<(), TooOften>) -> Result<(), ApiError> {
    outcome.map_err(|TooOften(wait)| ApiError::limited(reason, wait))
}
