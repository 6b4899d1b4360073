//! The honest two: a device that sends a few records a second, and a consumer that reads them, through everything that happens to their node. Each record
//! must come once, but that those which came before a reset may come again after it (docs/delivery.md, `reset`): a node that was killed had sent them and
//! not yet kept them.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use motience_certs::Trust;
use motience_device::{
    Credentials, Producer,
    client::{self, Lane},
    producer::{Config, Error},
};
use motience_proto::model::{Cursor, DeviceId, RangeSet};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::{
    task::JoinHandle,
    time::{self, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::common::{
    accounts::Accounts,
    egress::{Connection, Egress, Incoming, Start, Target},
    payload::{Mark, TestClock, mark, record},
    seen::{Live, Seen},
    server::Addresses,
};

/// Between two tries of the consumer.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the last records may take to be acknowledged, and to come.
const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of a record.
const SIZE: usize = 150;

/// See the module.
pub(super) struct Honest {
    producer: Arc<Producer>,
    sending: JoinHandle<u64>,
    reading: JoinHandle<Received>,
    live: Arc<Live>,
    /// Latencies since they were told last.
    latency: Arc<Mutex<Histogram<u64>>>,
    /// No more is sent; and nothing more is read.
    last: CancellationToken,
    end: CancellationToken,
}

/// Fate of the records.
pub(super) struct Outcome {
    sent: u64,
    lost: u64,
    doubled: u64,
    /// Came again after a reset.
    again: u64,
    failures: Vec<String>,
}

/// Records as the consumer got them.
struct Received {
    seen: Seen,
    /// Numbers of those that came since the last reset.
    since: RangeSet,
    /// See [`Outcome::again`].
    again: u64,
}

impl Honest {
    /// Connects both, and begins.
    pub(super) async fn start(at: &Addresses, rate: f64) -> Result<Self> {
        let accounts = Accounts::new(at)?;
        let (producer, consumer) = (accounts.make("producer", 1).await?.remove(0), accounts.make("consumer", 1).await?.remove(0));
        accounts.subscribe(&consumer, &producer).await?;
        let (clock, live, latency) = (TestClock::start(), Arc::new(Live::default()), Arc::new(Mutex::new(Seen::new().latency)));
        let (last, end) = (CancellationToken::new(), CancellationToken::new());
        let target = Target::at(Egress::Wss2, at, &consumer, vec![producer.id]);
        let connection = Connection::open(Egress::Wss2, &target, &Start::After([].into())).await?;
        let reader = Reader {
            target,
            received: Received { seen: Seen::new(), since: RangeSet::default(), again: 0 },
            start: Start::After([].into()),
            clock,
            live: Arc::clone(&live),
            latency: Arc::clone(&latency),
        };
        let reading = tokio::spawn(reader.run(connection, end.clone()));
        let trust = at.ca.clone().map_or(Trust::Platform, Trust::Ca);
        let config = Config::new(client::Config::new(at.quic.parse()?, trust, DeviceId::new("load-00000")?));
        let producer = Arc::new(Producer::start(config, Credentials::Token(producer.token.into()))?);
        producer.connected().await?;
        let sending =
            tokio::spawn(send(Arc::clone(&producer), Duration::from_secs_f64(1.0 / rate), clock, Arc::clone(&live), last.clone()));
        Ok(Self { producer, sending, reading, live, latency, last, end })
    }

    /// Tells of the records that came since this was asked last.
    pub(super) fn told(&self) -> String {
        let mut latency = self.latency.lock();
        let at = |q| latency.value_at_quantile(q) as f64 / 1e3;
        let told = format!(
            "honest flow   {} records, p50 {:.1} ms, p99 {:.1} ms, the latest {:.1} ms late",
            latency.len(),
            at(0.5),
            at(0.99),
            latency.max() as f64 / 1e3
        );
        latency.reset();
        told
    }

    /// Sends no more, waits for what is under way, and looks whether all came.
    pub(super) async fn end(self) -> Result<Outcome> {
        self.last.cancel();
        let sent = self.sending.await?;
        self.producer.flush(LIMIT).await.context("records of the honest device are not acknowledged")?;
        let deadline = time::Instant::now() + LIMIT;
        while self.live.delivered() < sent && time::Instant::now() < deadline {
            sleep(PAUSE).await;
        }
        self.end.cancel();
        let Received { seen, again, .. } = self.reading.await?;
        Ok(Outcome { sent, lost: seen.missing(0, sent), doubled: seen.doubled, again, failures: self.live.failures() })
    }
}

/// Sends on time, whatever the node does. Returns how many.
async fn send(producer: Arc<Producer>, every: Duration, clock: TestClock, live: Arc<Live>, last: CancellationToken) -> u64 {
    let (mut sent, mut ticks) = (0, interval(every));
    while let Some(due) = last.run_until_cancelled(ticks.tick()).await {
        let mark = Mark { device: 0, number: sent + 1, due: clock.at(Instant::from(due)) };
        match producer.try_send(Lane::Ordered, record(mark, SIZE)) {
            Ok(_) => sent += 1,
            Err(error @ Error::Stopped(_)) => {
                live.fail(format!("the honest device: {error}"));
                break;
            }
            Err(error) => live.fail(format!("the honest device: {error}")),
        }
    }
    sent
}

/// The consumer across all its connections.
struct Reader {
    target: Target,
    received: Received,
    start: Start,
    clock: TestClock,
    live: Arc<Live>,
    latency: Arc<Mutex<Histogram<u64>>>,
}

impl Reader {
    /// Reads, and connects again where it was, until `end`.
    async fn run(mut self, mut connection: Connection, end: CancellationToken) -> Received {
        loop {
            let Some(incoming) = end.run_until_cancelled(connection.next()).await else { return self.received };
            if let Ok(Incoming::Message(text)) = incoming {
                self.take(&text);
                continue;
            }
            connection = loop {
                match end.run_until_cancelled(Connection::open(Egress::Wss2, &self.target, &self.start)).await {
                    Some(Ok(connection)) => break connection,
                    Some(Err(_)) => sleep(PAUSE).await,
                    None => return self.received,
                }
            };
        }
    }

    fn take(&mut self, text: &str) {
        let message: Message = serde_json::from_str(text).unwrap_or_default();
        if message.r#type == "reset" {
            self.received.since = RangeSet::default();
        }
        if let Start::After(known) = &mut self.start {
            known.extend(message.moved());
        }
        if let Some(mark) = mark(text) {
            let now = self.clock.now();
            self.received.record(mark, now);
            self.latency.lock().saturating_record((now.saturating_sub(mark.due) / 1000).max(1));
            self.live.delivered.store(self.received.seen.latency.len(), Relaxed);
        }
    }
}

impl Received {
    fn record(&mut self, mark: Mark, now: u64) {
        if self.since.insert(mark.number) && self.seen.has(mark) {
            self.again += 1;
        } else {
            self.seen.record(mark, now);
        }
    }
}

/// A message of `motience.v2`, but for its record.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    /// `reset`: the log has lost its end.
    r#type: String,
    producer_id: String,
    cursor: String,
    /// Where the egress stands, in a notice about all producers.
    cursors: BTreeMap<String, String>,
}

impl Message {
    /// The cursors that it moves.
    fn moved(&self) -> impl Iterator<Item = (i64, Cursor)> {
        let own = (&self.producer_id, &self.cursor);
        self.cursors.iter().chain([own]).filter_map(|(producer, cursor)| Some((producer.parse().ok()?, cursor.parse().ok()?)))
    }
}

impl Outcome {
    pub(super) fn good(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.failures.is_empty()
    }

    pub(super) fn print(&self) {
        let Self { sent, lost, doubled, again, .. } = self;
        say!("honest flow: {sent} records, {lost} lost, {doubled} doubled; {again} came again after a reset, as documented");
        for failure in &self.failures {
            say!("  ! {failure}");
        }
        say!("{}", if self.good() { "nothing lost, nothing doubled" } else { "NOT GOOD" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_may_come_again_after_a_reset_and_then_once() {
        let mut received = Received { seen: Seen::new(), since: RangeSet::default(), again: 0 };
        let mut take = |number| {
            received.record(Mark { device: 0, number, due: 0 }, 1);
            (received.again, received.seen.doubled)
        };
        assert_eq!([take(1), take(2), take(2)], [(0, 0), (0, 0), (0, 1)]);
        received.since = RangeSet::default();
        let mut take = |number| {
            received.record(Mark { device: 0, number, due: 0 }, 1);
            (received.again, received.seen.doubled)
        };
        assert_eq!([take(2), take(3), take(3), take(2)], [(1, 1), (1, 1), (1, 2), (1, 3)]);
    }

    #[test]
    fn records_and_notices_move_cursors_and_a_reset_is_known() {
        let read = |text| {
            let message: Message = serde_json::from_str(text).unwrap_or_default();
            let moved = message.moved().map(|(producer, cursor)| (producer, cursor.to_string())).collect::<Vec<_>>();
            (message.r#type == "reset", moved)
        };
        assert_eq!(read(r#"{"type":"reset","producer_id":"1","cursor":"8-440"}"#), (true, vec![(1, "8-440".to_owned())]));
        assert_eq!(read(r#"{"producer_id":"1","cursor":"8-440","data":{}}"#), (false, vec![(1, "8-440".to_owned())]));
        assert_eq!(read(r#"{"type":"cursors","cursors":{"2":"8-1"}}"#), (false, vec![(2, "8-1".to_owned())]));
        assert_eq!(read("{}"), (false, vec![]));
    }
}
