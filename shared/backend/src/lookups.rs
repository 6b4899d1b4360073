//! Lookups in the database for callers that the node does not know yet: few at once, since whoever makes callers up must not keep the database from
//! its other work, and none for long.

use std::{sync::Arc, time::Duration};

use motience_auth as auth;
use motience_store as store;
use tokio::{sync::Semaphore, time::timeout};
use tracing::warn;

/// Lookups of one kind at once.
const AT_ONCE: usize = 4;

/// The lookups of one kind. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    /// The thing that is looked up, for messages.
    what: &'static str,
    /// Longest wait for one, its turn included.
    limit: Duration,
    turns: Arc<Semaphore>,
}

impl Lookups {
    pub(crate) fn new(what: &'static str, limit: Duration) -> Self {
        Self { what, limit, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Looks something up when it is its turn.
    pub(crate) async fn look<T>(&self, looked: impl Future<Output = Result<T, store::Error>>) -> Result<T, auth::Error> {
        let in_turn = async {
            // Never closed.
            let _turn = self.turns.acquire().await;
            looked.await
        };
        match timeout(self.limit, in_turn).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => {
                warn!(%error, what = self.what, "a caller cannot be looked up");
                Err(auth::Error::Unavailable)
            }
            Err(_) => Err(auth::Error::Unavailable),
        }
    }
}
