//! Any step of a function may fail: nothing acknowledged is lost, nothing is doubled, and the producer goes on once it is mended.

use motience_log::Log;
use motience_proto::model::{LogKey, ProducerId};
use motience_relay::{Delivery, StartPosition};
use motience_testing::Redis;
use tokio::time::timeout;

use super::{Device, LIMIT, P, all, each_once, keys, node, write};

/// Before the library: counts the commands of each call, and has one of them fail.
const SABOTAGE: &str = r"
local function real() return redis end
local count, limit = 0, 0
local function due()
  count = count + 1
  if count ~= limit then return false end
  real().pcall('INCR', 'hits')
  return true
end
local redis = {sha1hex = function(...) return real().sha1hex(...) end}
function redis.call(...)
  if due() then error({err = 'ERR sabotaged'}) end
  return real().call(...)
end
function redis.pcall(...)
  if due() then return {err = 'ERR sabotaged'} end
  return real().pcall(...)
end
local function counted(callback)
  return function(keys, args)
    count, limit = 0, tonumber(real().call('GET', 'fail') or '0')
    return callback(keys, args)
  end
end
local register = real().register_function
function redis.register_function(one, callback)
  if callback == nil then
    register{function_name = one.function_name, callback = counted(one.callback), flags = one.flags}
  else
    register(one, counted(callback))
  end
end
";

/// A Redis whose functions fail at a step that can be chosen.
pub(super) struct Sabotaged {
    pub(super) redis: Redis,
    pub(super) control: redis::aio::MultiplexedConnection,
}

impl Sabotaged {
    /// Takes the place of the functions that `log` has loaded.
    pub(super) async fn new(redis: Redis) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        let mut control = client.get_multiplexed_async_connection().await.unwrap();
        let code: redis::Value = redis::cmd("FUNCTION").arg("LIST").arg("WITHCODE").query_async(&mut control).await.unwrap();
        let code = find_code(&code).expect("the library was loaded");
        let (first, rest) = code.split_once('\n').unwrap();
        let sabotaged = format!("{first}\n{SABOTAGE}\n{rest}");
        redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(sabotaged).exec_async(&mut control).await.unwrap();
        Self { redis, control }
    }

    /// From now on this step of each call fails; 0: none.
    pub(super) async fn fail(&mut self, step: u64) {
        redis::cmd("SET").arg("fail").arg(step).exec_async(&mut self.control).await.unwrap();
    }

    /// How often a step of a writing function failed since the last question.
    pub(super) async fn hits(&mut self) -> u64 {
        let hits: Option<u64> = redis::cmd("GETDEL").arg("hits").query_async(&mut self.control).await.unwrap();
        hits.unwrap_or(0)
    }
}

/// The source of the loaded library.
pub(super) fn find_code(value: &redis::Value) -> Option<String> {
    match value {
        redis::Value::BulkString(text) if text.starts_with(b"#!lua") => String::from_utf8(text.clone()).ok(),
        redis::Value::Array(parts) => parts.iter().find_map(find_code),
        _ => None,
    }
}

/// Each step of an append fails, and then each step of what comes after it.
#[tokio::test]
async fn a_failure_at_any_step_of_an_append_loses_and_doubles_nothing() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let log = node.relay.log();
    let mut sabotaged = Sabotaged::new(redis).await;
    let (mut step, mut runs) = (1, 0);
    loop {
        let (mut again, mut reached) = (1, true);
        // The outer step alone first (0), then each step of the healing.
        while reached {
            runs += 1;
            let producer = LogKey::numbered(ProducerId(runs));
            let mut devices = [Device::new(log, producer, "a").await, Device::new(log, producer, "b").await];
            write(log, &mut devices, &[1, 2]).await.unwrap();
            sabotaged.hits().await;
            sabotaged.fail(step).await;
            let outcome = write(log, &mut devices, &[3, 4, 5]).await;
            if sabotaged.hits().await == 0 {
                outcome.unwrap();
                assert!(step > 15, "an append has more steps than {step}");
                // One more than it has steps: all of them were tried.
                return;
            }
            // A batch that nobody was told of is either not in the log or whole.
            sabotaged.fail(0).await;
            let seen_by_a_reader = all(log, producer).await;
            assert!(matches!(seen_by_a_reader.len(), 4 | 10), "{seen_by_a_reader:?}");
            if outcome.is_err() {
                sabotaged.fail(again).await;
                let healing = devices[0].reopen(log).await;
                reached = sabotaged.hits().await > 0;
                assert_eq!(healing.is_err(), reached);
                sabotaged.fail(0).await;
                for device in &mut devices {
                    device.reopen(log).await.unwrap();
                }
                write(log, &mut devices, &[3, 4, 5]).await.unwrap();
                again += 1;
            } else {
                reached = false;
            }
            write(log, &mut devices, &[6]).await.unwrap();
            let found = all(log, producer).await;
            each_once(&found, 2, 1..=6);
            assert_eq!(&found[..seen_by_a_reader.len()], seen_by_a_reader, "what was read once stays");
            // The clients' ids are known: the same records come in vain.
            let mut late = [Device::new(log, producer, "a").await];
            late[0].seen = motience_proto::model::RangeSet::new();
            write(log, &mut late, &[1, 2, 3, 4, 5, 6]).await.unwrap();
            assert_eq!(all(log, producer).await.len(), 12);
            let ttl = sabotaged.redis.command(&format!("PTTL {}:log", keys(&node, producer).await)).await;
            assert!(!ttl.starts_with(":-"), "a log is past its time one day: {ttl}");
        }
        step += 1;
    }
}

/// The steps of trimming are the append's least: what they leave undone, the next append does.
#[tokio::test]
async fn a_failure_while_trimming_keeps_nobody_from_writing() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[("LOG_RETENTION_BYTES", "128")]).await;
    let log = node.relay.log();
    let mut sabotaged = Sabotaged::new(redis).await;
    let mut devices = [Device::new(log, P, "a").await];
    let mut written = 0;
    for step in 1_u64.. {
        for _ in 0..20 {
            written += 1;
            write(log, &mut devices, &[written]).await.unwrap();
        }
        written += 1;
        sabotaged.hits().await;
        sabotaged.fail(step).await;
        let outcome = write(log, &mut devices, &[written]).await;
        sabotaged.fail(0).await;
        if outcome.is_err() {
            devices[0].reopen(log).await.unwrap();
            write(log, &mut devices, &[written]).await.unwrap();
        }
        for _ in 0..2 {
            written += 1;
            write(log, &mut devices, &[written]).await.unwrap();
        }
        let head = log.bounds(P).await.unwrap();
        assert_eq!(head.last.0, written, "step {step}");
        assert!(head.last.0 - head.first.0 < 30, "step {step}: trimmed again, {head:?}");
        if sabotaged.hits().await == 0 {
            assert!(step > 12);
            return;
        }
    }
}

/// An operator's rules forbid the node one command, or the channels; then they are mended.
#[tokio::test]
async fn a_forbidden_command_stops_a_producer_only_while_it_is_forbidden() {
    let redis = Redis::start().await;
    redis.command("ACL SETUSER motience on >pw ~* &* +@all").await;
    let url = redis.url().replace("//", "//motience:pw@");
    let node = node(&url, &[]).await;
    let log = node.relay.log();
    let rules = [
        ("-hset", "+hset"),
        ("-hmget", "+hmget"),
        ("-xadd", "+xadd"),
        ("-xrevrange", "+xrevrange"),
        ("-xrange", "+xrange"),
        ("-xdel", "+xdel"),
        ("-xsetid", "+xsetid"),
        ("-pexpire", "+pexpire"),
        ("-zadd", "+zadd"),
        ("-zscore", "+zscore"),
        ("-zcard", "+zcard"),
        ("-zrange", "+zrange"),
        ("-rpush", "+rpush"),
        ("-lindex", "+lindex"),
        ("-time", "+time"),
        ("-fcall", "+fcall"),
        ("-spublish", "+spublish"),
        ("resetchannels", "allchannels"),
        ("resetkeys", "allkeys"),
        ("-@all", "+@all"),
    ];
    for (i, (forbid, allow)) in rules.into_iter().enumerate() {
        let producer = LogKey::numbered(ProducerId(i as i64 + 1));
        let mut devices = [Device::new(log, producer, "a").await, Device::new(log, producer, "b").await];
        write(log, &mut devices, &[1]).await.unwrap();
        let mut reader = node.relay.subscriber();
        timeout(LIMIT, reader.follow(producer.producer, StartPosition::Earliest)).await.unwrap().unwrap();
        redis.command(&format!("ACL SETUSER motience {forbid}")).await;
        let forbidden = write(log, &mut devices, &[2, 3]).await;
        if forbidden.is_err() {
            // A device that tries again while the rule stands.
            for device in &mut devices {
                let _ = device.reopen(log).await;
            }
            let _ = write(log, &mut devices, &[2, 3]).await;
        }
        redis.command(&format!("ACL SETUSER motience {allow}")).await;
        go_on(log, &mut devices, &[2, 3, 4]).await;
        let found = all(log, producer).await;
        each_once(&found, 2, 1..=4);
        let mut delivered = Vec::new();
        while delivered.len() < found.len() {
            let Delivery::Batch { batch, after } = timeout(LIMIT, reader.next()).await.unwrap() else { panic!("records only") };
            delivered
                .extend(batch.after(after).map(|(_, record_id, message)| (record_id.seq.0, String::from_utf8_lossy(message).into_owned())));
        }
        assert_eq!(delivered, found, "after {forbid}");
    }
}

/// Learns what is in, and writes the rest.
async fn go_on(log: &Log, devices: &mut [Device], seqs: &[u64]) {
    for device in devices.iter_mut() {
        device.reopen(log).await.unwrap();
    }
    write(log, devices, seqs).await.unwrap();
}

/// A log whose meta is gone (evicted, say), or that an earlier release left with entries beyond its last offset.
#[tokio::test]
async fn a_log_ahead_of_its_meta_is_taken_as_it_is() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let log = node.relay.log();
    for (producer, harm) in [(1, "DEL KEYS:meta"), (2, "HDEL KEYS:meta redo life")] {
        let producer = LogKey::numbered(ProducerId(producer));
        let keys = keys(&node, producer).await;
        let mut devices = [Device::new(log, producer, "a").await];
        write(log, &mut devices, &[1, 2, 3]).await.unwrap();
        redis.command(&harm.replace("KEYS", &keys)).await;
        redis.command(&format!("XADD {keys}:log 4-4 0000000000000007 {{}}")).await;
        assert_eq!(log.bounds(producer).await.unwrap().last.0, 4, "before anybody writes");
        let mut devices = [Device::new(log, producer, "a").await];
        assert_eq!(devices[0].seen.to_string(), "1-3");
        write(log, &mut devices, &[5]).await.unwrap();
        let numbers: Vec<u64> = all(log, producer).await.into_iter().map(|(seq, _)| seq).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }
}

/// Redis restarted often: what a call costs does not grow with it.
#[tokio::test]
async fn the_present_life_is_known_without_reading_the_others() {
    let redis = Redis::start().await;
    let node = node(&redis.url(), &[]).await;
    let log = node.relay.log();
    let mut devices = [Device::new(log, P, "a").await];
    write(log, &mut devices, &[1]).await.unwrap();
    let head = log.bounds(P).await.unwrap();
    // As many epochs as are kept, each as another server would have begun it.
    let epochs: Vec<String> = (1..=31).map(|n| format!("{n}:0")).chain([format!("{}:0", head.log_epoch())]).collect();
    redis.command(&format!("HSET {}:meta lives {}", keys(&node, P).await, epochs.join(","))).await;
    redis.command("CONFIG RESETSTAT").await;
    write(log, &mut devices, &[2]).await.unwrap();
    assert_eq!(log.bounds(P).await.unwrap().epochs.to_string(), epochs.join(","), "no life was begun again");
    let stats = redis.command("INFO commandstats").await;
    let commands: u64 = stats
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls=")?.1.split(',').next()?.parse().ok())
        .map(|n: u64| n)
        .sum();
    assert!(commands < 30, "{stats}");
}
