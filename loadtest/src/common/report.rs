//! The report of a flow, and ratios of runs with what they say of their certainty.

use std::{
    fmt::{self, Display, Formatter},
    path::Path,
};

use anyhow::{Context as _, Result};
use fastrand::Rng;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The outcome of a flow.
pub(crate) struct Report {
    pub(crate) devices: usize,
    pub(crate) consumers: usize,
    pub(crate) rate: f64,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) seconds: f64,
    pub(crate) server_cpu_seconds: Option<f64>,
    /// Microseconds from when a record was due to its arrival.
    pub(crate) latency: Histogram<u64>,
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Whether nothing was lost, doubled or cut.
    pub(crate) fn good(&self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.acknowledged == self.sent && self.failures.is_empty()
    }

    /// Processor seconds of the server for a million records delivered.
    pub(crate) fn cpu_per_million(&self) -> Option<f64> {
        let millions = self.delivered.max(self.acknowledged) as f64 / 1e6;
        self.server_cpu_seconds.filter(|_| millions > 0.0).map(|cpu| cpu / millions)
    }

    pub(crate) fn print(&self) {
        let pace = if self.rate > 0.0 { format!("{:.0} records/s", self.rate) } else { "as fast as they go".to_owned() };
        say!("{} devices -> {} consumers, {pace}, {:.1} s", self.devices, self.consumers, self.seconds);
        say!("  sent          {:>12}   {:>10.0}/s", self.sent, self.sent as f64 / self.seconds);
        say!("  acknowledged  {:>12}", self.acknowledged);
        say!("  delivered     {:>12}   {:>10.0}/s", self.delivered, self.delivered as f64 / self.seconds);
        say!("  lost          {:>12}", self.lost);
        say!("  doubled       {:>12}", self.doubled);
        if !self.latency.is_empty() {
            let at = |q| self.latency.value_at_quantile(q) as f64 / 1e3;
            let max = self.latency.max() as f64 / 1e3;
            say!("  latency       p50 {:.3} ms, p99 {:.3} ms, p99.9 {:.3} ms, max {max:.3} ms", at(0.5), at(0.99), at(0.999));
        }
        match (self.server_cpu_seconds, self.cpu_per_million()) {
            (Some(cpu), Some(each)) => say!("  server CPU    {cpu:.2} s, {each:.2} s per million records"),
            _ => say!("  server CPU    not measured (a server elsewhere, or no --server-pid)"),
        }
        for failure in &self.failures {
            say!("  ! {failure}");
        }
        say!("{}", if self.good() { "nothing lost, nothing doubled" } else { "NOT GOOD" });
    }

    /// The outcome as JSON; latencies in microseconds.
    pub(crate) fn json(&self) -> Value {
        let at = |q| self.latency.value_at_quantile(q);
        json!({
            "devices": self.devices, "consumers": self.consumers, "rate": self.rate, "seconds": self.seconds,
            "sent": self.sent, "acknowledged": self.acknowledged, "delivered": self.delivered,
            "lost": self.lost, "doubled": self.doubled,
            "latency_us": {"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": self.latency.max()},
            "server_cpu_seconds": self.server_cpu_seconds, "server_cpu_seconds_per_million": self.cpu_per_million(),
            "failures": self.failures,
        })
    }

    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        std::fs::write(file, format!("{:#}\n", self.json())).with_context(|| format!("{} cannot be written", file.display()))
    }
}

/// Cost of idle connections, connected in two equal waves.
pub(crate) struct Idle {
    /// Devices and consumers of each wave.
    pub(crate) devices: usize,
    pub(crate) consumers: usize,
    /// Resident bytes of the server after the first wave and after the second.
    pub(crate) half: u64,
    pub(crate) all: u64,
    pub(crate) failures: Vec<String>,
}

impl Idle {
    pub(crate) fn print(&self) {
        let wave = (self.devices + self.consumers).max(1) as u64;
        say!("{} idle devices, {} idle consumers, connected in two waves", self.devices * 2, self.consumers * 2);
        say!("  server memory {} KiB after the first, {} KiB after the second", self.half / 1024, self.all / 1024);
        say!("  each          {:.1} KiB", self.all.saturating_sub(self.half) as f64 / wave as f64 / 1024.0);
        for failure in &self.failures {
            say!("  ! {failure}");
        }
    }
}

/// The value in the middle of those that runs have.
pub(crate) fn middle<R>(runs: &[R], value: impl Fn(&R) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2000;

/// A value and its 95 % confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Display for Estimate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { value, low, high } = self;
        write!(f, "{value:.2} [{low:.2}-{high:.2}]")
    }
}

/// The ratio of two systems: each round of one over the same round of the other, the middle of them, and the interval in which the middle
/// of rounds drawn again lies.
pub(crate) fn ratio<R>(runs: &[R], base: &[R], value: impl Fn(&R) -> f64) -> Estimate {
    let ratios: Vec<f64> = runs.iter().zip(base).map(|(run, base)| value(run) / value(base)).collect();
    let mut rng = Rng::with_seed(1);
    let mut drawn: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let again: Vec<f64> = ratios.iter().map(|_| ratios[rng.usize(..ratios.len())]).collect();
            middle(&again, |ratio| *ratio)
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| drawn[((RESAMPLES - 1) as f64 * share).round() as usize];
    Estimate { value: middle(&ratios, |ratio| *ratio), low: at(0.025), high: at(0.975) }
}
