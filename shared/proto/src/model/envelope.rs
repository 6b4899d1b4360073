//! A producer's message, in the same forms over a WebSocket, a line, a body and a datagram: a record in one of its forms, or a ping.
//!
//! ```text
//! {"device_id","timestamp","data",…}     a record; what is left out of the first two is the account's and the time of arrival
//! {"temperature":24.3,…}                 readings: an object without `data`. A device_id and a timestamp in it are the record's
//! {"type":"data","payload":{…}}          either of them; beside it `id`, the sender's own name for it, `device_id` and `timestamp`
//! {"type":"data","data":{…},…}           a record that says so
//! {"type":"ping","id":…}                 answered by a pong with that id
//! ```
//!
//! An object with a text for a `type` is a message, whatever else it holds: one of any other type is refused and never taken for
//! readings. Readings that are called `type` come in a payload. Nothing of what was sent is left out without a word.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::record::{self, Admitted, Defaults, Draft, Fields, Invalid, MAX_DEPTH, MAX_ID};

/// Bytes that an envelope may add to a record.
pub const MAX_ENVELOPE: usize = 4 * 1024;

/// A producer's message, read.
#[derive(Debug, PartialEq, Eq)]
pub enum Envelope {
    /// A record, and the name the client gives it.
    Record(Admitted, Option<String>),
    /// Whether somebody is there; the pong has this id, as the JSON it is.
    Ping(Option<String>),
    /// A `type` that means nothing here.
    Unknown(String),
}

/// Reads what a producer sent. A mark of UTF-8 before it means nothing.
pub fn read(sent: Bytes, limit: usize, defaults: &Defaults<'_>) -> Result<Envelope, Invalid> {
    let sent = record::without_mark(sent);
    // An envelope is one level around a record of the deepest kind.
    let fields = Fields::of(&sent, limit + MAX_ENVELOPE, MAX_DEPTH + 1)?;
    let kind = fields.r#type.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    match kind.as_deref() {
        Some("data") => {
            let admitted = match fields.payload {
                Some(payload) => inside(&sent, payload, &fields, limit, defaults)?,
                None => beside(&sent, &fields, limit, defaults)?,
            };
            Ok(Envelope::Record(admitted, fields.id.map(name).transpose()?))
        }
        Some("ping") => {
            // Checked as that of a record is, and given back as it came.
            fields.id.map(name).transpose()?;
            Ok(Envelope::Ping(fields.id.map(|id| id.get().to_owned())))
        }
        Some(other) => Ok(Envelope::Unknown(other.chars().take(64).collect())),
        None if fields.depth > MAX_DEPTH => Err(Invalid::TooDeep),
        None => {
            if fields.data.is_some() {
                fields.check_names()?;
            }
            let admitted = Draft { json: &sent, fields: &fields, around: None, cut: &[] }.complete(limit, defaults)?;
            Ok(Envelope::Record(admitted, None))
        }
    }
}

/// Content of a payload: a record, or readings.
fn inside(sent: &Bytes, payload: &RawValue, around: &Fields<'_>, limit: usize, defaults: &Defaults<'_>) -> Result<Admitted, Invalid> {
    if around.data.is_some() {
        return Err(Invalid::Beside("data".to_owned()));
    }
    if let Some(stranger) = &around.stranger {
        return Err(Invalid::Beside(stranger.clone()));
    }
    let json = sent.slice_ref(payload.get().as_bytes());
    let fields = Fields::of(&json, limit, MAX_DEPTH)?;
    if fields.data.is_some() {
        fields.check_names()?;
    }
    Draft { json: &json, fields: &fields, around: Some(around), cut: &[] }.complete(limit, defaults)
}

/// A record that says `"type":"data"` beside its own members: the same record without it, and without the name it was given.
fn beside(sent: &Bytes, fields: &Fields<'_>, limit: usize, defaults: &Defaults<'_>) -> Result<Admitted, Invalid> {
    fields.data.ok_or(Invalid::Missing("payload"))?;
    fields.check_names_beside_type()?;
    if fields.depth > MAX_DEPTH {
        return Err(Invalid::TooDeep);
    }
    Draft { json: sent, fields, around: None, cut: &["type", "id"] }.complete(limit, defaults)
}

/// A name that a client gives a record: a text, or a number, which counts as its text.
fn name(id: &RawValue) -> Result<String, Invalid> {
    let json = id.get();
    let text = if json.starts_with('"') {
        serde_json::from_str(json).map_err(|_| Invalid::Id)?
    } else if json.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        json.to_owned()
    } else {
        return Err(Invalid::Id);
    };
    if text.is_empty() || text.len() > MAX_ID { Err(Invalid::Id) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
