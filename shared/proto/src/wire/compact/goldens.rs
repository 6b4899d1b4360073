//! Templates and the records that they make, as examples for `docs/vectors.json`; see [`crate::wire::goldens`].

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Compact, Encoder, Slot, Template, number::Style, timestamp::Form};
use crate::{
    model::Seq,
    wire::{Frame, Record},
};

/// A template, and records in their compact form with the text that they stand for.
pub(in crate::wire) struct Example {
    pub(in crate::wire) about: &'static str,
    pub(in crate::wire) template: Template,
    pub(in crate::wire) records: Vec<(Compact, String)>,
}

fn number(decimals: u64, zeros: u64) -> Slot {
    Slot::Number(Style::from_code(decimals * 3 + zeros).unwrap())
}

fn time(digits: u8, suffix: &str, base: i64) -> Slot {
    Slot::Time(Form::new(digits, suffix.to_owned(), base).unwrap())
}

fn every_slot() -> Template {
    let slots = [
        number(2, 0),
        number(2, 1),
        number(2, 2),
        number(0, 1),
        time(3, "Z", 1_738_150_500_000),
        time(0, "+02:00", -1),
        Slot::Text,
        Slot::Raw,
    ];
    let literals = ["[", ",", ",", ",", ",\"", "\",\"", "\",\"", "\","];
    Template { id: 1, parts: literals.map(str::to_owned).into_iter().zip(slots).collect(), tail: "]".to_owned() }
}

/// Templates with the bytes of their frames in hexadecimal.
pub(in crate::wire) fn templates() -> Vec<(Template, &'static str)> {
    let readings = Template { id: 0, parts: vec![("{\"t\":".to_owned(), number(1, 2))], tail: "}".to_owned() };
    vec![
        (Template { id: 2, parts: Vec::new(), tail: String::new() }, "1b03020000"),
        (readings, "1b0c0001057b2274223a0205017d"),
        (
            every_slot(),
            "1b40410108015b0206012c0207012c0208012c0201022c220303015a00000194b1d7d6a003222c220300062b30323a3030ffffffffffffffff\
             03222c220002222c01015d",
        ),
    ]
}

/// Three readings of a device: the first is sent whole, the second is compared with it and makes the template, the third uses it.
pub(in crate::wire) fn readings() -> [String; 3] {
    [("00.000", "24.3"), ("01.000", "24.31"), ("02.000", "24.4")].map(|(seconds, temperature)| {
        format!(
            r#"{{"device_id":"rpi_001","timestamp":"2025-01-29T11:35:{seconds}Z","data":{{"temperature":{temperature},"status":"ok"}}}}"#
        )
    })
}

/// The template that the encoder makes of [`readings`], and the third of them, as the record `seq`.
pub(in crate::wire) fn learnt(seq: u64) -> (Template, Compact) {
    let mut encoder = Encoder::new();
    let mut encode = |seq: u64, json: &str| {
        let (record, template) = encoder.encode(Record { seq: Seq(seq), json: Bytes::copy_from_slice(json.as_bytes()) });
        let frame = Frame::from(record);
        if let Some(template) = &template {
            encoder.accepted(template.id);
        }
        (frame, template)
    };
    let [first, second, third] = readings();
    encode(1, &first);
    let (_, template) = encode(2, &second);
    match encode(seq, &third) {
        (Frame::Compact(compact), None) => (template.unwrap(), compact),
        other => panic!("{other:?}"),
    }
}

pub(in crate::wire) fn examples() -> Vec<Example> {
    let record = |template, values: &[u8]| Compact { seq: Seq(9), template, values: Bytes::copy_from_slice(values) };
    let (template, third) = learnt(3);
    let [_, _, text] = readings();
    let spelt = [&[0][..], &[4], b"1e-7", &[7], &[1], &[1], &[0], &[1], b"?", &[1], &[0], &[4], b"true"].concat();
    vec![
        Example { about: "made of three readings", template, records: vec![(third, text)] },
        Example {
            about: "every kind of slot: first values that fit, then one that is spelt out",
            template: every_slot(),
            records: vec![
                (
                    // 21.50, 21.5, 21.0, -7; 1.5 s after the base; one second before it; a text; a raw value.
                    record(1, &[&[0x50, 0xcd, 0x50, 0xcd, 0x50, 0x69, 0x10, 0x4b, 0xb9, 0x04][..], &[2], b"ok", &[4], b"null"].concat()),
                    r#"[21.50,21.5,21.0,-7,"2025-01-29T11:35:01.500Z","1969-12-31T23:59:58+02:00","ok",null]"#.to_owned(),
                ),
                (record(1, &spelt), r#"[1e-7,0.03,0.0,0,"?","1969-12-31T23:59:59+02:00","",true]"#.to_owned()),
            ],
        },
    ]
}

/// A template as `docs/vectors.json` has it.
pub(in crate::wire) fn fields(template: &Template) -> Value {
    let slot = |slot: &Slot| match slot {
        Slot::Text => json!({"kind": "text"}),
        Slot::Raw => json!({"kind": "raw"}),
        Slot::Number(style) => {
            let zeros = ["kept", "cut", "one"][(style.code() % 3) as usize];
            json!({"kind": "number", "decimals": style.code() / 3, "zeros": zeros})
        }
        Slot::Time(form) => json!({"kind": "time", "digits": form.digits, "suffix": form.suffix, "base": form.base.to_string()}),
    };
    let parts: Vec<_> = template.parts.iter().map(|(literal, kind)| json!({"literal": literal, "slot": slot(kind)})).collect();
    json!({"template": template.id, "parts": parts, "tail": template.tail})
}
