//! The bodies of three frames: a template, its acceptance, and a record in its compact form.

use bytes::{BufMut, Bytes, BytesMut};

use super::{MAX_LITERALS, MAX_SLOTS, number::Style, timestamp::Form};
use crate::{
    model::Seq,
    wire::{
        error::Error,
        varint::{self, Body},
    },
};

/// Longest text behind the seconds of a time: an offset from UTC.
const MAX_SUFFIX: usize = 8;

/// A value between two literal parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// A number.
    Number(Style),
    /// A time in quotes.
    Time(Form),
    /// The text between two quotes; the quotes are literal.
    Text,
    /// Any value.
    Raw,
}

/// Body of [`super::super::Frame::Template`]: literal, slot, literal, slot, …, literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its number, chosen by the sender, from 0.
    pub id: u64,
    /// Each slot with the literal before it.
    pub parts: Vec<(String, Slot)>,
    /// Text behind the last slot.
    pub tail: String,
}

impl Template {
    /// Bytes of all literals.
    pub(super) fn literals(&self) -> usize {
        self.parts.iter().map(|(literal, _)| literal.len()).sum::<usize>() + self.tail.len()
    }

    pub(in crate::wire) fn put(&self, out: &mut BytesMut) {
        varint::put(self.id, out);
        varint::put(self.parts.len() as u64, out);
        for (literal, slot) in &self.parts {
            varint::put_text(literal, out);
            match slot {
                Slot::Text => varint::put(0, out),
                Slot::Raw => varint::put(1, out),
                Slot::Number(style) => {
                    varint::put(2, out);
                    varint::put(style.code(), out);
                }
                Slot::Time(form) => {
                    varint::put(3, out);
                    varint::put(u64::from(form.digits), out);
                    varint::put_text(&form.suffix, out);
                    out.put_i64(form.base);
                }
            }
        }
        varint::put_text(&self.tail, out);
    }

    pub(in crate::wire) fn read(body: &mut Body) -> Result<Self, Error> {
        let id = body.number()?;
        let slots = body.number()?;
        if slots > MAX_SLOTS as u64 {
            return Err(body.malformed());
        }
        // Grows with what is really there, not with what was announced.
        let mut parts = Vec::new();
        for _ in 0..slots {
            let literal = body.text(MAX_LITERALS)?;
            let slot = match body.number()? {
                0 => Slot::Text,
                1 => Slot::Raw,
                2 => Slot::Number(Style::from_code(body.number()?).ok_or_else(|| body.malformed())?),
                3 => {
                    let digits = u8::try_from(body.number()?).map_err(|_| body.malformed())?;
                    let (suffix, base) = (body.text(MAX_SUFFIX)?, body.u64()?.cast_signed());
                    Slot::Time(Form::new(digits, suffix, base).ok_or_else(|| body.malformed())?)
                }
                _ => return Err(body.malformed()),
            };
            parts.push((literal, slot));
        }
        let template = Self { id, parts, tail: body.text(MAX_LITERALS)? };
        if template.literals() > MAX_LITERALS { Err(body.malformed()) } else { Ok(template) }
    }
}

/// Body of [`super::super::Frame::TemplateAccepted`]: from now on the template may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateAccepted {
    /// The template's number.
    pub id: u64,
}

impl TemplateAccepted {
    pub(in crate::wire) fn put(self, out: &mut BytesMut) {
        varint::put(self.id, out);
    }

    pub(in crate::wire) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { id: body.number()? })
    }
}

/// Body of [`super::super::Frame::Compact`]: a record in the place of [`super::super::Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compact {
    /// Its number within the outbox's epoch, from 1.
    pub seq: Seq,
    /// The template's number.
    pub template: u64,
    /// The values of its slots, one after the other.
    pub values: Bytes,
}

impl Compact {
    /// Bytes of the body.
    pub fn size(&self) -> usize {
        varint::size(self.seq.0) + varint::size(self.template) + self.values.len()
    }

    pub(in crate::wire) fn put(&self, out: &mut BytesMut) {
        varint::put(self.seq.0, out);
        varint::put(self.template, out);
        out.put_slice(&self.values);
    }

    pub(in crate::wire) fn read(body: &mut Body) -> Result<Self, Error> {
        let seq = Seq(body.number()?);
        if seq.0 == 0 {
            return Err(body.malformed());
        }
        Ok(Self { seq, template: body.number()?, values: body.rest() })
    }
}
