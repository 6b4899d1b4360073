//! Rows of the file, each with a checksum of its own: what does not match is not trusted, whatever the file's structure says.
//!
//! A record: CRC-32 (of epoch, number and all that follows), lane, time it was enqueued (ms since 1970), JSON. The reservation:
//! CRC-32, JSON. Numbers are big-endian.

use bytes::Bytes;
use motience_proto::model::{ProducerEpoch, Seq};
use serde::{Deserialize, Serialize};

use super::Reservation;
use crate::{client::Lane, outbox::Item};

const CRC: usize = 4;
/// Checksum, lane, time.
const HEAD: usize = CRC + 1 + 8;
/// The version of rows.
const VERSION: u32 = 1;

/// The reservation with what else the file says of itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReservationRow {
    version: u32,
    epoch: u64,
    last: u64,
    reserved: u64,
    /// Rows of earlier versions do not say.
    #[serde(default, rename = "given")]
    last_sent: Option<u64>,
    #[serde(rename = "skipped")]
    abandoned: String,
    /// Records in the same commit.
    records: u64,
}

pub(super) fn encode(epoch: ProducerEpoch, item: &Item) -> Vec<u8> {
    let mut row = Vec::with_capacity(HEAD + item.json.len());
    row.extend_from_slice(&[0; CRC]);
    row.push(match item.lane {
        Lane::Ordered => 0,
        Lane::Independent => 1,
    });
    row.extend_from_slice(&item.enqueued_at.to_be_bytes());
    row.extend_from_slice(&item.json);
    let crc = checksum(epoch, item.seq.0, &row[CRC..]);
    row[..CRC].copy_from_slice(&crc.to_be_bytes());
    row
}

/// The record, if it is the one that was written for this epoch and number.
pub(super) fn decode(epoch: ProducerEpoch, seq: u64, row: &[u8]) -> Option<Item> {
    let (head, json) = row.split_at_checked(HEAD)?;
    if checksum(epoch, seq, &row[CRC..]).to_be_bytes() != head[..CRC] {
        return None;
    }
    let lane = match head[CRC] {
        0 => Lane::Ordered,
        1 => Lane::Independent,
        _ => return None,
    };
    let enqueued_at = u64::from_be_bytes(head[CRC + 1..].try_into().ok()?);
    Some(Item { seq: Seq(seq), lane, enqueued_at, json: Bytes::copy_from_slice(json) })
}

pub(super) fn encode_reservation(reservation: &Reservation, records: u64) -> Vec<u8> {
    let row = ReservationRow {
        version: VERSION,
        epoch: reservation.epoch.0,
        last: reservation.last,
        reserved: reservation.reserved,
        last_sent: reservation.last_sent,
        abandoned: reservation.abandoned.to_string(),
        records,
    };
    // Numbers and a text cannot fail to be JSON; if they did, the row would not be trusted, which is the safe side.
    let json = serde_json::to_vec(&row).unwrap_or_default();
    let mut bytes = crc32fast::hash(&json).to_be_bytes().to_vec();
    bytes.extend_from_slice(&json);
    bytes
}

/// The reservation, and how many records were in the same commit.
pub(super) fn decode_reservation(bytes: &[u8]) -> Option<(Reservation, u64)> {
    let (crc, json) = bytes.split_at_checked(CRC)?;
    if crc32fast::hash(json).to_be_bytes() != crc {
        return None;
    }
    let row: ReservationRow = serde_json::from_slice(json).ok()?;
    if row.version != VERSION || row.reserved < row.last || row.epoch == 0 {
        return None;
    }
    let abandoned = row.abandoned.parse().ok()?;
    Some((
        Reservation { epoch: ProducerEpoch(row.epoch), last: row.last, reserved: row.reserved, last_sent: row.last_sent, abandoned },
        row.records,
    ))
}

fn checksum(epoch: ProducerEpoch, seq: u64, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&epoch.0.to_be_bytes());
    hasher.update(&seq.to_be_bytes());
    hasher.update(rest);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_row_is_read_back_and_no_flipped_bit_goes_unseen(
            epoch in 1_u64.., seq in 1_u64.., ordered in any::<bool>(), enqueued_at: u64,
            json in proptest::collection::vec(any::<u8>(), 0..100), bit: usize
        ) {
            let lane = if ordered { Lane::Ordered } else { Lane::Independent };
            let item = Item { seq: Seq(seq), lane, enqueued_at, json: json.into() };
            let mut row = encode(ProducerEpoch(epoch), &item);
            let read = decode(ProducerEpoch(epoch), seq, &row);
            prop_assert_eq!(read, Some(item));
            prop_assert_eq!(decode(ProducerEpoch(epoch), seq.wrapping_add(1), &row), None);
            prop_assert_eq!(decode(ProducerEpoch(epoch.wrapping_add(1)), seq, &row), None);
            let bit = bit % (row.len() * 8);
            row[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(ProducerEpoch(epoch), seq, &row), None);
        }

        #[test]
        fn a_mark_is_read_back_and_no_flipped_bit_goes_unseen(
            epoch in 1_u64.., last in 0_u64..1000, more in 0_u64..1000, abandoned in proptest::collection::vec(1_u64..50, 0..9), bit: usize
        ) {
            let last_sent = (more % 2 == 0).then_some(last / 2);
            let reservation = Reservation { epoch: ProducerEpoch(epoch), last, reserved: last + more, last_sent, abandoned: abandoned.into_iter().collect() };
            let mut row = encode_reservation(&reservation, 7);
            prop_assert_eq!(decode_reservation(&row), Some((reservation, 7)));
            let bit = bit % (row.len() * 8);
            row[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode_reservation(&row), None);
        }
    }
}
