//! Which messages are records, which are control messages, and which are neither.

use time::OffsetDateTime;

use super::*;

fn meaning(text: &str) -> Result<Envelope, Invalid> {
    let defaults = Defaults { device_id: "dev", strict: false, now: OffsetDateTime::UNIX_EPOCH };
    read(Bytes::copy_from_slice(text.as_bytes()), 1024, &defaults)
}

/// The record that was meant, and its name.
fn record(text: &str) -> (String, Option<String>) {
    match meaning(text) {
        Ok(Envelope::Record(record, id)) => (String::from_utf8(record.json.to_vec()).unwrap(), id),
        other => panic!("{text}: {other:?}"),
    }
}

fn code(text: &str) -> &'static str {
    match meaning(text) {
        Err(invalid) => invalid.code(),
        other => panic!("{text}: {other:?}"),
    }
}

const RECORD: &str = r#"{"device_id":"a","timestamp":1,"data":{"t":1}}"#;
const NOW: &str = r#""timestamp":"1970-01-01T00:00:00Z""#;

#[test]
fn both_forms_are_records() {
    let completed = format!(r#"{{"device_id":"dev",{NOW},"data":{{"t":1}}}}"#);
    for (sent, meant) in [
        (RECORD, RECORD),
        (r#"{"type":"data","payload":{"device_id":"a","timestamp":1,"data":{"t":1}}}"#, RECORD),
        (r#"{"type":"data","device_id":"a","timestamp":1,"data":{"t":1}}"#, RECORD),
        (r#"{"t":1}"#, &completed),
        (r#"{"type":"data","payload":{"t":1}}"#, &completed),
        ("\u{feff}{\"t\":1}", &completed),
    ] {
        assert_eq!(record(sent), (meant.to_owned(), None), "{sent}");
    }
}

#[test]
fn what_stands_beside_the_payload_is_used_or_refused() {
    for (sent, meant) in [
        (r#"{"type":"data","device_id":"a","timestamp":1,"payload":{"t":1}}"#, RECORD.to_owned()),
        (r#"{"type":"data","device_id":"a","payload":{"timestamp":1,"data":{"t":1}}}"#, RECORD.to_owned()),
        (r#"{"type":"data","timestamp":1,"payload":{"device_id":"a","t":1}}"#, RECORD.to_owned()),
        (
            r#"{"type":"data","device_id":"a","payload":{"device_id":"\u0061","timestamp":1,"data":{"t":1}}}"#,
            RECORD.replace("a\",", "\\u0061\","),
        ),
        (r#"{"device_id":"a","timestamp":1,"t":1}"#, RECORD.to_owned()),
        (
            r#"{"type":"data","location":{"lat":1},"device_id":"a","timestamp":1,"data":{"t":1},"battery":5}"#,
            r#"{"location":{"lat":1},"device_id":"a","timestamp":1,"data":{"t":1},"battery":5}"#.to_owned(),
        ),
        (
            r#"{"type":"data","payload":{"device_id":"a","timestamp":1,"data":1,"battery":5}}"#,
            r#"{"device_id":"a","timestamp":1,"data":1,"battery":5}"#.to_owned(),
        ),
        // A payload is never an envelope: what is called `type` in it is a reading.
        (r#"{"type":"data","payload":{"type":"ping"}}"#, format!(r#"{{"device_id":"dev",{NOW},"data":{{"type":"ping"}}}}"#)),
        (r#"{"type":7,"t":1}"#, format!(r#"{{"device_id":"dev",{NOW},"data":{{"type":7,"t":1}}}}"#)),
    ] {
        assert_eq!(record(sent), (meant, None), "{sent}");
    }
    for (sent, refused) in [
        (r#"{"type":"data","payload":{"t":1},"battery":5}"#, "unknown_field"),
        (r#"{"type":"data","payload":{"t":1},"data":{"u":1}}"#, "unknown_field"),
        (r#"{"type":"data","device_id":"b","payload":{"device_id":"a","t":1}}"#, "conflicting_field"),
        (r#"{"type":"data","timestamp":2,"payload":{"timestamp":1,"data":1}}"#, "conflicting_field"),
        (r#"{"type":"data","timestamp":"soon","payload":{"t":1}}"#, "invalid_timestamp"),
        (r#"{"type":"data","device_id":7,"payload":{"t":1}}"#, "invalid_device_id"),
        (r#"{"type":"data","payload":{"device_id":"a","timestamp":1,"data":1,"type":"gap"}}"#, "unknown_field"),
        (r#"{"type":"data","producer_id":"7","data":1}"#, "unknown_field"),
        (r#"{"type":"data","payload":[1]}"#, "not_an_object"),
        (r#"{"type":"data","t":1}"#, "missing_field"),
        (r#"{"type":"data"}"#, "missing_field"),
        (r#"{"device_id":"a","timestamp":1,"data":1,"type":7}"#, "unknown_field"),
    ] {
        assert_eq!(code(sent), refused, "{sent}");
    }
}

#[test]
fn a_name_is_a_text_or_a_number() {
    assert_eq!(record(r#"{"type":"data","id":"n-1","payload":{"t":1}}"#).1.as_deref(), Some("n-1"));
    assert_eq!(record(r#"{"type":"data","id":17,"payload":{"t":1}}"#).1.as_deref(), Some("17"));
    assert_eq!(
        record(r#"{"type":"data","id":17,"data":{"t":1}}"#),
        (format!(r#"{{"device_id":"dev",{NOW},"data":{{"t":1}}}}"#), Some("17".into()))
    );
    for wrong in ["true", "null", "{}", "[1]", r#""""#, &format!("\"{}\"", "x".repeat(129))] {
        assert_eq!(code(&format!(r#"{{"type":"data","id":{wrong},"payload":{{"t":1}}}}"#)), "invalid_id", "{wrong}");
        assert_eq!(code(&format!(r#"{{"type":"ping","id":{wrong}}}"#)), "invalid_id", "{wrong}");
    }
}

#[test]
fn control_is_never_a_record() {
    for (sent, id) in [
        (r#"{"type":"ping"}"#, None),
        (r#"{"type":"ping","id":1}"#, Some("1")),
        (r#"{"id":"a","type":"ping"}"#, Some("\"a\"")),
        (r#"{"ty\u0070e":"p\u0069ng","timestamp":5,"t":1}"#, None),
        (r#"{"type":"ping","timestamp":"soon","data":1}"#, None),
    ] {
        assert_eq!(meaning(sent), Ok(Envelope::Ping(id.map(str::to_owned))), "{sent}");
    }
    for unknown in
        [r#"{"type":"hello"}"#, r#"{"type":"hello","device_id":"a","timestamp":1,"data":1}"#, r#"{"type":"hello","id":[],"t":1}"#]
    {
        assert_eq!(meaning(unknown), Ok(Envelope::Unknown("hello".into())), "{unknown}");
    }
    assert_eq!(code(r#"{"type":"ping","type":"data","t":1}"#), "duplicate_field");
    assert_eq!(code(r#"{"type":"ping","id":1,"id":2}"#), "duplicate_field");
    assert_eq!((code(r#"{"type":"#), code("[]"), code("7")), ("invalid_json", "not_an_object", "not_an_object"));
}

#[test]
fn an_envelope_is_a_level_around_the_deepest_record() {
    let payload = |levels: usize| format!(r#"{{"device_id":"a","timestamp":1,"data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    assert_eq!(record(&format!(r#"{{"type":"data","payload":{}}}"#, payload(63))).0, payload(63));
    assert_eq!((code(&format!(r#"{{"type":"data","payload":{}}}"#, payload(64))), code(&payload(64))), ("too_deep", "too_deep"));
}
