//! The queue for password hashes. So many run at once and a bounded number waits; accounts take turns, so that a flood of logins to one
//! account delays the others by one hash.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use motience_runtime::histogram;
use motience_settings::env::settings;
use parking_lot::{Mutex, MutexGuard};
use tokio::{sync::oneshot, time::timeout};

use super::Error;

settings! {
    /// How much may be hashed at once, and who may wait for it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HashLimits {
        /// Passwords hashed at once. The default is one less than there are processors, so that one is left to live traffic.
        PASSWORD_HASHES => at_once: Option<usize>, > 0;
        /// Logins that may wait for a password to be hashed, half of them to one account.
        PASSWORD_QUEUE = "1024" => queue: usize, "2"..="1000000";
        /// Longest wait for it.
        PASSWORD_WAIT = "20s" => wait: Duration, > 0;
    }
}

/// The queue. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct HashQueue {
    state: Arc<Mutex<State>>,
    hasher: RandomState,
    limits: HashLimits,
}

#[derive(Debug)]
struct State {
    /// Hashes that may begin now; nobody waits while there are any.
    free: usize,
    /// Waiting callers by account. The account at the front is next, and then goes to the back.
    accounts: VecDeque<(u64, VecDeque<oneshot::Sender<()>>)>,
}

/// A caller in the queue; dropped, it leaves the queue.
#[derive(Debug)]
pub struct Waiter {
    queue: HashQueue,
    /// Resolves when the caller's turn comes; `None`: the turn has come.
    granted: Option<oneshot::Receiver<()>>,
    used: bool,
}

/// The right to hash one password at a time. The caller keeps the turn until the outcome is counted, so that the next caller sees the
/// count. The work keeps the turn too: a caller that leaves does not stop it, and must not let another hash start beside it.
#[derive(Clone, Debug)]
pub struct Turn {
    _held: Arc<Held>,
}

#[derive(Debug)]
struct Held(HashQueue);

impl HashQueue {
    pub(super) fn new(limits: HashLimits) -> Self {
        let state = State { free: limits.at_once(), accounts: VecDeque::new() };
        Self { state: Arc::new(Mutex::new(state)), hasher: RandomState::new(), limits }
    }

    /// Enters the queue for `account`; fails at once with [`Error::Busy`] where the queue is full.
    pub(super) fn enqueue(&self, account: &str) -> Result<Waiter, Error> {
        let key = self.hasher.hash_one(account);
        let mut state = self.state();
        let granted = if state.free > 0 {
            state.free -= 1;
            None
        } else {
            Some(state.enter(key, self.limits.queue).inspect_err(|_| refused("password_queue"))?)
        };
        drop(state);
        Ok(Waiter { queue: self.clone(), granted, used: false })
    }

    /// Callers that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.state().accounts.iter().map(|(_, waiting)| waiting.len()).sum()
    }

    fn release(&self) {
        let mut state = self.state();
        // A caller that has left does not answer; the turn goes to the next.
        while let Some(next) = state.leave() {
            if next.send(()).is_ok() {
                return;
            }
        }
        state.free += 1;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn enter(&mut self, key: u64, queue: usize) -> Result<oneshot::Receiver<()>, Error> {
        let is_full = |state: &Self| {
            let all: usize = state.accounts.iter().map(|(_, waiting)| waiting.len()).sum();
            let mine = state.accounts.iter().find(|(account, _)| *account == key).map_or(0, |(_, waiting)| waiting.len());
            all >= queue || mine >= queue.div_ceil(2)
        };
        if is_full(self) {
            // Callers that have left take no room.
            self.accounts.iter_mut().for_each(|(_, waiting)| waiting.retain(|caller| !caller.is_closed()));
            self.accounts.retain(|(_, waiting)| !waiting.is_empty());
            if is_full(self) {
                return Err(Error::Busy);
            }
        }
        let (grant, granted) = oneshot::channel();
        match self.accounts.iter_mut().find(|(account, _)| *account == key) {
            Some((_, waiting)) => waiting.push_back(grant),
            None => self.accounts.push_back((key, VecDeque::from([grant]))),
        }
        Ok(granted)
    }

    fn leave(&mut self) -> Option<oneshot::Sender<()>> {
        let (key, mut waiting) = self.accounts.pop_front()?;
        let next = waiting.pop_front();
        if !waiting.is_empty() {
            self.accounts.push_back((key, waiting));
        }
        next
    }
}

impl Waiter {
    /// Waits for the caller's turn.
    pub async fn turn(mut self) -> Result<Turn, Error> {
        let begun = Instant::now();
        if let Some(granted) = &mut self.granted {
            match timeout(self.queue.limits.wait, granted).await {
                Ok(granted) => granted.map_err(|_| Error::Internal)?,
                Err(_) => {
                    refused("password_wait");
                    return Err(Error::Busy);
                }
            }
        }
        self.used = true;
        histogram!("motience_password_seconds", "step" => "wait").since(begun);
        Ok(Turn { _held: Arc::new(Held(self.queue.clone())) })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let has_turn = match &mut self.granted {
            None => true,
            Some(granted) => {
                granted.close();
                granted.try_recv().is_ok()
            }
        };
        if has_turn && !self.used {
            self.queue.release();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.release();
    }
}

fn refused(reason: &'static str) {
    metrics::counter!("motience_limited_total", "reason" => reason).increment(1);
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn hash_queue(at_once: usize, queue: usize, wait: Duration) -> HashQueue {
        HashQueue::new(HashLimits { at_once: Some(at_once), queue, wait })
    }

    fn free(queue: &HashQueue) -> usize {
        queue.state().free
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_one_account_has_half_of_it() {
        let queue = hash_queue(1, 4, Duration::from_secs(60));
        let running = queue.enqueue("a").unwrap().turn().await.unwrap();
        let mut waiting = vec![queue.enqueue("a").unwrap(), queue.enqueue("a").unwrap()];
        assert!(matches!(queue.enqueue("a"), Err(Error::Busy)), "half is this account's");
        waiting.extend([queue.enqueue("b").unwrap(), queue.enqueue("c").unwrap()]);
        assert!(matches!(queue.enqueue("d"), Err(Error::Busy)), "the queue is full");
        waiting.pop();
        let d = queue.enqueue("d").expect("a caller that has left takes no room");
        drop((waiting, running));
        d.turn().await.unwrap();
        assert_eq!(free(&queue), 1);
    }

    #[tokio::test]
    async fn accounts_take_turns() {
        let queue = hash_queue(1, 100, Duration::from_secs(60));
        let mut running = queue.enqueue("flood").unwrap().turn().await.unwrap();
        let mut flood: Vec<_> = (0..40).map(|_| Box::pin(queue.enqueue("flood").unwrap().turn())).collect();
        let mut owner = Box::pin(queue.enqueue("owner").unwrap().turn());
        let mut hashes = 0;
        loop {
            drop(running);
            if owner.as_mut().now_or_never().is_some() {
                break;
            }
            running = flood.iter_mut().find_map(|caller| caller.as_mut().now_or_never()).expect("it is somebody's turn").unwrap();
            // Each is polled once more only while it waits.
            drop(flood.remove(0));
            hashes += 1;
        }
        assert_eq!(hashes, 1, "the owner waited for one hash of the flood");
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_is_free_again() {
        let queue = hash_queue(1, 4, Duration::from_secs(60));
        let running = queue.enqueue("a").unwrap().turn().await.unwrap();
        let mut leaving = Box::pin(queue.enqueue("b").unwrap().turn());
        assert!(leaving.as_mut().now_or_never().is_none(), "no more than one runs at once");
        let staying = queue.enqueue("c").unwrap();
        drop(running);
        // A caller whose turn has come leaves without taking it.
        drop(leaving);
        drop(staying.turn().await.unwrap());
        assert_eq!(free(&queue), 1);
        drop(queue.enqueue("a").unwrap());
        assert_eq!(free(&queue), 1);
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told() {
        let queue = hash_queue(0, 4, Duration::from_millis(10));
        assert!(matches!(queue.enqueue("a").unwrap().turn().await, Err(Error::Busy)));
    }
}
