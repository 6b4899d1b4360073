//! One JSON message of a device: checked where it lies, and turned into the consumer's message by a splice.
//!
//! A record is `{"device_id": string, "timestamp": string | integer, "data": any}` and nothing else. What a consumer
//! receives is the same object with `"producer_id":"…",` before its first member, so a record that brought a
//! `producer_id` of its own could forge its origin: unknown members are refused.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

use super::{Cursor, DeviceId, Offset, ProducerId, RecordName};

/// Default limit of one record, in bytes.
pub const MAX_RECORD: usize = 64 * 1024;

/// Deepest nesting of arrays and objects: what every JSON reader downstream is sure to take.
pub const MAX_DEPTH: usize = 64;

/// ISO 8601 without an offset, as Python's `isoformat()` writes it; read as UTC.
const LOCAL: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second][optional [.[subsecond]]]");

/// Why a record is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Longer than the limit, in bytes.
    #[error("the record has {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// Bytes received.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not JSON, or not UTF-8.
    #[error("not valid JSON: {0}")]
    Json(String),
    /// JSON, but no object.
    #[error("a record is a JSON object")]
    NotAnObject,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// A member is missing.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A member is there twice.
    #[error("the field {0} is there twice")]
    Duplicate(&'static str),
    /// A member that no record has.
    #[error("a record has the fields device_id, timestamp and data; {0} is none of them")]
    Unknown(String),
    /// `device_id` is no device id.
    #[error("device_id must be a string of 1 to 255 characters without control characters")]
    DeviceId,
    /// `timestamp` is no time.
    #[error("timestamp must be an RFC 3339 string such as 2025-01-29T11:35:00Z, or milliseconds since 1970")]
    Timestamp,
}

impl Invalid {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Json(_) => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::TooDeep => "too_deep",
            Self::Missing(_) => "missing_field",
            Self::Duplicate(_) => "duplicate_field",
            Self::Unknown(_) => "unknown_field",
            Self::DeviceId => "invalid_device_id",
            Self::Timestamp => "invalid_timestamp",
        }
    }
}

/// What completes a record of a client that leaves members out.
#[derive(Clone, Debug)]
pub struct Defaults<'a> {
    /// The device id of the account or connection.
    pub device_id: &'a str,
    /// The time of arrival.
    pub now: OffsetDateTime,
}

/// Checks that `json` is a complete record. Reads it once, copies nothing.
pub fn check(json: &[u8], limit: usize) -> Result<(), Invalid> {
    let fields = scan(json, limit)?;
    fields.unknown.map_or(Ok(()), |name| Err(Invalid::Unknown(name)))?;
    fields.device_id.ok_or(Invalid::Missing("device_id"))?;
    fields.timestamp.ok_or(Invalid::Missing("timestamp"))?;
    fields.data.then_some(()).ok_or(Invalid::Missing("data"))
}

/// Takes what WebSocket and HTTP clients send: a whole record, one with members left out, or a bare object of readings.
///
/// A whole record is returned as it came, without a copy. An object without a `data` member is an object of readings,
/// unless it has nothing that could be one.
pub fn admit(json: &Bytes, limit: usize, defaults: &Defaults<'_>) -> Result<Bytes, Invalid> {
    let fields = scan(json, limit)?;
    if !fields.data {
        if fields.unknown.is_none() && (fields.device_id.is_some() || fields.timestamp.is_some()) {
            return Err(Invalid::Missing("data"));
        }
        return complete(json, None, None, defaults, limit);
    }
    if let Some(name) = fields.unknown {
        return Err(Invalid::Unknown(name));
    }
    if fields.device_id.is_some() && fields.timestamp.is_some() {
        return Ok(json.clone());
    }
    let partial: Partial<'_> = serde_json::from_slice(json).map_err(|e| Invalid::Json(e.to_string()))?;
    complete(partial.data.get().as_bytes(), partial.device_id, partial.timestamp, defaults, limit)
}

/// Appends the consumer's message for a checked record to `out`.
pub fn encode(producer: ProducerId, json: &[u8], out: &mut BytesMut) {
    let object = json.trim_ascii();
    let members = object.get(1..).unwrap_or_default();
    out.reserve(members.len() + PREFIX.len() + 24);
    out.put_slice(PREFIX);
    put_decimal(producer.0, out);
    out.put_slice(b"\",");
    out.put_slice(members);
}

/// The same message with its place in the log and its name as the last members: what `motience.v2` consumers receive.
///
/// `"offset":9,"cursor":"EPOCH-9","name":"SENDER-SEQ"`; the cursor is what to resume after, the name is how to know the
/// record again after a reset. The cursor may lie elsewhere than the record: see `relay::order`.
pub fn with_place(message: &[u8], offset: Offset, cursor: Cursor, name: RecordName, out: &mut BytesMut) {
    let open = message.strip_suffix(b"}").unwrap_or(message);
    out.put_slice(open);
    // Writing to memory cannot fail.
    let _ = write!(out, ",\"offset\":{offset},\"cursor\":\"{cursor}\",\"name\":\"{name}\"}}");
}

/// The members of a record or of a consumer's message, borrowed from it.
#[derive(Debug, Deserialize)]
pub struct Parts<'a> {
    /// The device that sent it.
    #[serde(borrow)]
    pub device_id: Cow<'a, str>,
    /// The device's time, as it wrote it.
    #[serde(borrow)]
    pub timestamp: &'a RawValue,
    /// The readings.
    #[serde(borrow)]
    pub data: &'a RawValue,
}

impl<'a> Parts<'a> {
    /// Takes a checked record or message apart.
    pub fn of(json: &'a [u8]) -> Result<Self, Invalid> {
        serde_json::from_slice(json).map_err(|e| Invalid::Json(e.to_string()))
    }

    /// The device's time in UTC.
    pub fn time(&self) -> Result<OffsetDateTime, Invalid> {
        read_time(self.timestamp.get())
    }
}

/// A record's `timestamp`, as the JSON it is, in UTC.
pub fn read_time(timestamp: &str) -> Result<OffsetDateTime, Invalid> {
    serde_json::from_str::<Time>(timestamp).map(|time| time.0).map_err(|_| Invalid::Timestamp)
}

/// The device of a checked record, without a look at the rest of it where it stands first and is written plainly: nearly always.
pub fn device_of(json: &[u8]) -> Option<Cow<'_, str>> {
    let first = json.trim_ascii_start().strip_prefix(b"{\"device_id\":\"");
    if let Some(rest) = first
        && let Some(end) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))
        && rest[end] == b'"'
    {
        return std::str::from_utf8(&rest[..end]).ok().map(Cow::Borrowed);
    }
    Parts::of(json).ok().map(|parts| parts.device_id)
}

const PREFIX: &[u8] = b"{\"producer_id\":\"";

fn put_decimal(n: i64, out: &mut BytesMut) {
    use std::io::Write as _;
    // Writing to memory cannot fail.
    let _ = write!(out.writer(), "{n}");
}

#[derive(Deserialize)]
struct Partial<'a> {
    #[serde(borrow)]
    device_id: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    data: &'a RawValue,
}

fn complete(
    data: &[u8],
    device_id: Option<&RawValue>,
    timestamp: Option<&RawValue>,
    defaults: &Defaults<'_>,
    limit: usize,
) -> Result<Bytes, Invalid> {
    let quoted = |text: &str| serde_json::to_string(text).map_err(|e| Invalid::Json(e.to_string()));
    let device_id = match device_id {
        Some(raw) => Cow::Borrowed(raw.get()),
        None if !DeviceId::is_valid(defaults.device_id) => return Err(Invalid::Missing("device_id")),
        None => Cow::Owned(quoted(defaults.device_id)?),
    };
    let timestamp = match timestamp {
        Some(raw) => Cow::Borrowed(raw.get()),
        None => Cow::Owned(quoted(&defaults.now.format(&Rfc3339).map_err(|_| Invalid::Timestamp)?)?),
    };
    let data = data.trim_ascii();
    let mut out = BytesMut::with_capacity(data.len() + device_id.len() + timestamp.len() + 40);
    for part in [b"{\"device_id\":".as_slice(), device_id.as_bytes(), b",\"timestamp\":", timestamp.as_bytes(), b",\"data\":", data, b"}"] {
        out.put_slice(part);
    }
    if out.len() > limit { Err(Invalid::TooLarge { size: out.len(), limit }) } else { Ok(out.freeze()) }
}

/// What one pass over an object finds.
#[derive(Default)]
struct Fields {
    device_id: Option<()>,
    timestamp: Option<()>,
    data: bool,
    unknown: Option<String>,
}

fn scan(json: &[u8], limit: usize) -> Result<Fields, Invalid> {
    if json.len() > limit {
        return Err(Invalid::TooLarge { size: json.len(), limit });
    }
    let text = std::str::from_utf8(json).map_err(|e| Invalid::Json(e.to_string()))?;
    if !text.trim_ascii_start().starts_with('{') {
        // A wrong kind of value and a text that is no JSON at all are different mistakes.
        return match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => Err(Invalid::NotAnObject),
            Err(e) => Err(Invalid::Json(e.to_string())),
        };
    }
    if depth(json) > MAX_DEPTH {
        return Err(Invalid::TooDeep);
    }
    let mut problem = None;
    let mut reader = serde_json::Deserializer::from_str(text);
    let fields = reader
        .deserialize_map(Scan { problem: &mut problem })
        .and_then(|fields| reader.end().map(|()| fields))
        .map_err(|e| Invalid::Json(e.to_string()));
    match problem {
        Some(problem) => Err(problem),
        None => fields,
    }
}

/// The deepest nesting in `json`, brackets inside strings not counted.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

struct Scan<'p> {
    problem: &'p mut Option<Invalid>,
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        let mut refuse = |problem: Invalid| {
            *self.problem = Some(problem);
            A::Error::custom("refused")
        };
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "device_id" => {
                    let value: Raw<'_> = map.next_value()?;
                    let valid = serde_json::from_str::<Key<'_>>(value.0.get()).is_ok_and(|Key(id)| DeviceId::is_valid(&id));
                    if !valid {
                        return Err(refuse(Invalid::DeviceId));
                    }
                    if fields.device_id.replace(()).is_some() {
                        return Err(refuse(Invalid::Duplicate("device_id")));
                    }
                }
                "timestamp" => {
                    let value: Raw<'_> = map.next_value()?;
                    if serde_json::from_str::<Time>(value.0.get()).is_err() {
                        return Err(refuse(Invalid::Timestamp));
                    }
                    if fields.timestamp.replace(()).is_some() {
                        return Err(refuse(Invalid::Duplicate("timestamp")));
                    }
                }
                "data" => {
                    map.next_value::<IgnoredAny>()?;
                    if std::mem::replace(&mut fields.data, true) {
                        return Err(refuse(Invalid::Duplicate("data")));
                    }
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    if fields.unknown.is_none() {
                        fields.unknown = Some(key.chars().take(64).collect());
                    }
                }
            }
        }
        Ok(fields)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Raw<'a>(#[serde(borrow)] &'a RawValue);

/// Up to here a floating-point number is exactly the integer that was written.
const EXACT: f64 = (1_u64 << 53) as f64;

/// A timestamp in one of the forms that devices write.
struct Time(OffsetDateTime);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms;

        impl Visitor<'_> for Forms {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
                OffsetDateTime::parse(text, &Rfc3339)
                    .or_else(|_| PrimitiveDateTime::parse(text, LOCAL).map(PrimitiveDateTime::assume_utc))
                    .map(Time)
                    .map_err(E::custom)
            }

            fn visit_u64<E: serde::de::Error>(self, millis: u64) -> Result<Time, E> {
                OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).map(Time).map_err(E::custom)
            }

            fn visit_f64<E: serde::de::Error>(self, millis: f64) -> Result<Time, E> {
                // JSON has one kind of number: 5.0 is 5.
                if millis.fract() == 0.0 && (0.0..EXACT).contains(&millis) {
                    self.visit_u64(millis as u64)
                } else {
                    Err(E::custom("no whole milliseconds"))
                }
            }
        }

        deserializer.deserialize_any(Forms)
    }
}

#[cfg(test)]
mod tests;
