//! Hex goldens pin the encoding; properties say that whatever is written is read, and that nothing panics.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{ConsumerId, Fence, GapCause, Offset, ProducerEpoch, ProducerId, RangeSet, Seq},
    wire::{
        Intent, Start,
        goldens::{self, cursor, hello, hex, name, subscribe, welcome},
    },
};

const LIMITS: Limits = Limits { frame: 1 << 20 };

fn encoded(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out);
    out
}

#[test]
fn goldens() {
    let goldens = goldens::frames();
    for (frame, golden) in &goldens {
        let mut bytes = encoded(frame);
        assert_eq!(hex(&bytes), *golden, "{frame:?}");
        assert_eq!(Frame::decode(&mut bytes, LIMITS), Ok(Some(frame.clone())));
        assert!(bytes.is_empty());
    }
    for number in NUMBERS {
        assert!(goldens.iter().any(|(frame, _)| frame.number() == *number), "frame {number:#04x} has no golden");
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
fn acknowledgements_of_many_ranges_are_frames_that_a_reader_takes() {
    // The largest numbers that there are, with the largest gaps: as many bytes as ranges can have.
    let (count, step) = (3 * 4096, varint::MAX / (3 * 4096));
    let all: RangeSet = (1..=count).map(|n| n * step).collect();
    let mut bytes = BytesMut::new();
    Ack::of(&all).for_each(|ack| Frame::Ack(ack).encode(&mut bytes));
    let mut read = RangeSet::new();
    while let Some(frame) = Frame::decode(&mut bytes, Limits::control()).unwrap() {
        let Frame::Ack(ack) = frame else { panic!("{frame:?}") };
        ack.ranges.iter().for_each(|range| read.insert_range(range));
    }
    assert_eq!((read, bytes.len()), (all, 0));
    assert_eq!(Ack::of(&RangeSet::new()).count(), 0);
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
            epoch: ProducerEpoch(epoch),
            features: 3
        })),
        ranges().prop_map(|ranges| Frame::Ack(Ack { ranges })),
        (ranges(), number.clone()).prop_map(|(seen, n)| Frame::Welcome(Welcome { seen, fence: Fence(n), ..welcome() })),
        (number.clone(), body.clone()).prop_map(|(n, json)| Frame::Record(Record { seq: Seq(n), json })),
        (number.clone(), any::<u64>(), body).prop_map(|(n, epoch, message)| Frame::Entry(Entry {
            offset: Offset(n),
            record_id: name(epoch, n),
            message
        })),
        (any::<u64>(), number.clone(), "[a-z]{0,20}", ".{0,40}").prop_map(|(epoch, n, name, selection)| subscribe(
            Start::After(cursor(epoch, n)),
            &name,
            &selection
        )),
        (id.clone(), number.clone(), number.clone(), 0..=GapCause::ALL.len()).prop_map(|(producer, a, b, cause)| Frame::Gap(Gap {
            producer,
            from: Offset(a),
            to: Offset(b),
            cause: GapCause::ALL.get(cause).copied()
        })),
        (number.clone(), proptest::option::of(0..varint::MAX)).prop_map(|(backlog, loss_ppm)| Frame::Health(Health { backlog, loss_ppm })),
        (number.clone(), id.clone(), "requested|active|denied|revoked|expired|invited|inactive").prop_map(|(subscription, id, status)| {
            Frame::Subscriber(Subscriber { subscription, consumer: ConsumerId(id.0), status: status.parse().unwrap() })
        }),
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
