//! Reports of all nodes for whoever asks, written by each and read on demand: of devices in a hash for each log, and of all else in a key for each node. So
//! a report costs one write, however many nodes there are.
//!
//! A hash is of one period, and gone a period after it: what nobody repeats is forgotten without being looked for. Readers take this period and the
//! one before.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use motience_proto::model::LogKey;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue};

use super::{Inner, millis};
use crate::Error;

/// Length of a period.
const PERIOD: Duration = Duration::from_secs(30 * 60);

/// Logs of which this node has noted something in a period.
#[derive(Debug, Default)]
pub(super) struct Noted(Mutex<(u64, HashSet<LogKey>)>);

/// Writes reports, each under its name, in the place of those that had the name.
pub(super) async fn note(inner: &Inner, key: LogKey, reports: &[(String, Vec<u8>)]) -> Result<(), Error> {
    let period = period(inner);
    let name = hash(inner, key, period);
    let mut write = redis::cmd("HSET");
    write.arg(&name);
    for (name, report) in reports {
        write.arg(name).arg(report.as_slice());
    }
    inner.ask::<u64>(key, &write).await?;
    if inner.noted.is_first(period, key) {
        let noted = async {
            inner.ask::<u64>(key, redis::cmd("PEXPIRE").arg(&name).arg(millis(2 * PERIOD))).await?;
            let list = list(inner);
            inner.shards.ask::<u64>(&list, redis::cmd("ZADD").arg(&list).arg(period).arg(key.to_string())).await?;
            let old = period.saturating_sub(2);
            inner.shards.ask::<u64>(&list, redis::cmd("ZREMRANGEBYSCORE").arg(&list).arg("-inf").arg(old)).await
        };
        // Done again with the next one, unless all of it was.
        noted.await.inspect_err(|_| inner.noted.forget(key))?;
    }
    Ok(())
}

/// The reports about a log, by their names.
pub(super) async fn read(inner: &Inner, key: LogKey) -> Result<HashMap<String, Bytes>, Error> {
    let (home, period, mut all) = (inner.names.home(key), period(inner), HashMap::new());
    for period in [period.saturating_sub(1), period] {
        let mut call = redis::cmd("HGETALL");
        call.arg(hash(inner, key, period));
        let some: HashMap<String, Vec<u8>> = told(inner, &home, &call).await?;
        all.extend(some.into_iter().map(|(name, report)| (name, Bytes::from(report))));
    }
    Ok(all)
}

/// Logs about which there may be reports.
pub(super) async fn reported(inner: &Inner) -> Result<Vec<LogKey>, Error> {
    let list = list(inner);
    let since = period(inner).saturating_sub(1);
    let mut call = redis::cmd("ZRANGE");
    call.arg(&list).arg(since).arg("+inf").arg("BYSCORE");
    let keys: Vec<String> = inner.shards.ask(&list, &call).await?;
    Ok(keys.iter().filter_map(|key| key.parse().ok()).collect())
}

/// Writes a node's report, in the place of that before.
pub(super) async fn note_node(inner: &Inner, node: &str, report: &[u8], keep: Duration) -> Result<(), Error> {
    let key = of(inner, node);
    let mut write = redis::cmd("SET");
    write.arg(&key).arg(report).arg("PX").arg(millis(keep));
    inner.shards.ask(&key, &write).await
}

/// The last report of the node of this name.
pub(super) async fn of_node(inner: &Inner, node: &str) -> Result<Option<Bytes>, Error> {
    let key = of(inner, node);
    let mut call = redis::cmd("GET");
    call.arg(&key);
    Ok(told::<Option<Vec<u8>>>(inner, &key, &call).await?.map(Bytes::from))
}

/// The answer of the server that has this key, on the connection for long answers.
async fn told<T: FromRedisValue>(inner: &Inner, key: &str, call: &Cmd) -> Result<T, Error> {
    let answered = inner.shards.read(key, |_| call.clone()).await?;
    redis::from_redis_value(answered.value).map_err(|e| Error::Damaged(e.to_string()))
}

/// Names of a log's hashes that may be there.
pub(super) fn hashes(inner: &Inner, key: LogKey) -> [String; 2] {
    let period = period(inner);
    [hash(inner, key, period), hash(inner, key, period.saturating_sub(1))]
}

impl Noted {
    fn is_first(&self, period: u64, key: LogKey) -> bool {
        let mut noted = self.0.lock();
        if noted.0 != period {
            *noted = (period, HashSet::new());
        }
        noted.1.insert(key)
    }

    fn forget(&self, key: LogKey) {
        self.0.lock().1.remove(&key);
    }
}

fn period(inner: &Inner) -> u64 {
    u64::try_from(inner.clock.now().unix_timestamp()).unwrap_or(0) / PERIOD.as_secs()
}

fn hash(inner: &Inner, key: LogKey, period: u64) -> String {
    inner.names.key(key, &format!("reports:{period}"))
}

fn of(inner: &Inner, node: &str) -> String {
    inner.names.shared(&format!("node:{node}"))
}

fn list(inner: &Inner) -> String {
    inner.names.shared("reported")
}
