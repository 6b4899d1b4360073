//! Limits of one account: requests in a minute, requests at once, and a share of the node's readers of history.
//!
//! Records on their way in are no part of it, as their log's writer sets the pace; nor is what asks nothing of database and log.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use motience_auth::{Grant, spare_processors};
use motience_http::{ApiError, bearer};
use motience_limits::{
    permits::give_back,
    quota::{Quotas, Unit},
    rate::Buckets,
};
use motience_proto::model::UserId;
use motience_runtime::origin;
use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    Config, Shared,
    rates::{Rates, limited},
};

/// Time after which an account with too many requests in progress may ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait of a reader of history for the others.
const READER_WAIT: Duration = Duration::from_secs(10);

/// The limits of requests.
#[derive(Debug)]
pub struct Requests {
    quotas: Quotas,
    all: Buckets,
    history: Buckets,
    in_progress: Arc<Mutex<HashMap<UserId, usize>>>,
    most: usize,
    readers: Arc<Semaphore>,
}

/// A request in progress.
pub(crate) struct InProgress {
    user: UserId,
    counts: Arc<Mutex<HashMap<UserId, usize>>>,
}

/// The cost of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing that is worth counting, or what is limited otherwise.
    Free,
    Plain,
    /// Much: a part of a log is read through.
    History,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path.split('/').find(|segment| !segment.is_empty()) {
            None | Some("data" | "verify" | "login" | "refresh" | "register" | "registration" | "logout") => Self::Free,
            Some("history") => Self::History,
            Some(_) => Self::Plain,
        }
    }
}

impl Requests {
    pub(super) fn new(config: &Config, quotas: Quotas) -> Self {
        Self {
            quotas,
            all: Buckets::new(config.rates.requests),
            history: Buckets::new(config.rates.history),
            in_progress: Arc::default(),
            most: config.requests_each,
            readers: Arc::new(Semaphore::new(config.history_readers.unwrap_or_else(spare_processors))),
        }
    }

    /// Sets other rates from now on.
    pub(super) fn set(&self, rates: &Rates) {
        self.all.set(rates.requests);
        self.history.set(rates.history);
    }

    fn enter(&self, grant: &Grant, kind: Kind) -> Result<InProgress, ApiError> {
        self.quotas.of(grant.user).take(&[(Unit::Requests, 1)])?;
        limited("requests", self.all.take(grant.user))?;
        if kind == Kind::History {
            limited("history", self.history.take(grant.user))?;
        }
        self.count(grant.user)
    }

    /// Counts a request that brought its token where [`per_account`] does not look.
    pub(crate) fn plain(&self, grant: &Grant) -> Result<InProgress, ApiError> {
        self.enter(grant, Kind::Plain)
    }

    /// The right to read a part of a log through; waits for its turn. Whoever holds one waits for nothing that its client could hold up.
    pub(crate) async fn reader(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let reader = timeout(READER_WAIT, Arc::clone(&self.readers).acquire_owned()).await;
        reader.ok().and_then(Result::ok).ok_or_else(|| {
            metrics::counter!("motience_limited_total", "reason" => "history_readers").increment(1);
            ApiError::unavailable("busy", "The history is being read by too many. Try again in a moment.")
        })
    }

    fn count(&self, user: UserId) -> Result<InProgress, ApiError> {
        let mut counts = self.in_progress.lock();
        let count = counts.entry(user).or_default();
        if *count >= self.most {
            return Err(ApiError::limited("requests_at_once", RETRY_AFTER));
        }
        *count += 1;
        Ok(InProgress { user, counts: Arc::clone(&self.in_progress) })
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        give_back(&mut self.counts.lock(), Some(self.user));
    }
}

/// Holds the account that asks to its limits: 429. The grant goes on with the request, so that its token is checked once. Who asks
/// without a good token is refused behind it.
pub(crate) async fn per_account(State(services): State<Shared>, mut request: Request, next: Next) -> Response {
    let kind = Kind::of(request.uri().path());
    let token = bearer(request.headers()).filter(|_| kind != Kind::Free).map(str::to_owned);
    let grant = match token {
        Some(token) => services.backend.authenticate(&token).await.ok(),
        None => None,
    };
    let Some(grant) = grant else { return next.run(request).await };
    origin::is_of(grant.user.0);
    match services.limiters.requests.enter(&grant, kind) {
        Ok(_in_progress) => {
            request.extensions_mut().insert(grant);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dear_is_known_by_its_path() {
        for (path, kind) in [
            ("/history/7", Kind::History),
            ("/streams", Kind::Plain),
            ("/subscribe", Kind::Plain),
            ("/accounts/7/revoke", Kind::Plain),
            ("/data", Kind::Free),
            ("/verify", Kind::Free),
            ("/login", Kind::Free),
        ] {
            assert_eq!(Kind::of(path), kind, "{path}");
        }
    }
}
