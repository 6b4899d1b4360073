//! Compact records into JSON.

use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Compact, MAX_TEMPLATES, Slot, Template};
use crate::wire::varint;

/// Why a template or a compact record is not taken. Each ends the connection with [`crate::wire::CloseCode::Protocol`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_TEMPLATES`].
    #[error("more than {MAX_TEMPLATES} templates")]
    TooManyTemplates,
    /// A template's number, given twice.
    #[error("template {0} was announced before")]
    AnnouncedTwice(u64),
    /// A record of a template that was not announced.
    #[error("template {0} is not known")]
    UnknownTemplate(u64),
    /// Values that do not fit the template.
    #[error("values that do not fit template {0}")]
    Values(u64),
    /// A record over the limit.
    #[error("a record over the limit of {0} bytes")]
    TooLarge(usize),
}

/// The templates of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    templates: HashMap<u64, Template>,
}

impl Decoder {
    /// Without templates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a template; the sender has to learn that it was accepted.
    pub fn add(&mut self, template: Template) -> Result<u64, Error> {
        let id = template.id;
        if self.templates.contains_key(&id) {
            return Err(Error::AnnouncedTwice(id));
        }
        if self.templates.len() == MAX_TEMPLATES {
            return Err(Error::TooManyTemplates);
        }
        self.templates.insert(id, template);
        Ok(id)
    }

    /// The record's JSON, at most `limit` bytes long.
    pub fn expand(&self, record: &Compact, limit: usize) -> Result<Bytes, Error> {
        let template = self.templates.get(&record.template).ok_or(Error::UnknownTemplate(record.template))?;
        expand(template, &record.values, limit)
    }
}

/// The text of a template with these values.
pub(super) fn expand(template: &Template, values: &[u8], limit: usize) -> Result<Bytes, Error> {
    let misfit = Error::Values(template.id);
    // A value needs at most a few times the room that it has on the wire; the buffer grows where that is wrong.
    let mut out = BytesMut::with_capacity((template.literals() + 4 * values.len()).min(limit));
    let mut values = Values { bytes: values };
    for (literal, slot) in &template.parts {
        out.put_slice(literal.as_bytes());
        let number = match slot {
            Slot::Text | Slot::Raw => 0,
            Slot::Number(_) | Slot::Time(_) => values.number().ok_or(misfit)?,
        };
        match (number.checked_sub(1), slot) {
            (Some(packed), Slot::Number(style)) => style.unpack(packed, &mut out),
            (Some(packed), Slot::Time(form)) => form.unpack(packed, &mut out).ok_or(misfit)?,
            _ => {
                let length = values.number().and_then(|length| usize::try_from(length).ok()).ok_or(misfit)?;
                out.put_slice(values.take(length).ok_or(misfit)?);
            }
        }
        if out.len() > limit {
            return Err(Error::TooLarge(limit));
        }
    }
    out.put_slice(template.tail.as_bytes());
    if !values.bytes.is_empty() {
        return Err(misfit);
    }
    if out.len() > limit { Err(Error::TooLarge(limit)) } else { Ok(out.freeze()) }
}

struct Values<'v> {
    bytes: &'v [u8],
}

impl<'v> Values<'v> {
    fn number(&mut self) -> Option<u64> {
        let (number, size) = varint::peek(self.bytes, 0)?;
        self.bytes = &self.bytes[size..];
        Some(number)
    }

    fn take(&mut self, length: usize) -> Option<&'v [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }
}
