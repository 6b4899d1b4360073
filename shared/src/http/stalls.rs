//! Clients that read nothing: a body that is written by pulling stands still when its client does, and with it the cursor it
//! holds. The connection it is written to ends when one has stood for too long.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// The bodies of one connection that are being written. An extension of each request; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stalls(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By when each body that was given something must be asked for more.
    deadlines: HashMap<u64, Instant>,
    next: u64,
    /// Nobody looks at the deadlines until told that there are any.
    asleep: bool,
}

/// One body; no longer watched when dropped.
#[derive(Debug)]
pub struct Watched {
    stalls: Stalls,
    id: u64,
    limit: Duration,
}

impl Stalls {
    /// Watches a body whose client may leave it standing for `limit`.
    pub fn watch(&self, limit: Duration) -> Watched {
        let mut state = self.lock();
        state.next += 1;
        Watched { stalls: self.clone(), id: state.next, limit }
    }

    /// Returns once a body has stood still for too long. Cancel-safe.
    pub async fn stalled(&self) {
        loop {
            let first = {
                let mut state = self.lock();
                let first = state.deadlines.values().min().copied();
                state.asleep = first.is_none();
                first
            };
            match first {
                Some(first) if first <= Instant::now() => return,
                Some(first) => sleep_until(first).await,
                None => self.0.begun.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// The body was asked for more: whatever it was given is on its way.
    pub fn asked(&self) {
        self.stalls.lock().deadlines.remove(&self.id);
    }

    /// The body was given something to write.
    pub fn given(&self) {
        let mut state = self.stalls.lock();
        state.deadlines.insert(self.id, Instant::now() + self.limit);
        if std::mem::take(&mut state.asleep) {
            self.stalls.0.begun.notify_one();
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.asked();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_body_that_is_not_asked_for_more_stalls() {
        let (stalls, long) = (Stalls::default(), Duration::from_secs(60));
        let (quick, slow) = (stalls.watch(Duration::ZERO), stalls.watch(Duration::from_millis(20)));
        assert!(stalls.stalled().now_or_never().is_none(), "nothing was given yet");
        quick.given();
        quick.asked();
        assert!(stalls.stalled().now_or_never().is_none(), "what was asked for more has not stalled");
        let mut watching = Box::pin(stalls.stalled());
        assert!(watching.as_mut().now_or_never().is_none());
        slow.given();
        timeout(long, watching).await.expect("whoever watched before is told");
        drop(slow);
        assert!(stalls.stalled().now_or_never().is_none(), "what has ended does not stall");
    }
}
