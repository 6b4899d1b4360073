//! Records in datagrams, which are worth something only now: one that comes late, or finds the log behind, is dropped; none is
//! acknowledged or sent again.

use std::future::pending;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use motience_cluster::Presence;
use motience_log::SessionName;
use motience_proto::{
    model::{LogKey, ProducerEpoch},
    wire::Record,
};
use motience_relay::{Error, Publisher, Relay};
use tracing::debug;

/// The producer epoch of publishers that nobody comes back to.
const ONLY: ProducerEpoch = ProducerEpoch(1);
/// Datagrams that count as missing between two: a link that loses more in a row is down.
const MOST_MISSING: u64 = 10_000;

/// The datagrams of one device.
pub(super) struct Latest<'s> {
    relay: &'s Relay,
    key: LogKey,
    device: &'s str,
    presence: &'s Presence,
    /// Number of the newest datagram.
    newest: u64,
    /// Apart from the device's own publisher: these records have no numbers there.
    publisher: Option<Publisher>,
    /// A publisher that is being opened, and the newest record, which waits for it.
    opening: Option<(BoxFuture<'static, Result<Publisher, Error>>, Bytes)>,
}

impl<'s> Latest<'s> {
    /// No datagram yet.
    pub(super) fn new(relay: &'s Relay, key: LogKey, device: &'s str, presence: &'s Presence) -> Self {
        Self { relay, key, device, presence, newest: 0, publisher: None, opening: None }
    }

    /// Takes a datagram's record, or drops it.
    pub(super) fn take(&mut self, record: Record) {
        metrics::counter!("motience_latest_received_total").increment(1);
        let number = record.seq.0;
        if number <= self.newest {
            return dropped();
        }
        // The device chooses the numbers: a jump must not be able to fill the counter.
        metrics::counter!("motience_latest_missing_total").increment((number - self.newest - 1).min(MOST_MISSING));
        self.newest = number;
        if let Some((_, waiting)) = &mut self.opening {
            *waiting = record.json;
            return dropped();
        }
        if self.publisher.is_some() {
            return self.submit(record.json);
        }
        let (relay, key) = (self.relay.clone(), self.key);
        let opening = async move { relay.publisher(key, SessionName::ephemeral(), ONLY).await };
        self.opening = Some((opening.boxed(), record.json));
    }

    /// Submits the record that waited for a publisher, once that is open. Cancel-safe; waits for ever where none is being opened.
    pub(super) async fn opened(&mut self) {
        let Some((opening, _)) = &mut self.opening else { return pending().await };
        let outcome = opening.await;
        let waiting = self.opening.take();
        match (outcome, waiting) {
            (Ok(publisher), Some((_, json))) => {
                self.publisher = Some(publisher.of_device(self.device));
                self.submit(json);
            }
            (outcome, _) => {
                debug!(error = ?outcome.err(), "a record that is worth something only now finds no log");
                dropped();
            }
        }
    }

    fn submit(&mut self, json: Bytes) {
        match self.publisher.as_ref().map(|publisher| publisher.try_submit(json)) {
            Some(Ok(true)) => return self.presence.seen(1),
            Some(Ok(false)) | None => {}
            // The log began another epoch, or the record is none: the next one may find it better.
            Some(Err(error)) => {
                debug!(%error, "a record that is worth something only now is dropped");
                self.publisher = None;
            }
        }
        dropped();
    }
}

fn dropped() {
    metrics::counter!("motience_latest_dropped_total").increment(1);
}
