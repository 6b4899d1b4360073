//! `loadtest check-device`: a device as a process of its own, with its outbox on disk.
//!
//! The device writes each step down before and after it, and goes on where its last process ended. `finish` on its standard
//! input lets it offer nothing more and end when everything is settled; the end of its input ends it at once.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use motience_certs::Trust;
use motience_device::{
    backoff::Backoff,
    client::{self, Lane},
    login::Credentials,
    outbox::{self, Storage},
    policy::Policy,
    producer::{self, Outcome, Producer},
};
use motience_proto::model::{DeviceId, RecordId, Seq};
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::{
    history::{self, Event, Id, Writer},
    orders::{Order, Orders},
    record,
};

/// Records of the outbox that drops the oldest: few, so that an outage of seconds makes it drop some.
const FEW: usize = 150;
/// Records whose end is awaited at once; beyond it nothing is offered.
const MAX_PENDING: usize = 4000;

/// Orders for a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) number: u32,
    pub(crate) token: String,
    /// The link to the nodes.
    pub(crate) server: String,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) history: PathBuf,
    pub(crate) outbox: PathBuf,
    /// Records a second.
    pub(crate) rate: f64,
    /// Whether a full outbox drops the oldest record.
    pub(crate) drops: bool,
}

/// Runs until it is told to end. `damaged`: whether its outbox was, since it ran last.
pub(crate) async fn run(plan: Plan, incarnation: u32, damaged: bool) -> Result<()> {
    motience_certs::install_provider();
    let past = history::read(&plan.history)?;
    let history = Writer::open(&plan.history)?;
    history.put(Event::Started { incarnation });
    let config = config(&plan)?;
    let producer = Producer::start(config, Credentials::Token(plan.token.clone().into())).context("the producer cannot start")?;
    let device = Device { plan, producer, history };

    let mut pending = FuturesUnordered::new();
    for (id, name) in device.unsettled(&past, damaged) {
        pending.push(device.settle(id, name.seq).boxed());
    }
    let mut orders = Orders::listen();
    let mut ticks = interval(Duration::from_secs_f64(1.0 / device.plan.rate.max(0.1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut number, mut offering) = (0, true);
    while offering || !pending.is_empty() {
        tokio::select! {
            order = orders.next() => match order {
                Some(Order::Finish) => offering = false,
                None => return Ok(()),
            },
            Some(()) = pending.next() => {}
            _ = ticks.tick(), if offering && pending.len() < MAX_PENDING => {
                number += 1;
                pending.push(device.offer(Id { device: device.plan.number, incarnation, number }).boxed());
            }
        }
    }
    drop(pending);
    device.history.put(Event::Done { incarnation });
    device.producer.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

struct Device {
    plan: Plan,
    producer: Producer,
    history: Writer,
}

impl Device {
    /// Records of earlier lives of the process that are still in the outbox. The fate of the others is written down.
    ///
    /// Damage to the end of the file may undo the last commits without a trace: what is missing behind all that is there
    /// was lost with them.
    fn unsettled(&self, past: &[history::Line], damaged: bool) -> Vec<(Id, RecordId)> {
        let mut open: Vec<(Id, RecordId)> = Vec::new();
        for line in past {
            match &line.event {
                Event::Taken { id, name } => open.push((*id, *name)),
                Event::Acked { id } | Event::Refused { id, .. } | Event::Dropped { id } | Event::Lost { id } => {
                    open.retain(|(other, _)| other != id);
                }
                _ => {}
            }
        }
        let (epoch, lost) = (self.producer.epoch(), self.producer.stats().outbox.lost);
        let here = |name: &RecordId| name.producer_epoch == epoch && self.producer.acked(name.seq).now_or_never().is_none();
        let last = open.iter().filter(|(_, name)| here(name)).map(|(_, name)| name.seq).max();
        open.retain(|(id, name)| {
            let here = here(name);
            if !here {
                // The library's word, as far as it goes: where it says that it lost nothing, what is not there was settled.
                let undone = damaged && last.is_none_or(|last| name.seq > last);
                let gone = lost > 0 || name.producer_epoch != epoch || undone;
                self.history.put(if gone { Event::Lost { id: *id } } else { Event::Acked { id: *id } });
            }
            here
        });
        self.history.put(Event::Note { what: format!("epoch {epoch}, {} records in the outbox, {lost} lost", open.len()) });
        open
    }

    async fn offer(&self, id: Id) {
        let (json, hash) = record::make(id, &self.name());
        self.history.put(Event::Offered { id, hash });
        let lane = if id.number.is_multiple_of(2) { Lane::Ordered } else { Lane::Independent };
        let taken = async {
            let seq = self.producer.enqueue(lane, json).await?;
            self.producer.saved(seq).await.map(|()| seq)
        };
        match taken.await {
            Ok(seq) => {
                self.history.put(Event::Taken { id, name: RecordId { producer_epoch: self.producer.epoch(), seq } });
                self.settle(id, seq).await;
            }
            Err(e) => self.history.put(Event::Rejected { id, why: e.to_string() }),
        }
    }

    async fn settle(&self, id: Id, seq: Seq) {
        let event = match self.producer.acked(seq).await {
            Ok(Outcome::Acked) => Event::Acked { id },
            Ok(Outcome::Refused { code, .. }) => Event::Refused { id, code },
            Ok(Outcome::Dropped) => Event::Dropped { id },
            Err(e) => Event::Note { what: format!("record {id} has no end: {e}") },
        };
        self.history.put(event);
    }

    fn name(&self) -> String {
        name(self.plan.number)
    }
}

fn name(number: u32) -> String {
    format!("check-{number}")
}

fn config(plan: &Plan) -> Result<producer::Config> {
    let id = DeviceId::new(&name(plan.number))?;
    let (client, policy) = impatient(&plan.server, plan.ca.clone(), id)?;
    let mut config = producer::Config::new(client);
    config.outbox = outbox::Config {
        storage: Storage::Disk(plan.outbox.clone()),
        records: if plan.drops { FEW } else { 2 * MAX_PENDING },
        policy: if plan.drops { outbox::Policy::DropOldest } else { outbox::Policy::Block },
        order: if plan.number.is_multiple_of(2) { outbox::Order::OldestFirst } else { outbox::Order::LiveFirst },
        block_timeout: Duration::from_secs(60),
        ..outbox::Config::default()
    };
    config.policy = policy;
    config.ack_timeout = Duration::from_secs(4);
    config.drain_timeout = Duration::from_secs(2);
    Ok(config)
}

/// Settings of clients in a check: the waits are as in real life, but short, for a run has minutes and not days.
pub(crate) fn impatient(server: &str, ca: Option<PathBuf>, id: DeviceId) -> Result<(client::Config, Policy)> {
    let mut config = client::Config::new(server.parse()?, ca.map_or(Trust::Platform, Trust::Ca), id);
    config.connect_timeout = Duration::from_secs(2);
    config.quic.keep_alive = Duration::from_millis(300);
    config.quic.idle_timeout = Duration::from_millis(1500);
    let policy = Policy {
        backoff: Backoff { base: Duration::from_millis(100), max: Duration::from_secs(1) },
        rate_limited: Duration::from_secs(1),
        fenced: Duration::from_millis(500),
        drain: Duration::from_millis(300),
        stable_after: Duration::from_secs(1),
        ..Policy::default()
    };
    Ok((config, policy))
}
