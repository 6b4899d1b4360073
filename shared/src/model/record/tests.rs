//! What passes, what does not, and what it becomes.

use super::*;
use crate::model::{Epoch, LogEpoch, Offset, Seq};

const SEED: &str = r#"{"device_id":"rpi_001","timestamp":"2025-01-29T11:35:00Z","data":{"temperature":24.3}}"#;

fn defaults() -> Defaults<'static> {
    Defaults { device_id: "dev", now: OffsetDateTime::UNIX_EPOCH }
}

fn admitted(json: &str) -> Result<String, Invalid> {
    admit(&Bytes::copy_from_slice(json.as_bytes()), 1024, &defaults()).map(|b| String::from_utf8(b.to_vec()).unwrap())
}

#[test]
fn the_seeds_record_passes_and_is_spliced() {
    check(SEED.as_bytes(), MAX_RECORD).unwrap();
    let mut out = BytesMut::new();
    encode(ProducerId(123), format!(" {SEED}\n").as_bytes(), &mut out);
    assert_eq!(
        out,
        br#"{"producer_id":"123","device_id":"rpi_001","timestamp":"2025-01-29T11:35:00Z","data":{"temperature":24.3}}"#.as_slice()
    );
    let mut v2 = BytesMut::new();
    with_place(&out, Offset(9), Cursor { epoch: LogEpoch(5), offset: Offset(9) }, RecordName { epoch: Epoch(1), seq: Seq(2) }, &mut v2);
    assert!(v2.ends_with(br#"24.3},"offset":9,"cursor":"5-9","name":"0000000000000001-2"}"#));
    let parts = Parts::of(&out).unwrap();
    assert_eq!(parts.device_id, "rpi_001");
    assert_eq!(parts.time().unwrap().unix_timestamp(), 1_738_150_500);
    assert_eq!(parts.data.get(), r#"{"temperature":24.3}"#);
}

#[test]
fn each_mistake_has_its_code() {
    for (json, code) in [
        ("{", "invalid_json"),
        ("nonsense", "invalid_json"),
        ("[1]", "not_an_object"),
        (r#"{"device_id":"a","timestamp":"2025-01-29T11:35:00Z","data":1} x"#, "invalid_json"),
        (r#"{"timestamp":"2025-01-29T11:35:00Z","data":1}"#, "missing_field"),
        (r#"{"device_id":"a","data":1}"#, "missing_field"),
        (r#"{"device_id":"a","timestamp":1}"#, "missing_field"),
        (r#"{"device_id":"","timestamp":1,"data":1}"#, "invalid_device_id"),
        (r#"{"device_id":7,"timestamp":1,"data":1}"#, "invalid_device_id"),
        (r#"{"device_id":"a","timestamp":"yesterday","data":1}"#, "invalid_timestamp"),
        (r#"{"device_id":"a","timestamp":-5,"data":1}"#, "invalid_timestamp"),
        (r#"{"device_id":"a","timestamp":0.5,"data":1}"#, "invalid_timestamp"),
        (r#"{"device_id":"a","device_id":"b","timestamp":1,"data":1}"#, "duplicate_field"),
        (r#"{"producer_id":"9","device_id":"a","timestamp":1,"data":1}"#, "unknown_field"),
        (r#"{"pro\u0064ucer_id":"9","device_id":"a","timestamp":1,"data":1}"#, "unknown_field"),
    ] {
        assert_eq!(check(json.as_bytes(), 1024).unwrap_err().code(), code, "{json}");
    }
    assert_eq!(check(b"{\"a\":\"\xff\"}", 1024).unwrap_err().code(), "invalid_json");
    assert_eq!(check(SEED.as_bytes(), 10).unwrap_err().code(), "too_large");
    let deep = format!(r#"{{"device_id":"a","timestamp":1,"data":{}{}}}"#, "[".repeat(64), "]".repeat(64));
    assert_eq!(check(deep.as_bytes(), 1024), Err(Invalid::TooDeep));
}

#[test]
fn every_form_of_time_that_devices_write_is_read() {
    for (written, unix) in [
        (r#""2025-01-29T12:35:00.250+01:00""#, 1_738_150_500),
        (r#""2025-01-29T11:35:00.123456""#, 1_738_150_500),
        (r#""2025-01-29T11:35:00""#, 1_738_150_500),
        ("1738150500000", 1_738_150_500),
        ("1738150500000.0", 1_738_150_500),
        ("0.0", 0),
    ] {
        let json = format!(r#"{{"device_id":"a","timestamp":{written},"data":1}}"#);
        check(json.as_bytes(), 1024).unwrap();
        assert_eq!(Parts::of(json.as_bytes()).unwrap().time().unwrap().unix_timestamp(), unix, "{written}");
    }
}

#[test]
fn readings_and_partial_records_are_completed() {
    assert_eq!(admitted(SEED).unwrap(), SEED);
    assert_eq!(admitted(r#"{"t":1}"#).unwrap(), r#"{"device_id":"dev","timestamp":"1970-01-01T00:00:00Z","data":{"t":1}}"#);
    assert_eq!(admitted(r#"{"data":[1],"device_id":"x"}"#).unwrap(), r#"{"device_id":"x","timestamp":"1970-01-01T00:00:00Z","data":[1]}"#);
    assert_eq!(admitted(r#"{"device_id":"x","timestamp":5}"#), Err(Invalid::Missing("data")));
    assert_eq!(admitted(r#"{"data":1,"producer_id":"5"}"#).unwrap_err().code(), "unknown_field");
    check(admitted(r#"{"data":1}"#).unwrap().as_bytes(), 1024).unwrap();
}

#[test]
fn a_records_device_is_found_wherever_it_stands() {
    for (json, device) in [
        (SEED, "rpi_001"),
        (" {\"device_id\":\"a b\",\"timestamp\":1,\"data\":1}", "a b"),
        (r#"{"device_id" : "spaced","timestamp":1,"data":1}"#, "spaced"),
        (r#"{"timestamp":1,"data":{"device_id":"inner"},"device_id":"last"}"#, "last"),
        (r#"{"device_id":"a\"\u0062","timestamp":1,"data":1}"#, "a\"b"),
    ] {
        assert_eq!(device_of(json.as_bytes()).as_deref(), Some(device), "{json}");
    }
    assert_eq!(device_of(b"{}"), None);
}
