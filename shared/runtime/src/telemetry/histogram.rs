//! Histograms of times: a fixed number of atomics each, so that an observation takes no lock and keeps nothing.
//!
//! The exporter's own histograms keep each observation until somebody scrapes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
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
}

impl Histogram {
    /// The histogram of this name and these labels, made where there is none. [`histogram!`](crate::histogram) asks once for each place.
    pub fn of(name: &'static str, labels: &[(&'static str, &str)]) -> Arc<Self> {
        let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
        Arc::clone(ALL.lock().entry((name, labels)).or_default())
    }

    /// Counts a time.
    pub fn record(&self, time: Duration) {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[BOUNDS.partition_point(|bound| *bound < microseconds)].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Counts the time since a moment.
    pub fn since(&self, begun: Instant) {
        self.record(begun.elapsed());
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

/// All histograms as Prometheus text; `help` describes a series.
pub(super) fn render(out: &mut String, help: impl Fn(&str) -> String) {
    let mut last = "";
    for ((name, labels), histogram) in &*ALL.lock() {
        if std::mem::replace(&mut last, name) != *name {
            let _ = writeln!(out, "{}# TYPE {name} histogram", help(name));
        }
        let known: String = labels.iter().map(|(name, value)| label(name, value) + ",").collect();
        let mut count = 0;
        for (bucket, bound) in histogram.buckets.iter().zip(BOUNDS.iter().map(Some).chain([None])) {
            count += bucket.load(Relaxed);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| (*bound as f64 / 1e6).to_string());
            let _ = writeln!(out, "{name}_bucket{{{known}le=\"{bound}\"}} {count}");
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
        render(&mut text, |name| format!("# HELP {name} A.\n"));
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
