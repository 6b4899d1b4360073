//! The worked examples of `docs/protocol.md`: a device's connection, then a consumer's.

use bytes::Bytes;
use serde_json::{Value, json};

use super::encoded;
use crate::{
    model::{Fence, Offset, Order, ProducerEpoch, ProducerId, RangeSet, Seq},
    wire::{
        Ack, DeliveryCursor, Entry, Followed, Frame, Hello, Intent, Record, Start, Subscribe, TemplateAccepted, Welcome,
        compact::goldens as templates,
        goldens::{cursor, name},
    },
};

pub(super) fn sessions() -> Vec<Value> {
    let [first, second, third] = templates::readings();
    let epoch = 0x5eed_0000_0000_002a;
    let (template, compact) = templates::learnt(3);
    let record = |seq: u64, json: &str| Frame::Record(Record { seq: Seq(seq), json: Bytes::copy_from_slice(json.as_bytes()) });
    let ack = |text: &str| Frame::Ack(Ack { ranges: text.parse().unwrap() });
    let hello = |intent, epoch, features| {
        Frame::Hello(Hello {
            version: 1,
            intent,
            token: "TOKEN".into(),
            device_id: "rpi_001".into(),
            epoch: ProducerEpoch(epoch),
            features,
        })
    };
    let welcome = |fence, credit, features| {
        Frame::Welcome(Welcome {
            node: "node-a".into(),
            fence: Fence(fence),
            seen: RangeSet::new(),
            max_record: 65_536,
            credit,
            token_expires_in: 3600,
            durability: "file".into(),
            features,
        })
    };
    let entry = |offset: u64, json: &str| {
        let message = format!(r#"{{"producer_id":"7",{}"#, &json[1..]);
        Frame::Entry(Entry { offset: Offset(offset), record_id: name(epoch, offset), message: message.into() })
    };
    let seven = ProducerId(7);
    let subscribe =
        Subscribe { producer: seven, start: Start::Earliest, cursor_name: String::new(), selection: String::new(), order: Order::Log };
    let resume = Subscribe { start: Start::After(cursor(1_738_150_000_000_000, 1)), ..subscribe.clone() };
    let head = |offset| Frame::Cursor(DeliveryCursor { producer: seven, cursor: cursor(1_738_150_000_000_000, offset) });
    let steps = |steps: Vec<(&str, &str, &str, Vec<Frame>)>| -> Vec<Value> {
        let step = |(from, on, prefix, frames): (&str, &str, &str, Vec<Frame>)| {
            let names: Vec<_> = frames.iter().map(Frame::name).collect();
            let hex: String = std::iter::once(prefix.to_owned()).chain(frames.iter().map(encoded)).collect();
            json!({"from": from, "on": on, "frames": names, "hex": hex})
        };
        steps.into_iter().map(step).collect()
    };
    let device = steps(vec![
        ("client", "control", "", vec![hello(Intent::Produce, epoch, 3)]),
        ("server", "control", "", vec![welcome(1, 8192, 3)]),
        ("client", "ordered", "01", vec![record(1, &first)]),
        ("client", "independent", "02", vec![record(2, &second)]),
        ("client", "datagram", "", vec![record(1, &second)]),
        ("server", "control", "", vec![ack("1-2")]),
        ("client", "control", "", vec![Frame::Template(template)]),
        ("server", "control", "", vec![Frame::TemplateAccepted(TemplateAccepted { id: 0 })]),
        ("client", "ordered", "", vec![Frame::Compact(compact)]),
        ("server", "control", "", vec![ack("3")]),
        ("server", "control", "", vec![Frame::Drain]),
        ("client", "control", "", vec![Frame::Done]),
    ]);
    let consumer = steps(vec![
        ("client", "control", "", vec![hello(Intent::Consume, 0, 4)]),
        ("server", "control", "", vec![welcome(0, 0, 4)]),
        ("client", "control", "", vec![Frame::Subscribe(subscribe)]),
        ("server", "control", "", vec![Frame::Followed(Followed { producer: seven, refusal: String::new() })]),
        ("server", "delivery", "03", vec![head(0), entry(1, &first)]),
        ("client", "control", "", vec![Frame::Subscribe(resume)]),
        ("server", "delivery", "03", vec![head(1), entry(2, &second), entry(3, &third)]),
        ("client", "control", "", vec![Frame::Done]),
    ]);
    vec![json!({"about": "a device", "steps": device}), json!({"about": "a consumer", "steps": consumer})]
}
