//! How often a password may be guessed. Failures count, successes are free: a fleet behind one address logs in at once, and who guesses
//! from elsewhere keeps nobody out who logged in from their address before.
//!
//! ```text
//! every failure      -> (account, address)        bounds whoever guesses, wherever
//! a stranger's too   -> account, address          bounds many addresses at one account, and one address at many accounts
//! ```
//!
//! A stranger is an address that the account never logged in from: the store remembers those that it did.

use moka::future::Cache;
use motience_http::{ApiError, ClientAddress};
use motience_limits::rate::{Buckets, Rate, TooOften};
use motience_proto::model::UserId;
use motience_store::Store;
use time::OffsetDateTime;
use tracing::warn;

use super::rates::{Rates, limited};

/// Pairs of account and address that this node knows by heart.
const KNOWN: u64 = 100_000;
/// How long: after it the store is told again that the address is in use.
const KNOWN_FOR: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
/// How often an address that is held up may have the store asked whether it is known.
const LOOKUPS: Rate = Rate::per_minute(60);

/// The limits of logins.
#[derive(Debug)]
pub struct Attempts {
    pair: Buckets,
    account: Buckets,
    address: Buckets,
    lookups: Buckets,
    known: Cache<(String, ClientAddress), ()>,
}

/// One attempt to log in.
#[derive(Debug)]
pub struct Attempt<'a> {
    attempts: &'a Attempts,
    account: &'a str,
    address: ClientAddress,
    known: bool,
}

impl Attempts {
    pub(super) fn new(rates: &Rates) -> Self {
        Self {
            pair: Buckets::new(rates.login_account),
            account: Buckets::new(rates.login_strangers),
            address: Buckets::new(rates.login),
            lookups: Buckets::new(LOOKUPS),
            known: Cache::builder().max_capacity(KNOWN).time_to_live(KNOWN_FOR).build(),
        }
    }

    /// Sets other rates from now on.
    pub(super) fn set(&self, rates: &Rates) {
        self.pair.set(rates.login_account);
        self.account.set(rates.login_strangers);
        self.address.set(rates.login);
    }

    /// An attempt at `account`, in the one form of its name.
    pub fn attempt<'a>(&'a self, account: &'a str, address: ClientAddress) -> Attempt<'a> {
        Attempt { attempts: self, account, address, known: false }
    }
}

impl Attempt<'_> {
    /// Whether it may be made: 429 otherwise. `name`: the account's name as it was written.
    pub async fn begin(&mut self, store: &Store, name: &str) -> Result<(), ApiError> {
        self.known = self.attempts.known.get(&self.key()).await.is_some();
        let refused = match self.refused() {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        // Who is known here is told from strangers even by a node that has not seen them yet.
        let stranger = !self.known && self.attempts.pair.check((self.account, self.address)).is_ok();
        if stranger && self.attempts.lookups.take(self.address).is_ok() && self.is_remembered(store, name).await? {
            self.known = true;
            self.attempts.known.insert(self.key(), ()).await;
            return self.check();
        }
        let (reason, TooOften(wait)) = refused;
        Err(ApiError::limited(reason, wait))
    }

    /// Whether it may still be made.
    pub fn check(&self) -> Result<(), ApiError> {
        self.refused().or_else(|(reason, too_often)| limited(reason, Err(too_often)))
    }

    /// Counts a wrong name or password.
    pub fn failed(&self) {
        metrics::counter!("motience_logins_refused_total").increment(1);
        self.attempts.pair.charge((self.account, self.address));
        if !self.known {
            self.attempts.account.charge(self.account);
            self.attempts.address.charge(self.address);
        }
    }

    /// Remembers the address as one that the account logs in from.
    pub async fn succeeded(&self, store: &Store, user: UserId, now: OffsetDateTime) {
        if self.attempts.known.get(&self.key()).await.is_some() {
            return;
        }
        match store.remember_address(user, &self.address.to_string(), now).await {
            Ok(()) => self.attempts.known.insert(self.key(), ()).await,
            Err(e) => warn!(error = %e, "the address of a login could not be remembered"),
        }
    }

    fn refused(&self) -> Result<(), (&'static str, TooOften)> {
        let attempts = self.attempts;
        attempts.pair.check((self.account, self.address)).map_err(|wait| ("login_account", wait))?;
        if self.known {
            return Ok(());
        }
        attempts.account.check(self.account).map_err(|wait| ("login_strangers", wait))?;
        attempts.address.check(self.address).map_err(|wait| ("login", wait))
    }

    async fn is_remembered(&self, store: &Store, name: &str) -> Result<bool, ApiError> {
        let Some(credentials) = store.credentials_meant(name).await? else { return Ok(false) };
        Ok(store.is_known_address(credentials.user.id, &self.address.to_string()).await?)
    }

    fn key(&self) -> (String, ClientAddress) {
        (self.account.to_owned(), self.address)
    }
}
