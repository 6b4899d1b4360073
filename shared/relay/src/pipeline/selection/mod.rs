//! A compiled selection: filter (`where`), projection (`fields`) and the length of sampling windows (`every`).
//!
//! ```text
//! where=/data/temperature>30     a JSON pointer (RFC 6901) into the message, = != < <= > >=, a JSON value; all must hold
//! fields=/data/temperature,/data/position    what `data` keeps, in its own shape
//! every=10s                      the last value of each device in each such time of its own clock
//! ```
//!
//! A pointer with blanks, commas or signs of comparison in it is written as a JSON string: `"/data/a=b" = 3`. Pure:
//! [`super::sampler::Sampler`] is its state for one consumer.

mod condition;
mod every;
mod pointer;
mod text;
mod tree;

use std::{borrow::Cow, collections::HashSet, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use motience_proto::model::Selection;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::{condition::Condition, pointer::Pointer, text::Text, tree::Tree};

/// Most conditions of one selection.
pub const MAX_CONDITIONS: usize = 32;
/// Most fields of one selection.
pub const MAX_FIELDS: usize = 128;

/// An expression that makes no sense, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {problem}, at character {column}")]
pub struct Error {
    /// `where`, `fields` or `every`.
    pub parameter: &'static str,
    /// The expression as it came.
    pub expression: String,
    /// The character that is wrong, from 1; one more than there are where something is missing at the end.
    pub column: usize,
    /// The mistake, for people.
    pub problem: String,
}

impl Error {
    /// A stable name for programs.
    pub const CODE: &'static str = "invalid_expression";

    /// A line that points at the character, to be shown under the expression.
    pub fn caret(&self) -> String {
        format!("{}^", " ".repeat(self.column - 1))
    }
}

/// A compiled [`Selection`]. Cheap enough to evaluate for each record: nothing of a record is built but slices of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selector {
    conditions: Vec<Condition>,
    /// Members below `/data` that the conditions look at, under their numbers.
    looks: Tree,
    /// Members that `data` keeps; `None`: all.
    fields: Option<Tree>,
    every: Option<Duration>,
    /// Devices whose records are wanted; `None`: all.
    devices: Option<Arc<HashSet<Box<str>>>>,
    /// Whether a projection shows device, time and data, and nothing beside them.
    strict: bool,
}

/// A message in its parts.
#[derive(Deserialize)]
pub(super) struct Message<'m> {
    #[serde(borrow)]
    pub(super) producer_id: &'m RawValue,
    #[serde(borrow)]
    pub(super) device_id: &'m RawValue,
    #[serde(borrow)]
    pub(super) timestamp: &'m RawValue,
    #[serde(borrow)]
    pub(super) data: &'m RawValue,
}

impl Selector {
    /// Reads the three expressions.
    pub fn parse(conditions: &[&str], fields: Option<&str>, every: Option<&str>) -> Result<Self, Error> {
        if let Some(beyond) = conditions.get(MAX_CONDITIONS) {
            return Err(Text::new("where", beyond)?.wrong(format!("there are more than {MAX_CONDITIONS} conditions")));
        }
        let conditions = conditions.iter().map(|text| Condition::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let mut looks = Tree::default();
        for (number, condition) in conditions.iter().enumerate() {
            if let Pointer::Data(tokens) = &condition.pointer {
                looks.add(tokens, number);
            }
        }
        let fields = fields.map(read_fields).transpose()?;
        let every = every.map(every::parse).transpose()?;
        Ok(Self { conditions, looks, fields, every, ..Self::default() })
    }

    /// Reads what a client sent.
    pub fn of(selection: &Selection) -> Result<Self, Error> {
        let conditions: Vec<&str> = selection.conditions.iter().map(String::as_str).collect();
        Self::parse(&conditions, selection.fields.as_deref(), selection.every.as_deref())
    }

    /// The selection as a limit that somebody else sets: of these devices only, and a projection leaves nothing but what it names.
    #[must_use]
    pub(super) fn limiting(self, devices: Option<HashSet<Box<str>>>) -> Self {
        Self { devices: devices.map(Arc::new), strict: true, ..self }
    }

    /// Whether records of a device may be wanted.
    pub(super) fn has_device(&self, device: &str) -> bool {
        self.devices.as_ref().is_none_or(|devices| devices.contains(device))
    }

    /// Whether every record passes as it is.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// The length of a sampling window.
    pub fn every(&self) -> Option<Duration> {
        self.every
    }

    /// The message as the consumer wants it, whatever `every` says; `None` where it does not want it.
    pub fn apply(&self, message: &Bytes) -> Option<Bytes> {
        if self.conditions.is_empty() && self.fields.is_none() && self.devices.is_none() {
            return Some(message.clone());
        }
        // Cannot fail: what is in the log is a message. Anything else is none that a condition could hold of.
        let parts = Message::of(message)?;
        if !self.admits(&parts) {
            return None;
        }
        Some(self.project(message, &parts).unwrap_or_else(|| message.clone()))
    }

    pub(super) fn admits(&self, message: &Message<'_>) -> bool {
        if self.devices.is_some() && !self.has_device(&message.device()) {
            return false;
        }
        if self.conditions.is_empty() {
            return true;
        }
        let mut found = vec![None; self.conditions.len()];
        self.looks.find(message.data, &mut found);
        self.conditions.iter().zip(found).all(|(condition, found)| {
            let value = match condition.pointer {
                Pointer::Data(_) => found,
                Pointer::ProducerId => Some(message.producer_id),
                Pointer::DeviceId => Some(message.device_id),
                Pointer::Timestamp => Some(message.timestamp),
            };
            value.is_some_and(|value| condition.holds(value))
        })
    }

    /// The message with the wanted fields of its data only, and all else as it is; `None` where all are wanted.
    pub(super) fn project(&self, whole: &Bytes, message: &Message<'_>) -> Option<Bytes> {
        let fields = self.fields.as_ref()?;
        let data = message.data.get();
        if self.strict {
            let mut out = BytesMut::with_capacity(128);
            let parts = [("{\"producer_id\":", message.producer_id), (",\"device_id\":", message.device_id)];
            for (name, value) in parts.into_iter().chain([(",\"timestamp\":", message.timestamp)]) {
                out.put_slice(name.as_bytes());
                out.put_slice(value.get().as_bytes());
            }
            out.put_slice(b",\"data\":");
            fields.project(message.data, &mut out);
            out.put_u8(b'}');
            return Some(out.freeze());
        }
        // Where the data stand in the message, of which they are a part.
        let begin = (data.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
        let (before, after) = (whole.get(..begin)?, whole.get(begin + data.len()..)?);
        let mut out = BytesMut::with_capacity(128);
        out.put_slice(before);
        fields.project(message.data, &mut out);
        out.put_slice(after);
        Some(out.freeze())
    }
}

impl Selector {
    /// The wanted fields of some data; `None` where all are wanted.
    pub(super) fn shown(&self, data: &RawValue) -> Option<String> {
        let mut out = BytesMut::new();
        self.fields.as_ref()?.project(data, &mut out);
        // Cannot fail: slices of texts.
        String::from_utf8(out.to_vec()).ok()
    }
}

/// A length of time, such as `90s`, `5m`, `12h` or `7d`.
pub(super) fn length(text: &str) -> Option<Duration> {
    let (digits, unit) = text.trim().split_at(text.trim().find(|c: char| !c.is_ascii_digit())?);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(seconds).map(Duration::from_secs)
}

impl<'m> Message<'m> {
    pub(super) fn of(message: &'m [u8]) -> Option<Self> {
        serde_json::from_slice(message).ok()
    }

    pub(super) fn device(&self) -> Cow<'m, str> {
        let text = self.device_id.get();
        match text.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')) {
            Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
            _ => Cow::Owned(serde_json::from_str(text).unwrap_or_default()),
        }
    }
}

/// `fields`: what is always there may be named too, and changes nothing.
fn read_fields(expression: &str) -> Result<Tree, Error> {
    let mut text = Text::new("fields", expression)?;
    let mut tree = Tree::default();
    for number in 0.. {
        text.skip_blanks();
        if number == MAX_FIELDS {
            return Err(text.wrong(format!("there are more than {MAX_FIELDS} fields")));
        }
        if let Pointer::Data(tokens) = Pointer::read(&mut text, &[','])? {
            tree.add(&tokens, number);
        }
        text.skip_blanks();
        if !text.take_if(",") {
            break;
        }
    }
    text.end()?;
    Ok(tree)
}

#[cfg(test)]
mod tests;
