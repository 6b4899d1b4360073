//! How long a connection may stand still: before its first request, between requests, and while an answer is owed to it.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

/// How long a client may still take what it was given of an answer when its right to it has ended.
const GRACE: Duration = Duration::from_millis(500);
/// Number of the deadline that no answer has: the connection's own.
const CONNECTION: u64 = 0;

/// Answers in progress on one connection, and their deadlines. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Stalls(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    waits: Waits,
    state: Mutex<State>,
    /// Something is due sooner than [`State::asleep_until`].
    sooner: Notify,
}

/// The limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// From the connection's beginning to its first request.
    pub(super) first: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// For the client to take a piece of an answer.
    pub(super) write: Duration,
}

/// Why a connection has stood still for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The client has not asked for anything.
    Silent,
    /// The client asks for nothing more.
    Idle,
    /// The client does not take its answer.
    Stalled,
}

impl Overdue {
    /// As the metrics say it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
        }
    }
}

#[derive(Debug)]
struct State {
    /// By when each body that was given a piece must be asked for the next.
    deadlines: HashMap<u64, Instant>,
    next: u64,
    /// Requests that have no whole answer yet.
    under_way: usize,
    spoken: bool,
    /// Since when nothing is under way.
    quiet_since: Instant,
    /// When whoever waits for what is overdue looks again by itself; `None`: never.
    asleep_until: Option<Instant>,
}

/// One request, until its answer is written or given up.
#[derive(Debug)]
pub(super) struct UnderWay {
    stalls: Stalls,
    id: u64,
}

/// The answer to one request, for a handler whose client may lose its right to it. An extension of each request; cheap to clone.
#[derive(Clone, Debug)]
pub struct Answer {
    stalls: Stalls,
    id: u64,
    /// Whether its connection carries nothing beside it.
    alone: bool,
}

impl Answer {
    /// One with a stream of its own, and the end that [`Self::over`] brings it.
    pub fn on_its_own() -> (Self, impl Future<Output = ()> + Send) {
        // While a request is under way that was given nothing, nothing else is due.
        let stalls = Stalls::new(Waits { first: Duration::ZERO, idle: Duration::ZERO, write: Duration::ZERO });
        let under_way = stalls.begin();
        let answer = under_way.answer(true);
        let over = async move {
            stalls.overdue().await;
            drop(under_way);
        };
        (answer, over)
    }

    /// Ends the right to the answer. The client has to take soon the part that it was given. A connection that carries nothing else ends soon too,
    /// whatever the client takes.
    pub fn over(&self) {
        let mut state = self.stalls.lock();
        let at = Instant::now() + GRACE;
        if self.alone {
            state.deadlines.insert(CONNECTION, at);
        } else if let Some(deadline) = state.deadlines.get_mut(&self.id) {
            *deadline = at;
        } else {
            return;
        }
        self.stalls.due(&mut state, at);
    }
}

impl Stalls {
    pub(super) fn new(waits: Waits) -> Self {
        let state =
            State { deadlines: HashMap::new(), next: 0, under_way: 0, spoken: false, quiet_since: Instant::now(), asleep_until: None };
        Self(Arc::new(Inner { waits, state: Mutex::new(state), sooner: Notify::new() }))
    }

    /// A request has come.
    pub(super) fn begin(&self) -> UnderWay {
        let mut state = self.lock();
        state.spoken = true;
        state.under_way += 1;
        state.next += 1;
        UnderWay { stalls: self.clone(), id: state.next }
    }

    /// Returns once the connection has stood still for too long. Cancel-safe.
    pub(super) async fn overdue(&self) -> Overdue {
        loop {
            let until = {
                let mut state = self.lock();
                let first = state.first(&self.0.waits);
                if let Some((at, why)) = first
                    && at <= Instant::now()
                {
                    return why;
                }
                state.asleep_until = first.map(|(at, _)| at);
                state.asleep_until
            };
            match until {
                Some(at) => tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.0.sooner.notified() => {}
                },
                None => self.0.sooner.notified().await,
            }
        }
    }

    fn due(&self, state: &mut State, at: Instant) {
        if state.asleep_until.is_none_or(|until| at < until) {
            state.asleep_until = Some(at);
            self.0.sooner.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }
}

impl State {
    /// First deadline, unless something changes before.
    fn first(&self, waits: &Waits) -> Option<(Instant, Overdue)> {
        let quiet = match (self.spoken, self.under_way) {
            (false, _) => Some((self.quiet_since + waits.first, Overdue::Silent)),
            (true, 0) => Some((self.quiet_since + waits.idle, Overdue::Idle)),
            (true, _) => None,
        };
        let stalled = self.deadlines.values().min().map(|&at| (at, Overdue::Stalled));
        [stalled, quiet].into_iter().flatten().min_by_key(|&(at, _)| at)
    }
}

impl UnderWay {
    /// Its answer. `alone`: whether the connection carries nothing beside it.
    pub(super) fn answer(&self, alone: bool) -> Answer {
        Answer { stalls: self.stalls.clone(), id: self.id, alone }
    }

    /// The answer was asked for more: whatever it gave is on its way.
    pub(super) fn asked(&self) {
        self.stalls.lock().deadlines.remove(&self.id);
    }

    /// The answer gave something to write.
    pub(super) fn given(&self) {
        let mut state = self.stalls.lock();
        let at = Instant::now() + self.stalls.0.waits.write;
        state.deadlines.insert(self.id, at);
        self.stalls.due(&mut state, at);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.stalls.lock();
        state.deadlines.remove(&self.id);
        state.under_way -= 1;
        if state.under_way == 0 {
            state.quiet_since = Instant::now();
            let at = state.quiet_since + self.stalls.0.waits.idle;
            self.stalls.due(&mut state, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const NEVER: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(20);

    fn overdue(stalls: &Stalls) -> Option<Overdue> {
        stalls.overdue().now_or_never()
    }

    #[tokio::test]
    async fn an_answer_that_is_not_asked_for_more_stalls() {
        let stalls = Stalls::new(Waits { first: Duration::ZERO, idle: Duration::ZERO, write: SOON });
        let (quick, slow) = (stalls.begin(), stalls.begin());
        assert_eq!(overdue(&stalls), None, "nothing was given yet, and a request may take its time");
        quick.given();
        quick.asked();
        let mut watching = Box::pin(stalls.overdue());
        assert_eq!(watching.as_mut().now_or_never(), None, "what was asked for more does not stall");
        slow.given();
        assert_eq!(watching.await, Overdue::Stalled, "whoever watched before is told");
        drop(slow);
        assert_eq!(overdue(&stalls), None, "what has ended does not stall");
        drop(quick);
        assert_eq!(overdue(&stalls), Some(Overdue::Idle));
    }

    #[tokio::test]
    async fn the_end_of_a_right_ends_what_is_not_taken() {
        let stalls = Stalls::new(Waits { first: NEVER, idle: NEVER, write: NEVER });
        let soon = |stalls: &Stalls| stalls.lock().deadlines.values().any(|deadline| *deadline <= Instant::now() + GRACE);
        let (taken, standing) = (stalls.begin(), stalls.begin());
        standing.given();
        let mut watching = Box::pin(stalls.overdue());
        assert_eq!(watching.as_mut().now_or_never(), None);
        taken.answer(false).over();
        assert!(!soon(&stalls), "an answer that was taken leaves the others alone");
        standing.answer(false).over();
        assert_eq!(watching.await, Overdue::Stalled, "one that stands does not, and whoever waited for the hour is told");
        let only = Stalls::new(Waits { first: NEVER, idle: NEVER, write: NEVER });
        let request = only.begin();
        request.answer(true).over();
        assert_eq!(only.overdue().await, Overdue::Stalled, "a connection with nothing else ends");
        let (answer, end) = Answer::on_its_own();
        let mut end = Box::pin(end);
        assert_eq!(end.as_mut().now_or_never(), None);
        answer.over();
        end.await;
    }

    #[tokio::test]
    async fn a_connection_that_asks_for_nothing_is_silent_and_later_idle() {
        let silent = Stalls::new(Waits { first: SOON, idle: NEVER, write: NEVER });
        assert_eq!(silent.overdue().await, Overdue::Silent);
        drop(silent.begin());
        assert_eq!(overdue(&silent), None, "it has spoken");
        let idle = Stalls::new(Waits { first: NEVER, idle: SOON, write: NEVER });
        let request = idle.begin();
        let mut watching = Box::pin(idle.overdue());
        assert_eq!(watching.as_mut().now_or_never(), None);
        drop(request);
        assert_eq!(watching.await, Overdue::Idle, "whoever watched before is told");
    }
}
