//! The cluster bus, and the signals by which the log reaches the node it runs on.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Batch, Error, Log, each};

/// A signal of the log. Its handler runs in the log's own thread: it must be quick and must not wait.
#[derive(Clone, Debug)]
pub enum Signal {
    /// A batch was appended. Batches of one producer come in order, as far as the engine knows.
    Batch(Arc<Batch>),
    /// A node has broadcast a message, which the log carries and does not read (`motience_cluster` does).
    Message(Bytes),
    /// Signals may have been lost: compare with the truth.
    Interrupted,
}

/// Takes the signals.
pub type Sink = Arc<dyn Fn(Signal) + Send + Sync>;

/// Subject of a message. Each has a channel of its own: a node of the first release takes a message that it cannot read for a lost one,
/// and empties its rings each time, so that new kinds of reports must not come where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// Changes in the store, and reports of live producers.
    Events,
    /// Reports of nodes and devices.
    Reports,
}

/// The cluster bus of an engine. A message may be lost: it costs the lifetime of a cache, never correctness.
pub trait Bus: Send + Sync {
    /// Tells every node, this one included.
    fn broadcast(&self, topic: Topic, message: Bytes) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Log {
    /// See [`Bus::broadcast`].
    pub async fn broadcast(&self, topic: Topic, message: Bytes) -> Result<(), Error> {
        each!(self, log => log.broadcast(topic, message).await)
    }
}
