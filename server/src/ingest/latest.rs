//! Records in datagrams: worth something only now. One that comes late, or finds the log behind, is dropped; none is
//! acknowledged or sent again.

use motience_backend::Backend;
use motience_log::SessionName;
use motience_proto::{
    model::Epoch,
    wire::{Frame, Limits},
};
use motience_relay::Publisher;
use motience_session::CloseReason;
use quinn::Connection;
use tracing::debug;

use super::lanes::Entrance;

/// The epoch of senders that have no life before or after this one.
const ONLY: Epoch = Epoch(1);

/// Takes datagrams until the connection ends. What is not taken in time is dropped by the transport, oldest first.
pub(super) async fn read_all(connection: &Connection, entrance: Entrance<'_>, backend: &Backend) -> Result<(), CloseReason> {
    let limits = Limits::for_records(entrance.max_record);
    let mut latest = Latest { backend, device: entrance.publisher, publisher: None, newest: 0 };
    loop {
        let mut datagram = connection.read_datagram().await.map_err(CloseReason::gone)?.into();
        let frame = Frame::decode(&mut datagram, limits)?.filter(|_| datagram.is_empty());
        let frame = frame.ok_or_else(|| CloseReason::protocol("a datagram is one frame"))?;
        let record = entrance.record(frame)?;
        if latest.is_late(record.seq.0) || !latest.submit(&record.json).await {
            metrics::counter!("motience_latest_dropped_total").increment(1);
        } else {
            entrance.presence.seen(1);
        }
    }
}

/// Datagrams that count as missing between two: a link that loses more in a row is down.
const MOST_MISSING: u64 = 10_000;

struct Latest<'b> {
    backend: &'b Backend,
    /// The device's own session.
    device: &'b Publisher,
    /// Apart from the device's own session: these records have no numbers there.
    publisher: Option<Publisher>,
    /// Number of the newest datagram.
    newest: u64,
}

impl Latest<'_> {
    /// Whether a newer one has come already. Counts those that are missing between the two.
    fn is_late(&mut self, number: u64) -> bool {
        metrics::counter!("motience_latest_received_total").increment(1);
        if number <= self.newest {
            return true;
        }
        // The device chooses the numbers: a jump must not be able to fill the counter.
        metrics::counter!("motience_latest_missing_total").increment((number - self.newest - 1).min(MOST_MISSING));
        self.newest = number;
        false
    }

    /// Whether the log's writer took it.
    async fn submit(&mut self, json: &bytes::Bytes) -> bool {
        if self.publisher.is_none() {
            match self.backend.relay.publisher(self.device.log_key(), SessionName::passing(), ONLY).await {
                Ok(publisher) => self.publisher = Some(publisher.of_device(self.device.device().unwrap_or_default())),
                Err(error) => {
                    debug!(%error, "a record that is worth something only now finds no log");
                    return false;
                }
            }
        }
        let Some(publisher) = &self.publisher else { return false };
        match publisher.try_submit(json.clone()) {
            Ok(taken) => taken,
            // The log began a new life, or the record is none: the next one may find it better.
            Err(error) => {
                debug!(%error, "a record that is worth something only now is dropped");
                self.publisher = None;
                false
            }
        }
    }
}
