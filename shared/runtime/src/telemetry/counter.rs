//! Counters on the way of each record: a place looks its counter up once, and not for each step.

use std::sync::OnceLock;

use metrics::Counter;

/// The counter that is kept in `place`, looked up where it is not there yet. Before the metrics are started nothing is kept: what is looked up
/// then counts nothing.
pub fn kept(place: &OnceLock<Counter>, look_up: impl FnOnce() -> Counter) -> Counter {
    match place.get() {
        Some(counter) => counter.clone(),
        None if super::are_started() => place.get_or_init(look_up).clone(),
        None => look_up(),
    }
}

/// The counter of a name and labels that are written out: `counter!("motience_x_total").increment(1)`. Its place looks it up once.
#[macro_export]
macro_rules! counter {
    ($name:literal $(, $label:literal => $value:literal)* $(,)?) => {{
        static HERE: std::sync::OnceLock<metrics::Counter> = std::sync::OnceLock::new();
        $crate::telemetry::kept(&HERE, || metrics::counter! { $name $(, $label => $value)* })
    }};
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_place_counts_in_the_series_of_its_name() {
        let count = || crate::counter!("motience_connections_total", "transport" => "test").increment(1);
        // Before there is a series.
        count();
        crate::telemetry::start_metrics();
        count();
        count();
        let text = crate::telemetry::render();
        assert!(text.contains("motience_connections_total{transport=\"test\"} 2"), "{text}");
    }
}
