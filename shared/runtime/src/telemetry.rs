//! Logs and metrics: set up once at the start of a process.
//!
//! Logs are structured. Metrics are Prometheus text, rendered
//! wherever `/metrics` is asked for.

mod counter;
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
use parking_lot::Mutex;
use secrecy::SecretString;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _};

pub use counter::kept;
pub use histogram::Histogram;
use motience_settings::env::{self, Env, Value, one_of, settings};
pub use ranked::{RANKED, Row, rank};
pub use sampler::Sampler;

static METRICS: OnceLock<(PrometheusHandle, Instant)> = OnceLock::new();
/// The way to the filter of logs, and the filter in force.
static FILTER: OnceLock<(reload::Handle<EnvFilter, Registry>, Mutex<String>)> = OnceLock::new();

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

settings! {
    /// Traces for an OpenTelemetry collector.
    #[derive(Clone, Debug)]
    pub struct Traces {
        /// Address of an OpenTelemetry collector that takes OTLP over HTTP (protobuf). Without one there are no traces.
        OTEL_EXPORTER_OTLP_ENDPOINT, example "http://localhost:4318" => endpoint: Option<String>;
        /// Headers of the requests to it, such as `api-key=...`, separated by commas.
        OTEL_EXPORTER_OTLP_HEADERS, example "" => headers: Option<SecretString>;
        /// Part of the connections, requests and records that are traced: 0.01 is one in a hundred.
        OTEL_TRACES_SAMPLER_ARG = "0.01" => part: f64, "0"..="1";
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
    let Logging { format, .. } = Logging::from_env(env)?;
    let chosen = chosen_filter(env, level)?;
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&chosen));
    let lines = match format {
        Format::Json => fmt::layer().json().with_writer(std::io::stderr).with_filter(filter).boxed(),
        Format::Text => {
            let text = fmt::layer().fmt_fields(text::Fields).with_ansi(std::io::stderr().is_terminal());
            text.with_writer(std::io::stderr).with_filter(filter).boxed()
        }
    };
    // A second set-up, in a test that starts two nodes, leaves the first in place.
    if tracing_subscriber::registry().with(lines).try_init().is_ok() {
        let _ = FILTER.set((handle, Mutex::new(chosen)));
    }
    start_metrics();
    Ok(())
}

/// Why the logs cannot be filtered so.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The filter cannot be read.
    #[error("must be levels such as info,motience_server=debug: {0}")]
    Invalid(String),
    /// This process writes no logs of its own.
    #[error("this process has no logs of its own")]
    None,
}

/// The filter of logs that is in force.
pub fn filter() -> Option<String> {
    FILTER.get().map(|(_, filter)| filter.lock().clone())
}

/// Writes other logs from now on: `text` is as of RUST_LOG.
pub fn set_filter(text: &str) -> Result<(), FilterError> {
    let filter = EnvFilter::try_new(text).map_err(|e| FilterError::Invalid(e.to_string()))?;
    let (handle, known) = FILTER.get().ok_or(FilterError::None)?;
    handle.reload(filter).map_err(|_| FilterError::None)?;
    text.clone_into(&mut known.lock());
    Ok(())
}

/// The filter that the settings ask for; `level` where they ask for none.
pub fn chosen_filter(env: &Env, level: &str) -> Result<String, env::Error> {
    let Logging { filter, .. } = Logging::from_env(env)?;
    // PostgreSQL notes at each start that the table of migrations is there already.
    Ok(filter.map_or_else(|| format!("{level},sqlx::postgres::notice=warn"), |filter| filter.0))
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

/// Whether the metrics have been started.
fn are_started() -> bool {
    METRICS.get().is_some()
}

/// Says in the metrics which build this is. `features`: of the program.
pub fn tell_build(features: &[(&str, bool)]) {
    let features: Vec<&str> = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect();
    // An empty label would be none.
    let features = if features.is_empty() { "none".to_owned() } else { features.join(" ") };
    let (version, commit) = (env!("CARGO_PKG_VERSION"), motience_settings::commit());
    metrics::gauge!("motience_build_info", "version" => version, "commit" => commit, "features" => features).set(1.0);
}

/// All metrics as OpenMetrics text, which has exemplars: traces of times in the histograms.
pub fn render_open_metrics() -> String {
    let mut text = String::new();
    for line in rendered(true).lines().filter(|line| !line.is_empty()) {
        // A counter is named without what its samples end with.
        let is_head = line.starts_with("# ");
        let head = line.strip_suffix("_total counter").map(|head| format!("{head} counter"));
        match head.or_else(|| is_head.then(|| line.replacen("_total ", " ", 1))) {
            Some(head) => text.push_str(&head),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text + "# EOF\n"
}

/// All metrics as Prometheus text.
pub fn render() -> String {
    rendered(false)
}

fn rendered(exemplars: bool) -> String {
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
    histogram::render(&mut text, exemplars, |name| series::about(name).0);
    ranked::render(&mut text, series::ranked(), series::about);
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
