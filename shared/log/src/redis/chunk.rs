//! Chunks: consecutive records of one sender that stand together in one entry of the stream, and are published in one message.
//!
//! ```text
//! chunk := 1 RECEIVED body | 2 SIZE RECEIVED zstd(body)     SIZE of the body, four bytes
//! body  := COUNT (SEQ LENGTH)* messages                      SEQ less the one before
//! ```
//!
//! RECEIVED is when the records came, in milliseconds since 1970. Numbers but SIZE are LEB128; a difference of numbers is zigzag. SIZE is where
//! `read` in motience.lua finds it. A reader that stands within a chunk gets the whole of it, so a chunk holds about [`MAX_BYTES`], or a
//! single record.

use std::cell::RefCell;

use bytes::{Buf as _, Bytes};
use motience_proto::model::{ProducerEpoch, RecordId, Seq, times};
use time::OffsetDateTime;
use zstd::bulk::Compressor;

use crate::{
    AppendRecord, Entry,
    varint::{get, get_signed, put, put_signed},
};

/// Bytes of messages after which a chunk ends.
const MAX_BYTES: usize = 32 << 10;
/// Records after which a chunk ends.
const MAX_RECORDS: usize = 1024;
/// Bytes of a body from which on it is compressed: less has little to repeat.
const COMPRESS_FROM: usize = 1 << 10;
/// Longest body: that of the longest record that a setting allows (16 MiB), and more than any node writes.
const MAX_BODY: usize = 64 << 20;
/// Fastest of the levels that are worth it.
const LEVEL: i32 = 1;
const PLAIN: u8 = 1;
const ZSTD: u8 = 2;

/// Why a chunk cannot be read.
#[derive(Debug)]
pub(super) struct Damaged;

/// Cuts the records of a batch into those of its chunks.
pub(super) fn split(records: &[AppendRecord]) -> impl Iterator<Item = &[AppendRecord]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let full = rest.iter().take(MAX_RECORDS).position(|record| {
            bytes += record.message.len();
            bytes >= MAX_BYTES
        });
        let (chunk, left) = rest.split_at(full.map_or(rest.len().min(MAX_RECORDS), |last| last + 1));
        rest = left;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Client ids of the records, each with its place in the chunk.
pub(super) fn ids(records: &[AppendRecord]) -> impl Iterator<Item = (usize, &str)> + Clone {
    records.iter().enumerate().filter_map(|(place, record)| Some((place, record.id.as_deref().filter(|id| !id.is_empty())?)))
}

/// The chunk of these records, which came `now`.
pub(super) fn encode(records: &[AppendRecord], now: OffsetDateTime) -> Vec<u8> {
    written(records.iter().map(|record| (record.seq, &record.message)), now)
}

/// The chunk of entries that another had, some of which were erased since.
pub(super) fn again(entries: &[Entry], received: Option<OffsetDateTime>) -> Vec<u8> {
    written(entries.iter().map(|entry| (entry.record_id.seq, &entry.message)), received.unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

fn written<'a>(records: impl ExactSizeIterator<Item = (Seq, &'a Bytes)> + Clone, now: OffsetDateTime) -> Vec<u8> {
    let messages: usize = records.clone().map(|(_, message)| message.len()).sum();
    let mut body = Vec::with_capacity(messages + 6 * records.len() + 3);
    put(&mut body, records.len() as u64);
    let mut before = 0;
    for (seq, message) in records.clone() {
        put_signed(&mut body, seq.0.wrapping_sub(before).cast_signed());
        put(&mut body, message.len() as u64);
        before = seq.0;
    }
    for (_, message) in records {
        body.extend_from_slice(message);
    }
    let compressed = if (COMPRESS_FROM..=MAX_BODY).contains(&body.len()) { compress(&body) } else { None };
    let mut chunk = Vec::with_capacity(compressed.as_ref().unwrap_or(&body).len() + 12);
    match compressed {
        Some(_) => {
            chunk.push(ZSTD);
            chunk.extend_from_slice(&(body.len() as u32).to_be_bytes());
        }
        None => chunk.push(PLAIN),
    }
    put(&mut chunk, u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0));
    chunk.extend_from_slice(&compressed.unwrap_or(body));
    chunk
}

/// Entries of a chunk, and when they came.
pub(super) fn decode(mut chunk: Bytes, epoch: ProducerEpoch) -> Result<(Vec<Entry>, Option<OffsetDateTime>), Damaged> {
    let size = match chunk.try_get_u8().map_err(|_| Damaged)? {
        PLAIN => None,
        ZSTD => Some(chunk.try_get_u32().map_err(|_| Damaged)? as usize).filter(|size| *size <= MAX_BODY).ok_or(Damaged)?.into(),
        _ => return Err(Damaged),
    };
    let received = times::from_millis(get(&mut chunk).ok_or(Damaged)?);
    let mut body = match size {
        None => chunk,
        Some(size) => zstd::bulk::decompress(&chunk, size).ok().filter(|body| body.len() == size).ok_or(Damaged)?.into(),
    };
    let count = length(&mut body)?;
    // Each takes two bytes at least.
    if count > body.len() / 2 {
        return Err(Damaged);
    }
    let mut seq = 0_u64;
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        seq = seq.wrapping_add(get_signed(&mut body).ok_or(Damaged)?.cast_unsigned());
        places.push((Seq(seq), length(&mut body)?));
    }
    let mut entries = Vec::with_capacity(count);
    for (seq, length) in places {
        if length > body.len() {
            return Err(Damaged);
        }
        entries.push(Entry { record_id: RecordId { producer_epoch: epoch, seq }, message: body.split_to(length) });
    }
    if body.is_empty() { Ok((entries, received)) } else { Err(Damaged) }
}

/// A number of records or bytes.
fn length(body: &mut Bytes) -> Result<usize, Damaged> {
    get(body).and_then(|length| usize::try_from(length).ok()).ok_or(Damaged)
}

/// The body compressed, where that spares an eighth of it.
fn compress(body: &[u8]) -> Option<Vec<u8>> {
    thread_local! {
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    }
    let compressed = COMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Compressor::new(LEVEL).ok();
        }
        kept.as_mut()?.compress(body).ok()
    })?;
    (compressed.len() < body.len() - body.len() / 8).then_some(compressed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    const EPOCH: ProducerEpoch = ProducerEpoch(7);

    fn records(parts: &[(u64, Vec<u8>)]) -> Vec<AppendRecord> {
        parts.iter().map(|(seq, message)| AppendRecord { seq: Seq(*seq), id: None, message: message.clone().into() }).collect()
    }

    fn at(millis: u64) -> OffsetDateTime {
        times::from_millis(millis).unwrap()
    }

    fn is_read_back(parts: &[(u64, Vec<u8>)]) -> usize {
        let records = records(parts);
        let chunk = encode(&records, at(1_738_150_500_123));
        let length = chunk.len();
        let (entries, received) = decode(chunk.into(), EPOCH).unwrap();
        assert_eq!(received, Some(at(1_738_150_500_123)));
        let ids = |seq| RecordId { producer_epoch: EPOCH, seq };
        assert!(entries.iter().map(|e| (e.record_id, &e.message)).eq(records.iter().map(|r| (ids(r.seq), &r.message))));
        length
    }

    proptest! {
        #[test]
        fn a_chunk_is_read_as_it_was_written(parts in vec((any::<u64>(), vec(any::<u8>(), 0..80)), 1..60)) {
            is_read_back(&parts);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200), form in 0_u8..4) {
            let _ = decode([vec![form], bytes].concat().into(), EPOCH);
        }
    }

    #[test]
    fn a_record_alone_costs_few_bytes_and_many_are_compressed() {
        let text = |n: u64| format!("{{\"producer_id\":\"1\",\"device_id\":\"d\",\"data\":{{\"value\":{n}}}}}").into_bytes();
        assert!(is_read_back(&[(1_000_000, text(1))]) <= text(1).len() + 16);
        let many: Vec<_> = (0..200).map(|n| (n, text(n))).collect();
        let bytes: usize = many.iter().map(|(_, text)| text.len()).sum();
        assert!(is_read_back(&many) < bytes / 3);
        is_read_back(&[(u64::MAX, Vec::new()), (0, b"{}".to_vec()), (u64::MAX, text(1))]);
    }

    #[test]
    fn a_damaged_chunk_is_no_chunk() {
        let whole = encode(&records(&(0..100).map(|n| (n, vec![b'a'; 30])).collect::<Vec<_>>()), at(5));
        assert_eq!(whole[0], ZSTD);
        let short = encode(&records(&[(1, b"{}".to_vec())]), at(5));
        assert_eq!(short, [1, 5, 1, 2, 2, b'{', b'}']);
        for good in [whole, short] {
            for end in 0..good.len() {
                assert!(decode(good[..end].to_vec().into(), EPOCH).is_err(), "{end}");
            }
            assert!(decode([&good[..], b"x"].concat().into(), EPOCH).is_err());
            assert!(decode([&[9], &good[1..]].concat().into(), EPOCH).is_err());
        }
        // A length that nobody has room for.
        assert!(decode([&[ZSTD, 0xff, 0xff, 0xff, 0xff, 5][..], b"x"].concat().into(), EPOCH).is_err());
    }

    #[test]
    fn a_batch_is_cut_at_bytes_and_records() {
        let lengths = |sizes: &[usize]| {
            let records = records(&sizes.iter().map(|size| (1, vec![b'a'; *size])).collect::<Vec<_>>());
            split(&records).map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(&[]), [] as [usize; 0]);
        assert_eq!(lengths(&[MAX_BYTES - 1, 1, 5, MAX_BYTES * 3, 7, 8]), [2, 2, 2]);
        assert_eq!(lengths(&vec![1; MAX_RECORDS + 1]), [MAX_RECORDS, 1]);
    }
}
