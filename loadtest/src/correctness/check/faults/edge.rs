//! Faults at the edges: links, devices and their outboxes, consumers and their subscriptions.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use rustix::process::Signal;
use tokio::time::sleep;

use super::pause;
use crate::correctness::check::{
    damage,
    history::{Event, Phase},
    platform::{NetworkPath, Platform},
    proxy::Impairment,
    schedule::Fault,
};

/// How long a subscription stays ended: longer than the checker's patience.
const REVOKED: Duration = Duration::from_millis(4500);

impl Platform {
    pub(super) async fn udp(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let impairment = match fault {
            Fault::UdpLoss => {
                Impairment { lost_up: 0.05 + 0.3 * random.f64(), lost_down: 0.05 + 0.3 * random.f64(), ..Impairment::default() }
            }
            Fault::UdpMangle => Impairment { doubled: 0.3, held: 0.4, ..Impairment::default() },
            Fault::UdpBlackhole => match random.u8(0..4) {
                0 => Impairment { lost_up: 1.0, ..Impairment::default() },
                1 => Impairment { lost_up: 1.0, lost_down: 1.0, ..Impairment::default() },
                // The worst one: records arrive, and word of it does not.
                _ => Impairment { lost_down: 1.0, ..Impairment::default() },
            },
            _ => Impairment::default(),
        };
        self.mark(fault, Phase::Begin, "");
        let everyone = random.bool();
        let mut really = false;
        self.links(async |link| {
            if !everyone && random.bool() && really {
                return;
            }
            really = true;
            if fault == Fault::UdpMove {
                let others: Vec<_> = self.endpoints.iter().filter(|(_, at)| *at != link.target()).collect();
                if let Some((_, other)) = random.choice(&others) {
                    link.aim(*other);
                }
            } else {
                link.set(impairment);
            }
        })
        .await;
        pause(random, if fault == Fault::UdpBlackhole { 800..5500 } else { 800..3000 }).await;
        self.links(async |link| link.set(Impairment::default())).await;
        self.mark(fault, Phase::End, "");
        Ok(really)
    }

    pub(super) async fn tcp(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let mut pipes = Vec::new();
        for (i, consumer) in self.consumers.iter().enumerate() {
            if matches!(consumer.lock().await.path, NetworkPath::Pipe(_)) {
                pipes.push(i);
            }
        }
        let Some(chosen) = random.choice(&pipes).copied() else { return Ok(false) };
        let name = chosen.to_string();
        let set = async |stall: bool| {
            if let NetworkPath::Pipe(pipe) = &self.consumers[chosen].lock().await.path {
                if fault == Fault::TcpCut { pipe.cut() } else { pipe.stall(stall) }
            }
        };
        self.mark(fault, Phase::Begin, &name);
        set(true).await;
        pause(random, 300..2500).await;
        set(false).await;
        self.mark(fault, Phase::End, &name);
        Ok(true)
    }

    pub(super) async fn device(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let chosen = random.usize(..self.devices.len());
        let mut device = self.devices[chosen].lock().await;
        let name = chosen.to_string();
        self.mark(fault, Phase::Begin, &name);
        // On a good link records are acknowledged before they are written; on a dead one they pile up in the file.
        if random.bool() {
            device.link.set(Impairment { lost_up: 1.0, lost_down: 1.0, ..Impairment::default() });
            pause(random, 300..1000).await;
        }
        device.kill().await?;
        let done = match fault {
            Fault::DeviceTear => damage::tear(&device.plan.outbox, random)?,
            Fault::DeviceFlip => damage::flip(&device.plan.outbox, random)?,
            _ => String::new(),
        };
        if !done.is_empty() {
            self.note(format!("outbox {chosen}: {done}"));
        }
        // The fault has taken place; what the device says of it from now on is later.
        self.mark(fault, Phase::End, &name);
        pause(random, 50..600).await;
        device.link.set(Impairment::default());
        device.start_again(!done.is_empty())?;
        Ok(fault == Fault::DeviceKill || !done.is_empty())
    }

    /// Any consumer but the slow one, which is the last.
    fn quick(&self, random: &mut Rng) -> usize {
        random.usize(..self.consumers.len() - 1)
    }

    pub(super) async fn consumer(&self, random: &mut Rng) -> Result<bool> {
        let chosen = self.quick(random);
        let mut consumer = self.consumers[chosen].lock().await;
        self.mark(Fault::ConsumerKill, Phase::Begin, &chosen.to_string());
        consumer.kill().await?;
        pause(random, 50..1500).await;
        consumer.start_again()?;
        self.mark(Fault::ConsumerKill, Phase::End, &chosen.to_string());
        Ok(true)
    }

    pub(super) async fn slow(&self, random: &mut Rng) -> Result<bool> {
        let Some(consumer) = self.consumers.last() else { return Ok(false) };
        self.mark(Fault::ConsumerPause, Phase::Begin, "");
        // Not locked meanwhile: others have to get at its link.
        consumer.lock().await.signal(Signal::STOP)?;
        pause(random, 5000..9000).await;
        consumer.lock().await.signal(Signal::CONT)?;
        self.mark(Fault::ConsumerPause, Phase::End, "");
        pause(random, 1000..3000).await;
        Ok(true)
    }

    pub(super) async fn revoke(&self, random: &mut Rng) -> Result<bool> {
        let chosen = self.quick(random);
        let (number, account, producers) = {
            let consumer = self.consumers[chosen].lock().await;
            (consumer.plan.number, consumer.account.clone(), consumer.plan.producers.clone())
        };
        let Some(producer) = random.choice(&producers).copied() else { return Ok(false) };
        let what = format!("{number} {producer}");
        self.mark(Fault::Revoke, Phase::Begin, &what);
        self.harness.put(Event::Unsubscribing { consumer: number, producer });
        self.accounts.unsubscribe(&account, producer).await?;
        self.harness.put(Event::Unsubscribed { consumer: number, producer });
        sleep(REVOKED).await;
        // Killed before and started after: nothing that it was still holding can be taken for a leak, and it goes on from
        // its cursor, as a subscriber who is back does.
        let mut consumer = self.consumers[chosen].lock().await;
        consumer.kill().await?;
        self.accounts.subscribe_to(&account, producer).await?;
        self.harness.put(Event::Subscribed { consumer: number, producer });
        consumer.start_again()?;
        self.mark(Fault::Revoke, Phase::End, &what);
        Ok(true)
    }
}
