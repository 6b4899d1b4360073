//! Faults of what the platform stands on: nodes, Redis, PostgreSQL, the log's file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use tokio::time::{Instant, sleep};

use super::pause;
use crate::correctness::check::{
    history::Phase,
    platform::{Node, Platform, cut_wal},
    schedule::Fault,
    stored,
};

/// Most bytes cut off a log.
const MAX_CUT: u64 = 64 * 1024;
/// How often a cut is tried that is not honest just now.
const CUT_TRIES: usize = 8;
/// Longest wait for devices to come back and send something.
const GROWTH_LIMIT: Duration = Duration::from_secs(10);

impl Platform {
    pub(super) async fn node(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
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
                    node.kill().await?;
                } else {
                    node.stop().await?;
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

    pub(super) async fn redis(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
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
                        let bytes = redis.cut(random.u64(1..MAX_CUT)).await?;
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

    pub(super) async fn postgres(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
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

    /// Redis is away, or another process holds the lock of the log's file, while the node dies.
    pub(super) async fn stall_log(&self, random: &mut Rng) -> Result<bool> {
        let chosen = random.usize(..self.endpoints.len());
        let mut node = self.nodes[self.endpoints[chosen].0].lock().await;
        let name = node.name.clone();
        self.mark(Fault::LogStall, Phase::Begin, &name);
        if let Some(redis) = &self.redis {
            let mut redis = redis.lock().await;
            // Killed, it forgets what it was sent; stopped, it does what it was sent by a node that is no more.
            let dies = random.u8(0..3) > 0;
            if dies {
                redis.kill().await?;
            } else {
                redis.signal("STOP").await?;
            }
            pause(random, 300..1200).await;
            node.kill().await?;
            if dies {
                redis.start_again().await?;
            } else {
                redis.signal("CONT").await?;
            }
        } else {
            let lock = stored::Held::take(&find(&node, "log.db")?).await?;
            pause(random, 300..1200).await;
            node.kill().await?;
            lock.release().await?;
        }
        self.flee(self.endpoints[chosen].0, random).await;
        node.start_again().await?;
        self.mark(Fault::LogStall, Phase::End, &name);
        // So that there is traffic again before the next one.
        pause(random, 1500..2500).await;
        Ok(true)
    }

    pub(super) async fn cut_log(&self, random: &mut Rng) -> Result<bool> {
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

    pub(super) async fn restore_log(&self, random: &mut Rng) -> Result<bool> {
        let mut node = self.nodes[0].lock().await;
        let log = find(&node, "log.db")?;
        let (wal, copy) = (log.with_extension("db-wal"), log.with_extension("copy"));
        let copied_wal = log.with_extension("copy-wal");
        // Neither the copy nor what it leaves out may be nothing, or the restored log has lost nothing that anyone knows of.
        grow(&log, 0).await?;
        self.mark(Fault::NodeKill, Phase::Begin, &node.name);
        node.kill().await?;
        let places = stored::places(&log).await?;
        std::fs::copy(&log, &copy)?;
        if wal.exists() {
            std::fs::copy(&wal, &copied_wal)?;
        }
        node.start_again().await?;
        self.mark(Fault::NodeKill, Phase::End, &node.name);
        pause(random, 1000..2500).await;
        grow(&log, places).await?;

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
}

/// Returns once the log has given out more places than `before`.
async fn grow(log: &Path, before: i64) -> Result<()> {
    let deadline = Instant::now() + GROWTH_LIMIT;
    while stored::places(log).await? <= before && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
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
