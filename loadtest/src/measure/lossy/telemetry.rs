//! The record of the comparison: about 150 bytes of telemetry whose values change as a sensor's do.

use std::fmt::Write as _;

use fastrand::Rng;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

/// A machine that is watched.
#[derive(Debug)]
pub(super) struct Sensor {
    device: String,
    start: OffsetDateTime,
    rng: Rng,
    temperature: f64,
    pressure: f64,
    vibration: f64,
}

impl Sensor {
    pub(super) fn new(device: &str, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let start = OffsetDateTime::UNIX_EPOCH + Duration::seconds(1_790_000_000);
        let (temperature, pressure, vibration) = (60.0 + 10.0 * rng.f64(), 5.0 + rng.f64(), 2.0 * rng.f64());
        Self { device: device.into(), start, rng, temperature, pressure, vibration }
    }

    /// The record of this number, so many microseconds after the start.
    pub(super) fn record(&mut self, number: u64, micros: u64) -> String {
        let mut step = |value: &mut f64, by: f64| *value = (*value + by * (self.rng.f64() - 0.5)).abs();
        step(&mut self.temperature, 0.4);
        step(&mut self.pressure, 0.05);
        step(&mut self.vibration, 0.3);
        let at = self.start + Duration::milliseconds((micros / 1000) as i64);
        let at = at.format(&Rfc3339).expect("a year of four digits can be written");
        let mut json = String::with_capacity(192);
        // Writing to memory cannot fail.
        let _ = write!(
            json,
            r#"{{"device_id":"{}","timestamp":"{at}","data":{{"seq":{number},"temperature":{:.2},"pressure":{:.3},"vibration":{:.3},"state":"running"}}}}"#,
            self.device, self.temperature, self.pressure, self.vibration
        );
        json
    }
}

/// The number of a record of this device, in whatever it is wrapped.
pub(super) fn number(message: &str, device: &str) -> Option<u64> {
    let rest = &message[message.find(device)?..];
    let rest = &rest[rest.find(r#""data":{"seq":"#)? + 14..];
    rest.split_once(',')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_of_about_150_bytes_and_tells_its_number() {
        let mut sensor = Sensor::new("pump-00001-01", 1);
        for n in 1..2000 {
            let record = sensor.record(n, n * 10_000);
            assert!((140..=160).contains(&record.len()), "{record}");
            let wrapped = record.replacen('{', r#"{"producer_id":"3","#, 1);
            assert_eq!(number(&wrapped, "pump-00001-01"), Some(n));
            assert_eq!(number(&wrapped, "pump-00002-01"), None);
            serde_json::from_str::<serde_json::Value>(&record).unwrap();
        }
    }
}
