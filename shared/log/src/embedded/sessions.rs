//! Sessions of a log, within limits: the longest idle are forgotten first, and never one that is held.
//!
//! Opening, using and forgetting one costs the logarithm of how many there are, never a walk over all of them.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Weak},
};

use motience_proto::model::{Fence, ProducerEpoch, RangeSet};
use time::OffsetDateTime;

use crate::SessionName;

/// Held senders that are passed over in one search for one that may be forgotten.
const LOOK: usize = 16;

/// State of one sender.
#[derive(Clone, Debug)]
pub(super) struct SessionEntry {
    pub(super) fence: Fence,
    /// The connection that raised it.
    pub(super) owner: u64,
    pub(super) producer_epoch: ProducerEpoch,
    pub(super) seen: RangeSet,
    /// The epoch before and its window, as long as the process lives: a connection of a sender's process that is gone may be dealt with late, and
    /// must not have the present window forgotten.
    pub(super) before: Option<Arc<(ProducerEpoch, RangeSet)>>,
    pub(super) used: OffsetDateTime,
    /// Alive for as long as a connection may write.
    pub(super) held: Weak<()>,
}

impl SessionEntry {
    /// The window of an epoch that the sender opens in, and what was before it then.
    pub(super) fn windows(&self, epoch: ProducerEpoch) -> (RangeSet, Option<Arc<(ProducerEpoch, RangeSet)>>) {
        if self.producer_epoch == epoch {
            return (self.seen.clone(), self.before.clone());
        }
        let back = self.before.as_ref().filter(|before| before.0 == epoch).map(|before| before.1.clone());
        (back.unwrap_or_default(), Some(Arc::new((self.producer_epoch, self.seen.clone()))))
    }
}

/// Limits of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) count: usize,
    /// Of names and dedup windows, as [`SessionName::bytes`] counts them.
    pub(super) bytes: usize,
    /// When the last use of a session may have been at the earliest.
    pub(super) since: Option<OffsetDateTime>,
}

/// SessionTable by name, and in order of their last use.
#[derive(Debug, Default)]
pub(super) struct SessionTable {
    known: HashMap<SessionName, Known>,
    /// By turn: the longest idle first.
    idle: BTreeMap<u64, SessionName>,
    turn: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Known {
    session: SessionEntry,
    turn: u64,
    bytes: usize,
}

impl SessionTable {
    pub(super) fn get(&self, name: &SessionName) -> Option<&SessionEntry> {
        self.known.get(name).map(|known| &known.session)
    }

    /// Puts a session in the place of what was known of its sender, as the last used.
    pub(super) fn put(&mut self, name: SessionName, session: SessionEntry) {
        self.turn += 1;
        let before = session.before.as_ref().map_or(0, |before| before.1.ranges());
        let bytes = name.bytes(session.seen.ranges() + before);
        let known = Known { session, turn: self.turn, bytes };
        if let Some(before) = self.known.insert(name.clone(), known) {
            self.idle.remove(&before.turn);
            self.bytes -= before.bytes;
        }
        self.idle.insert(self.turn, name);
        self.bytes += bytes;
    }

    /// Forgets the longest idle sender where the bounds ask for it, and says which of them did.
    pub(super) fn forget_one(&mut self, bounds: Limits) -> Option<(SessionName, &'static str)> {
        for _ in 0..LOOK {
            let (&turn, name) = self.idle.first_key_value()?;
            let session = &self.known.get(name)?.session;
            let reason = if self.known.len() > bounds.count {
                "count"
            } else if self.bytes > bounds.bytes {
                "bytes"
            } else if bounds.since.is_some_and(|since| session.used < since) {
                "age"
            } else {
                return None;
            };
            let is_held = session.held.strong_count() > 0;
            let name = self.idle.remove(&turn)?;
            if !is_held {
                self.bytes -= self.known.remove(&name)?.bytes;
                return Some((name, reason));
            }
            // All others are looked at before the session comes up again.
            self.turn += 1;
            self.known.get_mut(&name)?.turn = self.turn;
            self.idle.insert(self.turn, name);
        }
        None
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use motience_proto::model::DeviceId;

    const WIDE: Limits = Limits { count: usize::MAX, bytes: usize::MAX, since: None };

    fn name(n: u64) -> SessionName {
        SessionName::device(&DeviceId::new(&n.to_string()).unwrap())
    }

    fn session(ranges: u64, second: i64) -> SessionEntry {
        let seen = (0..ranges).map(|n| 2 * n + 1).collect();
        let used = OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(second);
        SessionEntry { fence: Fence(1), owner: 1, producer_epoch: ProducerEpoch(1), seen, before: None, used, held: Weak::new() }
    }

    #[test]
    fn the_longest_idle_goes_first() {
        let mut sessions = SessionTable::default();
        for n in 1..=3 {
            sessions.put(name(n), session(1, 0));
        }
        sessions.put(name(1), session(1, 1));
        assert_eq!(sessions.forget_one(Limits { count: 2, ..WIDE }), Some((name(2), "count")));
        assert_eq!(sessions.forget_one(Limits { count: 2, ..WIDE }), None);
        let since = Some(OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(1));
        assert_eq!(sessions.forget_one(Limits { since, ..WIDE }), Some((name(3), "age")));
        assert_eq!(sessions.forget_one(Limits { since, ..WIDE }), None);
        assert_eq!((sessions.len(), sessions.idle.len()), (1, 1));
    }

    #[test]
    fn windows_count_by_their_ranges() {
        let mut sessions = SessionTable::default();
        sessions.put(name(1), session(100, 0));
        sessions.put(name(2), session(100, 0));
        let bounds = Limits { bytes: 4000, ..WIDE };
        assert_eq!(sessions.forget_one(bounds), None);
        sessions.put(name(2), session(200, 0));
        assert_eq!(sessions.forget_one(bounds), Some((name(1), "bytes")));
        assert_eq!(sessions.forget_one(bounds), None);
        sessions.put(name(2), session(1, 0));
        assert_eq!(sessions.bytes, name(2).bytes(1));
    }

    #[test]
    fn who_is_connected_is_passed_over() {
        let (mut sessions, held) = (SessionTable::default(), Arc::new(()));
        for n in 1..=LOOK as u64 * 3 {
            sessions.put(name(n), SessionEntry { held: Arc::downgrade(&held), ..session(1, 0) });
        }
        sessions.put(name(99), session(1, 0));
        let bounds = Limits { count: 1, ..WIDE };
        // However many are connected, one search is short; the idle one is found by the third after it.
        let found: Vec<_> = (0..4).map(|_| sessions.forget_one(bounds)).collect();
        assert_eq!(found, [None, None, None, Some((name(99), "count"))]);
        drop(held);
        assert_eq!(sessions.forget_one(bounds), Some((name(1), "count")));
    }
}
