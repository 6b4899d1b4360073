//! Turns JSON records into their compact form; learns the templates from the records.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use bytes::{BufMut, BytesMut};

use super::{
    Compact, MAX_LITERALS, MAX_TEMPLATES, Slot, Template,
    decoder::expand,
    number::Style,
    timestamp::Form,
    tokens::{Kind, Token, tokens},
};
use crate::wire::{Record, varint};

/// Structures that are remembered while they wait for their second record.
const MAX_FAMILIES: usize = 256;
/// Values that do not fit their slot until the template is cut anew.
const MISFITS: u32 = 4;
/// How often it is: values that are spelt now this way and now that would use up all templates.
const CUTS: u32 = 4;

/// Shapes and what is known of them, for one connection.
#[derive(Debug, Default)]
pub struct Encoder {
    families: HashMap<u64, Family>,
    announced: u64,
}

/// Records of one structure: the same text around the same kinds of values.
#[derive(Debug)]
struct Family {
    /// One record, to compare the next with.
    sample: String,
    /// For each of its values, the slot that it has become.
    slots: Vec<Option<Slot>>,
    /// Template in use: the server has accepted it.
    current: Option<Template>,
    /// Announced.
    pending: Option<Template>,
    /// Records since the template was cut or its misfits were looked at, and those of them with a value that did not fit its slot.
    records: u32,
    misfits: u32,
    cuts: u32,
}

/// A record in the form that is sent. A [`super::super::Frame`] is made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// Shorter than its JSON.
    Compact(Compact),
    /// No template fits it.
    Plain(Record),
}

impl Encoder {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A record as it is sent, and a template to be announced on the control stream.
    pub fn encode(&mut self, record: Record) -> (Encoded, Option<Template>) {
        let (compact, template) = match std::str::from_utf8(&record.json) {
            Ok(json) => self.compact(&record, json),
            Err(_) => (None, None),
        };
        (compact.map_or(Encoded::Plain(record), Encoded::Compact), template)
    }

    /// The server knows the template.
    pub fn accepted(&mut self, id: u64) {
        for family in self.families.values_mut() {
            if let Some(template) = family.pending.take_if(|template| template.id == id) {
                family.current = Some(template);
                (family.records, family.misfits) = (0, 0);
                return;
            }
        }
    }

    /// The template that [`Encoder::encode`] gave last could not be announced: as if it had not been.
    pub fn withdraw(&mut self, template: &Template) {
        for family in self.families.values_mut() {
            if family.pending.take_if(|pending| pending.id == template.id).is_some() {
                family.cuts -= 1;
            }
        }
        if template.id + 1 == self.announced {
            self.announced = template.id;
        }
    }

    fn compact(&mut self, record: &Record, json: &str) -> (Option<Compact>, Option<Template>) {
        if json.len() > MAX_LITERALS {
            return (None, None);
        }
        let Some(tokens) = tokens(json) else { return (None, None) };
        let key = structure(json, &tokens);
        let full = self.families.len() >= MAX_FAMILIES;
        let Some(family) = self.families.get_mut(&key) else {
            if full {
                // Records that never repeat must not keep out those that do.
                self.families.retain(|_, family| family.current.is_some() || family.pending.is_some());
            }
            if self.families.len() < MAX_FAMILIES {
                self.families.insert(
                    key,
                    Family {
                        sample: json.to_owned(),
                        slots: vec![None; tokens.len()],
                        current: None,
                        pending: None,
                        records: 0,
                        misfits: 0,
                        cuts: 0,
                    },
                );
            }
            return (None, None);
        };
        let fitted = family.current.as_ref().and_then(|template| values(template, json, &tokens));
        let misfit = fitted.as_ref().is_none_or(|(_, escapes)| *escapes > 0);
        family.records = family.records.saturating_add(1);
        family.misfits += u32::from(misfit);
        let compact = fitted.and_then(|(values, _)| {
            let template = family.current.as_ref()?;
            let values = values.freeze();
            let same = expand(template, &values, json.len()).is_ok_and(|again| again == record.json);
            same.then_some(Compact { seq: record.seq, template: template.id, values })
        });
        let wanted =
            family.pending.is_none() && family.cuts < CUTS && (family.current.is_none() || family.misfits >= MISFITS || compact.is_none());
        let template = if wanted && self.announced < MAX_TEMPLATES as u64 { cut(family, json, &tokens, self.announced) } else { None };
        self.announced += u64::from(template.is_some());
        (compact, template)
    }
}

/// Tells structures apart: the text between the values, and their kinds.
fn structure(json: &str, tokens: &[Token]) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut end = 0;
    for token in tokens {
        json[end..token.at.start].hash(&mut hasher);
        token.kind.hash(&mut hasher);
        end = token.at.end;
    }
    json[end..].hash(&mut hasher);
    hasher.finish()
}

/// The values of a record's slots and how many did not fit; `None` where a literal differs.
fn values(template: &Template, json: &str, tokens: &[Token]) -> Option<(BytesMut, u32)> {
    let (mut out, mut escapes, mut end) = (BytesMut::new(), 0, 0);
    let mut tokens = tokens.iter();
    for (literal, slot) in &template.parts {
        let start = end + literal.len();
        let token = tokens.find(|token| token.at.start >= start)?;
        if token.at.start != start || json.get(end..start)? != literal {
            return None;
        }
        end = token.at.end;
        let text = &json[token.at.clone()];
        let packed = match slot {
            Slot::Number(style) => style.pack(text),
            Slot::Time(form) => form.pack(text),
            Slot::Text | Slot::Raw => {
                varint::put_text(text, &mut out);
                continue;
            }
        };
        match packed {
            Some(packed) => varint::put(packed + 1, &mut out),
            None => {
                escapes += 1;
                out.put_u8(0);
                varint::put_text(text, &mut out);
            }
        }
    }
    (json.get(end..)? == template.tail).then_some((out, escapes))
}

/// A template for the family: what differs from the sample, or was a slot before, is a slot.
fn cut(family: &mut Family, json: &str, tokens: &[Token], id: u64) -> Option<Template> {
    let before = super::tokens::tokens(&family.sample)?;
    let mut template = Template { id, parts: Vec::new(), tail: String::new() };
    let mut end = 0;
    let mostly = family.misfits * 2 > family.records;
    for ((token, sample), slot) in tokens.iter().zip(&before).zip(&mut family.slots) {
        *slot = fitting(token.kind, [&family.sample[sample.at.clone()], &json[token.at.clone()]], slot.take(), mostly);
        if let Some(slot) = slot {
            template.parts.push((json[end..token.at.start].to_owned(), slot.clone()));
            end = token.at.end;
        }
    }
    json[end..].clone_into(&mut template.tail);
    json.clone_into(&mut family.sample);
    (family.records, family.misfits) = (0, 0);
    let same = family.current.as_ref().is_some_and(|current| current.parts == template.parts && current.tail == template.tail);
    if same || template.parts.is_empty() || template.literals() > MAX_LITERALS {
        return None;
    }
    family.cuts += 1;
    family.pending = Some(template.clone());
    Some(template)
}

/// The slot for two values that stand at the same place, the second of which the present slot may not fit. `None`: literal. `mostly`: values mostly do not
/// fit. A time has one form: where some are spelt otherwise, as those whose last digits are 0, it stays that of most.
fn fitting(kind: Kind, texts: [&str; 2], present: Option<Slot>, mostly: bool) -> Option<Slot> {
    match (kind, present) {
        (Kind::Number, Some(Slot::Number(style))) if style.pack(texts[1]).is_none() => Some(Slot::Number(style.widened(texts[1]))),
        (Kind::Text, Some(Slot::Time(form))) if mostly && form.pack(texts[1]).is_none() => {
            Some(Form::of(texts[1]).map_or(Slot::Text, Slot::Time))
        }
        (_, Some(slot)) => Some(slot),
        (Kind::Number, None) => Some(Slot::Number(Style::of(texts))),
        (Kind::Text, None) => match (Form::of(texts[0]), Form::of(texts[1])) {
            (Some(_), Some(form)) => Some(Slot::Time(form)),
            _ => (texts[0] != texts[1]).then_some(Slot::Text),
        },
        (Kind::Word, None) => (texts[0] != texts[1]).then_some(Slot::Raw),
    }
}
