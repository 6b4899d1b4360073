//! Hex goldens pin the encoding; properties say that whatever is written is read, and that nothing panics.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Cursor, Epoch, Fence, LogEpoch, Offset, ProducerId, RangeSet, RecordName, Seq},
    wire::{From, Intent},
};

const LIMITS: Limits = Limits { frame: 1 << 20 };

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out
}

fn hello() -> Hello {
    Hello { version: 1, intent: Intent::Produce, token: "tok".into(), device_id: "rpi".into(), epoch: Epoch(0xfeed), features: 0 }
}

fn welcome() -> Welcome {
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

fn cursor(epoch: u64, offset: u64) -> Cursor {
    Cursor { epoch: LogEpoch(epoch), offset: Offset(offset) }
}

fn name(epoch: u64, seq: u64) -> RecordName {
    RecordName { epoch: Epoch(epoch), seq: Seq(seq) }
}

fn subscribe(from: From, durable: &str, view: &str) -> Frame {
    Frame::Subscribe(Subscribe { producer: ProducerId(123), from, durable: durable.to_owned(), view: view.to_owned() })
}

#[test]
fn goldens() {
    for (frame, golden) in [
        (Frame::Hello(hello()), "0113010103746f6b03727069000000000000feed00"),
        (Frame::Welcome(welcome()), "031a026e31070201412b02008001000060004e10066d656d6f727900"),
        (Frame::TokenRefresh(TokenRefresh { token: "t".into() }), "05020174"),
        (Frame::TokenAccepted(TokenAccepted { expires_in: 60 }), "07013c"),
        (Frame::Ack(Ack { ranges: "5-9".parse().unwrap() }), "0903010504"),
        (Frame::Refused(Refused { seq: Seq(3), code: "c".into(), message: "m".into() }), "0b05030163016d"),
        (subscribe(From::After(cursor(2, 5)), "", ""), "0d0d407b0200000000000000020500"),
        (subscribe(From::Time(7), "ab", ""), "0d07407b0307026162"),
        (subscribe(From::Live, "", "{}"), "0d07407b0000027b7d"),
        (Frame::Skipped(Skipped { ranges: "5-9".parse().unwrap() }), "1703010504"),
        (Frame::Confirm(Confirm { producer: ProducerId(1), cursor: cursor(2, 9) }), "190a01000000000000000209"),
        (Frame::Unsubscribe(Unsubscribe { producer: ProducerId(1) }), "0f0101"),
        (Frame::Followed(Followed { producer: ProducerId(1), refusal: String::new() }), "11020100"),
        (Frame::Gap(Gap { producer: ProducerId(1), from: Offset(2), to: Offset(3) }), "1303010203"),
        (Frame::Done, "1500"),
        (Frame::Credit(Credit { records: 64 }), "02024040"),
        (Frame::Drain, "0400"),
        (Frame::Ping, "0600"),
        (Frame::Pong, "0800"),
        (Frame::Health(Health { backlog: 3, loss_ppm: Some(12_500) }), "0a030370d5"),
        (Frame::Health(Health { backlog: 0, loss_ppm: None }), "0a020000"),
        (Frame::Record(Record { seq: Seq(1), json: Bytes::from_static(b"{}") }), "2103017b7d"),
        (Frame::Feed(Feed { producer: ProducerId(1), after: cursor(2, 4) }), "230a01000000000000000204"),
        (Frame::Entry(Entry { offset: Offset(9), name: name(3, 1), message: Bytes::from_static(b"{}") }), "250c090000000000000003017b7d"),
    ] {
        let mut bytes = encoded(&frame);
        assert_eq!(hex(&bytes), golden, "{frame:?}");
        assert_eq!(Frame::decode(&mut bytes, LIMITS), Ok(Some(frame)));
        assert!(bytes.is_empty());
    }
}

#[test]
fn an_unknown_even_frame_is_skipped_and_an_odd_one_is_not() {
    let mut bytes = BytesMut::from(&[0x3e, 0x02, 0xaa, 0xbb, 0x06, 0x00][..]);
    assert_eq!(Frame::decode(&mut bytes, LIMITS), Ok(Some(Frame::Ping)));
    let mut bytes = BytesMut::from(&[0x3f, 0x00][..]);
    assert_eq!(Frame::decode(&mut bytes, LIMITS), Err(Error::UnknownCritical(0x3f)));
}

#[test]
fn what_a_newer_device_says_more_of_its_health_is_passed_over() {
    let mut bytes = BytesMut::from(&[0x0a, 0x04, 0x03, 0x01, 0x07, 0x08, 0x06, 0x00][..]);
    assert_eq!(Frame::decode(&mut bytes, LIMITS), Ok(Some(Frame::Health(Health { backlog: 3, loss_ppm: Some(0) }))));
    assert_eq!(Frame::decode(&mut bytes, LIMITS), Ok(Some(Frame::Ping)));
}

#[test]
fn a_frame_over_the_limit_is_refused_from_its_head() {
    // Type 0x21, length 2^30 - 1, and not a byte of body.
    let mut bytes = BytesMut::from(&[0x21, 0xbf, 0xff, 0xff, 0xff][..]);
    let refused = Frame::decode(&mut bytes, Limits::for_records(65536));
    assert_eq!(refused, Err(Error::TooLarge { length: (1 << 30) - 1, limit: 65536 + 1024 }));
}

#[test]
fn bytes_left_over_in_a_body_are_an_error() {
    let mut bytes = BytesMut::from(&[0x0f, 0x02, 0x01, 0x01][..]);
    assert_eq!(Frame::decode(&mut bytes, LIMITS), Err(Error::Malformed("Unsubscribe")));
}

#[test]
fn tokens_are_not_in_debug_output() {
    assert!(!format!("{:?}", Frame::Hello(hello())).contains("tok"));
    assert!(!format!("{:?}", TokenRefresh { token: "sesame".into() }).contains("sesame"));
}

fn ranges() -> impl Strategy<Value = RangeSet> {
    proptest::collection::vec(1_u64..10_000, 0..40).prop_map(|n| n.into_iter().collect())
}

fn frames() -> impl Strategy<Value = Frame> {
    let number = 1..=varint::MAX;
    let id = (0..i64::MAX >> 1).prop_map(ProducerId);
    let body = proptest::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from);
    prop_oneof![
        (any::<u64>(), ".{0,40}", "[a-z]{1,20}").prop_map(|(epoch, token, device_id)| Frame::Hello(Hello {
            version: 1,
            intent: Intent::Consume,
            token,
            device_id,
            epoch: Epoch(epoch),
            features: 3
        })),
        ranges().prop_map(|ranges| Frame::Ack(Ack { ranges })),
        (ranges(), number.clone()).prop_map(|(seen, n)| Frame::Welcome(Welcome { seen, fence: Fence(n), ..welcome() })),
        (number.clone(), body.clone()).prop_map(|(n, json)| Frame::Record(Record { seq: Seq(n), json })),
        (number.clone(), any::<u64>(), body).prop_map(|(n, epoch, message)| Frame::Entry(Entry {
            offset: Offset(n),
            name: name(epoch, n),
            message
        })),
        (any::<u64>(), number.clone(), "[a-z]{0,20}", ".{0,40}").prop_map(|(epoch, n, durable, view)| subscribe(
            From::After(cursor(epoch, n)),
            &durable,
            &view
        )),
        (id.clone(), number.clone(), number.clone()).prop_map(|(producer, a, b)| Frame::Gap(Gap {
            producer,
            from: Offset(a),
            to: Offset(b)
        })),
        (number.clone(), proptest::option::of(0..varint::MAX)).prop_map(|(backlog, loss_ppm)| Frame::Health(Health { backlog, loss_ppm })),
        (id, any::<u64>()).prop_map(|(producer, n)| Frame::Confirm(Confirm { producer, cursor: cursor(n, n >> 3) })),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(frames in proptest::collection::vec(frames(), 1..6), cut in any::<prop::sample::Index>()) {
        let mut wire = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut wire);
        }
        // Fed in two pieces, cut anywhere, the same frames come out.
        let tail = wire.split_off(cut.index(wire.len()));
        let mut read = Vec::new();
        while let Some(frame) = Frame::decode(&mut wire, LIMITS).unwrap() {
            read.push(frame);
        }
        wire.extend_from_slice(&tail);
        while let Some(frame) = Frame::decode(&mut wire, LIMITS).unwrap() {
            read.push(frame);
        }
        prop_assert_eq!(read, frames);
        prop_assert!(wire.is_empty());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = Frame::decode(&mut bytes, Limits { frame: 512 }) {}
    }
}
