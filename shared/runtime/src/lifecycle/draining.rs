//! Sessions of a node, and how they are asked to leave: in waves, so that they do not all come to another node at once.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// Waves of one drain.
const WAVES: u32 = 32;
/// Time of a spread for each session, so that a node with few sessions is left at once.
const EACH: Duration = Duration::from_millis(5);

/// The sessions of a node. Clones share it.
#[derive(Clone, Debug)]
pub struct Draining(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: CancellationToken,
    waves: Vec<CancellationToken>,
    sessions: TaskTracker,
}

/// A session that will be asked to leave. The session counts as there for as long as this lives.
#[derive(Debug)]
pub struct Leave {
    wave: CancellationToken,
    _there: TaskTrackerToken,
}

impl Leave {
    /// Cancelled when the session is to leave.
    pub fn asked(&self) -> &CancellationToken {
        &self.wave
    }
}

impl Draining {
    /// Sessions that are asked to leave at the latest when `soft` is cancelled.
    pub(super) fn under(soft: &CancellationToken) -> Self {
        let waves = (0..WAVES).map(|_| soft.child_token()).collect();
        Self(Arc::new(Inner { begun: soft.child_token(), waves, sessions: TaskTracker::new() }))
    }

    /// Cancelled when the first session is asked to leave: from then on the node takes no new one.
    pub fn begun(&self) -> &CancellationToken {
        &self.0.begun
    }

    /// Sessions that are there.
    pub fn sessions(&self) -> usize {
        self.0.sessions.len()
    }

    /// Counts a session in. One that comes during a drain is asked to leave at once.
    pub fn enter(&self) -> Leave {
        let Inner { begun, waves, sessions } = &*self.0;
        let wave = if begun.is_cancelled() { begun } else { fastrand::choice(waves).unwrap_or(begun) };
        Leave { wave: wave.clone(), _there: sessions.token() }
    }

    /// Asks all sessions to leave within `spread`, or within a shorter time where they are few.
    pub(super) async fn ask(&self, spread: Duration) {
        let Inner { begun, waves, sessions } = &*self.0;
        begun.cancel();
        sessions.close();
        let spread = spread.min(EACH * u32::try_from(sessions.len()).unwrap_or(u32::MAX));
        for wave in waves.iter().filter(|wave| !wave.is_cancelled()) {
            wave.cancel();
            // Once nobody is left there is nobody to spread.
            let _ = timeout(spread / WAVES, sessions.wait()).await;
        }
    }
}

impl Default for Draining {
    fn default() -> Self {
        Self::under(&CancellationToken::new())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn sessions_are_asked_one_wave_after_the_other() {
        let draining = Draining::default();
        let there: Vec<Leave> = (0..1000).map(|_| draining.enter()).collect();
        let asked = || there.iter().filter(|leave| leave.asked().is_cancelled()).count();
        let (spread, began) = (Duration::from_millis(640), Instant::now());
        let mut asking = std::pin::pin!(draining.ask(spread));
        let mut steps = std::collections::BTreeSet::new();
        while timeout(Duration::from_millis(1), &mut asking).await.is_err() {
            assert!(draining.enter().asked().is_cancelled(), "whoever comes now is asked at once");
            steps.insert(asked());
        }
        assert!(began.elapsed() >= spread && asked() == 1000, "{:?}", began.elapsed());
        // A busy machine lets several waves go by between two looks.
        assert!(steps.len() > 4 && steps.first().is_some_and(|few| *few < 500), "{steps:?}");
    }

    #[tokio::test]
    async fn few_sessions_or_none_make_a_drain_short() {
        let (draining, hour) = (Draining::default(), Duration::from_secs(3600));
        let one = draining.enter();
        draining.ask(hour).await;
        assert!(one.asked().is_cancelled());
        assert_eq!(draining.sessions(), 1);
        drop(one);
        draining.ask(hour).await;
        assert_eq!(draining.sessions(), 0);
    }
}
