//! Examples of every frame with the bytes that they have been since motience/1: a change of any of them is a change of the protocol.
//! `docs/vectors.json` is made of them.

use bytes::Bytes;

use super::{
    Ack, Compact, Confirm, Credit, DeliveryCursor, Entry, Followed, Frame, Gap, Health, Hello, Intent, Record, Refused, Skipped, Start,
    Subscribe, Subscriber, TemplateAccepted, TokenAccepted, TokenRefresh, Unsubscribe, Welcome, compact, features,
};
use crate::model::{
    ConsumerId, Cursor, Fence, GapCause, LogEpoch, Offset, Order, ProducerEpoch, ProducerId, RangeSet, RecordId, Seq, Status,
};

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

pub(super) fn hello() -> Hello {
    Hello { version: 1, intent: Intent::Produce, token: "tok".into(), device_id: "rpi".into(), epoch: ProducerEpoch(0xfeed), features: 0 }
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        node: "n1".into(),
        fence: Fence(7),
        seen: "1-300,302".parse().unwrap(),
        max_record: 65536,
        credit: 8192,
        token_expires_in: 3600,
        durability: "memory".into(),
        features: 0,
    }
}

pub(super) fn cursor(epoch: u64, offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
}

pub(super) fn name(epoch: u64, seq: u64) -> RecordId {
    RecordId { producer_epoch: ProducerEpoch(epoch), seq: Seq(seq) }
}

pub(super) fn subscribe(start: Start, cursor_name: &str, selection: &str) -> Frame {
    let (cursor_name, selection) = (cursor_name.to_owned(), selection.to_owned());
    Frame::Subscribe(Subscribe { producer: ProducerId(123), start, cursor_name, selection, order: Order::Log })
}

fn in_device_order(selection: &str) -> Frame {
    let Frame::Subscribe(subscribe) = subscribe(Start::Live, "", selection) else { unreachable!() };
    Frame::Subscribe(Subscribe { order: Order::Device, ..subscribe })
}

fn gap(cause: Option<GapCause>) -> Frame {
    Frame::Gap(Gap { producer: ProducerId(1), from: Offset(2), to: Offset(3), cause })
}

fn ranges(text: &str) -> RangeSet {
    text.parse().unwrap()
}

/// Frames with their bytes in hexadecimal.
pub(super) fn frames() -> Vec<(Frame, &'static str)> {
    let consumer = Hello {
        intent: Intent::Consume,
        epoch: ProducerEpoch(0),
        features: features::COMPACT | features::LATEST | features::SELECTION,
        ..hello()
    };
    let mut frames = vec![
        (Frame::Hello(hello()), "0113010103746f6b03727069000000000000feed00"),
        (Frame::Hello(consumer), "0113010203746f6b03727069000000000000000007"),
        (
            Frame::Hello(Hello { device_id: "wéit".into(), epoch: ProducerEpoch(u64::MAX), ..hello() }),
            "0115010103746f6b0577c3a96974ffffffffffffffff00",
        ),
        (Frame::Welcome(welcome()), "031a026e31070201412b02008001000060004e10066d656d6f727900"),
        (
            Frame::Welcome(Welcome { seen: RangeSet::new(), durability: "redis+2".into(), features: features::SELECTION, ..welcome() }),
            "0316026e3107008001000060004e100772656469732b3204",
        ),
        (Frame::TokenRefresh(TokenRefresh { token: "t".into() }), "05020174"),
        (Frame::TokenAccepted(TokenAccepted { expires_in: 60 }), "07013c"),
        (Frame::Ack(Ack { ranges: ranges("5-9") }), "0903010504"),
        (Frame::Ack(Ack { ranges: ranges("1,3-4,1000") }), "0908030100020143e400"),
        (Frame::Refused(Refused { seq: Seq(3), code: "c".into(), message: "m".into() }), "0b05030163016d"),
        (subscribe(Start::After(cursor(2, 5)), "", ""), "0d0d407b0200000000000000020500"),
        (subscribe(Start::Time(7), "ab", ""), "0d07407b0307026162"),
        (subscribe(Start::Live, "", "{}"), "0d07407b0000027b7d"),
        (subscribe(Start::Earliest, "", ""), "0d04407b0100"),
        (in_device_order(""), "0d06407b00000001"),
        (in_device_order("{}"), "0d08407b0000027b7d01"),
        (Frame::Unsubscribe(Unsubscribe { producer: ProducerId(1) }), "0f0101"),
        (Frame::Followed(Followed { producer: ProducerId(1), refusal: String::new() }), "11020100"),
        (Frame::Followed(Followed { producer: ProducerId(1), refusal: "too_many".into() }), "110a0108746f6f5f6d616e79"),
        (gap(None), "1303010203"),
        (gap(Some(GapCause::Erased)), "130a01020306657261736564"),
        (gap(Some(GapCause::Retention)), "130d01020309726574656e74696f6e"),
        (Frame::Done, "1500"),
        (Frame::Skipped(Skipped { ranges: ranges("5-9") }), "1703010504"),
        (Frame::Confirm(Confirm { producer: ProducerId(1), cursor: cursor(2, 9) }), "190a01000000000000000209"),
        (Frame::TemplateAccepted(TemplateAccepted { id: 1 }), "1d0101"),
        (Frame::Credit(Credit { records: 64 }), "02024040"),
        (Frame::Drain, "0400"),
        (Frame::Ping, "0600"),
        (Frame::Pong, "0800"),
        (Frame::Health(Health { backlog: 3, loss_ppm: Some(12_500) }), "0a030370d5"),
        (Frame::Health(Health { backlog: 0, loss_ppm: None }), "0a020000"),
        (
            Frame::Subscriber(Subscriber { subscription: 12, consumer: ConsumerId(300), status: Status::Requested }),
            "0c0d0c412c09726571756573746564",
        ),
        (Frame::Record(Record { seq: Seq(1), json: Bytes::from_static(b"{}") }), "2103017b7d"),
        (Frame::Record(Record { seq: Seq(16_384), json: Bytes::from_static(br#"{"a":1}"#) }), "210b800040007b2261223a317d"),
        (Frame::Cursor(DeliveryCursor { producer: ProducerId(1), cursor: cursor(2, 4) }), "230a01000000000000000204"),
        (
            Frame::Entry(Entry { offset: Offset(9), record_id: name(3, 1), message: Bytes::from_static(b"{}") }),
            "250c090000000000000003017b7d",
        ),
        (Frame::Compact(Compact { seq: Seq(70), template: 1, values: Bytes::from_static(&[0x41, 0x2c]) }), "2705404601412c"),
        (Frame::Compact(Compact { seq: Seq(1), template: 0, values: Bytes::new() }), "27020100"),
    ];
    frames.extend(compact::goldens::templates().into_iter().map(|(template, golden)| (Frame::Template(template), golden)));
    frames
}
