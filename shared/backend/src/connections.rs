//! The live connections of all nodes, for operators: each node knows its own, and is asked over the cluster bus.
//!
//! ```text
//! ConnectionsAsked -> each node looks among its own -> Connections, at most `limit` of each | ConnectionEnded -> the node that has it
//! ```

use std::{cmp::Reverse, collections::HashMap, sync::Arc, time::Duration};

use motience_auth::{LiveConnection, LiveConnections};
use motience_cluster::{ConnectionReport, Event, broadcast};
use motience_log::Log;
use motience_proto::model::UserId;
use motience_runtime::clock::millis;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, timeout_at},
};
use tracing::debug;

use super::Backend;

/// Most connections in one answer.
pub const MAX_CONNECTIONS: u32 = 200;
/// How long the other nodes have to answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(700);
/// Questions of other nodes that wait; more are not answered.
const MAX_WAITING: usize = 16;
/// Connections that are looked at between two turns of other tasks.
const AT_ONCE: usize = 1024;

/// Connections that were looked for, on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many match.
    pub total: u64,
    /// The newest of them, and the node of each.
    pub connections: Vec<(String, ConnectionReport)>,
    /// Nodes that did not answer in time.
    pub silent: Vec<String>,
}

impl Found {
    fn has(&self, id: &str) -> bool {
        self.connections.iter().any(|(_, connection)| connection.connection == id)
    }
}

/// A node's part in the list of all live connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Directory {
    node: String,
    live: LiveConnections,
    /// Answers that this node waits for.
    asked: Arc<Mutex<HashMap<u64, mpsc::Sender<Answer>>>>,
    questions: mpsc::Sender<(u64, String, u32)>,
}

/// A node, how many of its connections match, and the newest.
type Answer = (String, u64, Vec<ConnectionReport>);

/// The questions of other nodes.
pub(super) type Questions = mpsc::Receiver<(u64, String, u32)>;

impl Directory {
    pub(super) fn new(node: &str) -> (Self, Questions) {
        let (questions, receiver) = mpsc::channel(MAX_WAITING);
        (Self { node: node.to_owned(), live: LiveConnections::default(), asked: Arc::default(), questions }, receiver)
    }

    /// Live connections of this node.
    pub(super) fn live(&self) -> &LiveConnections {
        &self.live
    }

    /// Takes an event of the bus; it never waits. A question for which there is no room is not answered, and the asker says so.
    pub(super) fn apply(&self, event: &Event) {
        match event {
            Event::ConnectionsAsked { ask, query, limit } if !self.asked.lock().contains_key(ask) => {
                let _ = self.questions.try_send((*ask, query.clone(), *limit));
            }
            Event::Connections { ask, node, total, connections } => {
                if let Some(answers) = self.asked.lock().get(ask) {
                    let _ = answers.try_send((node.clone(), *total, connections.clone()));
                }
            }
            Event::ConnectionEnded { connection } => {
                self.live.end(connection);
            }
            _ => {}
        }
    }

    /// Answers the questions of other nodes, for as long as it is polled.
    pub(super) async fn answer(self, mut questions: Questions, log: Log) {
        while let Some((ask, query, limit)) = questions.recv().await {
            let (total, connections) = self.own(&query, limit).await;
            if let Err(e) = broadcast(&log, &Event::Connections { ask, node: self.node.clone(), total, connections }).await {
                debug!(error = %e, "another node's question for connections could not be answered");
            }
        }
    }

    /// Connections of this node that match: how many, and the newest.
    async fn own(&self, query: &str, limit: u32) -> (u64, Vec<ConnectionReport>) {
        let of_node = self.node.to_lowercase().contains(query);
        let mut found = Vec::new();
        for some in self.live.all().chunks(AT_ONCE) {
            found.extend(some.iter().filter(|one| of_node || matches(one, query)).cloned());
            yield_now().await;
        }
        let total = found.len() as u64;
        found.sort_unstable_by_key(|one| Reverse(one.since));
        found.truncate(limit.min(MAX_CONNECTIONS) as usize);
        (total, found.iter().map(|one| report(one)).collect())
    }
}

/// Whether the id is `query`, or the name of account or device, the transport or the address has it as a part.
fn matches(connection: &LiveConnection, query: &str) -> bool {
    let (grant, client) = (connection.grant(), &connection.client);
    connection.id == query
        || grant.username.to_lowercase().contains(query)
        || client.device.as_ref().is_some_and(|device| device.to_lowercase().contains(query))
        || client.transport.as_str().contains(query)
        || client.address.is_some_and(|address| address.to_string().contains(query))
}

fn report(connection: &LiveConnection) -> ConnectionReport {
    let grant = connection.grant();
    ConnectionReport {
        connection: connection.id.clone(),
        user: grant.user,
        username: grant.username,
        role: grant.role,
        device: connection.client.device.clone(),
        transport: connection.client.transport,
        address: connection.client.address,
        since_ms: millis(connection.since),
        records: connection.records(),
    }
}

impl Backend {
    /// Live connections of all nodes, the newest first. `query`: a part of account, device, transport, address or node, or the id of one.
    pub async fn connections(&self, query: &str, limit: u32) -> Found {
        self.look_for(&query.to_lowercase(), limit.min(MAX_CONNECTIONS), false).await
    }

    /// Ends one connection, on whichever node it is, and records that. `None`: there is none with this id.
    pub async fn end_connection(&self, id: &str, operator: UserId) -> Option<ConnectionReport> {
        let found = self.look_for(id, MAX_CONNECTIONS, true).await;
        let (node, connection) = found.connections.into_iter().find(|(_, connection)| connection.connection == id)?;
        // This node knows it even where the log is away.
        if !self.directory.live.end(id) {
            self.broadcast(Event::ConnectionEnded { connection: id.to_owned() }).await;
        }
        // The record of acts outlives an account, and knows it by its number only.
        let detail = json!({"node": node, "device": connection.device, "transport": connection.transport.as_str()});
        self.record("connection.end", Some(operator), format!("connection:{id}"), connection.user, detail).await;
        Some(connection)
    }

    /// `one`: the connection with the id `query` is enough.
    async fn look_for(&self, query: &str, limit: u32, one: bool) -> Found {
        let own = || self.node.clone();
        let (total, mine) = self.directory.own(query, limit).await;
        let mut found = Found { total, connections: mine.into_iter().map(|one| (own(), one)).collect(), silent: Vec::new() };
        if !(one && found.has(query)) && self.relay.log().is_shared() {
            self.ask_others(query, limit, one, &mut found).await;
        }
        found.connections.sort_by_key(|(_, connection)| Reverse(connection.since_ms));
        found.connections.truncate(limit as usize);
        found
    }

    async fn ask_others(&self, query: &str, limit: u32, one: bool, found: &mut Found) {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let others = self.reports.live_nodes().into_iter().map(|node| node.report.node).filter(|node| *node != self.node);
        found.silent = others.collect();
        let ask = fastrand::u64(..);
        let (sender, mut answers) = mpsc::channel(found.silent.len().max(1));
        self.directory.asked.lock().insert(ask, sender);
        // Whoever asks may leave while it waits.
        let _asked = Asked { directory: &self.directory, ask };
        self.broadcast(Event::ConnectionsAsked { ask, query: query.to_owned(), limit }).await;
        while !found.silent.is_empty()
            && let Ok(Some((node, total, connections))) = timeout_at(deadline, answers.recv()).await
        {
            found.silent.retain(|silent| *silent != node);
            found.total += total;
            found.connections.extend(connections.into_iter().map(|connection| (node.clone(), connection)));
            if one && found.has(query) {
                break;
            }
        }
    }
}

/// A question that is waited for.
struct Asked<'d> {
    directory: &'d Directory,
    ask: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.directory.asked.lock().remove(&self.ask);
    }
}
