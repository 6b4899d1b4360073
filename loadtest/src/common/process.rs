//! Processes, as Linux has them: their cost, signals, and open files.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// Clock ticks a second: fixed at 100 in the kernel's interface to programs (proc(5), `USER_HZ`).
const TICKS: u64 = 100;

/// Processor time that a process has used so far, its own and the kernel's for it.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name is in brackets and may hold blanks; the fields are counted from behind it.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).context("an unknown /proc format")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Resident memory in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("an unknown /proc format")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Sends a signal.
pub(crate) fn signal(pid: u32, signal: Signal) -> Result<()> {
    let id = Pid::from_raw(pid.cast_signed()).context("a process has a number")?;
    kill_process(id, signal).with_context(|| format!("process {pid} cannot be sent {signal:?}"))
}

/// Allows this process so many open files, as far as the system lets it.
pub(crate) fn raise_descriptors(wanted: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        let wanted = maximum.map_or(wanted, |maximum| maximum.min(wanted));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).context("descriptors cannot be had")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_a_cost() {
        let pid = std::process::id();
        assert!(super::resident(pid).unwrap() > 1 << 20);
        super::cpu(pid).unwrap();
    }
}
