//! Buckets of time: the numbers of many records as a few, for charts of long ranges.

use std::{collections::BTreeMap, time::Duration};

use motience_http::ApiError;
use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, macros::datetime};
use utoipa::ToSchema;

use super::part::Record;

/// Numbers of one bucket; more of them are left out.
const MAX_NUMBERS: usize = 64;
/// Levels below `data` that are looked at.
const MAX_DEPTH: usize = 8;
/// Bytes of a bucket and of a number in it as JSON, beside their names, at most.
const BUCKET_BYTES: usize = 112;
const NUMBER_BYTES: usize = 152;
/// Buckets begin at multiples of their length since 1970, and none begins before what RFC 3339 can write.
const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00 UTC);

/// The numbers of one device within one length of time.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::data) struct Bucket {
    device_id: String,
    /// Its beginning: a multiple of its length since 1970.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    start: OffsetDateTime,
    /// Records in it.
    records: u64,
    /// Numbers by their JSON pointers in the record; `true` is 1, `false` is 0. At most 64.
    #[schema(example = json!({"/data/temperature": {"count": 60, "avg": 21.4, "min": 20.9, "max": 21.8}}))]
    values: BTreeMap<String, Numbers>,
}

/// Aggregates of the numbers at one pointer.
#[derive(Debug, Serialize, ToSchema)]
pub(in crate::data) struct Numbers {
    /// How many there are.
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    avg: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<f64>,
    /// The one that came last.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<f64>,
}

/// The aggregates that are asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Aggregates {
    avg: bool,
    min: bool,
    max: bool,
    last: bool,
}

impl Aggregates {
    /// `avg,min,max`, which is the default.
    pub(super) fn read(text: Option<&str>) -> Result<Self, ApiError> {
        let mut read = Self::default();
        for name in text.unwrap_or("avg,min,max").split(',') {
            match name.trim() {
                "avg" => read.avg = true,
                "min" => read.min = true,
                "max" => read.max = true,
                "last" => read.last = true,
                _ => return Err(ApiError::invalid("aggregate", "aggregate is a list with commas of avg, min, max and last.")),
            }
        }
        Ok(read)
    }
}

/// Buckets that are being filled.
pub(super) struct Buckets {
    length: i128,
    by_device: bool,
    /// By beginning in nanoseconds, and device.
    filled: BTreeMap<(i128, String), Filled>,
    /// As JSON, about.
    bytes: usize,
}

#[derive(Default)]
struct Filled {
    records: u64,
    numbers: BTreeMap<String, Sums>,
}

struct Sums {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    last: f64,
}

impl Buckets {
    /// Of this length, by the devices' clocks or by arrival.
    pub(super) fn new(length: Duration, by_device: bool) -> Self {
        Self { length: i128::try_from(length.as_nanos()).unwrap_or(i128::MAX), by_device, filled: BTreeMap::new(), bytes: 2 }
    }

    /// Bytes that they have as JSON, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a record. One without numbers is counted.
    pub(super) fn add(&mut self, record: &Record) {
        let Self { length, by_device, filled, bytes } = self;
        let at = record.received_at.filter(|_| !*by_device).unwrap_or(record.timestamp).unix_timestamp_nanos();
        let key = (at.div_euclid(*length) * *length, record.device_id.clone());
        let bucket = filled.entry(key).or_insert_with(|| {
            *bytes += BUCKET_BYTES + record.device_id.len();
            Filled::default()
        });
        bucket.records += 1;
        // Cannot fail: it was JSON when it came in.
        let Ok(data) = serde_json::from_str::<Value>(record.data.get()) else { return };
        visit(&data, &mut String::from("/data"), 0, &mut |pointer, number| {
            if let Some(sums) = bucket.numbers.get_mut(pointer) {
                sums.add(number);
            } else if bucket.numbers.len() < MAX_NUMBERS {
                *bytes += NUMBER_BYTES + pointer.len();
                bucket.numbers.insert(pointer.to_owned(), Sums { count: 1, sum: number, min: number, max: number, last: number });
            }
        });
    }

    /// All of them, by time and device.
    pub(super) fn finish(self, wanted: Aggregates) -> Vec<Bucket> {
        let numbers = |sums: Sums| Numbers {
            count: sums.count,
            // A sum beyond the range of numbers is infinite, and its mean the largest number there is.
            avg: wanted.avg.then(|| (sums.sum / sums.count as f64).clamp(sums.min, sums.max)),
            min: wanted.min.then_some(sums.min),
            max: wanted.max.then_some(sums.max),
            last: wanted.last.then_some(sums.last),
        };
        let bucket = |((start, device_id), filled): ((i128, String), Filled)| Bucket {
            device_id,
            start: OffsetDateTime::from_unix_timestamp_nanos(start).map_or(FIRST, |start| start.max(FIRST)),
            records: filled.records,
            values: filled.numbers.into_iter().map(|(pointer, sums)| (pointer, numbers(sums))).collect(),
        };
        self.filled.into_iter().map(bucket).collect()
    }
}

impl Sums {
    fn add(&mut self, number: f64) {
        self.count += 1;
        self.sum += number;
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        self.last = number;
    }
}

/// Gives the numbers below `value` with their pointers.
fn visit(value: &Value, pointer: &mut String, depth: usize, found: &mut impl FnMut(&str, f64)) {
    let here = pointer.len();
    match value {
        Value::Number(number) => {
            if let Some(number) = number.as_f64().filter(|number| number.is_finite()) {
                found(pointer, number);
            }
        }
        Value::Bool(is_true) => found(pointer, f64::from(u8::from(*is_true))),
        Value::Array(items) if depth < MAX_DEPTH => {
            for (index, item) in items.iter().enumerate().take(MAX_NUMBERS) {
                pointer.push_str(&format!("/{index}"));
                visit(item, pointer, depth + 1, found);
                pointer.truncate(here);
            }
        }
        Value::Object(members) if depth < MAX_DEPTH => {
            for (name, member) in members {
                pointer.push('/');
                // Escapes of RFC 6901.
                for c in name.chars() {
                    match c {
                        '~' => pointer.push_str("~0"),
                        '/' => pointer.push_str("~1"),
                        c => pointer.push(c),
                    }
                }
                visit(member, pointer, depth + 1, found);
                pointer.truncate(here);
            }
        }
        Value::Array(_) | Value::Object(_) | Value::String(_) | Value::Null => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, value::RawValue};

    use super::*;

    fn record(device: &str, seconds: i64, data: &Value) -> Record {
        let timestamp = OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        let data = RawValue::from_string(data.to_string()).unwrap();
        Record { id: 1, device_id: device.into(), timestamp, data, extra: None, received_at: Some(timestamp + time::Duration::HOUR) }
    }

    #[test]
    fn numbers_are_found_at_any_depth_and_aggregated_by_device_and_time() {
        let mut buckets = Buckets::new(Duration::from_secs(60), true);
        for (device, seconds, data) in [
            ("a", 0, json!({"t": 1, "on": true, "at": {"x/y": [5, "no"]}})),
            ("a", 59, json!({"t": 4, "on": false})),
            ("a", 60, json!({"t": 7})),
            ("b", -1, json!(2.5)),
            ("b", -60, json!("text")),
        ] {
            buckets.add(&record(device, seconds, &data));
        }
        let bytes = buckets.bytes();
        let made = serde_json::to_value(buckets.finish(Aggregates::read(Some("avg,min, max,last")).unwrap())).unwrap();
        let one = |n: f64| json!({"count": 1, "avg": n, "min": n, "max": n, "last": n});
        assert_eq!(
            made,
            json!([
                {"device_id": "b", "start": "1969-12-31T23:59:00Z", "records": 2, "values": {"/data": one(2.5)}},
                {"device_id": "a", "start": "1970-01-01T00:00:00Z", "records": 2, "values": {
                    "/data/t": {"count": 2, "avg": 2.5, "min": 1.0, "max": 4.0, "last": 4.0},
                    "/data/on": {"count": 2, "avg": 0.5, "min": 0.0, "max": 1.0, "last": 0.0},
                    "/data/at/x~1y/0": one(5.0),
                }},
                {"device_id": "a", "start": "1970-01-01T00:01:00Z", "records": 1, "values": {"/data/t": one(7.0)}},
            ])
        );
        assert!(made.to_string().len() <= bytes);
    }

    #[test]
    fn a_mean_of_the_largest_numbers_is_a_number_and_what_is_counted_is_bounded() {
        let mut buckets = Buckets::new(Duration::from_secs(1), false);
        for n in [f64::MAX, f64::MAX, -f64::MAX] {
            buckets.add(&record("d", 0, &json!({"a": n, "many": vec![1; 1000]})));
        }
        let made = buckets.finish(Aggregates::read(None).unwrap());
        assert_eq!((made.len(), made[0].records, made[0].values.len()), (1, 3, MAX_NUMBERS));
        // By arrival, which is an hour later.
        assert_eq!(made[0].start, datetime!(1970-01-01 01:00 UTC));
        assert_eq!(made[0].values["/data/a"].avg, Some(f64::MAX));
        assert!(made[0].values["/data/many/0"].last.is_none() && made[0].values["/data/many/0"].max == Some(1.0));
        assert!(Aggregates::read(Some("avg,median")).is_err() && Aggregates::read(Some("")).is_err());
    }

    #[test]
    fn the_first_time_of_all_is_in_a_bucket_that_can_be_written() {
        let mut buckets = Buckets::new(Duration::from_secs(7), true);
        buckets.add(&Record { timestamp: FIRST, ..record("d", 0, &json!(1)) });
        assert_eq!(buckets.finish(Aggregates::default())[0].start, FIRST);
    }
}
