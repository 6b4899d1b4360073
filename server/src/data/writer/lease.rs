//! The lease of the history writer: in a cluster one node at a time is the leader that writes, by a lease in the database.

use std::{sync::Arc, time::Duration};

use motience_backend::Kind;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use crate::http::Services;

/// The lease's name.
const NAME: &str = "history";
/// How long a lease lasts: another node takes over this long after the holder fell silent.
const LASTS: Duration = Duration::from_secs(10);
/// How often the holder renews it, and how often others try to get it.
const TRY_EVERY: Duration = Duration::from_secs(3);
/// Longest wait for the release when the node stops. The lease ends by itself too.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// The lease of one writer. An embedded node needs none, because no other node can write its history.
pub(super) struct Lease {
    services: Arc<Services>,
    holder: String,
    uncontended: bool,
    /// Time of the next renewal; `None` while the lease is not held.
    pub(super) renew_at: Option<Instant>,
}

impl Lease {
    pub(super) fn new(services: Arc<Services>) -> Self {
        let uncontended = services.backend.kind == Kind::Embedded;
        Self::with(services, uncontended)
    }

    pub(super) fn with(services: Arc<Services>, uncontended: bool) -> Self {
        // A restarted node is another holder, because its earlier lease may still last.
        let holder = format!("{}-{:016x}", services.backend.node, fastrand::u64(..));
        Self { services, holder, uncontended, renew_at: None }
    }

    /// Whether no other node could write.
    pub(super) fn is_uncontended(&self) -> bool {
        self.uncontended
    }

    /// Returns when this writer holds the lease.
    pub(super) async fn acquired(&mut self) {
        while !self.uncontended {
            match self.claim().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(e) => warn!(error = %e, "the lease of the history writer cannot be taken; trying again"),
            }
            sleep(TRY_EVERY).await;
        }
    }

    /// Whether this writer still holds the lease. While the database is away nobody else can take it.
    pub(super) async fn is_held(&mut self) -> bool {
        if self.uncontended || self.renew_at.is_some_and(|at| Instant::now() < at) {
            return true;
        }
        self.claim().await.unwrap_or(true)
    }

    /// Releases the lease, so that another node takes over at once.
    pub(super) async fn release(&mut self) {
        if self.renew_at.take().is_some() {
            let giving = self.services.backend.store.release(NAME, &self.holder);
            if !matches!(timeout(RELEASE_LIMIT, giving).await, Ok(Ok(()))) {
                warn!("the lease of the history writer cannot be released; it ends by itself");
            }
        }
    }

    async fn claim(&mut self) -> Result<bool, motience_store::Error> {
        let backend = &self.services.backend;
        let held = backend.store.lease(NAME, &self.holder, LASTS, backend.clock.now()).await?;
        self.renew_at = held.then(|| Instant::now() + TRY_EVERY);
        Ok(held)
    }
}
