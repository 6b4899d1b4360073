//! The index file of a segment: for each log a block of slots, then a directory of the blocks. All of it can be made again from the segment.
//!
//! A block is the CRC-32 of the rest, the producer epochs of its batches, and the slots, each as its differences to the one before. The
//! directory has for each log its key, offsets, bytes and newest time, and where its block is; the last 24 bytes of the file say where the
//! directory is, the length of the segment, and a checksum over the directory and the name and length of the segment.

use std::{collections::HashMap, fs::File, io, os::unix::fs::FileExt as _, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes};
use motience_proto::model::{LogId, LogKey, Offset, ProducerEpoch, Seq};

use super::{
    super::{
        frame::Slot,
        numbers::{count, get_key, put_key},
        segment::{Segment, batches, make},
    },
    Run, Runs, Slots,
};
use crate::varint::{get, get_signed, put, put_signed};

const MAGIC: [u8; 8] = *b"motidx1\n";
const TRAILER: usize = 24;

/// Place of a log's slots in an index file.
#[derive(Clone, Copy, Debug)]
pub(in crate::embedded::disk) struct Block {
    at: u64,
    length: u32,
}

/// Writes the index file of a segment with these runs, whose slots are here.
pub(in crate::embedded::disk) fn write(segment: &Segment, runs: &[(LogKey, Run)]) -> io::Result<Vec<(LogId, Block)>> {
    let (mut out, mut blocks, mut directory) = (MAGIC.to_vec(), Vec::new(), Vec::new());
    put(&mut directory, runs.len() as u64);
    for (key, run) in runs {
        let Slots::Here(slots) = &run.slots else { continue };
        let at = out.len();
        out.put_u32_le(0);
        encode(&mut out, slots);
        let sum = crc32fast::hash(&out[at + 4..]);
        out[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        let block = Block { at: at as u64, length: u32::try_from(out.len() - at).map_err(io::Error::other)? };
        blocks.push((key.log, block));
        put_key(&mut directory, *key);
        for number in [run.first.0, run.last.0, run.bytes] {
            put(&mut directory, number);
        }
        put_signed(&mut directory, run.newest);
        put(&mut directory, block.at);
        put(&mut directory, u64::from(block.length));
    }
    let at = out.len() as u64;
    out.extend_from_slice(&directory);
    out.put_u64_le(at);
    out.put_u64_le(segment.length());
    out.put_u64_le(sum(&directory, segment));
    make(&segment.index_path(), |file| file.write_all_at(&out, 0))?;
    Ok(blocks)
}

/// The runs of a segment, from its index file; `None` where there is none that can be believed.
pub(in crate::embedded::disk) fn open(segment: &Arc<Segment>) -> Option<Runs> {
    let file = File::open(segment.index_path()).ok()?;
    let length = file.metadata().ok()?.len();
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, length.checked_sub(TRAILER as u64)?).ok()?;
    let mut numbers = Bytes::copy_from_slice(&trailer);
    let (at, of, sum) = (numbers.get_u64_le(), numbers.get_u64_le(), numbers.get_u64_le());
    let directory = usize::try_from(length.checked_sub(TRAILER as u64)?.checked_sub(at)?).ok()?;
    let mut bytes = vec![0; directory];
    file.read_exact_at(&mut bytes, at).ok()?;
    if of != segment.length() || self::sum(&bytes, segment) != sum {
        return None;
    }
    let mut bytes = Bytes::from(bytes);
    let mut runs = Vec::new();
    for _ in 0..count(&mut bytes)? {
        let key = get_key(&mut bytes)?;
        let (first, last, all, newest) = (Offset(get(&mut bytes)?), Offset(get(&mut bytes)?), get(&mut bytes)?, get_signed(&mut bytes)?);
        let block = Block { at: get(&mut bytes)?, length: get(&mut bytes)?.try_into().ok()? };
        runs.push((key, Run { segment: Arc::clone(segment), first, last, bytes: all, newest, slots: Slots::Filed(block) }));
    }
    Some(runs)
}

/// Checksum of a directory and of whose it is.
fn sum(directory: &[u8], segment: &Segment) -> u64 {
    let mut sum = crc32fast::Hasher::new();
    let name = segment.name;
    for number in [name.first, name.last, u64::from(name.generation), segment.length()] {
        sum.update(&number.to_le_bytes());
    }
    sum.update(directory);
    u64::from(sum.finalize())
}

/// Slots of a log, from the index file, or from the segment itself where the file is damaged.
pub(super) fn read(segment: &Segment, log: LogId, block: &Block) -> io::Result<Vec<Slot>> {
    let read = || -> Option<Vec<Slot>> {
        let mut bytes = vec![0; block.length as usize];
        File::open(segment.index_path()).ok()?.read_exact_at(&mut bytes, block.at).ok()?;
        let mut bytes = Bytes::from(bytes);
        let sum = bytes.try_get_u32_le().ok()?;
        if crc32fast::hash(&bytes) == sum { decode(bytes) } else { None }
    };
    if let Some(slots) = read() {
        return Ok(slots);
    }
    let mut slots: Vec<Slot> = Vec::new();
    batches(&segment.bytes()?, &mut |key, slot| {
        if key.log == log && slots.last().is_none_or(|last| last.last() < slot.first) {
            slots.push(slot);
        }
    });
    Ok(slots)
}

fn encode(out: &mut Vec<u8>, slots: &[Slot]) {
    let (mut numbers, mut epochs) = (HashMap::new(), Vec::new());
    for slot in slots {
        numbers.entry(slot.producer_epoch).or_insert_with(|| {
            epochs.push(slot.producer_epoch);
            epochs.len() as u64 - 1
        });
    }
    put(out, epochs.len() as u64);
    epochs.iter().for_each(|epoch| out.put_u64_le(epoch.0));
    put(out, slots.len() as u64);
    let (mut next, mut end, mut at, mut seq) = (0, 0, 0, 0);
    for slot in slots {
        put(out, slot.first.0 - next);
        put(out, u64::from(slot.count));
        put(out, u64::from(slot.position) - end);
        put(out, u64::from(slot.length));
        put(out, u64::from(slot.length.saturating_sub(slot.bytes)));
        put_signed(out, slot.at.wrapping_sub(at));
        put(out, numbers[&slot.producer_epoch]);
        put_signed(out, slot.seq.0.wrapping_sub(seq).cast_signed());
        (next, end, at) = (slot.last().0 + 1, u64::from(slot.position) + u64::from(slot.length), slot.at);
        seq = slot.seq.0;
    }
}

fn decode(mut bytes: Bytes) -> Option<Vec<Slot>> {
    let epochs: Vec<_> = (0..count(&mut bytes)?).map(|_| bytes.try_get_u64_le().ok().map(ProducerEpoch)).collect::<Option<_>>()?;
    let slots = count(&mut bytes)?;
    let (mut next, mut end, mut at, mut seq) = (0_u64, 0_u64, 0_i64, 0_u64);
    let mut found = Vec::with_capacity(slots);
    for _ in 0..slots {
        let first = Offset(next.checked_add(get(&mut bytes)?)?);
        let count = u32::try_from(get(&mut bytes)?).ok().filter(|count| *count > 0)?;
        let position = u32::try_from(end.checked_add(get(&mut bytes)?)?).ok()?;
        let length = u32::try_from(get(&mut bytes)?).ok()?;
        let beside = u32::try_from(get(&mut bytes)?).ok()?;
        at = at.wrapping_add(get_signed(&mut bytes)?);
        let producer_epoch = *epochs.get(usize::try_from(get(&mut bytes)?).ok()?)?;
        seq = seq.wrapping_add(get_signed(&mut bytes)?.cast_unsigned());
        let slot = Slot { first, count, bytes: length.checked_sub(beside)?, position, length, at, producer_epoch, seq: Seq(seq) };
        (next, end) = (slot.last().0.checked_add(1)?, u64::from(position) + u64::from(length));
        found.push(slot);
    }
    Some(found)
}
