//! The log's memory of its senders is bounded: the longest idle go first, whoever is connected stays, and whoever is forgotten comes back.

use std::time::Duration;

use futures_util::future::join_all;
use motience_backend::Backend;
use motience_log as log;
use motience_proto::model::{LogKey, ProducerId, RangeSet};
use motience_runtime::telemetry;
use motience_testing::Redis;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use super::{Device, LIMIT, P, all, keys, node, steps::Sabotaged, write};

/// Waits for what other tasks bring about.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let deadline = Instant::now() + LIMIT;
    while !done().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The senders of one log that Redis remembers.
struct Kept {
    redis: MultiplexedConnection,
    keys: String,
}

impl Kept {
    async fn new(redis: &Redis, node: &Backend, key: LogKey) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        Self { redis: client.get_multiplexed_async_connection().await.unwrap(), keys: keys(node, key).await }
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut call = redis::cmd(words.next().unwrap());
        words.for_each(|word| {
            call.arg(word.replace("KEYS", &self.keys));
        });
        call.query_async(&mut self.redis.clone()).await.unwrap()
    }

    /// Names of remembered senders, the longest idle first.
    async fn names(&self, roster: &str) -> Vec<String> {
        self.ask(&format!("ZRANGE KEYS:{roster} 0 -1")).await
    }

    /// Keys of sessions.
    async fn sessions(&self) -> Vec<String> {
        let prefix = format!("{}:s:", self.keys);
        let found: Vec<String> = self.ask("KEYS KEYS:s:*").await;
        found.into_iter().filter_map(|key| key.strip_prefix(&prefix).map(str::to_owned)).collect()
    }

    /// The bytes that the sessions count, and the bytes that Redis says they take.
    async fn bytes(&self) -> (usize, usize) {
        let (mut windows, mut memory) = (0, 0);
        for name in self.sessions().await {
            windows += 64 + name.len() + self.ask::<usize>(&format!("HSTRLEN KEYS:s:{name} seen")).await;
            memory += self.ask::<usize>(&format!("MEMORY USAGE KEYS:s:{name}")).await;
        }
        memory += self.ask::<Option<usize>>("MEMORY USAGE KEYS:devices").await.unwrap_or(0);
        (windows, memory)
    }

    /// Rosters, sessions and the sum of the windows agree.
    async fn agrees(&self) {
        let (mut listed, mut there) = (self.names("devices").await, self.sessions().await);
        listed.extend(self.names("passing").await);
        listed.sort();
        there.sort();
        assert_eq!(listed, there);
        let mut sum = 0;
        for name in there.iter().filter(|name| name.starts_with("d:")) {
            sum += (64 + name.len() + self.ask::<usize>(&format!("HSTRLEN KEYS:s:{name} seen")).await).div_ceil(64);
        }
        assert_eq!(self.ask::<Option<usize>>("HGET KEYS:meta windows").await.unwrap_or(0), sum);
    }

    /// Commands that Redis has run since the statistics were reset, but for those of this test and of what nodes do by the clock.
    async fn commands(&self) -> u64 {
        const BESIDE: [&str; 7] = ["config", "info", "keys", "ping", "publish", "time", "zrange"];
        let stats: String = self.ask("INFO commandstats").await;
        let calls = |line: &str| line.strip_prefix("cmdstat_")?.split_once(":calls=")?.1.split(',').next()?.parse::<u64>().ok();
        let beside = |line: &str| BESIDE.iter().any(|name| line.starts_with(&format!("cmdstat_{name}")));
        stats.lines().filter(|line| !beside(line)).filter_map(calls).sum()
    }
}

/// Every second number is missing.
fn scattered(ranges: u64) -> RangeSet {
    (1..=ranges).map(|n| 2 * n).collect()
}

/// A device that comes once, says a number of ranges, and leaves.
async fn visit(log: &log::Log, name: &str, ranges: u64) -> Result<(), log::Error> {
    let device = Device::new(log, P, name).await;
    let mut batch = device.batch(&[2 * ranges]);
    batch.seen = scattered(ranges);
    log.append(P, std::slice::from_ref(&batch)).await?.remove(0)
}

#[tokio::test]
async fn device_names_without_end_cost_bounded_memory() {
    const NAMES: usize = 12_000;
    const MOST: usize = 400;
    telemetry::start_metrics();
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_MAX_SESSIONS", "400"), ("LOG_MAX_DEDUP_BYTES", "96KiB")]).await;
    let (log, kept) = (node.relay.log(), Kept::new(&redis, &node, P).await);
    let mut most = 0;
    for start in (0..NAMES).step_by(100) {
        let names: Vec<String> = (start..start + 100).map(|n| format!("device-{n}")).collect();
        for outcome in join_all(names.iter().map(|name| visit(log, name, if start % 500 == 0 { 500 } else { 1 }))).await {
            outcome.unwrap();
        }
        until("those who have left are idle", || async {
            let counted: usize = kept.ask("HGET KEYS:meta windows").await;
            kept.sessions().await.len() <= MOST && counted * 64 <= 96 << 10
        })
        .await;
        if start % 500 == 0 {
            most = most.max(kept.bytes().await.0);
        }
    }
    let (windows, memory) = kept.bytes().await;
    assert!(windows <= 96 << 10 && most <= 96 << 10, "{windows} bytes at the end, {most} at most");
    assert!(memory < MOST * 400 + (96 << 10), "{memory} bytes of Redis's memory");
    kept.agrees().await;
    let names = kept.names("devices").await;
    assert!(names.iter().all(|name| name.trim_start_matches("d:device-").parse::<usize>().unwrap() >= NAMES - 1000), "the oldest went");
    assert_eq!(all(log, P).await.len(), NAMES, "nobody's records were refused");
    let metrics = telemetry::render();
    let forgotten = metrics.lines().find_map(|line| line.strip_prefix("motience_log_sessions_forgotten_total{reason=\"count\"} "));
    assert!(forgotten.is_some_and(|number| number != "0"), "{metrics}");
}

#[tokio::test]
async fn the_longest_idle_goes_first_and_whoever_is_connected_stays() {
    let redis = Redis::start().await;
    // Any node may be the one that makes room.
    let (one, other) = (node(&redis.url(), &[("LOG_MAX_SESSIONS", "3")]).await, node(&redis.url(), &[("LOG_MAX_SESSIONS", "3")]).await);
    let kept = Kept::new(&redis, &one, P).await;
    let mut connected = [Device::new(one.relay.log(), P, "connected").await];
    write(one.relay.log(), &mut connected, &[1, 2]).await.unwrap();
    for name in ["a", "b", "c", "a", "d"] {
        let mut device = Device::new(one.relay.log(), P, name).await;
        let next = device.seen.max().unwrap_or(0) + 1;
        write(one.relay.log(), std::slice::from_mut(&mut device), &[next]).await.unwrap();
        device.held = None;
        until("it has been idle", || async {
            let now: Vec<u64> = kept.ask("TIME").await;
            let score: f64 = kept.ask(&format!("ZSCORE KEYS:devices d:{name}")).await;
            // And its millisecond is over: of two in one, either may be the longer idle.
            (score as u64) / 1024 < now[0] * 1000 + now[1] / 1000
        })
        .await;
    }
    assert_eq!(kept.names("devices").await, ["d:a", "d:d", "d:connected"]);
    for n in 0..50 {
        drop(Device::new(other.relay.log(), P, &format!("crowd-{n}")).await);
    }
    until("the crowd has left", || async { kept.names("devices").await.len() == 3 }).await;
    write(one.relay.log(), &mut connected, &[3]).await.unwrap();
    connected[0].reopen(one.relay.log()).await.unwrap();
    assert_eq!(connected[0].seen.to_string(), "1-3");
    kept.agrees().await;
}

#[tokio::test]
async fn more_may_be_connected_than_are_remembered() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_MAX_SESSIONS", "5")]).await;
    let (log, kept) = (node.relay.log(), Kept::new(&redis, &node, P).await);
    let mut devices = Vec::new();
    for n in 0..60 {
        devices.push(Device::new(log, P, &format!("d{n}")).await);
    }
    write(log, &mut devices, &[1, 2]).await.unwrap();
    assert_eq!(kept.names("devices").await.len(), 60);
    drop(devices);
    until("they have left", || async { kept.names("devices").await.len() == 5 }).await;
    kept.agrees().await;
}

#[tokio::test]
async fn an_evicted_device_comes_back_and_works() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_MAX_SESSIONS", "1")]).await;
    let (log, kept) = (node.relay.log(), Kept::new(&redis, &node, P).await);
    let mut device = [Device::new(log, P, "a").await];
    write(log, &mut device, &[1, 2]).await.unwrap();
    // Its node has lost sight of it, and others come.
    device[0].held = None;
    until("it is evicted", || async {
        drop(Device::new(log, P, "other").await);
        kept.names("devices").await == ["d:other"]
    })
    .await;
    let first = device[0].fence;
    let refused = write(log, &mut device, &[3]).await.unwrap_err();
    assert!(matches!(refused, log::Error::Stale), "{refused}");
    device[0].reopen(log).await.unwrap();
    assert!(device[0].seen.is_empty() && device[0].fence > first);
    // A record that was not acknowledged before comes again; what is new is taken once.
    write(log, &mut device, &[3, 4]).await.unwrap();
    // Somebody with the fence from before the eviction has no right any more, whatever was opened since.
    let late = Device { fence: first, ..Device::new(log, P, "b").await };
    let refused = log.append(P, &[log::AppendBatch { name: device[0].sender.name.clone(), ..late.batch(&[9]) }]).await.unwrap().remove(0);
    assert!(matches!(refused, Err(log::Error::Fenced)), "{refused:?}");
    let numbers: Vec<u64> = all(log, P).await.into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[tokio::test]
async fn windows_full_of_holes_stay_within_their_room() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_MAX_DEDUP_BYTES", "64KiB")]).await;
    let (log, kept) = (node.relay.log(), Kept::new(&redis, &node, P).await);
    // They grow while they are connected, and have to go for each other once they are not.
    for n in 0..200 {
        visit(log, &format!("d{n}"), 500).await.unwrap();
    }
    until("no more is kept than there is room for", || async { kept.bytes().await.0 <= 64 << 10 }).await;
    kept.agrees().await;
    assert_eq!(kept.names("devices").await.last().map(String::as_str), Some("d:d199"), "the newest stay");
    // Small windows are not what takes the room.
    for n in 0..200 {
        visit(log, &format!("small{n}"), 1).await.unwrap();
    }
    until("the small ones are kept", || async { kept.names("devices").await.iter().filter(|n| n.starts_with("d:small")).count() == 200 })
        .await;
}

#[tokio::test]
async fn passing_senders_leave_nothing_behind() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let kept = Kept::new(&redis, &node, P).await;
    let post = || async {
        let publisher = node.relay.ephemeral_publisher(P).await.unwrap();
        let ticket = publisher.submit(r#"{"device_id":"d","timestamp":1,"data":{}}"#.into()).await.unwrap();
        publisher.committed(ticket).await.unwrap();
    };
    let mut costs = Vec::new();
    for posts in [1, 1500] {
        for _ in 0..posts {
            post().await;
        }
        until("all of them are forgotten", || async { kept.sessions().await.is_empty() }).await;
        kept.ask::<()>("CONFIG RESETSTAT").await;
        post().await;
        until("this one too", || async { kept.sessions().await.is_empty() }).await;
        let work = kept.commands().await;
        costs.push((work, kept.ask::<usize>("DBSIZE").await));
    }
    assert_eq!(costs[0], costs[1], "as much work, and as many keys, after one post as after many");
    assert!(costs[0].0 < 60, "{costs:?}");
    kept.agrees().await;
}

/// Commands of an open and of an append, with few and with many senders known.
#[tokio::test]
async fn work_does_not_grow_with_the_devices_that_are_known() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_MAX_SESSIONS", "3000"), ("LOG_RETENTION", "1000h")]).await;
    let (log, kept) = (node.relay.log(), Kept::new(&redis, &node, P).await);
    let mut device = [Device::new(log, P, "measured").await];
    write(log, &mut device, &[1]).await.unwrap();
    let mut costs = Vec::new();
    for known in [1_usize, 3000, 3500] {
        let missing = known.saturating_sub(kept.names("devices").await.len());
        let names: Vec<String> = (0..missing).map(|n| format!("{known}-{n}")).collect();
        for some in names.chunks(100) {
            join_all(some.iter().map(|name| visit(log, name, 1))).await.into_iter().for_each(Result::unwrap);
        }
        until("they have left", || async { kept.names("devices").await.len() <= known.min(3000) }).await;
        settled(&kept).await;
        kept.ask::<()>("CONFIG RESETSTAT").await;
        let next = device[0].seen.max().unwrap() + 1;
        write(log, &mut device, &[next]).await.unwrap();
        let append = kept.commands().await;
        kept.ask::<()>("CONFIG RESETSTAT").await;
        device[0].reopen(log).await.unwrap();
        costs.push((append, kept.commands().await));
    }
    assert_eq!(costs[0], costs[1], "an append, and an open");
    let ((append, open), (_, crowded)) = (costs[0], costs[2]);
    assert!(append < 25 && open < 25 && crowded < open + 10, "{costs:?}");
}

/// Nothing is sent to Redis just now.
async fn settled(kept: &Kept) {
    let last = std::cell::Cell::new(u64::MAX);
    until("Redis is left alone", || async {
        let now = kept.commands().await;
        now == last.replace(now)
    })
    .await;
}

/// The calls by which nodes renew leases and give them back, as a node makes them.
async fn keep(
    redis: &Sabotaged,
    node: &Backend,
    key: LogKey,
    most: usize,
    sessions: &[&Device],
    last: bool,
) -> redis::RedisResult<Vec<u64>> {
    let mut control = redis.control.clone();
    let listed: redis::Value = redis::cmd("FUNCTION").arg("LIST").arg("WITHCODE").query_async(&mut control).await.unwrap();
    let code = super::steps::find_code(&listed).unwrap();
    let library = code.lines().next().unwrap().split("name=").nth(1).unwrap();
    let keys = keys(node, key).await;
    let mut call = redis::cmd("FCALL");
    call.arg(format!("{library}_keep")).arg(sessions.len() + 4);
    ["meta", "log", "devices", "passing"].iter().for_each(|part| {
        call.arg(format!("{keys}:{part}"));
    });
    sessions.iter().for_each(|device| {
        call.arg(format!("{keys}:s:{}", device.sender.name));
    });
    call.arg(1).arg(most).arg(4 << 20).arg(180_000).arg(30_u64 * 24 * 3_600_000).arg(u8::from(last));
    sessions.iter().for_each(|device| {
        call.arg(device.sender.owner).arg(30_u64 * 24 * 3_600_000);
    });
    call.query_async(&mut control).await
}

#[tokio::test]
async fn a_failure_at_any_step_of_an_eviction_leaves_sessions_and_sums_in_agreement() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_MAX_SESSIONS", "2"), ("LOG_MAX_DEDUP_BYTES", "1KiB")]).await;
    let log = node.relay.log();
    let mut sabotaged = Sabotaged::new(redis).await;
    for way in ["open", "append", "leave"] {
        for step in 1_u64.. {
            let number = step as i64 * 10 + i64::from(way.len() as u32);
            let producer = LogKey::numbered(ProducerId(number));
            let kept = Kept::new(&sabotaged.redis, &node, producer).await;
            // Three who are idle by now, two of them with much, and one who is connected.
            let mut devices = Vec::new();
            for name in ["a", "b", "c", "connected"] {
                devices.push(Device::new(log, producer, name).await);
            }
            write(log, &mut devices, &[1]).await.unwrap();
            let idle: Vec<String> = kept.names("devices").await;
            assert_eq!(idle.len(), 4, "nobody is evicted while all are connected");
            for name in ["a", "b", "c"] {
                // As after the end of a lease, with all that it takes in two steps.
                kept.ask::<()>(&format!("ZADD KEYS:devices {} d:{name}", recent(&kept).await + 2)).await;
            }
            sabotaged.hits().await;
            sabotaged.fail(step).await;
            let failed = match way {
                "open" => match log.open(producer, &devices[3].sender).await {
                    Ok(opened) => {
                        devices[3].fence = opened.fence;
                        false
                    }
                    Err(_) => true,
                },
                "append" => {
                    let mut batch = devices[3].batch(&[2000]);
                    batch.seen = scattered(400);
                    log.append(producer, std::slice::from_ref(&batch)).await.is_err()
                }
                _ => keep(&sabotaged, &node, producer, 2, &[&devices[3]], false).await.is_err(),
            };
            sabotaged.fail(0).await;
            let hit = sabotaged.hits().await > 0;
            if failed {
                assert!(hit, "{way} {step}");
                // Whoever comes next pays what is owed.
                log.open(producer, &devices[3].sender).await.unwrap();
            }
            kept.agrees().await;
            let left = kept.names("devices").await;
            assert!(left.len() <= 3 && left.contains(&"d:connected".to_owned()), "{way} {step}: {left:?}");
            if !hit {
                assert!(step > 8, "{way} has more steps than {step}");
                break;
            }
        }
    }
}

/// A score of a second ago.
async fn recent(kept: &Kept) -> u64 {
    let now: Vec<u64> = kept.ask("TIME").await;
    (now[0] - 1) * 1000 * 1024
}

#[tokio::test]
async fn a_lease_is_renewed_and_runs_out_by_itself() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_MAX_SESSIONS", "1")]).await;
    let log = node.relay.log();
    let sabotaged = Sabotaged::new(redis).await;
    let kept = Kept::new(&sabotaged.redis, &node, P).await;
    let (renewed, crashed) = (Device::new(log, P, "renewed").await, Device::new(log, P, "crashed").await);
    // Both leases have run out, as after a node's crash; then one of the nodes turns out to live. Each takes two steps.
    for name in ["renewed", "crashed"] {
        kept.ask::<()>(&format!("ZADD KEYS:devices {} d:{name}", recent(&kept).await + 2)).await;
    }
    keep(&sabotaged, &node, P, 2, &[&renewed], true).await.unwrap();
    // Who is not the owner any more changes nothing.
    let before: String = kept.ask("ZSCORE KEYS:devices d:renewed").await;
    let other = log::Sender { owner: 99, ..renewed.sender.clone() };
    let other = Device { sender: other, held: None, ..Device::new(log, LogKey::numbered(ProducerId(2)), "x").await };
    keep(&sabotaged, &node, P, 2, &[&other], false).await.unwrap();
    assert_eq!(kept.ask::<String>("ZSCORE KEYS:devices d:renewed").await, before);
    drop(Device::new(log, P, "new").await);
    until("only the renewed one is left", || async { kept.names("devices").await == ["d:renewed"] }).await;
    kept.agrees().await;
    drop(crashed);
}

/// As the first releases left them: sessions in no roster, and a debt in the old form.
#[tokio::test]
async fn sessions_from_before_there_were_bounds_are_read() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let (log, kept) = (node.relay.log(), Kept::new(&redis, &node, P).await);
    let mut device = [Device::new(log, P, "a").await];
    write(log, &mut device, &[1, 2]).await.unwrap();
    device[0].held = None;
    kept.ask::<()>("DEL KEYS:devices").await;
    kept.ask::<()>("HDEL KEYS:meta fence windows").await;
    kept.ask::<()>("HSET KEYS:s:d:a fence 41").await;
    let owe = "local owed = {key = KEYS[2], now = '1', age = '1000', ids = {}, sessions = {{KEYS[3], '7', '1-9', '60000'}}} \
               return redis.call('HSET', KEYS[1], 'redo', cmsgpack.pack(owed))";
    let mut call = redis::cmd("EVAL");
    call.arg(owe).arg(3);
    ["meta", "ids", "s:d:a"].iter().for_each(|part| {
        call.arg(format!("{}:{part}", kept.keys));
    });
    call.exec_async(&mut kept.redis.clone()).await.unwrap();
    device[0].reopen(log).await.unwrap();
    assert_eq!((device[0].seen.to_string().as_str(), device[0].fence.0), ("1-9", 42));
    write(log, &mut device, &[10]).await.unwrap();
    let other = Device::new(log, P, "b").await;
    assert!(other.fence.0 > 42, "no fence comes twice");
    kept.agrees().await;
}
