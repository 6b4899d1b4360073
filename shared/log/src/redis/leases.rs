//! Leases on sessions: who is connected to a node is not evicted, whichever node makes room.
//!
//! Redis cannot know who is connected. So an opened session has a lease, which its node renews each minute while anybody holds the
//! session, and gives back when nobody does: from then on the session is idle, and that of an ephemeral sender is removed. Both are
//! told for many sessions at once. Where a call is lost, or the node crashes, the lease runs out by itself.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
    time::Duration,
};

use motience_proto::model::LogKey;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tracing::debug;

use super::{ANSWER_LIMIT, Inner};
use crate::{Error, Hold, Sender, SessionName};

/// How long a session counts as connected after its last renewal.
pub(super) const LEASE: Duration = Duration::from_secs(180);
/// How often leases are renewed.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Sessions told in one call.
const AT_ONCE: usize = 256;
/// Ended sessions that wait to be told; of more, the leases run out.
const MOST_WAITING: usize = 1 << 16;

/// A connection's session: its name, and who raised its fence.
pub(super) type Owned = (SessionName, u64);

/// Leases of this node.
#[derive(Default)]
pub(super) struct Leases {
    state: Mutex<State>,
    /// Told when a session has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    /// How often each session is held: one that was opened again is held twice for a moment.
    held: HashMap<LogKey, HashMap<Owned, usize>>,
    ended: HashMap<LogKey, Vec<Owned>>,
    waiting: usize,
}

/// Held while a connection or its writes live.
struct Lease {
    leases: Arc<Leases>,
    key: LogKey,
    session: Owned,
}

impl Leases {
    /// Holds the session that this sender has opened.
    pub(super) fn hold(self: &Arc<Self>, key: LogKey, sender: &Sender) -> Hold {
        let session = (sender.name.clone(), sender.owner);
        *self.state.lock().held.entry(key).or_default().entry(session.clone()).or_default() += 1;
        Hold::of(Lease { leases: Arc::clone(self), key, session })
    }

    fn let_go(&self, key: LogKey, session: &Owned) {
        let mut state = self.state.lock();
        let Some(of_log) = state.held.get_mut(&key) else { return };
        let Some(times) = of_log.get_mut(session) else { return };
        *times -= 1;
        if *times > 0 {
            return;
        }
        of_log.remove(session);
        if of_log.is_empty() {
            state.held.remove(&key);
        }
        if state.waiting < MOST_WAITING {
            state.waiting += 1;
            state.ended.entry(key).or_default().push(session.clone());
            drop(state);
            self.ended.notify_one();
        }
    }

    fn take_ended(&self) -> HashMap<LogKey, Vec<Owned>> {
        let mut state = self.state.lock();
        state.waiting = 0;
        std::mem::take(&mut state.ended)
    }

    fn held(&self) -> HashMap<LogKey, Vec<Owned>> {
        self.state.lock().held.iter().map(|(key, of_log)| (*key, of_log.keys().cloned().collect())).collect()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.let_go(self.key, &self.session);
    }
}

/// Tells Redis, as long as there is a log.
pub(super) async fn run(log: Weak<Inner>, leases: Arc<Leases>) {
    let mut renewal = interval_at(Instant::now() + RENEW_EVERY, RENEW_EVERY);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let renew = tokio::select! {
            biased;
            _ = renewal.tick() => true,
            () = leases.ended.notified() => false,
        };
        let Some(log) = log.upgrade() else { return };
        let told = if renew { tell(&log, leases.held(), true).await } else { tell(&log, leases.take_ended(), false).await };
        if let Err(e) = told {
            debug!(error = %e, "leases on sessions were not told to Redis");
        }
    }
}

/// Tells what has ended before the log is closed, as far as Redis takes it.
pub(super) async fn finish(log: &Inner) {
    let _ = timeout(ANSWER_LIMIT, tell(log, log.leases.take_ended(), false)).await;
}

/// Where a server does not take them, leases of its logs run out, or are renewed in a minute.
async fn tell(log: &Inner, sessions: HashMap<LogKey, Vec<Owned>>, last: bool) -> Result<(), Error> {
    let (mut away, mut failure) = (HashSet::new(), None);
    for (key, of_log) in sessions {
        let shard = log.shards.number(&log.names.home(key));
        for some in of_log.chunks(AT_ONCE) {
            if away.contains(&shard) {
                break;
            }
            if let Err(e) = log.keep(key, some, last).await {
                away.insert(shard);
                failure = Some(e);
            }
        }
    }
    failure.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use motience_proto::model::{DeviceId, ProducerEpoch, ProducerId};

    const KEY: LogKey = LogKey::numbered(ProducerId(1));

    #[test]
    fn a_session_ends_when_nobody_holds_it_any_more() {
        let leases = Arc::new(Leases::default());
        let name = SessionName::device(&DeviceId::new("d").unwrap());
        let sender = |owner| Sender { name: name.clone(), producer_epoch: ProducerEpoch(1), owner };
        let (first, again) = (leases.hold(KEY, &sender(7)), leases.hold(KEY, &sender(7)));
        let newer = leases.hold(KEY, &sender(8));
        drop(first);
        assert!(leases.take_ended().is_empty());
        drop(again.clone());
        assert!(leases.take_ended().is_empty());
        drop(again);
        assert_eq!(leases.take_ended(), HashMap::from([(KEY, vec![(name.clone(), 7)])]));
        assert_eq!(leases.held(), HashMap::from([(KEY, vec![(name.clone(), 8)])]));
        drop(newer);
        assert_eq!((leases.held().len(), leases.take_ended().len()), (0, 1));
    }
}
