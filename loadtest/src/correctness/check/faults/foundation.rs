//! Faults of what the platform stands on: nodes, Redis, PostgreSQL, the log's file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::pause;
use crate::correctness::check::{
    history::Phase,
    platform::{Node, Platform},
    schedule::Fault,
    stored,
};

/// Most bytes cut off a log.
const MAX_CUT: u64 = 64 * 1024;
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
                node.signal(Signal::STOP)?;
                pause(random, 300..2500).await;
                node.signal(Signal::CONT)?;
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
                redis.signal(Signal::STOP)?;
                pause(random, 200..2500).await;
                redis.signal(Signal::CONT)?;
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

    /// Faults of servers that have replicas.
    pub(super) async fn replicas(&self, fault: Fault, random: &mut Rng) -> Result<bool> {
        let mut servers = self.servers.as_ref().context("there are no servers with replicas")?.lock().await;
        self.mark(fault, Phase::Begin, "");
        let mut really = true;
        match fault {
            Fault::MasterKill => servers.kill_master(random).await?,
            Fault::MasterPause => {
                let time = Duration::from_millis(random.u64(300..4000));
                servers.pause_master(time, random).await?;
            }
            Fault::Partition => {
                let time = Duration::from_millis(random.u64(300..6000));
                servers.cut_off_master(time, random).await?;
            }
            Fault::Failover => servers.fail_over(random).await?,
            Fault::SlotMove => {
                let moved = servers.move_slot(random).await?;
                really = !moved.is_empty();
                self.note(moved);
            }
            _ => {
                for kind in ["pubsub", "normal"].iter().take(random.usize(1..=2)) {
                    servers.cut(kind).await;
                }
            }
        }
        self.mark(fault, Phase::End, "");
        // So that records are acknowledged before the next one.
        pause(random, 500..1500).await;
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

    /// Redis is away, or another process holds the log's lock, while the node dies.
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
                redis.signal(Signal::STOP)?;
            }
            pause(random, 300..1200).await;
            node.kill().await?;
            if dies {
                redis.start_again().await?;
            } else {
                redis.signal(Signal::CONT)?;
            }
        } else {
            let lock = stored::Held::take(&find(&node, "log.hold")?).await?;
            pause(random, 300..1200).await;
            node.kill().await?;
            lock.release()?;
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
        let segments = find(&node, "log.segments")?;
        self.mark(Fault::LogCut, Phase::Begin, "");
        node.kill().await?;
        let cut = cut_segment(&segments, random.u64(1..MAX_CUT))?;
        self.note(format!("{cut} bytes cut off the log"));
        pause(random, 50..500).await;
        node.start_again().await?;
        self.mark(Fault::LogCut, Phase::End, "");
        Ok(cut > 0)
    }

    pub(super) async fn restore_log(&self, random: &mut Rng) -> Result<bool> {
        let mut node = self.nodes[0].lock().await;
        let segments = find(&node, "log.segments")?;
        let data = segments.parent().context("the log is in a folder")?.to_owned();
        let copy = data.with_extension("copy");
        // Neither the copy nor what it leaves out may be nothing, or the restored log has lost nothing that anyone knows of.
        grow(&segments, 100).await?;
        self.mark(Fault::NodeKill, Phase::Begin, &node.name);
        node.kill().await?;
        let size = stored::size(&segments)?;
        copy_log(&data, &copy)?;
        node.start_again().await?;
        self.mark(Fault::NodeKill, Phase::End, &node.name);
        pause(random, 1000..2500).await;
        grow(&segments, size).await?;

        self.mark(Fault::LogRestore, Phase::Begin, "");
        node.kill().await?;
        std::fs::remove_dir_all(&segments)?;
        for database in ["log.db", "log.db-wal", "log.db-shm"].map(|name| data.join(name)).iter().filter(|path| path.exists()) {
            std::fs::remove_file(database)?;
        }
        copy_log(&copy, &data)?;
        std::fs::remove_dir_all(&copy)?;
        pause(random, 50..500).await;
        node.start_again().await?;
        self.mark(Fault::LogRestore, Phase::End, "");
        Ok(true)
    }
}

impl Platform {
    /// The product's own commands make a backup of a running node, and restore it once more has been written.
    pub(super) async fn restore_backup(&self, random: &mut Rng) -> Result<bool> {
        let mut node = self.nodes[0].lock().await;
        let segments = find(&node, "log.segments")?;
        let data = segments.parent().context("the log is in a folder")?.to_owned();
        let (backup, aside) = (data.with_extension("backup"), data.with_extension("aside"));
        grow(&segments, 100).await?;
        self.note(node.command(&["backup".as_ref(), "--to".as_ref(), backup.as_os_str()]).await?);
        let size = stored::size(&segments)?;
        pause(random, 500..2000).await;
        grow(&segments, size).await?;

        self.mark(Fault::BackupRestore, Phase::Begin, "");
        node.kill().await?;
        std::fs::rename(&data, &aside)?;
        self.note(node.command(&["restore".as_ref(), "--from".as_ref(), backup.as_os_str()]).await?);
        // A subscription that has ended since must stay ended: what the accounts had lost, no checker could tell from a leak.
        for name in ["motience.db", "motience.db-wal", "motience.db-shm"] {
            let _ = std::fs::remove_file(data.join(name));
            if aside.join(name).exists() {
                std::fs::copy(aside.join(name), data.join(name))?;
            }
        }
        std::fs::remove_dir_all(&aside)?;
        std::fs::remove_dir_all(&backup)?;
        pause(random, 50..500).await;
        node.start_again().await?;
        self.mark(Fault::BackupRestore, Phase::End, "");
        Ok(true)
    }
}

/// Returns once the log's segments are longer than `before`.
async fn grow(segments: &Path, before: u64) -> Result<()> {
    let deadline = Instant::now() + GROWTH_LIMIT;
    while stored::size(segments)? <= before && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Cuts up to `bytes` off the segment that was being written. Returns how many.
fn cut_segment(segments: &Path, bytes: u64) -> Result<u64> {
    let files = std::fs::read_dir(segments)?.flatten().map(|entry| entry.path());
    let last = files.filter(|path| path.extension().is_some_and(|end| end == "segment")).max().context("there is no segment")?;
    let file = std::fs::OpenOptions::new().write(true).open(last)?;
    let length = file.metadata()?.len();
    let bytes = bytes.min(length);
    file.set_len(length - bytes)?;
    Ok(bytes)
}

/// Copies a log's segments and database to another folder.
fn copy_log(from: &Path, to: &Path) -> Result<()> {
    let segments = to.join("log.segments");
    std::fs::create_dir_all(&segments)?;
    for entry in std::fs::read_dir(from.join("log.segments"))?.flatten() {
        std::fs::copy(entry.path(), segments.join(entry.file_name()))?;
    }
    for name in ["log.db", "log.db-wal"].into_iter().filter(|name| from.join(name).exists()) {
        std::fs::copy(from.join(name), to.join(name))?;
    }
    Ok(())
}

/// A file or folder of this name in the node's data.
fn find(node: &Node, name: &str) -> Result<PathBuf> {
    let mut folders = vec![node.dir.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path.file_name().is_some_and(|file| file == name) {
                return Ok(path);
            }
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    anyhow::bail!("{} keeps no {name}", node.name)
}
