//! Looks after the server: says what is wrong with it, and makes room before it is full.
//!
//! Redis trims a log only while it is written to, and a full Redis refuses to be written to. So what is too old or too much is also
//! removed from outside, by a script that Redis runs even then. Where memory passes the budget, the largest logs give up their
//! oldest records; readers are told of the gap as of any that retention leaves.

use std::{
    collections::HashMap,
    sync::Weak,
    time::{Duration, Instant},
};

use motience_runtime::telemetry::Sampler;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{Inner, SAY_EVERY, functions, server::Server, shards::Shard};
use crate::{Error, most_for_each};

/// How often memory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Least pause between two sweeps that calls for room bring about.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);
/// Where room is made, so much of the budget is left free beyond what is needed: a twentieth.
const SPARE: u64 = 20;
/// However much is needed, so much of the budget (a fourth) is left to the logs, in equal parts.
const LOGS_KEEP: u64 = 4;
/// All that retention keeps, in thousandths.
pub(super) const ALL: u64 = 1000;
/// Keys looked at in one step of a sweep.
const KEYS_AT_ONCE: usize = 500;

/// Runs as long as there is a log.
pub(super) async fn run(watched: Weak<Inner>) {
    let said = Sampler::new(SAY_EVERY);
    // Retention may have been set otherwise since the logs were written.
    let mut due = true;
    while let Some(log) = watched.upgrade() {
        let mut seen = Vec::new();
        for shard in log.shards.all() {
            match shard.link.server().await {
                Ok(server) => {
                    shard.keep_to(server.log_epoch);
                    seen.push((shard, server));
                }
                Err(e) => debug!(error = %e, "the state of Redis cannot be seen; trying again"),
            }
        }
        let servers: Vec<&Server> = seen.iter().map(|(_, server)| server).collect();
        if !servers.is_empty() {
            measure(&log, &servers);
        }
        if said.pass("hazards").is_some() {
            servers.iter().for_each(|server| say(server));
        }
        let mut done = !seen.is_empty();
        for (shard, server) in &seen {
            let need = log.over_budget(server);
            if due || need > 0 {
                let swept = sweep(&log, shard, need).await;
                log.note_sweep(swept.is_ok());
                match swept {
                    Ok(()) => {}
                    Err(e) => {
                        done = false;
                        warn!(error = %e, "room cannot be made in Redis; trying again");
                    }
                }
            }
        }
        due &= !done;
        let refused = log.shards.refused();
        drop(log);
        // Nodes that were started together do not look together.
        let pause = LOOK_EVERY.mul_f64(0.8 + 0.4 * fastrand::f64());
        tokio::select! {
            () = sleep(pause) => {}
            () = refused.notified() => sleep(SWEEP_PAUSE.mul_f64(fastrand::f64())).await,
        }
    }
}

/// Sums over all servers; a hazard where one has it.
fn measure(log: &Inner, servers: &[&Server]) {
    let sum = |of: fn(&Server) -> u64| servers.iter().map(|server| of(server)).sum::<u64>() as f64;
    metrics::gauge!("motience_redis_used_bytes").set(sum(|server| server.used));
    metrics::gauge!("motience_redis_limit_bytes").set(sum(|server| server.limit));
    metrics::gauge!("motience_redis_evicted_keys").set(sum(|server| server.evicted));
    metrics::gauge!("motience_redis_budget_bytes").set(servers.iter().map(|server| log.budget_of(server)).sum::<u64>() as f64);
    let mut hazards = HashMap::from(Server::default().hazards().map(|(name, _)| (name, false)));
    for (name, words) in servers.iter().flat_map(|server| server.hazards()) {
        hazards.entry(name).and_modify(|there| *there |= words.is_some());
    }
    for (name, there) in hazards {
        metrics::gauge!("motience_redis_hazard", "reason" => name).set(f64::from(u8::from(there)));
    }
}

fn say(server: &Server) {
    for (_, words) in server.hazards() {
        if let Some(words) = words {
            warn!("Redis: {words}");
        }
    }
    if server.evicted > 0 {
        warn!(keys = server.evicted, "Redis has evicted keys since it started: acknowledged records may be lost");
    }
}

/// Removes from each log of a server what retention no longer keeps, and `need` bytes more.
async fn sweep(log: &Inner, shard: &Shard, need: u64) -> Result<(), Error> {
    let mut sizes = Vec::new();
    let (mut cursor, mut removed) = ("0".to_owned(), 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(log.names.logs()).arg("COUNT").arg(KEYS_AT_ONCE);
        let (next, keys): (String, Vec<String>) = shard.link.ask(&scan).await?;
        for key in keys {
            removed += trim(log, shard, &key, ALL).await?;
            if need > 0 {
                let size: Option<u64> = shard.link.ask(redis::cmd("MEMORY").arg("USAGE").arg(&key)).await?;
                sizes.push((size.unwrap_or(0), key));
            }
        }
        cursor = next;
        if cursor == "0" {
            break;
        }
        tokio::task::yield_now().await;
    }
    if removed > 0 {
        info!(removed, "records past retention were removed");
    }
    if need == 0 || sizes.is_empty() {
        return Ok(());
    }
    // Removing what was too old may have been enough.
    let server = shard.link.server().await?;
    let need = log.over_budget(&server).min(need);
    if need == 0 {
        return Ok(());
    }
    // Where something else fills Redis, no log is emptied in vain.
    let least = log.budget_of(&server) / LOGS_KEEP / sizes.len() as u64;
    let most = most_for_each(sizes.iter().map(|(size, _)| *size).collect(), need).max(least);
    let mut removed = 0;
    for (size, key) in sizes.iter().filter(|(size, _)| *size > most) {
        removed += trim(log, shard, key, most * 1000 / size).await?;
    }
    if removed > 0 {
        metrics::counter!("motience_log_given_up_total", "reason" => "memory").increment(removed);
        warn!(removed, "Redis is over its memory budget: the oldest records of the largest logs were removed");
    } else {
        warn!("Redis is over its memory budget, and there are no records whose removal would help");
    }
    Ok(())
}

/// Keeps of one log what retention keeps, and of that so many thousandths.
async fn trim(log: &Inner, shard: &Shard, key: &str, keep: u64) -> Result<u64, Error> {
    shard.link.ask(&trimming(log, key, keep)).await
}

/// The call that does it.
pub(super) fn trimming(log: &Inner, key: &str, keep: u64) -> redis::Cmd {
    let mut call = functions::sweep();
    call.arg(3).arg(log.names.beside(key, "meta")).arg(key).arg(log.names.beside(key, "marks"));
    let kept = log.names.producer_of(key).map_or(*log.retentions.platform(), |producer| log.retentions.of(producer));
    call.arg(kept.bytes).arg(super::millis(kept.age)).arg(keep);
    call
}

impl Inner {
    fn note_sweep(&self, done: bool) {
        let mut stalled = self.stalled.lock();
        *stalled = if done { None } else { stalled.or_else(|| Some(Instant::now())) };
    }

    fn budget_of(&self, server: &Server) -> u64 {
        self.budget.map_or(server.limit / 10 * 9, |budget| budget as u64)
    }

    /// How many bytes the server has too many in use.
    fn over_budget(&self, server: &Server) -> u64 {
        let budget = self.budget_of(server);
        if budget == 0 || server.used <= budget { 0 } else { server.used - budget + budget / SPARE }
    }
}
