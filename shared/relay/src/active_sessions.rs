//! The newest session of each device on this node, whatever transport it came by, so that a device that comes back ends its own older
//! session at once. Across nodes the fence in the log does that at the next write.

use std::{collections::HashMap, sync::Arc};

use motience_log::SessionName;
use motience_proto::model::LogKey;
use parking_lot::{Mutex, MutexGuard};

use super::session::Session;

/// The newest session of each device.
#[derive(Default)]
pub(super) struct ActiveSessions(Mutex<HashMap<(LogKey, SessionName), Arc<Session>>>);

impl ActiveSessions {
    /// Takes over from an older session of the same device.
    pub(super) fn enter(&self, session: &Arc<Session>) {
        if session.sender.name.is_ephemeral() {
            return;
        }
        let mut sessions = self.lock();
        match sessions.get(&key(session)) {
            // Two may overtake each other between log and here: within one epoch of the log the higher fence stays.
            Some(other) if other.is_newer_than(session) => session.superseded.cancel(),
            _ => {
                if let Some(older) = sessions.insert(key(session), Arc::clone(session)) {
                    older.superseded.cancel();
                }
            }
        }
    }

    /// The session has ended by itself.
    pub(super) fn leave(&self, session: &Arc<Session>) {
        let (mut sessions, key) = (self.lock(), key(session));
        if sessions.get(&key).is_some_and(|active| Arc::ptr_eq(active, session)) {
            sessions.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(LogKey, SessionName), Arc<Session>>> {
        self.0.lock()
    }
}

fn key(session: &Session) -> (LogKey, SessionName) {
    (session.key, session.sender.name.clone())
}
