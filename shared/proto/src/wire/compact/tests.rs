//! Whatever goes in comes out, byte by byte; and what usually goes in becomes small.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    model::Seq,
    wire::{Frame, Limits, Record},
};

const LIMIT: usize = 64 * 1024;

/// Both ends of a connection whose templates are accepted at once.
#[derive(Default)]
struct Ends {
    encoder: Encoder,
    decoder: Decoder,
    seq: u64,
}

impl Ends {
    /// Sends a record; returns the bytes that it took.
    fn send(&mut self, json: &str) -> usize {
        self.seq += 1;
        let (record, template) = self.encoder.encode(Record { seq: Seq(self.seq), json: Bytes::copy_from_slice(json.as_bytes()) });
        let frame = Frame::from(record);
        let size = through(&frame);
        let restored = match frame {
            Frame::Record(record) => record.json,
            Frame::Compact(compact) => self.decoder.expand(&compact, LIMIT).unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(restored, json.as_bytes());
        if let Some(template) = template {
            through(&Frame::Template(template.clone()));
            let id = self.decoder.add(template).unwrap();
            self.encoder.accepted(id);
        }
        size
    }
}

/// Writes a frame and reads it again; returns its size.
fn through(frame: &Frame) -> usize {
    let mut out = bytes::BytesMut::new();
    frame.encode(&mut out);
    let size = out.len();
    assert_eq!(Frame::decode(&mut out, Limits::control()).unwrap().as_ref(), Some(frame));
    size
}

fn weather(n: u32, status: &str) -> String {
    let (temperature, humidity) = (f64::from(2100 + n % 400) / 100.0, f64::from(480 + n % 90) / 10.0);
    format!(
        r#"{{"device_id":"sensor-0001","timestamp":"2026-11-23T18:{:02}:{:02}.{:03}Z","data":{{"temperature":{temperature},"humidity":{humidity:?},"pressure":1013.25,"battery":87,"status":"{status}"}}}}"#,
        n / 600 % 60,
        n / 10 % 60,
        n * 100 % 1000,
    )
}

#[test]
fn a_reading_becomes_a_few_bytes() {
    let mut ends = Ends::default();
    let sizes: Vec<usize> = (0..600).map(|n| ends.send(&weather(n, "ok"))).collect();
    assert!(sizes[0] > 150, "the first is sent as it is");
    assert!(sizes[500..].iter().all(|size| *size <= 24), "{:?}", &sizes[500..520]);
}

#[test]
fn a_value_that_begins_to_change_becomes_a_slot() {
    let mut ends = Ends::default();
    for n in 0..20 {
        ends.send(&weather(n, "ok"));
    }
    ends.send(&weather(20, "low battery"));
    assert!(ends.send(&weather(21, "failed")) < 32);
    assert!(ends.send(&weather(22, "ok")) < 28);
}

#[test]
fn numbers_keep_their_spelling() {
    let mut ends = Ends::default();
    for text in
        ["0", "-0", "21.5", "21.50", "21.0", "1e5", "1E-7", "0.10", "-3.25", "123456789012345678901234567890", "9007199254740993", "00"]
    {
        for _ in 0..3 {
            ends.send(&format!(r#"{{"n":{text}}}"#));
        }
    }
}

#[test]
fn times_keep_their_spelling() {
    let mut ends = Ends::default();
    for text in [
        "2026-11-23T18:00:00Z",
        "2026-11-23T18:00:00.5Z",
        "2026-11-23T18:00:00.123456789+02:00",
        "1969-12-31T23:59:59.999Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2026-02-30T00:00:00Z",
        "2026-11-23T18:00:60Z",
        "2026-11-23T18:00:00.Z",
        "2026-11-23t18:00:00z",
        "2026-11-23T18:00:00é",
    ] {
        for _ in 0..3 {
            ends.send(&format!(r#"{{"t":"{text}"}}"#));
        }
    }
}

#[test]
fn a_time_that_is_spelt_otherwise_now_and_then_keeps_the_form_of_most() {
    for start in 0..10 {
        let mut ends = Ends::default();
        let mut send = |n: u32| {
            // Hundredths without the zeros at their end, as many libraries write them.
            let (hundredths, second) = (n % 100, n / 100);
            let fraction = if hundredths % 10 == 0 { format!("{:01}", hundredths / 10) } else { format!("{hundredths:02}") };
            ends.send(&format!(r#"{{"timestamp":"2026-11-23T18:00:{second:02}.{fraction}Z","data":{{"seq":{n}}}}}"#))
        };
        for n in start..start + 500 {
            send(n);
        }
        let bytes: usize = (1000..1100).map(&mut send).sum();
        assert!(bytes < 100 * 20, "{start}: {bytes}");
    }
}

#[test]
fn what_is_no_json_comes_through_too() {
    let mut ends = Ends::default();
    for text in ["", "{", "\"", "\"\\", "{\"a\":}", "nul", "[1,2", "é\"é\"é1", "--1-", "{\"a\":\"\\\"\"}"] {
        for _ in 0..3 {
            ends.send(text);
        }
    }
}

#[test]
fn there_is_an_end_to_shapes() {
    let mut ends = Ends::default();
    for n in 0..1000 {
        for value in 0..3 {
            ends.send(&format!(r#"{{"key{n}":{value}}}"#));
        }
    }
    assert_eq!(ends.decoder.add(Template { id: 1000, parts: Vec::new(), tail: String::new() }), Err(Error::TooManyTemplates));
    assert_eq!(ends.decoder.add(Template { id: 0, parts: Vec::new(), tail: String::new() }), Err(Error::AnnouncedTwice(0)));
}

#[test]
fn a_hostile_record_gets_no_more_than_the_limit() {
    let mut decoder = Decoder::new();
    let number = Slot::Number(number::Style::from_code(15 * 3).unwrap());
    let parts = (0..MAX_SLOTS).map(|_| ("x".repeat(8), number.clone())).collect();
    decoder.add(Template { id: 0, parts, tail: String::new() }).unwrap();
    let record = |template, values: &[u8]| Compact { seq: Seq(1), template, values: Bytes::copy_from_slice(values) };
    assert_eq!(decoder.expand(&record(0, &[1; MAX_SLOTS]), 100), Err(Error::TooLarge(100)));
    assert_eq!(decoder.expand(&record(0, &[1; 3]), LIMIT), Err(Error::Values(0)));
    assert_eq!(decoder.expand(&record(0, &[1; MAX_SLOTS + 1]), LIMIT), Err(Error::Values(0)));
    assert_eq!(decoder.expand(&record(1, &[]), LIMIT), Err(Error::UnknownTemplate(1)));
    let far = timestamp::Form::new(0, "Z".into(), i64::MAX).unwrap();
    decoder.add(Template { id: 1, parts: vec![(String::new(), Slot::Time(far))], tail: String::new() }).unwrap();
    assert_eq!(decoder.expand(&record(1, &[3]), LIMIT), Err(Error::Values(1)));
}

fn value() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        (0..100_000_u32).prop_map(|n| (f64::from(n) / 100.0).into()),
        ".{0,12}".prop_map(Into::into),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("[a-c]{1,2}", inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_goes_in_comes_out(values in prop::collection::vec(value(), 1..20)) {
        let mut ends = Ends::default();
        for value in values.iter().chain(&values).chain(&values) {
            ends.send(&value.to_string());
        }
    }

    #[test]
    fn the_same_structure_with_other_values(numbers in prop::collection::vec(("-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,16})?([eE][+-]?[0-9]{1,3})?", "\\PC{0,8}"), 1..30)) {
        let mut ends = Ends::default();
        for (number, text) in numbers {
            ends.send(&format!(r#"{{"n":{number},"t":"{}"}}"#, text.replace(['"', '\\'], "")));
        }
    }

    #[test]
    fn hostile_shapes_and_values_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), values in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut framed = bytes::BytesMut::new();
        framed.extend_from_slice(&[0x1b, 0x40 | (bytes.len() >> 8) as u8, bytes.len() as u8]);
        framed.extend_from_slice(&bytes);
        if let Ok(Some(Frame::Template(template))) = Frame::decode(&mut framed, Limits::control()) {
            let id = template.id;
            let mut decoder = Decoder::new();
            decoder.add(template).unwrap();
            if let Ok(json) = decoder.expand(&Compact { seq: Seq(1), template: id, values: values.into() }, 1000) {
                prop_assert!(json.len() <= 1000);
            }
        }
    }
}
