//! The node under the storm: started again at the same places after each end, and asked what it takes and whom it refused.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use crate::common::{
    process,
    server::{Addresses, Ending, Own},
};

/// Counters of the node that tell of somebody who was not let in at once.
const REFUSALS: [&str; 7] = [
    "motience_connections_refused_total",
    "motience_permits_refused_total",
    "motience_sessions_refused_total",
    "motience_quic_refused_total",
    "motience_quic_retries_total",
    "motience_handshakes_failed_total",
    "motience_refusals_total",
];

/// A running node.
pub(super) struct Node {
    own: Own,
    settings: Vec<(String, String)>,
    pub(super) addresses: Addresses,
    pub(super) pid: u32,
}

/// Processor time that a process has taken so far, and memory that it holds.
pub(super) struct Cost {
    pub(super) cpu: Duration,
    pub(super) memory: u64,
}

impl Node {
    pub(super) async fn start(program: Option<PathBuf>, settings: Vec<(String, String)>) -> Result<Self> {
        let own = Own::start(program, &settings).await?;
        Self::of(own, settings)
    }

    fn of(own: Own, settings: Vec<(String, String)>) -> Result<Self> {
        let addresses = own.addresses.clone();
        let pid = addresses.pid.context("the node has ended")?;
        Ok(Self { own, settings, addresses, pid })
    }

    /// Ends the process and starts another on what it left. Returns how long the end took.
    pub(super) async fn again(mut self, ending: Ending) -> Result<(Self, Duration)> {
        let began = Instant::now();
        self.own.end(ending).await?;
        let ended = began.elapsed();
        let own = self.own.start_again(&self.settings).await?;
        Ok((Self::of(own, self.settings)?, ended))
    }

    pub(super) fn cost(&self) -> Result<Cost> {
        Ok(Cost { cpu: process::cpu(self.pid)?, memory: process::resident(self.pid)? })
    }

    /// Refusals of this process so far, by its own counters.
    pub(super) async fn refusals(&self) -> Result<String> {
        let text = reqwest::get(format!("{}/metrics", self.addresses.dsm)).await?.error_for_status()?.text().await?;
        let refused: Vec<_> = text.lines().filter_map(refusal).collect();
        Ok(if refused.is_empty() { "nobody".to_owned() } else { refused.join(", ") })
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.own.stop().await
    }
}

/// A line of the metrics that tells of refusals.
fn refusal(line: &str) -> Option<String> {
    let (series, value) = line.rsplit_once(' ')?;
    let name = series.split('{').next()?;
    let counts = REFUSALS.contains(&name) && value != "0";
    counts.then(|| format!("{value} {}", series.trim_start_matches("motience_").replace("_total", "")))
}

#[cfg(test)]
mod tests {
    use super::refusal;

    #[test]
    fn only_refusals_that_happened_are_told() {
        let told = refusal(r#"motience_connections_refused_total{reason="descriptors"} 12"#);
        assert_eq!(told.as_deref(), Some(r#"12 connections_refused{reason="descriptors"}"#));
        assert_eq!(refusal("motience_quic_refused_total 0"), None);
        assert_eq!(refusal("motience_connections 12"), None);
    }
}
