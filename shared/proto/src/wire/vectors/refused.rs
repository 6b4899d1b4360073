//! Frames that a reader waits for, and frames that it refuses.

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};

use super::{LIMIT, RECORD, encoded, error, expand, unhex};
use crate::{
    model::Seq,
    wire::{
        Compact, Frame, Limits, Template,
        compact::{MAX_TEMPLATES, goldens as templates},
        goldens::hex,
        varint,
    },
};

pub(super) fn incomplete() -> Vec<Value> {
    [("nothing", ""), ("half a type", "40"), ("a type", "21"), ("half a length", "2140"), ("a body that has yet to come", "2104017b")]
        .map(|(about, hex)| json!({"about": about, "hex": hex}))
        .into()
}

pub(super) fn refused() -> Vec<Value> {
    let mut refused: Vec<_> = [
        ("an unknown frame of an odd type", "3f00"),
        ("an unknown frame of an odd type with a body", "40410161"),
        ("Hello with a token of 4,097 bytes", "01040101 5001"),
        ("Hello without features", "01120101 03746f6b 03727069 000000000000feed"),
        ("Hello that ends within its epoch", "010c0101 03746f6b 03727069 0000"),
        ("Hello whose token is longer than the frame", "01050101 05746f"),
        ("Hello with an unknown intent", "0113010303746f6b03727069000000000000feed00"),
        ("Hello whose token is no UTF-8", "01130101 03ff6f6b 03727069 000000000000feed00"),
        ("Hello with a byte too much", "0114010103746f6b03727069000000000000feed0000"),
        ("Ack that names more ranges than it has", "0903020504"),
        ("Ack with 4,097 ranges", "09025001"),
        ("Ack whose ranges touch", "0905020100 0100"),
        ("Ack beyond the largest number", "090a01 ffffffffffffffff 01"),
        ("Record with the number 0", "2103007b7d"),
        ("Compact with the number 0", "2702 0000"),
        ("Record without a number", "2100"),
        ("Subscribe from an unknown start", "0d04407b0400"),
        ("Subscribe with a name of 65 bytes", "0d05407b00 4041"),
        ("Subscribe with a selection of 16,385 bytes", "0d0707 00 00 80004001"),
        ("Unsubscribe with a byte too much", "0f020101"),
        ("Gap with a cause of 33 bytes", "1304 010203 21"),
        ("Gap with a byte too much behind its cause", "130b 010203 06657261736564 00"),
        ("Cursor with an epoch of seven bytes", "2308 01 00000000000002"),
        ("Entry with an epoch of seven bytes", "2508 09 00000000000003"),
        ("Ping with a body", "060100"),
        ("Template with 257 slots", "1b03 00 4101"),
        ("Template with an unknown slot", "1b05 00 01 00 04 00"),
        ("Template with a number of 16 decimals", "1b06 00 01 00 02 30 00"),
        ("Template with a time of 10 digits", "1b10 00 01 00 03 0a 015a 0000000000000000 00"),
        ("Template with a suffix of nine bytes", "1b06 00 01 00 03 00 09"),
        ("Template with a quote in a suffix", "1b10 00 01 00 03 00 0122 0000000000000000 00"),
        ("Template with a literal of 4,097 bytes", "1b04 00 01 5001"),
    ]
    .map(|(about, hex)| (about, hex.replace(' ', ""), LIMIT))
    .into();
    refused.push(("a frame over the limit, known from its head", "21bfffffff".to_owned(), 65_536 + 1024));
    refused.push(("an unknown frame over the limit", "3e4401".to_owned(), 1024));
    // Two literals and a tail, each within the limit, all together one byte beyond it.
    let literal = format!("4800{}", "61".repeat(2048));
    let body = format!("0002{literal}00{literal}000161");
    refused.push(("Template whose literals are too long together", format!("1b{}{body}", hex_varint(body.len() / 2)), LIMIT));
    refused
        .into_iter()
        .map(|(about, hex, limit)| {
            let outcome = Frame::decode(&mut unhex(&hex), Limits { frame: limit });
            let error = error(outcome.expect_err(about));
            json!({"about": about, "hex": hex, "limit": limit, "error": error})
        })
        .collect()
}

fn hex_varint(n: usize) -> String {
    let mut out = BytesMut::new();
    varint::put(n as u64, &mut out);
    hex(&out)
}

pub(super) fn templates_refused() -> Vec<Value> {
    let empty = |id| Frame::Template(Template { id, parts: Vec::new(), tail: "{}".to_owned() });
    let compact = |template, values: &[u8]| Frame::Compact(Compact { seq: Seq(1), template, values: Bytes::copy_from_slice(values) });
    let (learnt, third) = templates::learnt(3);
    let (learnt, id) = (Frame::Template(learnt.clone()), learnt.id);
    let short = compact(id, &third.values[..third.values.len() - 1]);
    let long = compact(id, &[&third.values[..], &[0]].concat());
    let far = compact(id, &[0xff; 16]);
    let cases = [
        ("a template that was not announced", vec![compact(0, &[])], RECORD),
        ("a template's number, given twice", vec![empty(3), empty(3)], RECORD),
        ("one template more than a connection may have", (0..=MAX_TEMPLATES as u64).map(empty).collect(), RECORD),
        ("values that end too early", vec![learnt.clone(), short], RECORD),
        ("values left over", vec![learnt.clone(), long], RECORD),
        ("a time beyond the year 9999", vec![learnt.clone(), far], RECORD),
        ("a record over the limit", vec![learnt, Frame::Compact(third)], 64),
    ];
    let case = |(about, frames, limit): (&str, Vec<Frame>, usize)| {
        let frames: Vec<_> = frames.iter().map(encoded).collect();
        json!({"about": about, "error": expand(&frames, limit).expect_err(about), "limit": limit, "frames": frames})
    };
    cases.into_iter().map(case).collect()
}
