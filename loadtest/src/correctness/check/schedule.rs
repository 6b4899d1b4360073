//! Which faults happen, in which order, and how they are meant: all of it follows from the seed.
//!
//! Three lanes run beside each other: what the servers stand on, what is at the edges, and the slow consumer. Each lane deals
//! its kinds from a shuffled deck, so that every kind has happened once before any happens twice.

use std::{fmt, str::FromStr, time::Duration};

use clap::ValueEnum;
use fastrand::Rng;

/// Where a cluster of nodes has its logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Logs {
    /// In one Redis that writes everything to its disk.
    Redis,
    /// In a Redis Cluster of three masters and three replicas.
    RedisCluster,
    /// In a Redis with a replica, behind three Sentinels.
    Sentinel,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL to a node, and a start on the same ports.
    NodeKill,
    /// SIGTERM to a node, which drains, and a start.
    NodeTerm,
    /// SIGSTOP, and SIGCONT.
    NodePause,
    /// The log takes nothing for a while, and a node is killed meanwhile: what it holds is in the log of nobody.
    LogStall,
    /// SIGKILL to Redis, and a start.
    RedisKill,
    /// SIGSTOP, and SIGCONT.
    RedisPause,
    /// `CLIENT KILL TYPE pubsub`: subscribers lose what is published meanwhile.
    PubsubCut,
    /// SIGKILL to Redis, the end of its append-only file cut off, and a start.
    AofCut,
    /// SIGKILL to Redis, its files removed, and a start.
    RedisWipe,
    /// SIGKILL to a master, which starts again once its replica was promoted.
    MasterKill,
    /// SIGSTOP to a master, so that those who watch it take it for lost, and SIGCONT.
    MasterPause,
    /// A master and the other servers of the Redis Cluster do not reach each other, while nodes reach all of them.
    Partition,
    /// A replica takes over from its master, in order.
    Failover,
    /// A slot moves to another server of the Redis Cluster.
    SlotMove,
    /// PostgreSQL is stopped, and started.
    PostgresStop,
    /// PostgreSQL takes no new connections for a while.
    PostgresPause,
    /// SIGKILL to an embedded node, the end of its log cut off, and a start.
    LogCut,
    /// SIGKILL to an embedded node, an older copy of its log put in place, and a start.
    LogRestore,
    /// SIGKILL to an embedded node, and a start on a backup that the product made while the node ran.
    BackupRestore,
    /// A device's packets are lost by chance.
    UdpLoss,
    /// All of them, in one direction or both.
    UdpBlackhole,
    /// They are doubled and overtake each other.
    UdpMangle,
    /// They go to another node from one moment to the next.
    UdpMove,
    /// A WebSocket consumer's connection is cut.
    TcpCut,
    /// A WebSocket consumer's connection carries nothing for a while.
    TcpStall,
    /// SIGKILL to a device, and a start with its outbox.
    DeviceKill,
    /// SIGKILL to a device, and the end of its outbox's file is cut off before the start.
    DeviceTear,
    /// SIGKILL to a device, and a byte near the end of its outbox's file is flipped before the start.
    DeviceFlip,
    /// SIGKILL to a consumer, and a start from its cursor.
    ConsumerKill,
    /// SIGSTOP to the slow consumer for long, and SIGCONT.
    ConsumerPause,
    /// A subscription is ended, and begun again later.
    Revoke,
}

/// Loss that a fault excuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excuse {
    /// Nothing.
    None,
    /// The log lost its end.
    Rollback,
    /// A device's outbox lost its end.
    Torn,
}

/// Every kind, and its name.
const NAMES: [(Fault, &str); 31] = [
    (Fault::NodeKill, "node-kill"),
    (Fault::NodeTerm, "node-term"),
    (Fault::NodePause, "node-pause"),
    (Fault::LogStall, "log-stall"),
    (Fault::RedisKill, "redis-kill"),
    (Fault::RedisPause, "redis-pause"),
    (Fault::PubsubCut, "pubsub-cut"),
    (Fault::AofCut, "aof-cut"),
    (Fault::RedisWipe, "redis-wipe"),
    (Fault::MasterKill, "master-kill"),
    (Fault::MasterPause, "master-pause"),
    (Fault::Partition, "partition"),
    (Fault::Failover, "failover"),
    (Fault::SlotMove, "slot-move"),
    (Fault::PostgresStop, "postgres-stop"),
    (Fault::PostgresPause, "postgres-pause"),
    (Fault::LogCut, "log-cut"),
    (Fault::LogRestore, "log-restore"),
    (Fault::BackupRestore, "backup-restore"),
    (Fault::UdpLoss, "udp-loss"),
    (Fault::UdpBlackhole, "udp-blackhole"),
    (Fault::UdpMangle, "udp-mangle"),
    (Fault::UdpMove, "udp-move"),
    (Fault::TcpCut, "tcp-cut"),
    (Fault::TcpStall, "tcp-stall"),
    (Fault::DeviceKill, "device-kill"),
    (Fault::DeviceTear, "device-tear"),
    (Fault::DeviceFlip, "device-flip"),
    (Fault::ConsumerKill, "consumer-kill"),
    (Fault::ConsumerPause, "consumer-pause"),
    (Fault::Revoke, "revoke"),
];

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        NAMES.iter().find(|(fault, _)| *fault == self).map_or("?", |(_, name)| name)
    }

    pub(crate) fn excuse(self) -> Excuse {
        match self {
            Self::AofCut | Self::RedisWipe | Self::LogCut | Self::LogRestore | Self::BackupRestore => Excuse::Rollback,
            Self::DeviceTear | Self::DeviceFlip => Excuse::Torn,
            _ => Excuse::None,
        }
    }

    /// Whether what the servers need to know that a subscription has ended is away meanwhile.
    pub(crate) fn is_foundation(self) -> bool {
        FOUNDATION_CLUSTER.contains(&self)
            || FOUNDATION_REPLICAS.contains(&self)
            || FOUNDATION_SLOTS.contains(&self)
            || FOUNDATION_EMBEDDED.contains(&self)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        NAMES.iter().find(|(_, name)| *name == text).map(|(fault, _)| *fault).ok_or_else(|| format!("there is no fault {text:?}"))
    }
}

const FOUNDATION_CLUSTER: &[Fault] = &[
    Fault::NodeKill,
    Fault::NodeTerm,
    Fault::NodePause,
    Fault::LogStall,
    Fault::RedisKill,
    Fault::RedisPause,
    Fault::PubsubCut,
    Fault::AofCut,
    Fault::RedisWipe,
    Fault::PostgresStop,
    Fault::PostgresPause,
];
/// Of servers with replicas; nothing that is lost may have been acknowledged.
const FOUNDATION_REPLICAS: &[Fault] = &[
    Fault::NodeKill,
    Fault::NodeTerm,
    Fault::NodePause,
    Fault::MasterKill,
    Fault::MasterPause,
    Fault::Failover,
    Fault::PubsubCut,
    Fault::PostgresStop,
    Fault::PostgresPause,
];
/// Of a cluster besides.
const FOUNDATION_SLOTS: &[Fault] = &[Fault::SlotMove, Fault::Partition];
const FOUNDATION_EMBEDDED: &[Fault] =
    &[Fault::NodeKill, Fault::NodeTerm, Fault::NodePause, Fault::LogStall, Fault::LogCut, Fault::LogRestore, Fault::BackupRestore];
const EDGE: &[Fault] = &[
    Fault::UdpLoss,
    Fault::UdpBlackhole,
    Fault::UdpMangle,
    Fault::TcpCut,
    Fault::TcpStall,
    Fault::DeviceKill,
    Fault::DeviceTear,
    Fault::DeviceFlip,
    Fault::ConsumerKill,
    Fault::Revoke,
];

/// A lane's kinds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Decks {
    pub(crate) foundation: Vec<Fault>,
    pub(crate) edge: Vec<Fault>,
    pub(crate) slow: Vec<Fault>,
}

impl Decks {
    /// Everything that can happen to this kind of platform.
    pub(crate) fn all(cluster: Option<Logs>) -> Self {
        let mut edge = EDGE.to_vec();
        if cluster.is_some() {
            edge.push(Fault::UdpMove);
        }
        let foundation = match cluster {
            None => FOUNDATION_EMBEDDED.to_vec(),
            Some(Logs::Redis) => FOUNDATION_CLUSTER.to_vec(),
            Some(Logs::Sentinel) => FOUNDATION_REPLICAS.to_vec(),
            Some(Logs::RedisCluster) => [FOUNDATION_REPLICAS, FOUNDATION_SLOTS].concat(),
        };
        Self { foundation, edge, slow: vec![Fault::ConsumerPause] }
    }

    /// Faults that bring a mutation to light soon. `None`: there is no such mutation.
    pub(crate) fn for_mutation(name: &str, cluster: bool) -> Option<Self> {
        use motience_mutation::Mutation;
        let mutation = Mutation::ALL.into_iter().find(|m| m.name() == name)?;
        let (foundation, edge) = match mutation {
            // An acknowledged record that waits for a log that stands still dies with the node.
            Mutation::AckBeforeAppend => (vec![Fault::LogStall], Vec::new()),
            Mutation::EpochBesideData if cluster => (vec![Fault::AofCut], vec![Fault::ConsumerKill]),
            Mutation::EpochBesideData => (vec![Fault::LogRestore], vec![Fault::ConsumerKill]),
            // Records are in the log, and their acknowledgements are lost.
            Mutation::SkipDedupWindow => (vec![Fault::NodeKill], vec![Fault::UdpBlackhole, Fault::DeviceKill]),
            // Numbers that were sent and not yet written are given out again.
            Mutation::IgnoreTornTail => (Vec::new(), vec![Fault::DeviceKill, Fault::DeviceTear, Fault::DeviceFlip]),
        };
        Some(Self { foundation, edge, slow: Vec::new() })
    }

    /// Every kind in them.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Fault> {
        self.foundation.iter().chain(&self.edge).chain(&self.slow).copied()
    }
}

/// The faults of one lane, without end.
pub(crate) struct Lane {
    deck: Vec<Fault>,
    left: Vec<Fault>,
    random: Rng,
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// How long to wait before it.
    pub(crate) rest: Duration,
    pub(crate) fault: Fault,
    /// For whatever the fault has to choose: whom, how long, how much.
    pub(crate) seed: u64,
}

impl Lane {
    pub(crate) fn new(deck: Vec<Fault>, seed: u64) -> Self {
        Self { deck, left: Vec::new(), random: Rng::with_seed(seed) }
    }
}

impl Iterator for Lane {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.left.is_empty() {
            self.left.clone_from(&self.deck);
            self.random.shuffle(&mut self.left);
        }
        let fault = self.left.pop()?;
        let rest = Duration::from_millis(self.random.u64(100..700));
        Some(Step { rest, fault, seed: self.random.u64(..) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_is_a_schedule_and_every_kind_comes_before_any_comes_twice() {
        for cluster in [None, Some(Logs::Redis), Some(Logs::RedisCluster), Some(Logs::Sentinel)] {
            let decks = Decks::all(cluster);
            for deck in [decks.foundation, decks.edge, decks.slow] {
                let steps: Vec<Step> = Lane::new(deck.clone(), 7).take(3 * deck.len()).collect();
                assert_eq!(steps, Lane::new(deck.clone(), 7).take(3 * deck.len()).collect::<Vec<_>>());
                for round in steps.chunks(deck.len()) {
                    assert_eq!(round.iter().map(|step| step.fault).collect::<HashSet<_>>().len(), deck.len());
                }
            }
        }
        let orders: HashSet<Vec<Fault>> =
            (0..20).map(|seed| Lane::new(EDGE.to_vec(), seed).take(EDGE.len()).map(|step| step.fault).collect()).collect();
        assert!(orders.len() > 15);
    }

    #[test]
    fn names_are_read_back() {
        for (fault, name) in NAMES {
            assert_eq!(name.parse(), Ok(fault));
            assert_eq!(fault.name(), name);
        }
        for mutation in motience_mutation::Mutation::ALL {
            assert!(Decks::for_mutation(mutation.name(), true).unwrap().kinds().count() > 0);
        }
        assert!(Decks::for_mutation("none", true).is_none());
    }
}
