//! Real devices: the native client's own connections, each on a UDP socket of its own.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use motience_certs::Trust;
use motience_device::client::{Config, Connector, Event, Lane, Session};
use motience_proto::{
    model::{DeviceId, ProducerEpoch, RangeSet, Seq},
    wire::{Intent, Record},
};
use secrecy::SecretString;
use tokio::{sync::mpsc, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

use super::{
    accounts::Account,
    payload::{Mark, TestClock, record},
    seen::Live,
};

/// How a device sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Records under way unacknowledged, without a schedule.
    pub(crate) in_flight: u64,
    /// Bytes of a record.
    pub(crate) size: usize,
    /// Which way the records take.
    pub(crate) lane: Lane,
    /// How long.
    pub(crate) duration: Duration,
}

/// Counts of a device.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) device: u32,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
}

/// A connected device.
pub(crate) struct Device {
    number: u32,
    session: Session,
    _connector: Connector,
}

/// How long acknowledgements may still come in after the last record.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

impl Device {
    pub(crate) async fn connect(quic: &str, ca: Option<PathBuf>, number: u32, account: &Account) -> Result<Self> {
        let trust = ca.map_or(Trust::Platform, Trust::Ca);
        let id = DeviceId::new(&format!("load-{number:05}")).expect("digits make a device id");
        let config = Config::new(quic.parse()?, trust, id);
        let connector = Connector::new(config)?;
        let token = SecretString::from(account.token.clone());
        let session =
            connector.connect(&token, Intent::Produce, ProducerEpoch(fastrand::u64(1..))).await.context("a device could not connect")?;
        Ok(Self { number, session, _connector: connector })
    }

    /// Sends at its pace, or whenever `schedule` says; ends when everything is acknowledged.
    pub(crate) fn send(self, pace: Pace, schedule: Option<mpsc::Receiver<Instant>>, clock: TestClock, live: Arc<Live>) -> JoinHandle<Sent> {
        tokio::spawn(async move {
            let mut sending = Sending { device: self, pace, clock, live, sent: 0, acknowledged: RangeSet::new() };
            let outcome = match schedule {
                Some(schedule) => sending.steady(schedule).await,
                None => sending.flood().await,
            };
            let outcome = match outcome {
                Ok(()) => time::timeout(DRAIN_LIMIT, sending.drain()).await.unwrap_or(Ok(())),
                Err(e) => Err(e),
            };
            if let Err(e) = outcome {
                sending.live.fail(format!("a device was cut: {e}"));
            }
            Sent { device: sending.device.number, sent: sending.sent, acknowledged: sending.acknowledged.numbers() }
        })
    }

    /// Stays connected and sends nothing.
    pub(crate) fn idle(mut self, live: Arc<Live>, stop: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            if let Some(Err(e)) = stop.run_until_cancelled(self.session.next()).await {
                live.fail(format!("an idle device was cut: {e}"));
            }
        })
    }
}

struct Sending {
    device: Device,
    pace: Pace,
    clock: TestClock,
    live: Arc<Live>,
    sent: u64,
    /// Numbers, as a redundant transmission is acknowledged again.
    acknowledged: RangeSet,
}

impl Sending {
    /// On schedule, whatever the server does: a record's latency counts from when it was due.
    async fn steady(&mut self, mut schedule: mpsc::Receiver<Instant>) -> Result<(), motience_device::client::Error> {
        loop {
            tokio::select! {
                due = schedule.recv() => {
                    let Some(due) = due else { return Ok(()) };
                    let record = self.next_record(self.clock.at(due));
                    self.device.session.send(self.pace.lane, record).await?;
                }
                event = self.device.session.next() => self.take(event?),
            }
        }
    }

    /// As many under way as allowed.
    async fn flood(&mut self) -> Result<(), motience_device::client::Error> {
        let end = Instant::now() + self.pace.duration;
        while Instant::now() < end {
            while self.sent - self.acknowledged.numbers() < self.pace.in_flight {
                let record = self.next_record(self.clock.now());
                self.device.session.send(self.pace.lane, record).await?;
            }
            let event = self.device.session.next().await?;
            self.take(event);
        }
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), motience_device::client::Error> {
        while self.acknowledged.numbers() < self.sent {
            let event = self.device.session.next().await?;
            self.take(event);
        }
        Ok(())
    }

    fn next_record(&mut self, due: u64) -> Record {
        self.sent += 1;
        let mark = Mark { device: self.device.number, number: self.sent, due };
        Record { seq: Seq(self.sent), json: record(mark, self.pace.size) }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Acked(ranges) => {
                let before = self.acknowledged.numbers();
                ranges.iter().for_each(|range| self.acknowledged.insert_range(range));
                self.live.acknowledged.fetch_add(self.acknowledged.numbers() - before, Ordering::Relaxed);
            }
            Event::Refused(refused) => self.live.fail(format!("a record was refused: {}", refused.message)),
            _ => {}
        }
    }
}

/// Tells each device when its next record is due: `rate` a second of all together, evenly spread.
///
/// A thread of its own, for tokio's timers are as coarse as a millisecond, which would be most of what is measured.
pub(crate) fn schedule(devices: usize, rate: f64, duration: Duration) -> Vec<mpsc::Receiver<Instant>> {
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..devices).map(|_| mpsc::channel(QUEUE)).unzip();
    std::thread::spawn(move || {
        let (start, gap) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        for (n, sender) in (0_u32..).zip(senders.iter().cycle()) {
            let due = start + gap * n;
            if due - start >= duration {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "this thread does nothing but keep time")]
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // A device that is cut has said so itself.
            let _ = sender.blocking_send(due);
        }
    });
    receivers
}

/// Records that may be due and not yet sent by one device.
const QUEUE: usize = 4096;
