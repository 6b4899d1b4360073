//! Histograms of times: a fixed number of atomics each, so that an observation takes no lock and keeps nothing.
//!
//! The exporter's own histograms keep each observation until somebody scrapes.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use super::text::label;

/// Upper bounds of the buckets, in microseconds.
const BOUNDS: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    30_000_000,
];

/// Name of a series, with the names and values of its labels.
type Key = (&'static str, Vec<(&'static str, String)>);

static ALL: LazyLock<Mutex<BTreeMap<Key, Arc<Histogram>>>> = LazyLock::new(Mutex::default);

/// Times that were measured, by buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than there are bounds: for what is beyond the last.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
    /// A traced time of each bucket that has one.
    exemplars: Mutex<BTreeMap<usize, Exemplar>>,
}

/// A time whose trace can be looked at.
#[derive(Clone, Copy, Debug)]
struct Exemplar {
    trace: u128,
    time: Duration,
    at: SystemTime,
}

impl Histogram {
    /// The histogram of this name and these labels, made where there is none. [`histogram!`](crate::histogram) asks once for each place.
    pub fn of(name: &'static str, labels: &[(&'static str, &str)]) -> Arc<Self> {
        let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
        Arc::clone(ALL.lock().entry((name, labels)).or_default())
    }

    /// Counts a time.
    pub fn record(&self, time: Duration) {
        self.buckets[bucket(time)].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Shows the trace of a time that is counted too, until another one of its bucket is shown.
    pub fn show(&self, time: Duration, trace: u128) {
        self.exemplars.lock().insert(bucket(time), Exemplar { trace, time, at: SystemTime::now() });
    }

    /// Counts the time since a moment.
    pub fn since(&self, begun: Instant) {
        self.record(begun.elapsed());
    }
}

/// Number of the bucket that a time belongs to.
fn bucket(time: Duration) -> usize {
    let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    BOUNDS.partition_point(|bound| *bound < microseconds)
}

impl fmt::Display for Exemplar {
    /// As OpenMetrics writes it behind a bucket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        write!(f, " # {{trace_id=\"{:032x}\"}} {} {:.3}", self.trace, self.time.as_secs_f64(), at.as_secs_f64())
    }
}

/// The histogram of a name and labels: `histogram!("motience_x_seconds", "label" => "value").record(time)`. A place whose values are written
/// out looks it up once; another keeps what `Arc::clone` gives it.
#[macro_export]
macro_rules! histogram {
    ($name:literal $(, $label:literal => $value:literal)* $(,)?) => {{
        static HERE: std::sync::LazyLock<std::sync::Arc<$crate::telemetry::Histogram>> =
            std::sync::LazyLock::new(|| $crate::telemetry::Histogram::of($name, &[$(($label, $value)),*]));
        &*HERE
    }};
    ($name:literal $(, $label:literal => $value:expr)* $(,)?) => {
        $crate::telemetry::Histogram::of($name, &[$(($label, $value)),*])
    };
}

/// All histograms as Prometheus text; `help` describes a series. `exemplars`: with those, which only OpenMetrics knows.
pub(super) fn render(out: &mut String, exemplars: bool, help: impl Fn(&str) -> String) {
    let mut last = "";
    for ((name, labels), histogram) in &*ALL.lock() {
        if std::mem::replace(&mut last, name) != *name {
            let _ = writeln!(out, "{}# TYPE {name} histogram", help(name));
        }
        let known: String = labels.iter().map(|(name, value)| label(name, value) + ",").collect();
        let shown = if exemplars { histogram.exemplars.lock().clone() } else { BTreeMap::new() };
        let mut count = 0;
        for (number, (bucket, bound)) in histogram.buckets.iter().zip(BOUNDS.iter().map(Some).chain([None])).enumerate() {
            count += bucket.load(Relaxed);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| (*bound as f64 / 1e6).to_string());
            let exemplar = shown.get(&number).map(Exemplar::to_string).unwrap_or_default();
            let _ = writeln!(out, "{name}_bucket{{{known}le=\"{bound}\"}} {count}{exemplar}");
        }
        let known = if known.is_empty() { String::new() } else { format!("{{{}}}", known.trim_end_matches(',')) };
        let _ = writeln!(out, "{name}_sum{known} {}", histogram.nanoseconds.load(Relaxed) as f64 / 1e9);
        let _ = writeln!(out, "{name}_count{known} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_the_buckets_above_it() {
        for time in [Duration::ZERO, Duration::from_micros(25), Duration::from_millis(3), Duration::from_secs(60)] {
            histogram!("motience_a_test_seconds", "way" => "in \"x\"").record(time);
        }
        let mut text = String::new();
        histogram!("motience_a_test_seconds", "way" => "in \"x\"").show(Duration::from_millis(3), 0xab);
        let mut traced = String::new();
        render(&mut traced, true, |_| String::new());
        let exemplar = r#"le="0.005"} 3 # {trace_id="000000000000000000000000000000ab"} 0.003 "#;
        assert!(traced.contains(exemplar), "{traced}");
        render(&mut text, false, |name| format!("# HELP {name} A.\n"));
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("motience_a_test")).collect();
        assert_eq!(lines[..2], ["# HELP motience_a_test_seconds A.", "# TYPE motience_a_test_seconds histogram"]);
        for line in [
            r#"motience_a_test_seconds_bucket{way="in \"x\"",le="0.000025"} 2"#,
            r#"motience_a_test_seconds_bucket{way="in \"x\"",le="0.0025"} 2"#,
            r#"motience_a_test_seconds_bucket{way="in \"x\"",le="0.005"} 3"#,
            r#"motience_a_test_seconds_bucket{way="in \"x\"",le="+Inf"} 4"#,
            r#"motience_a_test_seconds_sum{way="in \"x\""} 60.003025"#,
            r#"motience_a_test_seconds_count{way="in \"x\""} 4"#,
        ] {
            assert!(lines.contains(&line), "{line}: {text}");
        }
    }
}
