//! Counts, texts, keys and range sets as segments and their indexes have them, made of numbers of variable length ([`crate::varint`]).
//!
//! A function that reads answers `None` where the bytes are nothing of the kind.

use bytes::{Buf as _, BufMut as _, Bytes};
use motience_proto::model::{LogId, LogKey, ProducerId, RangeSet};

use crate::varint::{get, get_signed, put, put_signed};

/// A number of things of which each takes a byte at least.
pub(super) fn count(body: &mut Bytes) -> Option<usize> {
    usize::try_from(get(body)?).ok().filter(|count| *count <= body.len())
}

pub(super) fn put_key(out: &mut Vec<u8>, key: LogKey) {
    put_signed(out, key.producer.0);
    out.put_u64_le(key.log.0);
}

pub(super) fn get_key(body: &mut Bytes) -> Option<LogKey> {
    Some(LogKey { producer: ProducerId(get_signed(body)?), log: LogId(body.try_get_u64_le().ok()?) })
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.put_slice(text.as_bytes());
}

pub(super) fn get_bytes(body: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(get(body)?).ok().filter(|length| *length <= body.len())?;
    Some(body.split_to(length))
}

pub(super) fn get_text(body: &mut Bytes) -> Option<String> {
    String::from_utf8(get_bytes(body)?.into()).ok()
}

pub(super) fn put_texts<'a>(out: &mut Vec<u8>, texts: impl ExactSizeIterator<Item = &'a str>) {
    put(out, texts.len() as u64);
    texts.for_each(|text| put_text(out, text));
}

pub(super) fn get_texts(body: &mut Bytes) -> Option<Vec<String>> {
    (0..count(body)?).map(|_| get_text(body)).collect()
}

pub(super) fn put_ranges(out: &mut Vec<u8>, ranges: &RangeSet) {
    put(out, ranges.ranges() as u64);
    let mut before = 0;
    for range in ranges.iter() {
        put(out, range.start() - before);
        put(out, range.end() - range.start());
        before = *range.end();
    }
}

pub(super) fn get_ranges(body: &mut Bytes) -> Option<RangeSet> {
    let (mut ranges, mut before) = (RangeSet::new(), 0_u64);
    for _ in 0..count(body)? {
        let start = before.checked_add(get(body)?)?;
        before = start.checked_add(get(body)?)?;
        ranges.insert_range(start..=before);
    }
    Some(ranges)
}
