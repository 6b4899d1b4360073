//! One JSON message of a device: checked where it lies, and turned into the consumer's message by a splice.
//!
//! A record is `{"device_id": string, "timestamp": string | integer, "data": any, …}`. A consumer receives the same object with
//! `"producer_id":"…",` before its first member: all other members are kept and delivered as the device wrote them. Members to which the
//! platform gives a meaning are refused: a record with a `producer_id` could forge its origin, one with a `type` a notice.

mod fields;

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(super) use self::fields::{Fields, text};
use super::{Cursor, DeviceId, Offset, ProducerId, RecordId, times};

/// Default limit of one record, in bytes.
pub const MAX_RECORD: usize = 64 * 1024;

/// Deepest nesting of arrays and objects: what every JSON reader downstream is sure to take.
pub const MAX_DEPTH: usize = 64;

/// Longest name a client may give a record, in bytes.
pub const MAX_ID: usize = 128;

/// Members that no device may give a record: consumers read in them what the platform says.
pub const RESERVED: [&str; 6] = ["producer_id", "offset", "cursor", "record_id", "received_at", "type"];

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
    /// A member is there in the envelope and in its payload, and they differ.
    #[error("the field {0} is there beside the payload and in it, and not the same")]
    Conflict(&'static str),
    /// A member that a record may not have.
    #[error("no record has a field {0}: the platform gives it a meaning of its own")]
    Reserved(&'static str),
    /// A member that has no place beside a payload.
    #[error("beside a payload there may be type, id, device_id and timestamp; {0} is none of them")]
    Beside(String),
    /// `device_id` is no device id.
    #[error("device_id must be a string of 1 to 255 characters without control characters")]
    DeviceId,
    /// `timestamp` is no time.
    #[error("timestamp must be {}", times::FORMS)]
    Timestamp,
    /// A name for a record that is none.
    #[error("an id is text of 1 to {} bytes, or a number", MAX_ID)]
    Id,
    /// A device that the sender may not speak for.
    #[error("these records are of the device '{own}', and of no other")]
    WrongDevice {
        /// The one that it may speak for.
        own: String,
    },
    /// A device that was revoked.
    #[error("the device '{device}' was revoked")]
    DeviceRevoked {
        /// The device.
        device: String,
    },
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
            Self::Conflict(_) => "conflicting_field",
            Self::Reserved(_) | Self::Beside(_) => "unknown_field",
            Self::DeviceId => "invalid_device_id",
            Self::Timestamp => "invalid_timestamp",
            Self::Id => "invalid_id",
            Self::WrongDevice { .. } => "wrong_device",
            Self::DeviceRevoked { .. } => "device_revoked",
        }
    }

    /// The member that is wrong, where it is one.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Missing(name) | Self::Duplicate(name) | Self::Conflict(name) | Self::Reserved(name) => Some(name),
            Self::Beside(name) => Some(name),
            Self::DeviceId | Self::WrongDevice { .. } | Self::DeviceRevoked { .. } => Some("device_id"),
            Self::Timestamp => Some("timestamp"),
            Self::Id => Some("id"),
            Self::TooLarge { .. } | Self::Json(_) | Self::NotAnObject | Self::TooDeep => None,
        }
    }
}

/// Defaults for the members that a client may leave out of its records.
#[derive(Clone, Debug)]
pub struct Defaults<'a> {
    /// The device id of the account or connection.
    pub device_id: &'a str,
    /// Whether it may speak for no other device.
    pub strict: bool,
    /// The time of arrival.
    pub now: OffsetDateTime,
}

/// Parts of a checked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// The device that made it.
    pub device: Cow<'a, str>,
    /// The device's time, in UTC.
    pub time: OffsetDateTime,
}

/// A record that may go into the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The whole record.
    pub json: Bytes,
    /// The device's time, in UTC.
    pub time: OffsetDateTime,
}

/// Checks that `json` is a complete record. Reads it once, copies nothing.
pub fn check(json: &[u8], limit: usize) -> Result<Checked<'_>, Invalid> {
    let fields = Fields::of(json, limit, MAX_DEPTH)?;
    fields.check_names()?;
    let (device, time) = (fields.device()?, fields.time()?);
    let device = device.ok_or(Invalid::Missing("device_id"))?;
    let time = time.ok_or(Invalid::Missing("timestamp"))?;
    fields.data.ok_or(Invalid::Missing("data"))?;
    Ok(Checked { device, time })
}

/// Takes what a client means as a record: a whole one, one with members left out, or a bare object of readings.
///
/// A whole record is returned as it came, without a copy. An object without a `data` member is an object of readings, unless it has nothing
/// that could be one. A message may also be an envelope: see [`super::envelope::read`].
pub fn admit(json: &Bytes, limit: usize, defaults: &Defaults<'_>) -> Result<Admitted, Invalid> {
    let fields = Fields::of(json, limit, MAX_DEPTH)?;
    if fields.data.is_some() {
        fields.check_names()?;
    }
    Draft { json, fields: &fields, around: None, cut: &[] }.complete(limit, defaults)
}

/// A record on its way to be a whole one.
pub(super) struct Draft<'d> {
    /// A record, or readings.
    pub(super) json: &'d Bytes,
    pub(super) fields: &'d Fields<'d>,
    /// The envelope around it, whose device and time are the record's too.
    pub(super) around: Option<&'d Fields<'d>>,
    /// Members of it that are not the record's.
    pub(super) cut: &'static [&'static str],
}

impl Draft<'_> {
    /// The whole record. The client's own bytes are used unchanged; members that it left out are put before them.
    pub(super) fn complete(&self, limit: usize, defaults: &Defaults<'_>) -> Result<Admitted, Invalid> {
        let fields = self.fields;
        let (device, outer_device) = (fields.device()?, self.around.map_or(Ok(None), Fields::device)?);
        let (time, outer_time) = (fields.time()?, self.around.map_or(Ok(None), Fields::time)?);
        both_same("device_id", device.as_ref(), outer_device.as_ref())?;
        both_same("timestamp", time.as_ref(), outer_time.as_ref())?;
        let readings = fields.data.is_none();
        if readings && !fields.has_others && (device.is_some() || time.is_some()) {
            return Err(Invalid::Missing("data"));
        }
        let said = device.as_deref().or(outer_device.as_deref());
        if defaults.strict && said.is_some_and(|said| said != defaults.device_id) {
            return Err(Invalid::WrongDevice { own: defaults.device_id.to_owned() });
        }
        let whole = device.is_some() && time.is_some() && !readings && self.cut.is_empty();
        if whole && let Some(time) = time {
            return within(self.json.clone(), time, limit);
        }
        let mut out = BytesMut::with_capacity(self.json.len() + 96);
        out.put_u8(b'{');
        // Members of the record itself stay where they are; those of readings are the record's.
        if readings || device.is_none() {
            let written = fields.device_id.or_else(|| self.around?.device_id).map(RawValue::get);
            let written = match written {
                Some(written) => Cow::Borrowed(written),
                None if !DeviceId::is_valid(defaults.device_id) => return Err(Invalid::Missing("device_id")),
                None => Cow::Owned(quoted(defaults.device_id)?),
            };
            put(&mut out, &["\"device_id\":", &written, ","]);
        }
        let at = time.or(outer_time).unwrap_or(defaults.now);
        if readings || time.is_none() {
            let written = fields.timestamp.or_else(|| self.around?.timestamp).map(RawValue::get);
            let written = match written {
                Some(written) => Cow::Borrowed(written),
                None => Cow::Owned(quoted(&defaults.now.format(&Rfc3339).map_err(|_| Invalid::Timestamp)?)?),
            };
            put(&mut out, &["\"timestamp\":", &written, ","]);
        }
        let own = text(self.json)?.trim_ascii();
        if readings && fields.depth >= MAX_DEPTH {
            return Err(Invalid::TooDeep);
        }
        match (readings, self.cut) {
            (true, _) if device.is_none() && time.is_none() => put(&mut out, &["\"data\":", own]),
            (true, _) => {
                put(&mut out, &["\"data\":{"]);
                fields::put_others(own, &["device_id", "timestamp"], &mut out)?;
                out.put_u8(b'}');
            }
            (false, []) => put(&mut out, &[own[1..own.len() - 1].trim_ascii()]),
            (false, cut) => fields::put_others(own, cut, &mut out)?,
        }
        out.put_u8(b'}');
        within(out.freeze(), at, limit)
    }
}

fn both_same<T: PartialEq>(name: &'static str, inner: Option<&T>, outer: Option<&T>) -> Result<(), Invalid> {
    if inner.zip(outer).is_some_and(|(inner, outer)| inner != outer) { Err(Invalid::Conflict(name)) } else { Ok(()) }
}

fn within(json: Bytes, time: OffsetDateTime, limit: usize) -> Result<Admitted, Invalid> {
    if json.len() > limit { Err(Invalid::TooLarge { size: json.len(), limit }) } else { Ok(Admitted { json, time }) }
}

fn quoted(text: &str) -> Result<String, Invalid> {
    serde_json::to_string(text).map_err(|e| Invalid::Json(e.to_string()))
}

fn put(out: &mut BytesMut, parts: &[&str]) {
    parts.iter().for_each(|part| out.put_slice(part.as_bytes()));
}

/// Without the mark that some programs put before UTF-8.
pub fn without_mark(bytes: Bytes) -> Bytes {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if bytes.starts_with(MARK) { bytes.slice(MARK.len()..) } else { bytes }
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

/// A consumer's message of `motience.v2`: the plain message with offset, cursor and record id as its last members.
///
/// `"offset":9,"cursor":"EPOCH-9","record_id":"PRODUCER_EPOCH-SEQ"`; the cursor is what to resume after, the record id is how to know the
/// record again after a reset. The cursor may lie elsewhere than the record: see `relay::pipeline`. `received`: when it came, for a consumer
/// that wants to know: `"received_at":"…"`.
pub fn with_place(
    message: &[u8],
    offset: Offset,
    cursor: Cursor,
    record_id: RecordId,
    received: Option<OffsetDateTime>,
    out: &mut BytesMut,
) {
    let open = message.strip_suffix(b"}").unwrap_or(message);
    out.put_slice(open);
    // Writing to memory cannot fail.
    let _ = write!(out, ",\"offset\":{offset},\"cursor\":\"{cursor}\",\"record_id\":\"{record_id}\"");
    if let Some(received) = received.and_then(|at| at.format(&Rfc3339).ok()) {
        let _ = write!(out, ",\"received_at\":\"{received}\"");
    }
    out.put_u8(b'}');
}

/// The members of a record or of a consumer's message, borrowed from it.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The device that sent it.
    pub device_id: Cow<'a, str>,
    /// The device's time, as it wrote it.
    pub timestamp: &'a RawValue,
    /// The readings.
    pub data: &'a RawValue,
    /// The device's other members, in its order and spelling.
    pub others: Vec<(&'a RawValue, &'a RawValue)>,
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

    /// The device's other members as one object; `None` where there are none.
    pub fn others(&self) -> Option<Box<RawValue>> {
        if self.others.is_empty() {
            return None;
        }
        let members: Vec<String> = self.others.iter().map(|(name, value)| format!("{}:{}", name.get(), value.get())).collect();
        RawValue::from_string(format!("{{{}}}", members.join(","))).ok()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Parts<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                use serde::de::Error as _;
                let (mut device_id, mut timestamp, mut data, mut others) = (None, None, None, Vec::new());
                while let Some(name) = map.next_key::<&RawValue>()? {
                    match &*fields::unquoted(name) {
                        "device_id" => device_id = Some(map.next_value::<fields::Key<'_>>()?.0),
                        "timestamp" => timestamp = Some(map.next_value()?),
                        "data" => data = Some(map.next_value()?),
                        "producer_id" => drop(map.next_value::<IgnoredAny>()?),
                        _ => others.push((name, map.next_value()?)),
                    }
                }
                let missing = A::Error::missing_field;
                Ok(Parts {
                    device_id: device_id.ok_or_else(|| missing("device_id"))?,
                    timestamp: timestamp.ok_or_else(|| missing("timestamp"))?,
                    data: data.ok_or_else(|| missing("data"))?,
                    others,
                })
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// The members of an object, in their order; nothing where it is none.
pub fn members(object: &RawValue) -> Vec<(Cow<'_, str>, &RawValue)> {
    fields::members(object.get()).unwrap_or_default().into_iter().map(|(name, value)| (fields::unquoted(name), value)).collect()
}

/// A record's `timestamp`, as the JSON it is, in UTC.
pub fn read_time(timestamp: &str) -> Result<OffsetDateTime, Invalid> {
    fields::time(timestamp).ok_or(Invalid::Timestamp)
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

#[cfg(test)]
mod tests;
