//! The follows of one connection that has a reader for each: ended by the consumer, who says so on its control stream, or by the
//! end of a subscription, which must not wait for that stream.

use std::collections::{BTreeSet, HashMap, HashSet};

use motience_proto::model::{CursorName, ProducerId};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Those that there are, and those that ended with their subscription.
#[derive(Debug, Default)]
pub struct Follows {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many there have been.
    entered: u64,
    follows: HashMap<ProducerId, Follow>,
    /// Ended with their subscription: the consumer is to be told. As many as it followed at most.
    ended: BTreeSet<ProducerId>,
}

#[derive(Debug)]
struct Follow {
    number: u64,
    stop: CancellationToken,
    /// The durable cursor that its confirmations move.
    name: Option<CursorName>,
}

impl Follows {
    /// A follow begins; what is returned is cancelled with its end.
    pub fn enter(&self, producer: ProducerId, name: Option<CursorName>) -> CancellationToken {
        let stop = CancellationToken::new();
        let mut state = self.state();
        state.ended.remove(&producer);
        state.entered += 1;
        let follow = Follow { number: state.entered, stop: stop.clone(), name };
        if let Some(older) = state.follows.insert(producer, follow) {
            older.stop.cancel();
        }
        stop
    }

    /// Ends one, if it is there.
    pub fn end(&self, producer: ProducerId) {
        let mut state = self.state();
        state.ended.remove(&producer);
        if let Some(follow) = state.follows.remove(&producer) {
            follow.stop.cancel();
        }
    }

    /// How many there have been: to be read before the store is.
    pub(super) fn entered(&self) -> u64 {
        self.state().entered
    }

    /// Ends all that are not allowed among the first `entered` ones: whoever came later has asked for itself.
    pub(super) fn keep(&self, allowed: &HashSet<ProducerId>, entered: u64) {
        let mut guard = self.state();
        let State { follows, ended, .. } = &mut *guard;
        follows.retain(|producer, follow| {
            let stays = follow.number > entered || allowed.contains(producer);
            if !stays {
                follow.stop.cancel();
                ended.insert(*producer);
            }
            stays
        });
        if !ended.is_empty() {
            self.ended.notify_one();
        }
    }

    /// Those that ended with their subscription, once.
    pub fn take_ended(&self) -> BTreeSet<ProducerId> {
        std::mem::take(&mut self.state().ended)
    }

    /// Returns when there may be any. Cancel-safe.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Whether this producer is followed.
    pub fn contains(&self, producer: ProducerId) -> bool {
        self.state().follows.contains_key(&producer)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.state().follows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The durable cursor of a follow.
    pub fn durable(&self, producer: ProducerId) -> Option<CursorName> {
        self.state().follows.get(&producer)?.name.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Follows {
    fn drop(&mut self) {
        self.state().follows.values().for_each(|follow| follow.stop.cancel());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_ends_only_what_was_there_when_it_began() {
        let follows = Follows::default();
        let (stays, goes) = (follows.enter(ProducerId(1), None), follows.enter(ProducerId(2), None));
        let entered = follows.entered();
        let later = follows.enter(ProducerId(3), None);
        follows.keep(&HashSet::from([ProducerId(1)]), entered);
        assert_eq!([&stays, &goes, &later].map(CancellationToken::is_cancelled), [false, true, false]);
        assert_eq!(follows.take_ended(), BTreeSet::from([ProducerId(2)]));
        assert!(follows.take_ended().is_empty(), "told once");
        drop(follows);
        assert!(stays.is_cancelled() && later.is_cancelled());
    }
}
