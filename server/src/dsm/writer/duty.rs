//! Whose turn it is to write history: in a cluster one node's at a time, by a lease in the database.

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
/// Longest wait for giving it back when the node stops; it ends by itself too.
const GIVE_BACK_LIMIT: Duration = Duration::from_secs(1);

/// One writer's claim to the lease. The log of an embedded node is its own, and so is the writing of it.
pub(super) struct Duty {
    services: Arc<Services>,
    holder: String,
    alone: bool,
    /// When to renew it; `None` while it is not held.
    pub(super) renew_at: Option<Instant>,
}

impl Duty {
    pub(super) fn new(services: Arc<Services>) -> Self {
        let alone = services.backend.kind == Kind::Embedded;
        Self::with(services, alone)
    }

    pub(super) fn with(services: Arc<Services>, alone: bool) -> Self {
        // A node that starts anew is another holder: it may not take itself for the one whose lease still lasts.
        let holder = format!("{}-{:016x}", services.backend.node, fastrand::u64(..));
        Self { services, holder, alone, renew_at: None }
    }

    /// Whether there is nobody else who could write.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Returns when it is this writer's turn.
    pub(super) async fn taken(&mut self) {
        while !self.alone {
            match self.claim().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(e) => warn!(error = %e, "whose turn it is to write history cannot be seen; trying again"),
            }
            sleep(TRY_EVERY).await;
        }
    }

    /// Whether it still is. While the database is away nobody else can take it.
    pub(super) async fn is_ours(&mut self) -> bool {
        if self.alone || self.renew_at.is_some_and(|at| Instant::now() < at) {
            return true;
        }
        self.claim().await.unwrap_or(true)
    }

    /// Lets another node take over at once.
    pub(super) async fn give_back(&mut self) {
        if self.renew_at.take().is_some() {
            let giving = self.services.backend.store.release(NAME, &self.holder);
            if !matches!(timeout(GIVE_BACK_LIMIT, giving).await, Ok(Ok(()))) {
                warn!("the turn to write history cannot be given back; it ends by itself");
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
