//! The set of a connection's follows, which its control stream, its deliveries and the keeping of its rights share.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use motience_proto::model::{Cursor, CursorName, ProducerId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Follows that are asked for or in force, and those that ended with their subscription.
#[derive(Debug, Default)]
pub(super) struct Active {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How many there have been.
    entered: u64,
    follows: HashMap<ProducerId, Entry>,
    /// Ended with their subscription; the consumer does not know yet.
    ended: BTreeSet<ProducerId>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    number: u64,
    stop: CancellationToken,
    /// The named cursor that its confirmations move.
    pub(super) name: Option<CursorName>,
    /// The last cursor before anything that its pipeline holds.
    pub(super) low_watermark: Arc<Mutex<Option<Cursor>>>,
}

impl Active {
    /// A follow begins; the token is cancelled with its end.
    pub(super) fn enter(&self, producer: ProducerId, name: Option<CursorName>) -> (CancellationToken, Arc<Mutex<Option<Cursor>>>) {
        let mut state = self.state.lock();
        state.ended.remove(&producer);
        state.entered += 1;
        let entry = Entry { number: state.entered, stop: CancellationToken::new(), name, low_watermark: Arc::default() };
        let handles = (entry.stop.clone(), Arc::clone(&entry.low_watermark));
        if let Some(older) = state.follows.insert(producer, entry) {
            older.stop.cancel();
        }
        handles
    }

    pub(super) fn end(&self, producer: ProducerId) {
        let mut state = self.state.lock();
        state.ended.remove(&producer);
        if let Some(follow) = state.follows.remove(&producer) {
            follow.stop.cancel();
        }
    }

    /// How many there have been: to be read before the store is.
    pub(super) fn entered(&self) -> u64 {
        self.state.lock().entered
    }

    /// Ends all that are not allowed among the first `entered` ones: a later one has asked the store for itself.
    pub(super) fn keep(&self, allowed: &HashSet<ProducerId>, entered: u64) {
        let mut guard = self.state.lock();
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

    pub(super) fn take_ended(&self) -> Option<ProducerId> {
        self.state.lock().ended.pop_first()
    }

    pub(super) fn contains(&self, producer: ProducerId) -> bool {
        self.state.lock().follows.contains_key(&producer)
    }

    pub(super) fn len(&self) -> usize {
        self.state.lock().follows.len()
    }

    pub(super) fn get(&self, producer: ProducerId) -> Option<Entry> {
        self.state.lock().follows.get(&producer).cloned()
    }

    pub(super) fn end_all(&self) {
        self.state.lock().follows.values().for_each(|follow| follow.stop.cancel());
    }

    /// Returns when a follow may have ended with its subscription. Cancel-safe.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_ends_only_what_was_there_when_it_began() {
        let active = Active::default();
        let enter = |producer| active.enter(ProducerId(producer), None).0;
        let (stays, goes) = (enter(1), enter(2));
        let entered = active.entered();
        let later = enter(3);
        active.keep(&HashSet::from([ProducerId(1)]), entered);
        assert_eq!([&stays, &goes, &later].map(CancellationToken::is_cancelled), [false, true, false]);
        assert_eq!((active.take_ended(), active.take_ended()), (Some(ProducerId(2)), None), "told once");
        active.end_all();
        assert!(stays.is_cancelled() && later.is_cancelled());
    }
}
