//! The command `drain` of our programs: has a running one send its sessions away, and waits until they have left.
//!
//! The order is a signal (SIGUSR1), which the system lets nobody send but the node's own user and root. A request to the operations port
//! would be anybody's who reaches it.

use std::{process::ExitCode, time::Duration};

use motience_settings::output::say;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::healthcheck::{ask, configured, failed};

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Names of our programs as the system has them: the first 15 letters.
const PROGRAMS: [&str; 2] = ["motience-server", "motience-gatewa"];

/// Drains the node whose operations port is at `address`, or at HEALTHCHECK_ADDRESS, or where the settings have it. Success only where no
/// session is left within `limit` seconds.
pub async fn run(program: &str, address: Option<String>, limit: u64, default_port: u16) -> ExitCode {
    let address = match address.map_or_else(|| configured(default_port), Ok) {
        Ok(address) => address,
        Err(e) => return failed(program, &e.to_string()),
    };
    match drained(&address, Duration::from_secs(limit)).await {
        Ok(0) => {
            // Whoever does not read it has the exit code.
            let _ = say("The node is drained: no session is left.");
            ExitCode::SUCCESS
        }
        Ok(left) => failed(program, &format!("{left} sessions are left after {limit} s; the node goes on draining")),
        Err(why) => failed(program, &why),
    }
}

/// How many sessions are left at the end.
async fn drained(address: &str, limit: Duration) -> Result<u64, String> {
    let deadline = Instant::now() + limit;
    let (_, health) = get(address, "/health").await?;
    let unknown = || format!("{address} does not say which process it is: name the operations port (--address) of a node of this version");
    let pid = health["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).ok_or_else(unknown)?;
    // The number may be of another machine, or of another container.
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid())).unwrap_or_default();
    if !PROGRAMS.contains(&name.trim_end()) {
        return Err(format!("the process {} of {address} is not here: run this where the node runs", pid.as_raw_pid()));
    }
    kill_process(pid, Signal::USR1).map_err(|e| format!("the node cannot be asked to drain: {e}; run this as the node's user"))?;
    loop {
        let (_, ready) = get(address, "/ready").await?;
        let sessions = ready["sessions"].as_u64().filter(|_| ready["draining"] == true);
        if sessions == Some(0) || Instant::now() >= deadline {
            return sessions.ok_or_else(|| "the node does not drain".to_owned());
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn get(address: &str, path: &str) -> Result<(u16, Value), String> {
    let answer = timeout(ANSWER_LIMIT, ask(address, path)).await;
    let (status, body) = answer.map_err(|_| format!("no answer from {address}"))?.map_err(|e| format!("not reachable: {address}: {e}"))?;
    Ok((status, serde_json::from_str(&body).unwrap_or_default()))
}
