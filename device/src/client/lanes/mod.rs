//! Records up: what is queued is encoded into one buffer and written at once.
//!
//! - `ordered`: one long stream; a lost packet delays what follows it. Cheapest.
//! - `independent`: a stream for each group that is queued at the moment; a lost packet delays only its group, and
//!   records are sent redundantly in later packets as the [plan](crate::link::plan) says.
//! - datagrams: not sent again, for what the next one makes worthless.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use motience_proto::{
    model::{RangeSet, Seq},
    wire::{Frame, Record, StreamKind, compact::Encoder, features},
};
use parking_lot::Mutex;
use quinn::{Connection, PathStats, SendStream, WriteError};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::Instant};

use self::redundant::Redundant;
use super::Error;
use crate::link::{Meter, Report, Settings};

mod independent;
mod redundant;

/// Records that wait for a lane's writer.
pub(super) const QUEUE: usize = 1024;
/// Records taken from the queue at once.
const GROUP: usize = 256;
/// Bytes after which a group is written, whatever else is queued.
const GROUP_BYTES: usize = 64 * 1024;
/// How often the connection's count of losses is looked at.
const OBSERVE: Duration = Duration::from_millis(50);

/// Send mode of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// After the record before it, and held up where that one is.
    Ordered,
    /// By itself.
    #[default]
    Independent,
}

/// State that the writers of one connection share.
pub(crate) struct Uplink {
    connection: Connection,
    meter: Arc<Meter>,
    settings: Settings,
    /// `None`: records are sent as they are.
    templates: Option<Mutex<Encoder>>,
    redundant: Mutex<Redundant>,
    /// When the connection's own count of losses was looked at last.
    observed: Mutex<Option<Instant>>,
    /// The number of the next datagram; 0: the server takes none.
    datagrams: AtomicU64,
    /// Where templates are announced.
    control: mpsc::Sender<Frame>,
}

impl Uplink {
    /// `features`: what both sides can.
    pub(super) fn new(
        connection: Connection,
        meter: Arc<Meter>,
        settings: Settings,
        features: u64,
        control: mpsc::Sender<Frame>,
    ) -> Arc<Self> {
        let templates = (settings.compact && features & features::COMPACT != 0).then(Mutex::default);
        let datagrams = AtomicU64::new(u64::from(features & features::LATEST != 0));
        let redundant = Mutex::new(Redundant::new(settings));
        Arc::new(Self { connection, meter, settings, templates, redundant, observed: Mutex::default(), datagrams, control })
    }

    /// Writes what comes to the lane until the queue closes or the connection ends.
    pub(super) async fn write(self: Arc<Self>, lane: Lane, queue: mpsc::Receiver<Record>) -> Result<(), Error> {
        match lane {
            Lane::Ordered => self.write_ordered(queue).await,
            Lane::Independent => independent::write(&self, queue).await,
        }
    }

    /// Cancels the redundant transmissions of acknowledged records.
    pub(super) fn acked(&self, ranges: &RangeSet) {
        self.redundant.lock().acked(ranges);
    }

    /// The server knows the template.
    pub(super) fn template_accepted(&self, id: u64) {
        if let Some(templates) = &self.templates {
            templates.lock().accepted(id);
        }
    }

    /// Sends a record in a datagram of its own; whether it could be.
    pub(super) fn send_latest(&self, json: Bytes) -> bool {
        let number = self.datagrams.load(Relaxed);
        if number == 0 {
            return false;
        }
        let mut bytes = BytesMut::new();
        self.encode(Record { seq: Seq(number), json }, &mut bytes);
        // Too large for a packet, or the connection is gone.
        let sent = self.connection.send_datagram(bytes.freeze()).is_ok();
        self.datagrams.fetch_add(u64::from(sent), Relaxed);
        sent
    }

    /// The connection's own statistics.
    pub(crate) fn path(&self) -> PathStats {
        self.connection.stats().path
    }

    /// Share of packets lost lately; `None` where it is not known yet.
    pub(crate) fn loss(&self) -> Option<f64> {
        self.meter.link().loss
    }

    pub(crate) fn report(&self) -> Report {
        let link = self.meter.link();
        let report = Report {
            loss: link.loss.unwrap_or_default(),
            burst_ms: link.burst.map(|burst| burst.as_secs_f64() * 1000.0),
            rtt_ms: link.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
            ..Report::default()
        };
        self.redundant.lock().report(report)
    }

    /// Hands the connection's count of lost packets to the meter, now and then: it is exact, but dear to ask for.
    fn observe(&self, now: Instant) {
        let mut observed = self.observed.lock();
        if observed.is_none_or(|last| now - last >= OBSERVE) {
            *observed = Some(now);
            let id = self.connection.stable_id();
            self.meter.count(id, self.connection.stats().path.lost_packets);
        }
    }

    /// Appends a record in its compact form where it has one.
    fn encode(&self, record: Record, out: &mut BytesMut) {
        let Some(templates) = &self.templates else { return Frame::Record(record).encode(out) };
        // Announced under the lock: the server expects templates in the order of their numbers.
        let mut templates = templates.lock();
        let (frame, template) = templates.encode(record);
        if let Some(template) = template
            && self.control.try_send(Frame::Template(template.clone())).is_err()
        {
            templates.withdraw(&template);
        }
        drop(templates);
        Frame::from(frame).encode(out);
    }

    async fn write_ordered(&self, mut queue: mpsc::Receiver<Record>) -> Result<(), Error> {
        let mut group = Vec::with_capacity(GROUP);
        let mut buffer = BytesMut::new();
        let mut stream: Option<SendStream> = None;
        while queue.recv_many(&mut group, GROUP).await > 0 {
            let mut records = group.drain(..).peekable();
            while let Some(record) = records.next() {
                if stream.is_none() && buffer.is_empty() {
                    StreamKind::Ordered.encode(&mut buffer);
                }
                self.encode(record, &mut buffer);
                if buffer.len() >= GROUP_BYTES || records.peek().is_none() {
                    let bytes = buffer.split().freeze();
                    let open = match &mut stream {
                        Some(open) => open,
                        None => stream.insert(self.connection.open_uni().await?),
                    };
                    open.write_chunk(bytes).await.map_err(lost)?;
                }
            }
        }
        if let Some(mut stream) = stream {
            // An error says that the stream is closed, which is what is wanted.
            let _ = stream.finish();
        }
        Ok(())
    }
}

impl fmt::Debug for Uplink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uplink").field("report", &self.report()).finish_non_exhaustive()
    }
}

/// Sends records on a stream of their own.
pub(super) async fn send_once(connection: &Connection, records: &[Record]) -> Result<(), Error> {
    let mut bytes = BytesMut::new();
    StreamKind::Independent.encode(&mut bytes);
    for record in records {
        Frame::Record(record.clone()).encode(&mut bytes);
    }
    send_stream(connection, bytes.freeze()).await
}

/// Sends bytes as one stream.
async fn send_stream(connection: &Connection, bytes: Bytes) -> Result<(), Error> {
    let mut stream = connection.open_uni().await?;
    stream.write_chunk(bytes).await.map_err(lost)?;
    // Dropping would reset it; an error says that the connection is gone, and the reader sees that.
    let _ = stream.finish();
    Ok(())
}

pub(super) fn lost(error: WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(error) => error.into(),
        error => Error::Protocol(format!("the server stopped reading: {error}")),
    }
}
