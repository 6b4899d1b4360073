//! Faults, as they are really injected.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::time::sleep;

use super::{
    damage,
    history::{Event, Phase},
    platform::{Node, Platform, Way, cut_wal},
    proxy::{Link, Weather},
    schedule::{Fault, Step},
};

/// How long a subscription stays ended: longer than the checker's patience.
const REVOKED: Duration = Duration::from_millis(4500);
/// Most bytes cut off a log.
const MAX_CUT: u64 = 64 * 1024;
/// How often a cut is tried that is not honest just now.
const CUT_TRIES: usize = 8;

impl Platform {
    /// Injects a fault and undoes it. Whether it really took place.
    pub(crate) async fn inject(&self, step: Step) -> Result<bool> {
        let mut random = Rng::with_seed(step.seed);
        let fault = step.fault;
        match fault {
            Fault::NodeKill | Fault::NodeTerm | Fault::NodePause => self.node(fault, &mut random).await,
            Fault::RedisKill | Fault::RedisPause | Fault::PubsubCut | Fault::AofCut | Fault::RedisWipe => {
                self.redis(fault, &mut random).await
            }
            Fault::PostgresStop | Fault::PostgresPause => self.postgres(fault, &mut random).await,
            Fault::WalCut => self.cut_log(&mut random).await,
            Fault::LogRestore => self.restore_log(&mut random).await,
            Fault::UdpLoss | Fault::UdpBlackhole | Fault::UdpMangle | Fault::UdpMove => self.udp(fault, &mut random).await,
            Fault::TcpCut | Fault::TcpStall => self.tcp(fault, &mut random).await,
            Fault::DeviceKill | Fault::DeviceTear | Fault::DeviceFlip => self.device(fault, &mut random).await,
            Fault::ConsumerKill => self.consumer(&mut random).await,
            Fault::ConsumerPause => self.slow(&mut random).await,
            Fault::Revoke => self.revoke(&mut random).await,
        }
    }

    fn mark(&self, fault: Fault, phase: Phase, what: &str) {
        self.harness.put(Event::Fault { fault: fault.name().into(), phase, what: what.to_owned() });
    }

    fn note(&self, what: String) {
        self.harness.put(Event::Note { what });
    }

    async fn node(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let chosen = random.usize(..self.nodes.len());
        let mut node = self.nodes[chosen].lock().await;
        let name = node.name.clone();
        self.mark(fault, Phase::Begin, &name);
        match fault {
            Fault::NodePause => {
                node.signal("STOP").await?;
                pause(random, 300..2500).await;
                node.signal("CONT").await?;
            }
            _ => {
                if fault == Fault::NodeKill {
                    node.kill().await?
                } else {
                    node.stop().await?
                }
                self.flee(chosen, random).await;
                pause(random, 50..1200).await;
                node.start_again().await?;
            }
        }
        self.mark(fault, Phase::End, &name);
        Ok(true)
    }

    /// Some of those who were at this node go to another; the rest wait for it.
    async fn flee(&self, from: usize, random: &mut Rng) {
        let Some((_, old)) = self.endpoints.iter().find(|(node, _)| *node == from) else { return };
        let others: Vec<_> = self.endpoints.iter().filter(|(node, _)| *node != from).map(|(_, at)| *at).collect();
        self.links(async |link| {
            if link.target() == *old
                && random.bool()
                && let Some(other) = random.choice(&others)
            {
                link.aim(*other);
            }
        })
        .await;
    }

    /// Every UDP link, one after the other.
    async fn links(&self, mut each: impl AsyncFnMut(&Link)) {
        for device in &self.devices {
            each(&device.lock().await.link).await;
        }
        for consumer in &self.consumers {
            if let Way::Link(link) = &consumer.lock().await.way {
                each(link).await;
            }
        }
    }

    async fn redis(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let mut redis = self.redis.as_ref().context("there is no Redis here")?.lock().await;
        self.mark(fault, Phase::Begin, "");
        let mut really = true;
        match fault {
            Fault::PubsubCut => {
                for kind in ["pubsub", "normal"].iter().take(random.usize(1..=2)) {
                    self.note(format!("CLIENT KILL TYPE {kind}: {}", redis.command(&format!("CLIENT KILL TYPE {kind}")).await?));
                }
            }
            Fault::RedisPause => {
                redis.signal("STOP").await?;
                pause(random, 200..2500).await;
                redis.signal("CONT").await?;
            }
            _ => {
                redis.kill().await?;
                match fault {
                    Fault::AofCut => {
                        let bytes = redis.cut(random.u64(1..MAX_CUT))?;
                        self.note(format!("{bytes} bytes cut off the append-only file"));
                        really = bytes > 0;
                    }
                    Fault::RedisWipe => redis.wipe()?,
                    _ => {}
                }
                pause(random, 50..1500).await;
                redis.start_again().await?;
            }
        }
        self.mark(fault, Phase::End, "");
        Ok(really)
    }

    async fn postgres(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let mut postgres = self.postgres.as_ref().context("there is no PostgreSQL here")?.lock().await;
        self.mark(fault, Phase::Begin, "");
        if fault == Fault::PostgresPause {
            postgres.pause();
            pause(random, 300..2500).await;
            postgres.resume();
        } else {
            postgres.stop().await;
            pause(random, 100..2500).await;
            postgres.start_again().await;
        }
        self.mark(fault, Phase::End, "");
        Ok(true)
    }

    async fn cut_log(&self, random: &mut Rng) -> Result<bool> {
        let mut node = self.nodes[0].lock().await;
        let log = find(&node, "log.db")?;
        self.mark(Fault::WalCut, Phase::Begin, "");
        let mut cut = 0;
        for _ in 0..CUT_TRIES {
            node.kill().await?;
            cut = cut_wal(&log, random.u64(1..MAX_CUT))?;
            if cut > 0 {
                break;
            }
            node.start_again().await?;
            pause(random, 200..800).await;
        }
        self.note(format!("{cut} bytes cut off the log's WAL"));
        pause(random, 50..500).await;
        node.start_again().await?;
        self.mark(Fault::WalCut, Phase::End, "");
        Ok(cut > 0)
    }

    async fn restore_log(&self, random: &mut Rng) -> Result<bool> {
        let mut node = self.nodes[0].lock().await;
        let log = find(&node, "log.db")?;
        let (wal, copy) = (log.with_extension("db-wal"), log.with_extension("copy"));
        let copied_wal = log.with_extension("copy-wal");
        self.mark(Fault::NodeKill, Phase::Begin, &node.name);
        node.kill().await?;
        std::fs::copy(&log, &copy)?;
        if wal.exists() {
            std::fs::copy(&wal, &copied_wal)?;
        }
        node.start_again().await?;
        self.mark(Fault::NodeKill, Phase::End, &node.name);
        pause(random, 1000..2500).await;

        self.mark(Fault::LogRestore, Phase::Begin, "");
        node.kill().await?;
        for old in [&wal, &log.with_extension("db-shm")] {
            if old.exists() {
                std::fs::remove_file(old)?;
            }
        }
        std::fs::rename(&copy, &log)?;
        if copied_wal.exists() {
            std::fs::rename(&copied_wal, &wal)?;
        }
        pause(random, 50..500).await;
        node.start_again().await?;
        self.mark(Fault::LogRestore, Phase::End, "");
        Ok(true)
    }

    async fn udp(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let weather = match fault {
            Fault::UdpLoss => Weather { lost_up: 0.05 + 0.3 * random.f64(), lost_down: 0.05 + 0.3 * random.f64(), ..Weather::default() },
            Fault::UdpMangle => Weather { doubled: 0.3, held: 0.4, ..Weather::default() },
            Fault::UdpBlackhole => match random.u8(0..4) {
                0 => Weather { lost_up: 1.0, ..Weather::default() },
                1 => Weather { lost_up: 1.0, lost_down: 1.0, ..Weather::default() },
                // The worst one: records arrive, and word of it does not.
                _ => Weather { lost_down: 1.0, ..Weather::default() },
            },
            _ => Weather::default(),
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
                link.set(weather);
            }
        })
        .await;
        pause(random, if fault == Fault::UdpBlackhole { 800..5500 } else { 800..3000 }).await;
        self.links(async |link| link.set(Weather::default())).await;
        self.mark(fault, Phase::End, "");
        Ok(really)
    }

    async fn tcp(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let mut pipes = Vec::new();
        for (i, consumer) in self.consumers.iter().enumerate() {
            if matches!(consumer.lock().await.way, Way::Pipe(_)) {
                pipes.push(i);
            }
        }
        let Some(chosen) = random.choice(&pipes).copied() else { return Ok(false) };
        let name = chosen.to_string();
        let set = async |stall: bool| {
            if let Way::Pipe(pipe) = &self.consumers[chosen].lock().await.way {
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

    async fn device(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let chosen = random.usize(..self.devices.len());
        let mut device = self.devices[chosen].lock().await;
        let name = chosen.to_string();
        self.mark(fault, Phase::Begin, &name);
        if fault != Fault::DeviceKill {
            // So that there is something in the outbox that can be lost.
            device.link.set(Weather { lost_up: 1.0, lost_down: 1.0, ..Weather::default() });
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
        device.link.set(Weather::default());
        device.start_again()?;
        Ok(fault == Fault::DeviceKill || !done.is_empty())
    }

    /// Any consumer but the slow one, which is the last.
    fn quick(&self, random: &mut Rng) -> usize {
        random.usize(..self.consumers.len() - 1)
    }

    async fn consumer(&self, random: &mut Rng) -> Result<bool> {
        let chosen = self.quick(random);
        let mut consumer = self.consumers[chosen].lock().await;
        self.mark(Fault::ConsumerKill, Phase::Begin, &chosen.to_string());
        consumer.kill().await?;
        pause(random, 50..1500).await;
        consumer.start_again()?;
        self.mark(Fault::ConsumerKill, Phase::End, &chosen.to_string());
        Ok(true)
    }

    async fn slow(&self, random: &mut Rng) -> Result<bool> {
        let Some(consumer) = self.consumers.last() else { return Ok(false) };
        self.mark(Fault::ConsumerPause, Phase::Begin, "");
        // Not locked meanwhile: others have to get at its link.
        consumer.lock().await.signal("STOP").await?;
        pause(random, 5000..9000).await;
        consumer.lock().await.signal("CONT").await?;
        self.mark(Fault::ConsumerPause, Phase::End, "");
        pause(random, 1000..3000).await;
        Ok(true)
    }

    async fn revoke(&self, random: &mut Rng) -> Result<bool> {
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

async fn pause(random: &mut Rng, millis: std::ops::Range<u64>) {
    sleep(Duration::from_millis(random.u64(millis))).await;
}

/// A file of this name in the node's data.
fn find(node: &Node, name: &str) -> Result<PathBuf> {
    let mut folders = vec![node.dir.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|file| file == name) {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("{} keeps no {name}", node.name)
}
