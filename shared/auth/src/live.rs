//! The live connections of this node that have said who they are, so that operators see them and can end one.
//!
//! A connection is listed by its [`Standing`](crate::Standing), for as long as that lives.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use motience_proto::model::Transport;
use parking_lot::Mutex;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::{Grant, random};

/// Bytes in the id of a connection.
const ID_BYTES: usize = 8;

/// How a client is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Transport of the connection.
    pub transport: Transport,
    /// The address that it counts for, where it is known: of IPv6 the /64.
    pub address: Option<IpAddr>,
    /// The device's name for itself, where it has one.
    pub device: Option<String>,
}

/// The listed connections. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct LiveConnections(Arc<Mutex<HashMap<String, Arc<LiveConnection>>>>);

/// A connection that lives.
#[derive(Debug)]
pub struct LiveConnection {
    /// Its id, which no other connection of any node has.
    pub id: String,
    /// How its client is connected.
    pub client: Client,
    /// Since when.
    pub since: OffsetDateTime,
    records: AtomicU64,
    state: Arc<watch::Sender<State>>,
}

/// The right by which a connection lives.
#[derive(Debug)]
pub(super) struct State {
    pub(super) grant: Grant,
    /// Whether an operator has ended it.
    pub(super) ended: bool,
}

/// The place of a connection in the list, until it is dropped.
#[derive(Debug)]
pub(super) struct Listed {
    list: Weak<Mutex<HashMap<String, Arc<LiveConnection>>>>,
    connection: Arc<LiveConnection>,
}

impl LiveConnections {
    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<LiveConnection>> {
        self.0.lock().values().cloned().collect()
    }

    /// Ends the connection with this id; `false`: this node has none.
    pub fn end(&self, id: &str) -> bool {
        let Some(connection) = self.0.lock().get(id).cloned() else { return false };
        connection.state.send_modify(|state| state.ended = true);
        true
    }

    pub(super) fn enter(&self, client: Client, since: OffsetDateTime, state: &Arc<watch::Sender<State>>) -> Listed {
        let (id, state) = (random::hex(ID_BYTES), Arc::clone(state));
        let connection = Arc::new(LiveConnection { id: id.clone(), client, since, records: AtomicU64::new(0), state });
        self.0.lock().insert(id, Arc::clone(&connection));
        Listed { list: Arc::downgrade(&self.0), connection }
    }
}

impl LiveConnection {
    /// The grant by which it lives.
    pub fn grant(&self) -> Grant {
        self.state.borrow().grant.clone()
    }

    /// Records that went through it so far.
    pub fn records(&self) -> u64 {
        self.records.load(Relaxed)
    }
}

impl Listed {
    pub(super) fn count(&self, records: u64) {
        self.connection.records.fetch_add(records, Relaxed);
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if let Some(list) = self.list.upgrade() {
            list.lock().remove(&self.connection.id);
        }
    }
}
