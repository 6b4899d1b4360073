//! One pass over an object: the members that have a meaning, as slices of it, and whether there are others.

use std::{borrow::Cow, fmt};

use bytes::{BufMut as _, BytesMut};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use time::OffsetDateTime;

use super::{Invalid, MAX_DEPTH, RESERVED};
use crate::model::{DeviceId, times};

/// The members of an object that means a record, or an envelope around one.
#[derive(Debug, Default)]
pub(in crate::model) struct Fields<'a> {
    pub(in crate::model) device_id: Option<&'a RawValue>,
    pub(in crate::model) timestamp: Option<&'a RawValue>,
    pub(in crate::model) data: Option<&'a RawValue>,
    pub(in crate::model) r#type: Option<&'a RawValue>,
    pub(in crate::model) payload: Option<&'a RawValue>,
    pub(in crate::model) id: Option<&'a RawValue>,
    /// Whether there are members beside `device_id`, `timestamp` and `data`.
    pub(in crate::model) has_others: bool,
    /// The first that has no meaning in an envelope.
    pub(in crate::model) stranger: Option<String>,
    /// The first that no record may have, `type` apart.
    reserved: Option<&'static str>,
    /// Levels of arrays and objects: exact from [`MAX_DEPTH`] on.
    pub(in crate::model) depth: usize,
}

impl<'a> Fields<'a> {
    /// Reads an object, and nothing of what its members hold.
    pub(in crate::model) fn of(json: &'a [u8], limit: usize, deepest: usize) -> Result<Self, Invalid> {
        if json.len() > limit {
            return Err(Invalid::TooLarge { size: json.len(), limit });
        }
        let text = text(json)?;
        if !text.trim_ascii_start().starts_with('{') {
            // A wrong kind of value and a text that is no JSON at all are different mistakes.
            return match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Err(Invalid::NotAnObject),
                Err(e) => Err(Invalid::Json(e.to_string())),
            };
        }
        let depth = depth(json);
        if depth > deepest {
            return Err(Invalid::TooDeep);
        }
        let mut twice = None;
        let mut reader = serde_json::Deserializer::from_str(text);
        let fields = reader
            .deserialize_map(Scan { twice: &mut twice })
            .and_then(|fields| reader.end().map(|()| fields))
            .map_err(|e| Invalid::Json(e.to_string()));
        match twice {
            Some(name) => Err(Invalid::Duplicate(name)),
            None => Ok(Self { depth, ..fields? }),
        }
    }

    /// No record may have a member that consumers take for the platform's own word.
    pub(in crate::model) fn check_names(&self) -> Result<(), Invalid> {
        match self.reserved.or(self.r#type.map(|_| "type")) {
            Some(name) => Err(Invalid::Reserved(name)),
            None => Ok(()),
        }
    }

    /// The members of a record that says `"type":"data"` beside them.
    pub(in crate::model) fn check_names_beside_type(&self) -> Result<(), Invalid> {
        self.reserved.map_or(Ok(()), |name| Err(Invalid::Reserved(name)))
    }

    /// The device it names.
    pub(in crate::model) fn device(&self) -> Result<Option<Cow<'a, str>>, Invalid> {
        let Some(raw) = self.device_id else { return Ok(None) };
        let id = serde_json::from_str::<Key<'a>>(raw.get()).ok().map(|Key(id)| id).filter(|id| DeviceId::is_valid(id));
        id.map(Some).ok_or(Invalid::DeviceId)
    }

    /// The time it names.
    pub(in crate::model) fn time(&self) -> Result<Option<OffsetDateTime>, Invalid> {
        self.timestamp.map(|raw| time(raw.get()).ok_or(Invalid::Timestamp)).transpose()
    }
}

/// Bytes as the text that JSON is.
pub(in crate::model) fn text(json: &[u8]) -> Result<&str, Invalid> {
    std::str::from_utf8(json).map_err(|e| Invalid::Json(e.to_string()))
}

/// Appends the members of an object, as they stand, without those that are named.
pub(super) fn put_others(object: &str, without: &[&str], out: &mut BytesMut) -> Result<(), Invalid> {
    let mut comma = false;
    for (name, value) in members(object)? {
        if without.contains(&&*unquoted(name)) {
            continue;
        }
        if std::mem::replace(&mut comma, true) {
            out.put_u8(b',');
        }
        for part in [name.get(), ":", value.get()] {
            out.put_slice(part.as_bytes());
        }
    }
    Ok(())
}

/// All members of an object, as they stand.
pub(super) fn members(object: &str) -> Result<Vec<(&RawValue, &RawValue)>, Invalid> {
    serde_json::from_str(object).map(|Members(members)| members).map_err(|e| Invalid::Json(e.to_string()))
}

/// A name without its quotes and escapes.
pub(super) fn unquoted(name: &RawValue) -> Cow<'_, str> {
    match name.get().strip_prefix('"').and_then(|inner| inner.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        _ => Cow::Owned(serde_json::from_str(name.get()).unwrap_or_default()),
    }
}

/// The time that a member's JSON says.
pub(super) fn time(json: &str) -> Option<OffsetDateTime> {
    serde_json::from_str::<Time>(json).ok().map(|time| time.0)
}

/// The deepest nesting in `json`, brackets inside strings not counted; or more than that, where it is less than any limit.
fn depth(json: &[u8]) -> usize {
    // Nearly every record has few brackets, and counting them takes a small part of the time.
    let brackets = json.iter().filter(|byte| matches!(byte, b'{' | b'[')).count();
    if brackets < MAX_DEPTH {
        return brackets;
    }
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

struct Scan<'t> {
    twice: &'t mut Option<&'static str>,
}

impl<'de> Visitor<'de> for Scan<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(Key(key)) = map.next_key()? {
            let (name, slot) = match &*key {
                "device_id" => ("device_id", &mut fields.device_id),
                "timestamp" => ("timestamp", &mut fields.timestamp),
                "data" => ("data", &mut fields.data),
                other => {
                    fields.has_others = true;
                    match other {
                        "type" => ("type", &mut fields.r#type),
                        "payload" => ("payload", &mut fields.payload),
                        "id" => ("id", &mut fields.id),
                        stranger => {
                            map.next_value::<IgnoredAny>()?;
                            fields.reserved = fields.reserved.or_else(|| RESERVED.into_iter().find(|name| *name == stranger));
                            if fields.stranger.is_none() {
                                fields.stranger = Some(stranger.chars().take(64).collect());
                            }
                            continue;
                        }
                    }
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                *self.twice = Some(name);
                return Err(A::Error::custom("twice"));
            }
        }
        Ok(fields)
    }
}

/// A string, borrowed where nothing in it is escaped.
#[derive(Deserialize)]
pub(super) struct Key<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// All members of an object, as they stand.
struct Members<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(All)
    }
}

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
                f.write_str(times::FORMS)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Time, E> {
                times::read(text).map(Time).ok_or_else(|| E::custom("no time"))
            }

            fn visit_u64<E: serde::de::Error>(self, millis: u64) -> Result<Time, E> {
                times::from_millis(millis).map(Time).ok_or_else(|| E::custom("beyond all times"))
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

const _: () = assert!(MAX_DEPTH < 128, "serde_json reads no deeper");
