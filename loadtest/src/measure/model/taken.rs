//! Counters of real nodes and of a real Redis: processor time, calls, bytes; and the difference between two looks at them.

use std::{fs, str::FromStr, time::Duration};

use anyhow::{Context as _, Result};
use motience_testing::{Postgres, Redis};
use tokio::time::Instant;

use crate::common::process;

/// Counters at one moment.
pub(super) struct Taken {
    at: Instant,
    nodes: Vec<Duration>,
    redis: Duration,
    /// Functions that Redis has run.
    calls: u64,
    /// Bytes into and out of Redis, and those that it has in use.
    bytes_in: u64,
    bytes_out: u64,
    memory: u64,
}

/// The difference between two looks.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) seconds: f64,
    /// Processor seconds of each node, and of Redis.
    pub(super) nodes: Vec<f64>,
    pub(super) redis: f64,
    pub(super) calls: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
    pub(super) memory: f64,
}

impl Taken {
    /// Looks at the counters.
    pub(super) async fn now(redis: &Redis, nodes: &[u32]) -> Result<Self> {
        let told = redis.command("INFO all").await;
        let calls: Option<u64> = told.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls=")?.split(',').next()?.parse().ok());
        Ok(Self {
            at: Instant::now(),
            nodes: nodes.iter().map(|pid| ran(*pid)).collect::<Result<_>>()?,
            redis: ran(field(&told, "process_id")?)?,
            calls: calls.unwrap_or_default(),
            bytes_in: field(&told, "total_net_input_bytes")?,
            bytes_out: field(&told, "total_net_output_bytes")?,
            memory: field(&told, "used_memory")?,
        })
    }

    /// The difference to a later look.
    pub(super) fn until(&self, later: &Self) -> Use {
        let more = |after: u64, before: u64| after as f64 - before as f64;
        Use {
            seconds: (later.at - self.at).as_secs_f64(),
            nodes: later.nodes.iter().zip(&self.nodes).map(|(after, before)| after.saturating_sub(*before).as_secs_f64()).collect(),
            redis: later.redis.saturating_sub(self.redis).as_secs_f64(),
            calls: more(later.calls, self.calls),
            bytes_in: more(later.bytes_in, self.bytes_in),
            bytes_out: more(later.bytes_out, self.bytes_out),
            memory: more(later.memory, self.memory),
        }
    }
}

/// Processor time that the threads of a process have used so far, to the nanosecond: what is measured here are hundredths of a processor, of which
/// [`process::cpu`] counts every tenth millisecond alone.
fn ran(pid: u32) -> Result<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))?;
    // A thread that ends meanwhile has no file any more.
    let times = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    let nanos = times.filter_map(|times| times.split_whitespace().next()?.parse::<u64>().ok());
    Ok(Duration::from_nanos(nanos.sum()))
}

/// A field of what Redis tells of itself.
fn field<T: FromStr>(told: &str, name: &str) -> Result<T> {
    let found = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
    found.with_context(|| format!("Redis does not tell its {name}"))
}

/// Processor time of a private PostgreSQL: of its first process, of those it has now, and of those that have ended.
pub(super) fn postgres(postgres: &Postgres) -> Result<Duration> {
    let all: Vec<(u32, String)> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)))
        .collect();
    let port = postgres.port().to_string();
    let is_first = |pid: u32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let mut words = line.split(|byte| *byte == 0);
            words.next().is_some_and(|program| program.ends_with(b"postgres")) && words.any(|word| word == port.as_bytes())
        })
    };
    let first = all.iter().map(|(pid, _)| *pid).find(|pid| is_first(*pid)).context("PostgreSQL's first process is found by its port")?;
    let parent = |stat: &str| -> Option<u32> { stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok() };
    let of_it = all.iter().filter(|(pid, stat)| *pid == first || parent(stat) == Some(first));
    Ok(of_it.filter_map(|(pid, _)| process::cpu(*pid).ok()).sum())
}
