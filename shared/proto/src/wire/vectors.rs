//! `docs/vectors.json`: what this codec writes, what it makes of what others write, and what it refuses, for other languages' tests.
//! Names are those of `docs/protocol.md`.
//!
//! `UPDATE_VECTORS=1 cargo test -p motience-proto --lib vectors_are_what_the_codec_makes` writes the file anew.

mod refused;
mod sessions;

use std::{fs, path::PathBuf};

use bytes::BytesMut;
use serde_json::{Value, json};

use self::{
    refused::{incomplete, refused, templates_refused},
    sessions::sessions,
};
use super::{
    CloseCode, Compact, Frame, Intent, Limits, Start, StreamKind,
    compact::{self, Decoder, goldens as templates},
    error::Error,
    goldens::{self, hex},
    varint,
};
use crate::model::{self, RangeSet};

/// The limit for frames of the vectors, where a vector names no other: that of the control stream.
const LIMIT: usize = 64 * 1024;
/// The limit for records that templates make.
const RECORD: usize = 64 * 1024;

fn unhex(text: &str) -> BytesMut {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn encoded(frame: &Frame) -> String {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    hex(&out)
}

/// Bytes that are UTF-8.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn ranges(set: &RangeSet) -> Value {
    set.iter().map(|range| json!([range.start(), range.end()])).collect()
}

fn cursor(cursor: model::Cursor) -> Value {
    json!({"log_epoch": cursor.log_epoch.to_string(), "offset": cursor.offset.0})
}

/// A frame's fields. Numbers of 64 bits are text, since few readers of JSON keep them.
fn fields(frame: &Frame) -> Value {
    match frame {
        Frame::Hello(hello) => {
            let intent = if hello.intent == Intent::Produce { "produce" } else { "consume" };
            json!({
                "version": hello.version, "intent": intent, "token": hello.token, "device_id": hello.device_id,
                "producer_epoch": hello.epoch.to_string(), "features": hello.features,
            })
        }
        Frame::Welcome(welcome) => json!({
            "node": welcome.node, "fence": welcome.fence.0, "dedup_window": ranges(&welcome.seen), "max_record": welcome.max_record,
            "credit": welcome.credit, "token_expires_in": welcome.token_expires_in, "durability": welcome.durability,
            "features": welcome.features,
        }),
        Frame::TokenRefresh(refresh) => json!({"token": refresh.token}),
        Frame::TokenAccepted(accepted) => json!({"expires_in": accepted.expires_in}),
        Frame::Ack(ack) => json!({"ranges": ranges(&ack.ranges)}),
        Frame::Refused(refused) => json!({"seq": refused.seq.0, "code": refused.code, "message": refused.message}),
        Frame::Subscribe(subscribe) => {
            let start = match subscribe.start {
                Start::Live => json!({"kind": "live"}),
                Start::Earliest => json!({"kind": "earliest"}),
                Start::After(cursor) => json!({"kind": "cursor", "cursor": self::cursor(cursor)}),
                Start::Time(ms) => json!({"kind": "time", "ms": ms}),
            };
            let order = if subscribe.order == model::Order::Device { "device" } else { "log" };
            json!({"producer": subscribe.producer.0, "start": start, "cursor_name": subscribe.cursor_name, "selection": subscribe.selection, "order": order})
        }
        Frame::Unsubscribe(unsubscribe) => json!({"producer": unsubscribe.producer.0}),
        Frame::Followed(followed) => json!({"producer": followed.producer.0, "refusal": followed.refusal}),
        Frame::Gap(gap) => json!({
            "producer": gap.producer.0, "from": gap.from.0, "to": gap.to.0, "cause": gap.cause.map(model::GapCause::as_str),
        }),
        Frame::Done | Frame::Drain | Frame::Ping | Frame::Pong => json!({}),
        Frame::Skipped(skipped) => json!({"ranges": ranges(&skipped.ranges)}),
        Frame::Confirm(confirm) => json!({"producer": confirm.producer.0, "cursor": cursor(confirm.cursor)}),
        Frame::Template(template) => templates::fields(template),
        Frame::TemplateAccepted(accepted) => json!({"template": accepted.id}),
        Frame::Credit(credit) => json!({"records": credit.records}),
        Frame::Health(health) => json!({"backlog": health.backlog, "loss_ppm": health.loss_ppm}),
        Frame::Subscriber(subscriber) => json!({
            "subscription": subscriber.subscription, "consumer": subscriber.consumer.0, "status": subscriber.status.as_str(),
        }),
        Frame::Record(record) => json!({"seq": record.seq.0, "json": text(&record.json)}),
        Frame::Cursor(delivery) => json!({"producer": delivery.producer.0, "cursor": cursor(delivery.cursor)}),
        Frame::Entry(entry) => json!({
            "offset": entry.offset.0, "producer_epoch": entry.record_id.producer_epoch.to_string(), "seq": entry.record_id.seq.0,
            "message": text(&entry.message),
        }),
        Frame::Compact(record) => json!({"seq": record.seq.0, "template": record.template, "values": hex(&record.values)}),
    }
}

fn error(error: Error) -> &'static str {
    match error {
        Error::TooLarge { .. } => "too_large",
        Error::UnknownCritical(_) => "unknown_critical",
        Error::UnknownStream(_) => "unknown_stream",
        Error::Truncated(_) => "truncated",
        Error::TooLong(_) => "too_long",
        Error::Malformed(_) => "malformed",
    }
}

fn template_error(error: compact::Error) -> &'static str {
    match error {
        compact::Error::TooManyTemplates => "too_many_templates",
        compact::Error::AnnouncedTwice(_) => "announced_twice",
        compact::Error::UnknownTemplate(_) => "unknown_template",
        compact::Error::Values(_) => "misfit",
        compact::Error::TooLarge(_) => "too_large",
    }
}

fn kind(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Ordered => "ordered",
        StreamKind::Independent => "independent",
        StreamKind::Delivery => "delivery",
    }
}

fn varints() -> Vec<Value> {
    let shortest = [0, 37, 63, 64, 15_293, 16_383, 16_384, 494_878_333, (1 << 30) - 1, 1 << 30, 151_288_809_941_952_652, varint::MAX];
    let written = shortest.into_iter().map(|n| {
        let mut out = BytesMut::new();
        varint::put(n, &mut out);
        json!({"number": n.to_string(), "hex": hex(&out)})
    });
    // A reader takes these; nobody writes them.
    let longer = [(37, "4025"), (37, "80000025"), (0, "c000000000000000")];
    written.chain(longer.map(|(n, hex)| json!({"number": n.to_string(), "hex": hex, "written": false}))).collect()
}

fn streams() -> Vec<Value> {
    let kinds = [StreamKind::Ordered, StreamKind::Independent, StreamKind::Delivery].map(|one| {
        let mut out = BytesMut::new();
        one.encode(&mut out);
        json!({"kind": kind(one), "hex": hex(&out)})
    });
    kinds.into_iter().chain(["00", "04", "4040"].map(|hex| json!({"hex": hex, "error": "unknown_stream"}))).collect()
}

fn close_codes() -> Vec<Value> {
    (0..).map_while(CloseCode::from_number).map(|code| json!({"code": code.number(), "name": format!("{code:?}")})).collect()
}

fn skipped() -> Vec<Value> {
    [
        ("an unknown frame of an even type, then Ping", "3e02aabb0600"),
        ("two of them, the second of a type in two bytes", "3e0040420401020304"),
        ("Health with more in it than this version knows, then Ping", "0a04030107080600"),
        ("Gap of a cause that this version does not know, then Ping", "1309010203056d6f7665640600"),
    ]
    .map(|(about, hex)| {
        let mut bytes = unhex(hex);
        let limits = Limits { frame: LIMIT };
        let mut frames = Vec::new();
        while let Some(frame) = Frame::decode(&mut bytes, limits).unwrap() {
            frames.push(json!({"name": frame.name(), "fields": fields(&frame)}));
        }
        assert!(bytes.is_empty());
        json!({"about": about, "hex": hex, "frames": frames})
    })
    .into()
}

fn template_examples() -> Vec<Value> {
    let record = |(compact, json): &(Compact, String)| json!({"hex": encoded(&Frame::Compact(compact.clone())), "json": json});
    templates::examples()
        .iter()
        .map(|example| {
            let records: Vec<_> = example.records.iter().map(record).collect();
            json!({"about": example.about, "hex": encoded(&Frame::Template(example.template.clone())), "records": records})
        })
        .collect()
}

/// Takes templates and records in turn; the text of the last record.
fn expand(frames: &[String], limit: usize) -> Result<String, &'static str> {
    let mut decoder = Decoder::new();
    let mut last = String::new();
    for frame in frames {
        match Frame::decode(&mut unhex(frame), Limits { frame: LIMIT }).unwrap().unwrap() {
            Frame::Template(template) => drop(decoder.add(template).map_err(template_error)?),
            Frame::Compact(record) => last = text(&decoder.expand(&record, limit).map_err(template_error)?).to_owned(),
            other => panic!("{other:?}"),
        }
    }
    Ok(last)
}

/// The whole document, part by part.
fn document() -> Vec<(&'static str, Vec<Value>)> {
    let frames = goldens::frames();
    let frames =
        frames.iter().map(|(frame, hex)| json!({"name": frame.name(), "type": frame.number(), "fields": fields(frame), "hex": hex}));
    vec![
        ("varints", varints()),
        ("streams", streams()),
        ("frames", frames.collect()),
        ("skipped", skipped()),
        ("incomplete", incomplete()),
        ("refused", refused()),
        ("templates", template_examples()),
        ("templates_refused", templates_refused()),
        ("close_codes", close_codes()),
        ("sessions", sessions()),
    ]
}

fn docs(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "docs", name].iter().collect()
}

/// One vector a line, so that a change shows as the line that it is.
fn written(document: &[(&str, Vec<Value>)]) -> String {
    let parts = document.iter().map(|(name, vectors)| {
        let lines: Vec<_> = vectors.iter().map(|vector| format!("    {vector}")).collect();
        format!("  \"{name}\": [\n{}\n  ]", lines.join(",\n"))
    });
    let parts: Vec<_> = parts.collect();
    format!("{{\n  \"protocol\": \"motience/1\",\n{}\n}}\n", parts.join(",\n"))
}

fn committed() -> Value {
    serde_json::from_str(&fs::read_to_string(docs("vectors.json")).unwrap()).unwrap()
}

#[test]
fn vectors_are_what_the_codec_makes() {
    let text = written(&document());
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        fs::write(docs("vectors.json"), &text).unwrap();
    }
    let (made, kept): (Value, Value) = (serde_json::from_str(&text).unwrap(), committed());
    for (name, _) in document() {
        assert_eq!(kept[name], made[name], "{name}: docs/vectors.json is not what the codec makes; CONTRIBUTING.md says how to update it");
    }
    assert_eq!(kept, made);
}

#[test]
fn vectors_are_read_back() {
    let vectors = committed();
    let part = |name: &str| vectors[name].as_array().filter(|part| !part.is_empty()).unwrap().clone();
    let of = |vector: &Value, key: &str| vector[key].as_str().unwrap().to_owned();
    let limits = Limits { frame: LIMIT };
    for vector in part("varints") {
        let bytes = unhex(&of(&vector, "hex"));
        assert_eq!(varint::peek(&bytes, 0), Some((of(&vector, "number").parse().unwrap(), bytes.len())));
    }
    for vector in part("streams") {
        match StreamKind::decode(&mut unhex(&of(&vector, "hex"))) {
            Ok(one) => assert_eq!(kind(one.unwrap()), vector["kind"]),
            Err(e) => assert_eq!(error(e), vector["error"]),
        }
    }
    for vector in part("frames") {
        let mut bytes = unhex(&of(&vector, "hex"));
        let frame = Frame::decode(&mut bytes, limits).unwrap().unwrap();
        assert!(bytes.is_empty(), "{vector}");
        assert_eq!(
            (json!(frame.name()), fields(&frame), encoded(&frame)),
            (vector["name"].clone(), vector["fields"].clone(), of(&vector, "hex"))
        );
    }
    for vector in part("incomplete") {
        assert_eq!(Frame::decode(&mut unhex(&of(&vector, "hex")), limits), Ok(None), "{vector}");
    }
    for vector in part("refused") {
        let limit = usize::try_from(vector["limit"].as_u64().unwrap()).unwrap();
        let outcome = Frame::decode(&mut unhex(&of(&vector, "hex")), Limits { frame: limit });
        assert_eq!(error(outcome.unwrap_err()), vector["error"], "{vector}");
    }
    for vector in part("templates") {
        for record in vector["records"].as_array().unwrap() {
            assert_eq!(expand(&[of(&vector, "hex"), of(record, "hex")], RECORD), Ok(of(record, "json")));
        }
    }
}

/// Code blocks of the page that are marked `hex` are these bytes and no others; what stands behind `;` is a comment.
#[test]
fn the_pages_worked_examples_are_vectors() {
    let page = fs::read_to_string(docs("protocol.md")).unwrap();
    let blocks = page.split("```hex\n").skip(1).map(|block| {
        let block = block.split("```").next().unwrap();
        let bare = block.lines().map(|line| line.split(';').next().unwrap());
        bare.flat_map(str::split_whitespace).collect::<String>()
    });
    let sessions = sessions();
    let steps = sessions.iter().flat_map(|session| session["steps"].as_array().unwrap().clone());
    let steps: Vec<_> = steps.map(|step| step["hex"].as_str().unwrap().to_owned()).collect();
    assert_eq!(blocks.collect::<Vec<_>>(), steps);
}
