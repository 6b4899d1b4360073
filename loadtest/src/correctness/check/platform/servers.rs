//! Redis servers with replicas: a cluster, or a pair behind Sentinel. Of two that have the same data only one is ever away.
//!
//! The pair keeps append-only files. Sentinels that a busy machine holds up take the successor for dead, and promote the server that has just come
//! back: one without a file would have an old copy then, or nothing, and what was acknowledged would be gone.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fastrand::Rng;
use motience_testing::{Redis, RedisCluster, Sentinels};
use tokio::time::{Instant, sleep};

/// Parts of a cluster.
const PARTS: usize = 3;
/// Longest wait until a server that was away is a replica again.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) enum Servers {
    Cluster(RedisCluster),
    Pair { pair: Box<[Redis; 2]>, sentinels: Sentinels },
}

impl Servers {
    pub(crate) async fn cluster() -> Self {
        Self::Cluster(RedisCluster::start(PARTS).await)
    }

    pub(crate) async fn behind_sentinel() -> Self {
        let master = Redis::durable().await;
        let replica = Redis::durable_replica_of(&master).await;
        let sentinels = Sentinels::start(3, &master, 1).await;
        Self::Pair { pair: Box::new([master, replica]), sentinels }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Cluster(cluster) => cluster.url(),
            Self::Pair { sentinels, .. } => sentinels.url(),
        }
    }

    /// Kills a master, and starts it again when it has a successor.
    pub(crate) async fn kill_master(&mut self, random: &mut Rng) -> Result<()> {
        match self {
            Self::Cluster(cluster) => {
                let part = random.usize(..PARTS);
                let master = cluster.master(part).await;
                cluster.kill(master);
                cluster.until_master((master + PARTS) % (2 * PARTS)).await;
                cluster.start_again(master).await;
            }
            Self::Pair { pair, sentinels } => {
                let master = usize::from(!pair[0].is_master().await);
                pair[master].kill();
                sentinels.until_master(&pair[1 - master]).await;
                pair[master].start_again().await;
            }
        }
        self.settle().await
    }

    /// Stops a master for so long; it may have a successor by then.
    pub(crate) async fn pause_master(&mut self, time: Duration, random: &mut Rng) -> Result<()> {
        let master = match &*self {
            Self::Cluster(cluster) => cluster.node(cluster.master(random.usize(..PARTS)).await),
            Self::Pair { pair, .. } => &pair[usize::from(!pair[0].is_master().await)],
        };
        master.pause();
        sleep(time).await;
        master.resume();
        self.settle().await
    }

    /// Cuts a master off from the other servers for so long, while nodes go on reaching it; it may have a successor by then.
    pub(crate) async fn cut_off_master(&mut self, time: Duration, random: &mut Rng) -> Result<()> {
        let Self::Cluster(cluster) = self else { anyhow::bail!("only servers of a cluster talk to each other") };
        let master = cluster.master(random.usize(..PARTS)).await;
        cluster.cut_off(Some(master));
        sleep(time).await;
        cluster.cut_off(None);
        self.settle().await
    }

    /// Has a replica take over.
    pub(crate) async fn fail_over(&mut self, random: &mut Rng) -> Result<()> {
        match &*self {
            Self::Cluster(cluster) => cluster.fail_over(random.usize(..PARTS)).await,
            Self::Pair { sentinels, .. } => sentinels.change_master().await,
        }
        self.settle().await
    }

    /// Moves a slot that has keys to another server. Says which.
    pub(crate) async fn move_slot(&mut self, random: &mut Rng) -> Result<String> {
        let Self::Cluster(cluster) = self else { anyhow::bail!("only a cluster has slots") };
        let (first, away) = (random.usize(..PARTS), random.usize(1..PARTS));
        for part in (first..first + PARTS).map(|part| part % PARTS) {
            let from = cluster.master(part).await;
            let Some(slot) = cluster.used_slot(from).await else { continue };
            let to = cluster.master((part + away) % PARTS).await;
            cluster.move_slot(slot, to).await;
            self.settle().await?;
            return Ok(format!("slot {slot} from server {from} to {to}"));
        }
        Ok(String::new())
    }

    /// Cuts connections of this type, to all servers.
    pub(crate) async fn cut(&self, kind: &str) {
        let command = format!("CLIENT KILL TYPE {kind}");
        match self {
            Self::Cluster(cluster) => {
                for number in 0..2 * PARTS {
                    cluster.node(number).command(&command).await;
                }
            }
            Self::Pair { pair, .. } => {
                for server in pair.iter() {
                    server.command(&command).await;
                }
            }
        }
    }

    /// Returns once everything is on two servers again.
    async fn settle(&self) -> Result<()> {
        match self {
            Self::Cluster(cluster) => cluster.whole().await,
            Self::Pair { pair, .. } => {
                let [one, other] = &**pair;
                let deadline = Instant::now() + LIMIT;
                while !(one.is_master().await && other.is_replica().await || other.is_master().await && one.is_replica().await) {
                    (Instant::now() < deadline).then_some(()).context("no server becomes a replica of the other")?;
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        Ok(())
    }
}
