//! Outcomes of records: `Ack` (in the log), `Refused` (never in the log), `Skipped` (never sent).

use bytes::BytesMut;

use super::{
    error::Error,
    varint::{self, Body},
};
use crate::model::{RangeSet, Seq};

/// Most ranges in one frame; a sender with more splits them.
pub const MAX_RANGES: u64 = 4096;
/// Most ranges of an acknowledgement: two numbers of eight bytes each stay well below the limit of the control stream.
const MAX_ACK_RANGES: usize = 2048;
/// Longest code and message of a refusal, in bytes.
const MAX_CODE: usize = 64;
const MAX_MESSAGE: usize = 512;

/// Body of [`super::Frame::Ack`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Sequence numbers that are in the log, once.
    pub ranges: RangeSet,
}

impl Ack {
    /// Acknowledges these numbers: several times where one frame would hold more than its reader takes.
    pub fn of(ranges: &RangeSet) -> impl Iterator<Item = Self> {
        let all: Vec<_> = ranges.iter().collect();
        let count = all.len().div_ceil(MAX_ACK_RANGES);
        (0..count).map(move |n| {
            let mut ranges = RangeSet::new();
            all.iter().skip(n * MAX_ACK_RANGES).take(MAX_ACK_RANGES).for_each(|range| ranges.insert_range(range.clone()));
            Self { ranges }
        })
    }

    pub(super) fn put(&self, out: &mut BytesMut) {
        put_ranges(&self.ranges, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { ranges: read_ranges(body)? })
    }
}

/// Body of [`super::Frame::Refused`]: sending the record again would be refused again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The record.
    pub seq: Seq,
    /// Stable name of the reason, as the HTTP API spells it.
    pub code: String,
    /// The reason in words.
    pub message: String,
}

impl Refused {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.seq.0, out);
        varint::put_text(clip(&self.code, MAX_CODE), out);
        varint::put_text(clip(&self.message, MAX_MESSAGE), out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { seq: Seq(body.number()?), code: body.text(MAX_CODE)?, message: body.text(MAX_MESSAGE)? })
    }
}

/// Body of [`super::Frame::Skipped`]: numbers that were given out and will never be sent, because the outbox dropped their
/// records for room or lost them. The server counts them as seen, so that they leave no hole, and acknowledges them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Sequence numbers that will not come.
    pub ranges: RangeSet,
}

impl Skipped {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_ranges(&self.ranges, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { ranges: read_ranges(body)? })
    }
}

/// Ranges are written as gap and length, each from the end of the last: small numbers, and rising by construction.
pub(super) fn put_ranges(set: &RangeSet, out: &mut BytesMut) {
    varint::put(set.ranges() as u64, out);
    let mut end = 0;
    for range in set.iter() {
        varint::put(range.start() - end, out);
        varint::put(range.end() - range.start(), out);
        end = *range.end();
    }
}

pub(super) fn read_ranges(body: &mut Body) -> Result<RangeSet, Error> {
    let count = body.number()?;
    if count > MAX_RANGES {
        return Err(body.malformed());
    }
    let (mut set, mut end) = (RangeSet::new(), 0_u64);
    for i in 0..count {
        let (gap, length) = (body.number()?, body.number()?);
        // Adjacent ranges would be one range; only the first may start at 0.
        if i > 0 && gap < 2 {
            return Err(body.malformed());
        }
        let start = end.checked_add(gap).filter(|&n| n <= varint::MAX).ok_or_else(|| body.malformed())?;
        end = start.checked_add(length).filter(|&n| n <= varint::MAX).ok_or_else(|| body.malformed())?;
        set.insert_range(start..=end);
    }
    Ok(set)
}

/// The longest start of `text` that fits, cut between characters.
fn clip(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}
