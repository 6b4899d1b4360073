//! The cluster bus, and the signals by which the log reaches the node it runs on.

use std::sync::Arc;

use crate::{Batch, Error, Event, Log, each};

/// A signal of the log. Its handler runs in the log's own thread: it must be quick and must not wait.
#[derive(Clone, Debug)]
pub enum Signal {
    /// A batch was appended. Batches of one producer come in order, as far as the engine knows.
    Batch(Arc<Batch>),
    /// A node has broadcast an event.
    Event(Event),
    /// Signals may have been lost: compare with the truth.
    Interrupted,
}

/// Takes the signals.
pub type Sink = Arc<dyn Fn(Signal) + Send + Sync>;

/// The cluster bus of an engine. A message may be lost: it costs the lifetime of a cache, never correctness.
pub trait Bus: Send + Sync {
    /// Tells every node, this one included.
    fn broadcast(&self, event: &Event) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Log {
    /// See [`Bus::broadcast`].
    pub async fn broadcast(&self, event: &Event) -> Result<(), Error> {
        each!(self, log => log.broadcast(event).await)
    }
}
