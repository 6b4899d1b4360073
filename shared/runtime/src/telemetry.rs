//! Logs and metrics: set up once at the start of a process.
//!
//! Logs are structured. Metrics are Prometheus text, rendered
//! wherever `/metrics` is asked for.

mod histogram;
mod ranked;
mod sampler;
mod series;
mod text;

use std::{
    fs,
    io::IsTerminal as _,
    sync::OnceLock,
    time::{Duration, Instant},
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use histogram::Histogram;
use motience_settings::env::{self, Env, Value, one_of, settings};
pub use ranked::{RANKED, Row, rank};
pub use sampler::Sampler;

static METRICS: OnceLock<(PrometheusHandle, Instant)> = OnceLock::new();

settings! {
    /// How logs are written.
    #[derive(Clone, Debug)]
    pub struct Logging {
        /// The logs to write, such as `warn` or `info,motience_server=debug`.
        RUST_LOG, example "info" => filter: Option<Filter>;
        /// How logs are written: `text` or `json`.
        LOG_FORMAT = "text" => format: Format;
    }
}

/// Which logs are written.
#[derive(Clone, Debug)]
pub struct Filter(String);

impl Value for Filter {
    fn parse(text: &str) -> Result<Self, String> {
        EnvFilter::try_new(text)
            .map(|_| Self(text.to_owned()))
            .map_err(|e| format!("must be levels such as info,motience_server=debug: {e}"))
    }
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Value for Format {
    fn parse(text: &str) -> Result<Self, String> {
        one_of(text, &[("text", Self::Text), ("json", Self::Json)])
    }
}

/// Sends logs to standard error, at `level` unless RUST_LOG says otherwise, and starts the metrics.
pub fn init(env: &Env, level: &str) -> Result<(), env::Error> {
    let Logging { filter, format } = Logging::from_env(env)?;
    // PostgreSQL notes at each start that the table of migrations is there already.
    let usual = || format!("{level},sqlx::postgres::notice=warn");
    let registry = tracing_subscriber::registry().with(EnvFilter::new(filter.map_or_else(usual, |filter| filter.0)));
    // A second set-up, in a test that starts two nodes, leaves the first in place.
    let _ = match format {
        Format::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
        Format::Text => {
            let text = fmt::layer().fmt_fields(text::Fields).with_ansi(std::io::stderr().is_terminal());
            registry.with(text.with_writer(std::io::stderr)).try_init()
        }
    };
    start_metrics();
    Ok(())
}

/// Starts the metrics, where they do not run yet.
pub fn start_metrics() {
    METRICS.get_or_init(|| {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        // Another recorder in this process keeps what it has; ours then renders its own process figures only.
        let _ = metrics::set_global_recorder(recorder);
        series::register();
        (handle, Instant::now())
    });
}

/// All metrics as Prometheus text.
pub fn render() -> String {
    start_metrics();
    let Some((handle, _)) = METRICS.get() else { return String::new() };
    metrics::gauge!("motience_uptime_seconds").set(uptime().as_secs_f64());
    if let Some(bytes) = resident() {
        metrics::gauge!("motience_resident_bytes").set(bytes as f64);
    }
    if let Some(cpu) = cpu() {
        metrics::counter!("motience_cpu_milliseconds_total").absolute(u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX));
    }
    handle.run_upkeep();
    let mut text = handle.render();
    histogram::render(&mut text, |name| series::about(name).0);
    ranked::render(&mut text, series::about);
    text
}

/// How long the process has run.
pub fn uptime() -> Duration {
    METRICS.get().map(|(_, started)| started.elapsed()).unwrap_or_default()
}

/// Resident memory of this process in bytes, where the system tells (Linux, proc(5)).
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib: u64 = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// Processor time used so far; the kernel counts it to programs in hundredths of a second.
fn cpu() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields = stat.rsplit_once(')')?.1;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Some(Duration::from_millis(ticks * 10))
}
