//! What a producer's text frame or line means: a record in one of its two forms, or a ping.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::record::Invalid;

/// Longest name a client may give a record, in bytes.
pub const MAX_ID: usize = 128;
/// Bytes that an envelope may add to a record.
pub const MAX_ENVELOPE: usize = 4 * 1024;

/// A frame's meaning.
#[derive(Debug, PartialEq, Eq)]
pub enum Envelope {
    /// A record, or a bare object of readings, not yet checked; and the name the client gives it.
    Record(Bytes, Option<String>),
    /// `{"type":"ping"}`.
    Ping,
    /// A `type` that means nothing here.
    Unknown(String),
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    device_id: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
}

/// Reads a frame. A frame that has no `type` anywhere is taken as a record without being looked into.
pub fn read(frame: Bytes) -> Result<Envelope, Invalid> {
    let text = std::str::from_utf8(&frame).map_err(|e| Invalid::Json(e.to_string()))?;
    if !text.contains("\"type\"") {
        return Ok(Envelope::Record(frame, None));
    }
    let typed: Typed<'_> = match serde_json::from_str(text) {
        Ok(typed) => typed,
        // Whatever is wrong with it, the check of a record says it best.
        Err(_) => return Ok(Envelope::Record(frame, None)),
    };
    let Some(name) = typed.r#type.and_then(|t| serde_json::from_str::<Cow<'_, str>>(t.get()).ok()) else {
        // A reading may be called `type`, as long as it is no text.
        return Ok(Envelope::Record(frame, None));
    };
    match &*name {
        "ping" => Ok(Envelope::Ping),
        "data" => {
            let record = match typed.payload {
                Some(payload) => frame.slice_ref(payload.get().as_bytes()),
                None => bare(&typed)?,
            };
            Ok(Envelope::Record(record, typed.id.map(Cow::into_owned)))
        }
        other => Ok(Envelope::Unknown(other.chars().take(64).collect())),
    }
}

/// A record that says `"type":"data"` beside its own members: the same record without it.
fn bare(typed: &Typed<'_>) -> Result<Bytes, Invalid> {
    let data = typed.data.ok_or(Invalid::Missing("payload"))?;
    let members = [("device_id", typed.device_id), ("timestamp", typed.timestamp), ("data", Some(data))];
    let members: Vec<String> = members.into_iter().filter_map(|(name, value)| Some(format!("\"{name}\":{}", value?.get()))).collect();
    Ok(Bytes::from(format!("{{{}}}", members.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &'static str) -> Envelope {
        read(Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn both_forms_are_records() {
        let record = r#"{"device_id":"a","timestamp":1,"data":{"t":1}}"#;
        assert_eq!(meaning(record), Envelope::Record(record.into(), None));
        assert_eq!(meaning(r#"{"type":"data","payload":{"t":1}}"#), Envelope::Record(r#"{"t":1}"#.into(), None));
        assert_eq!(meaning(r#"{"type":"data","device_id":"a","timestamp":1,"data":{"t":1}}"#), Envelope::Record(record.into(), None));
    }

    #[test]
    fn a_record_may_bring_its_name() {
        assert_eq!(meaning(r#"{"type":"data","id":"n-1","payload":{"t":1}}"#), Envelope::Record(r#"{"t":1}"#.into(), Some("n-1".into())));
    }

    #[test]
    fn other_types_are_told_apart() {
        assert_eq!(meaning(r#"{"type":"ping"}"#), Envelope::Ping);
        assert_eq!(meaning(r#"{"type":"hello"}"#), Envelope::Unknown("hello".into()));
        assert_eq!(meaning(r#"{"type":7,"t":1}"#), Envelope::Record(r#"{"type":7,"t":1}"#.into(), None));
        assert_eq!(meaning(r#"{"type":"#), Envelope::Record(r#"{"type":"#.into(), None));
        assert_eq!(read(Bytes::from_static(br#"{"type":"data"}"#)), Err(Invalid::Missing("payload")));
    }
}
