//! Renewing the token of an open connection before it expires.

use std::{future::pending, sync::Arc, time::Duration};

use secrecy::SecretString;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::login::{Credentials, Error};

/// The part of a token's life after which it is renewed.
const RENEW_AT: f64 = 0.8;
/// Least wait between attempts to renew.
const RENEW_RETRY: Duration = Duration::from_secs(15);

/// When to renew, and the renewal under way.
pub(crate) struct Renewal {
    credentials: Arc<Credentials>,
    /// `None` while a renewal is under way, or where there can be none.
    at: Option<Instant>,
    under_way: JoinSet<Result<SecretString, Error>>,
}

impl Renewal {
    /// For a token that is good for `life` seconds.
    pub(crate) fn new(credentials: Arc<Credentials>, life: u64) -> Self {
        let mut renewal = Self { credentials, at: None, under_way: JoinSet::new() };
        renewal.accepted(life);
        renewal
    }

    /// The server accepted a token that is good for `life` seconds.
    pub(crate) fn accepted(&mut self, life: u64) {
        if self.credentials.can_renew() {
            self.at = Some(Instant::now() + Duration::from_secs(life).mul_f64(RENEW_AT));
        }
    }

    /// The next token to offer, or why there will be none. Waits for ever where nothing is to be renewed. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<SecretString, Error> {
        loop {
            tokio::select! {
                biased;
                Some(renewed) = self.under_way.join_next() => {
                    match renewed.unwrap_or_else(|e| Err(Error::Unavailable(e.to_string()))) {
                        Err(error) if error.is_worth_retrying() => self.retry(&error),
                        renewed => return renewed,
                    }
                }
                () = at(self.at) => {
                    self.at = None;
                    let credentials = self.credentials.clone();
                    self.under_way.spawn(async move { credentials.renew().await });
                }
            }
        }
    }

    fn retry(&mut self, error: &Error) {
        tracing::warn!(%error, "cannot renew the token yet");
        let wait = if let Error::RateLimited(wait) = error { (*wait).max(RENEW_RETRY) } else { RENEW_RETRY };
        // Jitter on top: a fleet whose login service was away must not return as one.
        self.at = Some(Instant::now() + wait + wait.mul_f64(fastrand::f64()));
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => pending().await,
    }
}
