//! Named cursors: the server keeps them for a durable consumer. They move when the consumer confirms, and outlive its connections.
//!
//! Confirmations are gathered, and the newest of each cursor is written every [`FLUSH_EVERY`]: a consumer may confirm each record
//! at no greater cost. Records whose confirmation a broken connection leaves unwritten are delivered again.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use motience_proto::model::{ConsumerId, Cursor, CursorName, ProducerId};
use tracing::warn;

use crate::{Error, Relay, StartPosition};

/// How long a confirmation may wait for others.
const FLUSH_EVERY: Duration = Duration::from_millis(200);
/// Longest wait for the last write of a connection that ends.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// The named cursors of one consumer's connection.
pub(crate) struct NamedCursors {
    relay: Relay,
    consumer: ConsumerId,
    pending: HashMap<CursorName, HashMap<ProducerId, Cursor>>,
    /// When the pending ones are to be written.
    due: Option<Instant>,
}

impl NamedCursors {
    pub(crate) fn new(relay: Relay, consumer: ConsumerId) -> Self {
        Self { relay, consumer, pending: HashMap::new(), due: None }
    }

    /// Where this name stands, in every log it stands in.
    pub(super) async fn standing(&self, name: &CursorName) -> Result<HashMap<ProducerId, Cursor>, Error> {
        let standing = self.relay.0.store.cursors_named(self.consumer, name).await.map_err(Error::store)?;
        Ok(standing.into_iter().collect())
    }

    /// Where a follow under this name begins: where the name stands, unless the consumer names a cursor itself; at `from` where the
    /// name does not stand yet. From then on it stands there.
    pub(super) async fn position(&self, name: &CursorName, producer: ProducerId, from: StartPosition) -> Result<StartPosition, Error> {
        if matches!(from, StartPosition::After(_)) {
            return Ok(from);
        }
        let store = &self.relay.0.store;
        if let Some(cursor) = store.cursor(self.consumer, name, producer).await.map_err(Error::store)? {
            return Ok(StartPosition::After(cursor));
        }
        self.place(name, producer, from).await
    }

    /// Has a name stand in a log where it does not yet: at `from`.
    pub(super) async fn place(&self, name: &CursorName, producer: ProducerId, from: StartPosition) -> Result<StartPosition, Error> {
        // Kept before the first record is confirmed: a consumer that dies before that must not miss what follows.
        let mut subscriber = self.relay.subscriber().uncounted();
        subscriber.follow(producer, from).await?;
        let cursor = subscriber.cursor(producer).unwrap_or_default();
        let now = self.relay.0.clock.now();
        self.relay.0.store.confirm(self.consumer, name, producer, cursor, now).await.map_err(Error::store)?;
        Ok(StartPosition::After(cursor))
    }

    /// Everything up to `cursor` is dealt with.
    pub(super) fn confirm(&mut self, name: &CursorName, producer: ProducerId, cursor: Cursor) {
        match self.pending.get_mut(name) {
            Some(cursors) => cursors.insert(producer, cursor),
            None => self.pending.entry(name.clone()).or_default().insert(producer, cursor),
        };
        self.due.get_or_insert_with(|| Instant::now() + FLUSH_EVERY);
    }

    /// When confirmations are to be written; `None` where there are none.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Writes what was confirmed, that of each name by one statement. A write that fails is tried again. Cancel-safe.
    pub(super) async fn flush(&mut self) {
        let now = self.relay.0.clock.now();
        while let Some((name, cursors)) = self.pending.iter().next() {
            let (name, cursors): (CursorName, Vec<_>) =
                (name.clone(), cursors.iter().map(|(&producer, &cursor)| (producer, cursor)).collect());
            if let Err(e) = self.relay.0.store.confirm_many(self.consumer, &name, &cursors, now).await {
                warn!(error = %e, "cursors cannot be kept; trying again");
                self.due = Some(Instant::now() + FLUSH_EVERY);
                return;
            }
            self.pending.remove(&name);
        }
        self.due = None;
    }

    /// Writes what was confirmed when the connection ends.
    pub(super) async fn finish(&mut self) {
        if tokio::time::timeout(FINISH_LIMIT, self.flush()).await.is_err() {
            warn!("the last confirmations are not kept: what they confirmed will be delivered again");
        }
    }
}

impl fmt::Debug for NamedCursors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamedCursors").field("consumer", &self.consumer).finish_non_exhaustive()
    }
}
