//! A lease: one node at a time does a duty, by a row in the database that all nodes share.
//!
//! A lease spares work, it proves nothing: a holder may sleep past its end. The duty itself must be harmless when two do it.

use std::time::Duration;

use motience_runtime::clock::Clock;
use motience_store::{Error, Store};
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

/// How long a lease lasts: another node takes over this long after the holder fell silent.
const LASTS: Duration = Duration::from_secs(10);
/// How often the holder renews it, and how often others try to get it.
const TRY_EVERY: Duration = Duration::from_secs(3);
/// Longest wait for the release when the node stops. The lease ends by itself too.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// A node's hold on one lease.
#[derive(Debug)]
pub struct Lease {
    name: &'static str,
    holder: String,
    /// `None`: no other node could hold it.
    store: Option<Store>,
    clock: Clock,
    /// Time of the next renewal; `None` while the lease is not held.
    renew_at: Option<Instant>,
}

impl Lease {
    /// The lease called `name`, for the node called `node`; not held yet.
    pub fn new(name: &'static str, node: &str, store: Store, clock: Clock) -> Self {
        // A restarted node is another holder, because its earlier lease may still last.
        let holder = format!("{node}-{:016x}", fastrand::u64(..));
        Self { name, holder, store: Some(store), clock, renew_at: None }
    }

    /// A lease that is held at once and always, because this node is the only one.
    pub fn uncontended(name: &'static str, clock: Clock) -> Self {
        Self { name, holder: String::new(), store: None, clock, renew_at: None }
    }

    /// Whether no other node could hold it.
    pub fn is_uncontended(&self) -> bool {
        self.store.is_none()
    }

    /// Returns when this node holds the lease.
    pub async fn acquired(&mut self) {
        loop {
            match self.claim().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(e) => warn!(error = %e, lease = self.name, "a lease cannot be taken; trying again"),
            }
            sleep(TRY_EVERY).await;
        }
    }

    /// Whether this node still holds the lease. While the database is away nobody else can take it.
    pub async fn is_held(&mut self) -> bool {
        if self.renew_at.is_some_and(|at| Instant::now() < at) {
            return true;
        }
        self.claim().await.unwrap_or(true)
    }

    /// Releases the lease, so that another node takes over at once.
    pub async fn release(&mut self) {
        if let (Some(store), Some(_)) = (&self.store, self.renew_at.take())
            && !matches!(timeout(RELEASE_LIMIT, store.release(self.name, &self.holder)).await, Ok(Ok(())))
        {
            warn!(lease = self.name, "a lease cannot be released; it ends by itself");
        }
    }

    async fn claim(&mut self) -> Result<bool, Error> {
        let Some(store) = &self.store else { return Ok(true) };
        let held = store.lease(self.name, &self.holder, LASTS, self.clock.now()).await?;
        self.renew_at = held.then(|| Instant::now() + TRY_EVERY);
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_runtime::clock::from_millis;
    use motience_store::Config;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn another_node_takes_over_when_the_holder_falls_silent() {
        let (clock, time) = Clock::manual(from_millis(1_000_000_000_000));
        let store = Store::open(&Config::SqliteMemory).await.unwrap();
        let lease = |node| Lease::new("work", node, store.clone(), clock.clone());
        let (mut first, mut second) = (lease("a"), lease("b"));
        timeout(LIMIT, first.acquired()).await.expect("nobody has it");
        assert!(first.is_held().await);
        assert!(!second.is_held().await);
        let mut waiting = Box::pin(second.acquired());
        assert!(timeout(Duration::from_millis(50), &mut waiting).await.is_err());
        time.advance(LASTS + Duration::from_secs(1));
        timeout(LIMIT, waiting).await.expect("the lease has ended");
        first.renew_at = None;
        assert!(!first.is_held().await, "the first one learns of it");
        // A released lease can be taken at once, and another's is left alone.
        first.release().await;
        assert!(!first.is_held().await);
        second.release().await;
        assert!(first.is_held().await);
        let mut alone = Lease::uncontended("work", clock.clone());
        timeout(LIMIT, alone.acquired()).await.expect("at once");
        assert!(alone.is_held().await && alone.is_uncontended());
    }
}
