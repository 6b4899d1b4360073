//! The peaks of a process: the most memory, the most processor time within a second, and the losses of its machine's kernel meanwhile.

use std::{
    fmt::{self, Display, Formatter},
    fs,
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::common::process;

/// How often the process is looked at.
const SAMPLE: Duration = Duration::from_millis(250);
/// Samples that one processor time is taken over.
const OVER: usize = 4;

/// A watch that is on.
pub(super) struct Watch {
    task: JoinHandle<(u64, f64)>,
    stop: CancellationToken,
    dropped: Dropped,
}

/// The peaks that a watch has seen.
pub(super) struct Peak {
    memory: u64,
    cores: f64,
    dropped: Dropped,
}

/// Losses of the kernel of this machine: connections of a full accept queue, and packets of a full UDP buffer.
#[derive(Clone, Copy, Default)]
struct Dropped {
    accepts: u64,
    packets: u64,
}

impl Watch {
    pub(super) fn start(pid: u32) -> Self {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(look(pid, stop.clone())), stop, dropped: Dropped::now() }
    }

    pub(super) async fn end(self) -> Peak {
        self.stop.cancel();
        let (memory, cores) = self.task.await.unwrap_or_default();
        let now = Dropped::now();
        let dropped = Dropped { accepts: now.accepts - self.dropped.accepts, packets: now.packets - self.dropped.packets };
        Peak { memory, cores, dropped }
    }
}

impl Display for Peak {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Dropped { accepts, packets } = self.dropped;
        let memory = self.memory >> 20;
        write!(f, "at most       {:.2} cores, {memory} MiB; the kernel dropped {accepts} connections and {packets} packets", self.cores)
    }
}

/// The most memory, and the most cores that were busy for a second.
async fn look(pid: u32, stop: CancellationToken) -> (u64, f64) {
    let (mut memory, mut cores, mut past) = (0, 0.0_f64, Vec::new());
    while let (Ok(held), Ok(cpu)) = (process::resident(pid), process::cpu(pid)) {
        let now = Instant::now();
        memory = memory.max(held);
        past.push((now, cpu));
        if let Some((then, before)) = past.len().checked_sub(OVER + 1).map(|at| past[at]) {
            cores = cores.max((cpu - before).as_secs_f64() / (now - then).as_secs_f64());
        }
        if stop.run_until_cancelled(sleep(SAMPLE)).await.is_none() {
            break;
        }
    }
    (memory, cores)
}

impl Dropped {
    fn now() -> Self {
        Self {
            accepts: kernel("/proc/net/netstat", "TcpExt:", "ListenOverflows"),
            packets: kernel("/proc/net/snmp", "Udp:", "RcvbufErrors"),
        }
    }
}

/// A counter of the kernel: a line of names, and under it one of values.
fn kernel(file: &str, group: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let found = names.split_whitespace().zip(values.split_whitespace()).find(|(named, _)| *named == name);
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
}
