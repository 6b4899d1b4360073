//! The set of a connection's follows, which its control stream, its deliveries and the keeping of its rights share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use motience_proto::model::{Cursor, CursorName, ProducerId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{allowance::Allowance, scope::Scope};

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
    /// Ended with their subscription, and why; the consumer does not know yet.
    ended: BTreeMap<ProducerId, &'static str>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    number: u64,
    /// Cancelled with the end of the follow.
    pub(super) stop: CancellationToken,
    /// The right that it delivers by.
    pub(super) right: Arc<FollowRight>,
    /// The named cursor that its confirmations move.
    pub(super) name: Option<CursorName>,
    /// The last cursor before anything that its pipeline holds.
    pub(super) low_watermark: Arc<Mutex<Option<Cursor>>>,
}

/// The right of one follow, as it changes: shared by its pipeline and the keeping of the connection's rights.
#[derive(Debug, Default)]
pub(super) struct FollowRight {
    changes: AtomicU64,
    allowance: Mutex<Option<Allowance>>,
}

impl FollowRight {
    /// How often it has changed.
    pub(super) fn version(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The right to begin with, unless a later look at the store has told another.
    pub(super) fn begin(&self, allowance: Allowance) -> Allowance {
        self.allowance.lock().get_or_insert(allowance).clone()
    }

    /// The right in force.
    pub(super) fn allowance(&self) -> Allowance {
        self.allowance.lock().clone().unwrap_or_default()
    }

    fn scope(&self) -> Option<Arc<Scope>> {
        self.allowance.lock().as_ref()?.scope.clone()
    }

    fn set(&self, allowance: &Allowance) {
        let mut mine = self.allowance.lock();
        if mine.as_ref().is_none_or(|mine| !mine.is_like(allowance.scope.as_ref())) {
            *mine = Some(allowance.clone());
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Active {
    /// A follow begins.
    pub(super) fn enter(&self, producer: ProducerId, name: Option<CursorName>) -> Entry {
        let mut state = self.state.lock();
        state.ended.remove(&producer);
        state.entered += 1;
        let (stop, right, low_watermark) = Default::default();
        let entry = Entry { number: state.entered, stop, right, name, low_watermark };
        if let Some(older) = state.follows.insert(producer, entry.clone()) {
            older.stop.cancel();
        }
        entry
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

    /// The scope of a follow as it was told last.
    pub(super) fn scope(&self, producer: ProducerId) -> Option<Arc<Scope>> {
        self.state.lock().follows.get(&producer)?.right.scope()
    }

    /// Tells the first `entered` follows their rights, and ends those that have none: a later one has asked the store for itself. Returns
    /// whose have ended.
    pub(super) fn keep(&self, allowed: &HashMap<ProducerId, Allowance>, entered: u64) -> Vec<ProducerId> {
        let mut ended = Vec::new();
        self.state.lock().follows.retain(|producer, follow| {
            if follow.number > entered {
                return true;
            }
            match allowed.get(producer) {
                Some(allowance) => follow.right.set(allowance),
                None => {
                    follow.stop.cancel();
                    ended.push(*producer);
                }
            }
            allowed.contains_key(producer)
        });
        ended
    }

    /// Has the consumer told that a follow has ended, and why; not where there is a new one by now.
    pub(super) fn tell(&self, producer: ProducerId, why: &'static str) {
        let mut state = self.state.lock();
        if !state.follows.contains_key(&producer) {
            state.ended.insert(producer, why);
            self.ended.notify_one();
        }
    }

    /// Ends the follow that this token is cancelled with, and has the consumer told why.
    pub(super) fn shut(&self, producer: ProducerId, stop: &CancellationToken, why: &'static str) {
        if stop.is_cancelled() {
            return;
        }
        self.end(producer);
        self.tell(producer, why);
    }

    pub(super) fn take_ended(&self) -> Option<(ProducerId, &'static str)> {
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
        let enter = |producer| active.enter(ProducerId(producer), None).stop;
        let (stays, goes) = (enter(1), enter(2));
        let entered = active.entered();
        let later = enter(3);
        let ended = active.keep(&HashMap::from([(ProducerId(1), Allowance::default())]), entered);
        assert_eq!(ended, [ProducerId(2)]);
        assert_eq!([&stays, &goes, &later].map(CancellationToken::is_cancelled), [false, true, false]);
        active.tell(ProducerId(2), "revoked");
        active.tell(ProducerId(3), "revoked");
        assert_eq!((active.take_ended(), active.take_ended()), (Some((ProducerId(2), "revoked")), None), "told once");
        active.end_all();
        assert!(stays.is_cancelled() && later.is_cancelled());
    }
}
