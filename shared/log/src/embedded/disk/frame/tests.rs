//! Frames are read as they were written, whatever became of others.

use motience_proto::model::{DeviceId, LogId, ProducerId};
use proptest::prelude::*;

use super::*;
use crate::embedded::disk::segment::{Piece, scan};

#[derive(Clone, Debug)]
struct Sample {
    key: LogKey,
    producer_epoch: ProducerEpoch,
    name: Option<SessionName>,
    fence: u64,
    extra: Vec<u64>,
    at: i64,
    seqs: Vec<u64>,
    size: usize,
    ids: Vec<Arc<str>>,
}

fn sample() -> impl Strategy<Value = Sample> {
    let key = (-2_i64..3, 0_u64..3).prop_map(|(producer, log)| LogKey { producer: ProducerId(producer), log: LogId(log) });
    let name = proptest::option::of((0..3_u8).prop_map(|n| SessionName::device(&DeviceId::new(&format!("d{n}")).unwrap())));
    let seqs = (any::<u32>(), 0..5_u64).prop_map(|(from, count)| (u64::from(from)..u64::from(from) + count).collect());
    let ids = proptest::collection::vec("[a-z]{0,5}".prop_map(Arc::from), 0..3);
    (key, 0..3_u64, name, 0..3_u64, proptest::collection::vec(any::<u64>(), 0..4), any::<i32>(), seqs, 0..3_000_usize, ids).prop_map(
        |(key, epoch, name, fence, extra, at, seqs, size, ids)| Sample {
            key,
            producer_epoch: ProducerEpoch(epoch),
            name,
            fence,
            extra,
            at: i64::from(at),
            seqs,
            size,
            ids,
        },
    )
}

/// A segment of these batches, written in groups of three, and what its frames say.
fn written(samples: &[Sample]) -> (Vec<u8>, Vec<(Append, Option<Slot>)>) {
    let (mut bytes, mut encoder, mut expected) = (MAGIC.to_vec(), Encoder::default(), Vec::new());
    for group in samples.chunks(3) {
        let (mut out, start) = (Vec::new(), bytes.len() as u64);
        for (n, sample) in group.iter().enumerate() {
            let producer_epoch = sample.producer_epoch;
            let entry = |seq: &u64| Entry {
                record_id: RecordId { producer_epoch, seq: Seq(*seq) },
                message: Bytes::from(format!("{n}-{seq}-{}", "m".repeat(sample.size))),
            };
            let entries: Vec<Entry> = sample.seqs.iter().map(entry).collect();
            let seen: RangeSet = sample.extra.iter().chain(&sample.seqs).copied().collect();
            let session = sample.name.as_ref().map(|name| (name, Fence(sample.fence), &seen));
            let first = Offset(if entries.is_empty() { 0 } else { expected.len() as u64 * 10 + 1 });
            let draft = Draft { key: sample.key, producer_epoch, session, first, at: sample.at, entries: &entries, ids: &sample.ids };
            let slot = encoder.append(&mut out, start, &draft);
            let session = session.map(|(name, fence, seen)| (name.clone(), fence, seen.clone()));
            let append = Append { key: sample.key, producer_epoch, session, first, at: sample.at, entries, ids: sample.ids.clone() };
            expected.push((append, slot));
        }
        bytes.extend_from_slice(&out);
    }
    (bytes, expected)
}

proptest! {
    #[test]
    fn frames_are_read_back(samples in proptest::collection::vec(sample(), 1..60)) {
        let (bytes, expected) = written(&samples);
        let (bytes, mut found) = (Bytes::from(bytes), Vec::new());
        scan(&bytes, &mut |piece| found.push(piece));
        prop_assert_eq!(found.len(), expected.len());
        for (n, (piece, (append, slot))) in found.into_iter().zip(expected).enumerate() {
            let Piece::Frame { position, length, begins_group, frame } = piece else { panic!("nothing is damaged") };
            prop_assert_eq!(begins_group, n % 3 == 0);
            prop_assert_eq!(&frame, &Frame::Append(append.clone()));
            if let Some(slot) = slot {
                prop_assert_eq!((u64::from(slot.position), slot.length as usize), (position, length));
                let frame = bytes.slice(position as usize..position as usize + length);
                prop_assert_eq!(read(&frame, &slot), Some(append.entries));
            }
        }
    }

    /// One flipped bit: nothing is read that was not written, and a reader who comes by the index misses one batch at most.
    #[test]
    fn a_flipped_bit_is_noticed(samples in proptest::collection::vec(sample(), 1..20), place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let (mut bytes, expected) = written(&samples);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let bytes = Bytes::from(bytes);
        let (mut frames, mut damaged) = (Vec::new(), 0);
        scan(&bytes, &mut |piece| match piece {
            Piece::Frame { frame: Frame::Append(append), .. } => frames.push(append),
            Piece::Frame { .. } => panic!("there are no notes"),
            Piece::Damaged { .. } | Piece::Orphan { .. } => damaged += 1,
        });
        prop_assert!(damaged > 0);
        // Windows that build on a damaged frame lack its numbers; records are those that were written.
        for found in &frames {
            let is_it = |(append, _): &(Append, Option<Slot>)| {
                let seen = |append: &Append| append.session.as_ref().map(|(_, _, seen)| seen.numbers());
                append.entries == found.entries && append.first == found.first && append.key == found.key && seen(found) <= seen(append)
            };
            prop_assert!(expected.iter().any(is_it));
        }
        let slots: Vec<_> = expected.iter().filter_map(|(append, slot)| slot.map(|slot| (append, slot))).collect();
        let whole = slots.iter().filter(|(append, slot)| {
            let frame = bytes.slice(slot.position as usize..(slot.position + slot.length) as usize);
            read(&frame, slot).is_some_and(|entries| entries == append.entries)
        });
        prop_assert!(whole.count() + 1 >= slots.len());
    }
}

#[test]
fn notes_are_read_back() {
    let note = Note {
        key: LogKey::numbered(ProducerId(-3)),
        epochs: "7:0,8:40".parse().unwrap(),
        removed: Offset(12),
        gone_at: Some(-5),
        gone: vec![SessionName::device(&DeviceId::new("d").unwrap())],
        ids_gone: vec!["a".into(), "".into()],
    };
    let mut bytes = MAGIC.to_vec();
    let mut out = Vec::new();
    Encoder::note(&mut out, &note);
    bytes.extend_from_slice(&out);
    let mut found = Vec::new();
    scan(&bytes.into(), &mut |piece| found.push(piece));
    assert!(matches!(&found[..], [Piece::Frame { frame: Frame::Note(read), begins_group: true, .. }] if *read == note));
}
