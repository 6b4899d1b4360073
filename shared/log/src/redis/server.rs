//! Properties that a Redis server reports: its epoch, and whether it can be trusted with records.

use motience_proto::model::LogEpoch;

/// Lowest version that has what the functions need.
const LOWEST: u64 = 7;

/// The answer of INFO, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Server {
    /// See [`epoch_of`].
    pub(super) log_epoch: LogEpoch,
    version: String,
    cluster: bool,
    replica: bool,
    policy: String,
    persists: bool,
    /// Keys that it has thrown away for room, since it started.
    pub(super) evicted: u64,
    /// Memory in use, as Redis compares it with its limit.
    pub(super) used: u64,
    /// That limit; 0: none.
    pub(super) limit: u64,
}

impl Server {
    pub(super) fn read(info: &str) -> Self {
        let text = |name: &str| value(info, name);
        let number = |name: &str| text(name).parse().unwrap_or(0);
        Self {
            log_epoch: epoch_of(info),
            version: text("redis_version:").to_owned(),
            cluster: text("cluster_enabled:") == "1",
            replica: text("role:") == "slave",
            policy: text("maxmemory_policy:").to_owned(),
            persists: text("aof_enabled:") == "1",
            evicted: number("evicted_keys:"),
            used: number("used_memory:").saturating_sub(number("mem_not_counted_for_evict:")),
            limit: number("maxmemory:"),
        }
    }

    /// Why no node can work with it; `strict`: with what a production node must not work.
    pub(super) fn refusal(&self, strict: bool) -> Option<String> {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u64>().ok());
        if major.is_some_and(|major| major < LOWEST) {
            return Some(format!("it is version {}; the log needs Redis {LOWEST} or newer", self.version));
        }
        // A replica of a cluster sends each call to the master.
        if self.replica && !self.cluster {
            return Some("it is a replica, which takes no writes: name the master, or the Sentinels that know it".to_owned());
        }
        (strict && self.evicts()).then(|| format!("its {}", self.eviction()))
    }

    /// Hazards that an operator should know of: a short name, and the text if it applies.
    pub(super) fn hazards(&self) -> [(&'static str, Option<String>); 2] {
        let persistence = "no append-only file is kept (appendonly no): a restart of Redis loses acknowledged records";
        [("evicts", self.evicts().then(|| self.eviction())), ("not_persistent", (!self.persists).then(|| persistence.to_owned()))]
    }

    /// Whether it is a node of a Redis Cluster.
    pub(super) fn is_cluster(&self) -> bool {
        self.cluster
    }

    /// Whether it keeps an append-only file.
    pub(super) fn persists(&self) -> bool {
        self.persists
    }

    fn evicts(&self) -> bool {
        !matches!(&self.policy[..], "" | "noeviction")
    }

    fn eviction(&self) -> String {
        format!("maxmemory-policy is {}: it would throw acknowledged records away; set it to noeviction", self.policy)
    }
}

fn value<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

/// Which server this is and since when it is the master, from its `run_id` (another after each restart) and its
/// `master_replid` (another after each promotion): so that a log which lost its tail is never taken for the one it was.
/// Below 2^52, since the functions add to it.
fn epoch_of(info: &str) -> LogEpoch {
    let text = format!("{} {}", value(info, "run_id:"), value(info, "master_replid:"));
    // FNV-1a, 64 bits.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    LogEpoch((hash >> 12).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_changes_with_the_server_and_with_its_promotion() {
        let log_epoch = |run_id, replid| epoch_of(&format!("# Server\r\nrun_id:{run_id}\r\n# Replication\r\nmaster_replid:{replid}\r\n"));
        assert_eq!(log_epoch("a", "b"), log_epoch("a", "b"));
        assert_ne!(log_epoch("a", "b"), log_epoch("a", "c"));
        assert_ne!(log_epoch("a", "b"), log_epoch("c", "b"));
        assert!(log_epoch("a", "b").0 < 1 << 52);
    }

    #[test]
    fn a_server_is_judged_by_what_it_says() {
        let good = "redis_version:7.0.15\r\nused_memory:900\r\nmem_not_counted_for_evict:100\r\nmaxmemory:1000\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\ncluster_enabled:0\r\n";
        let server = Server::read(good);
        assert_eq!((server.used, server.limit, server.refusal(true)), (800, 1000, None));
        assert!(server.hazards().iter().all(|(_, words)| words.is_none()));
        for (from, to, strict, why) in [
            ("7.0.15", "6.2.14", false, "6.2.14"),
            ("cluster_enabled:0", "role:slave", false, "replica"),
            ("noeviction", "allkeys-lru", true, "noeviction"),
            ("noeviction", "volatile-ttl", true, "volatile-ttl"),
        ] {
            let bad = Server::read(&good.replace(from, to));
            assert!(bad.refusal(true).is_some_and(|words| words.contains(why)));
            assert_eq!(bad.refusal(false).is_none(), strict, "{to}");
        }
        assert!(Server::read(&good.replace("aof_enabled:1", "aof_enabled:0")).hazards()[1].1.is_some());
    }
}
