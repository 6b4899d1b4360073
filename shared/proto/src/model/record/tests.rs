//! Which records pass, which are refused, and what a consumer receives.

use super::*;
use crate::model::{LogEpoch, Offset, ProducerEpoch, Seq};

const SEED: &str = r#"{"device_id":"rpi_001","timestamp":"2025-01-29T11:35:00Z","data":{"temperature":24.3}}"#;

fn defaults() -> Defaults<'static> {
    Defaults { device_id: "dev", strict: false, now: OffsetDateTime::UNIX_EPOCH }
}

fn admitted(json: &str) -> Result<String, Invalid> {
    admit(&Bytes::copy_from_slice(json.as_bytes()), 1024, &defaults()).map(|admitted| String::from_utf8(admitted.json.to_vec()).unwrap())
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
    with_place(
        &out,
        Offset(9),
        Cursor { log_epoch: LogEpoch(5), offset: Offset(9) },
        RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(2) },
        None,
        &mut v2,
    );
    assert!(v2.ends_with(br#"24.3},"offset":9,"cursor":"5-9","record_id":"0000000000000001-2"}"#));
    let (place, name) = (Cursor { log_epoch: LogEpoch(5), offset: Offset(9) }, RecordId { producer_epoch: ProducerEpoch(1), seq: Seq(2) });
    with_place(&out, Offset(9), place, name, times::from_millis(1_738_150_500_250), &mut v2);
    assert!(v2.ends_with(br#""record_id":"0000000000000001-2","received_at":"2025-01-29T11:35:00.25Z"}"#));
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
        (r#""2025-01-29 11:35:00""#, 1_738_150_500),
        (r#""1738150500000""#, 1_738_150_500),
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
    assert_eq!(admitted(r#"{"data":[1],"device_id":"x"}"#).unwrap(), r#"{"timestamp":"1970-01-01T00:00:00Z","data":[1],"device_id":"x"}"#);
    // Device and time that readings name are the record's, and are not replaced.
    assert_eq!(
        admitted(r#"{"device_id":"x","t":1,"timestamp":5,"u":[ 2]}"#).unwrap(),
        r#"{"device_id":"x","timestamp":5,"data":{"t":1,"u":[ 2]}}"#
    );
    assert_eq!(admitted(r#"{"timestamp":"yesterday","t":1}"#).unwrap_err().code(), "invalid_timestamp");
    let deep = format!(r#"{{"t":{}{}}}"#, "[".repeat(63), "]".repeat(63));
    assert_eq!(admitted(&deep), Err(Invalid::TooDeep), "its record would be deeper than records are");
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

#[test]
fn other_members_are_kept_as_they_came() {
    let json = r#"{"device_id":"a", "battery" : 81.50,"timestamp":1,"data":{},"location":{"lat":1e1,"n\u0061me":"x"},"id":7}"#;
    assert_eq!(check(json.as_bytes(), 1024).unwrap(), Checked { device: "a".into(), time: times::from_millis(1).unwrap() });
    assert_eq!(admitted(json).unwrap(), json);
    let mut out = BytesMut::new();
    encode(ProducerId(3), json.as_bytes(), &mut out);
    assert_eq!(out, format!("{{\"producer_id\":\"3\",{}", &json[1..]).as_bytes());
    let others = Parts::of(&out).unwrap().others().unwrap();
    assert_eq!(others.get(), r#"{"battery":81.50,"location":{"lat":1e1,"n\u0061me":"x"},"id":7}"#);
    assert!(Parts::of(SEED.as_bytes()).unwrap().others().is_none());
    assert_eq!(
        admitted(r#"{"data":1,"device_type":"x"}"#).unwrap(),
        r#"{"device_id":"dev","timestamp":"1970-01-01T00:00:00Z","data":1,"device_type":"x"}"#
    );
}

#[test]
fn what_the_platform_says_itself_no_device_may_say() {
    for name in RESERVED {
        let json = format!(r#"{{"device_id":"a","timestamp":1,"data":1,"{name}":1}}"#);
        assert_eq!(check(json.as_bytes(), 1024), Err(Invalid::Reserved(name)));
        assert_eq!(admitted(&json), Err(Invalid::Reserved(name)));
        // Among readings it stands below `data`, where it is nobody's but the device's.
        assert!(admitted(&format!(r#"{{"{name}":1}}"#)).is_ok());
    }
}

#[test]
fn the_strict_speak_for_one_device() {
    let strict = Defaults { strict: true, ..defaults() };
    let admit = |json: &'static str| admit(&Bytes::from_static(json.as_bytes()), 1024, &strict).map(|admitted| admitted.time);
    for own in [r#"{"t":1}"#, r#"{"device_id":"dev","data":1}"#, r#"{"device_id":"d\u0065v","t":1}"#] {
        assert!(admit(own).is_ok(), "{own}");
    }
    for other in [r#"{"device_id":"x","data":1}"#, r#"{"device_id":"x","t":1}"#, r#"{"device_id":"x","timestamp":1,"data":1}"#] {
        assert_eq!(admit(other).unwrap_err().code(), "wrong_device", "{other}");
    }
}
