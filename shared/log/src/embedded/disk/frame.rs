//! Frames: how a segment holds batches, what they say of their senders, and notes about logs.
//!
//! A frame is a mark (0xff, which no UTF-8 text holds), flags, the length of its body, a CRC-32 of flags, length and body, and the body.
//! Numbers are little endian, or of variable length (LEB128, ZigZag where they may fall).
//!
//! A segment is divided into chapters by position. The first frame of a sender within a chapter defines a number for it; later frames of the
//! chapter name the sender by that number, and repeat its dedup window only where the window holds more than the batch added. The second
//! frame defines the number again, so that damage to either costs no other frame. A reader who comes by the index needs no other frame at all.

use std::{collections::HashMap, sync::Arc};

use bytes::{Buf as _, BufMut as _, Bytes};
use motience_proto::model::{Fence, LogEpoch, LogKey, Offset, ProducerEpoch, RangeSet, RecordId, Seq};

use super::numbers::{count, get_bytes, get_key, get_ranges, get_text, get_texts, put_key, put_ranges, put_text, put_texts};
use crate::{
    Entry, Epochs, SessionName,
    embedded::state::Note,
    varint::{get, get_signed, put, put_signed},
};

/// First bytes of a segment.
pub(super) const MAGIC: [u8; 8] = *b"motlog1\n";
/// Bytes of a frame before its body.
const HEADER: usize = 10;
/// First byte of a frame.
pub(super) const MARK: u8 = 0xff;
/// How many frames of a chapter define a sender's number.
const DEFINITIONS: u8 = 2;
/// Bytes of a chapter: a frame belongs to the one that it begins in.
const CHAPTER: u64 = 128 << 10;

/// The frame is the first of a group that was written and synced at once.
const FIRST: u8 = 1;
/// The frame says whose it is, and defines a number for that.
const DEFINES: u8 = 2;
/// The frame is a note about a log, not a batch.
const NOTE: u8 = 4;
/// The frame has the sender's fence and its whole dedup window.
const WINDOW: u8 = 8;
/// The frame has client ids.
const IDS: u8 = 16;
const KNOWN: u8 = FIRST | DEFINES | NOTE | WINDOW | IDS;

/// A batch on its way into a segment.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) key: LogKey,
    pub(super) producer_epoch: ProducerEpoch,
    /// Device that comes back under its name: its fence, and its dedup window with this batch.
    pub(super) session: Option<(&'a SessionName, Fence, &'a RangeSet)>,
    /// Offset of the first entry; 0 without entries.
    pub(super) first: Offset,
    /// Milliseconds since 1970 UTC.
    pub(super) at: i64,
    pub(super) entries: &'a [Entry],
    pub(super) ids: &'a [Arc<str>],
}

/// A batch as a segment has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Append {
    pub(super) key: LogKey,
    pub(super) producer_epoch: ProducerEpoch,
    pub(super) session: Option<(SessionName, Fence, RangeSet)>,
    pub(super) first: Offset,
    pub(super) at: i64,
    pub(super) entries: Vec<Entry>,
    pub(super) ids: Vec<Arc<str>>,
}

impl Append {
    /// A draft of the same batch, to be written to another segment.
    pub(super) fn draft(&self) -> Draft<'_> {
        let session = self.session.as_ref().map(|(name, fence, seen)| (name, *fence, seen));
        let Self { key, producer_epoch, first, at, .. } = *self;
        Draft { key, producer_epoch, session, first, at, entries: &self.entries, ids: &self.ids }
    }
}

/// Content of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Append(Append),
    Note(Note),
}

/// Place of a batch in its segment, and what a reader needs beside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) first: Offset,
    pub(super) count: u32,
    /// Bytes of messages.
    pub(super) bytes: u32,
    pub(super) position: u32,
    /// Bytes of the frame.
    pub(super) length: u32,
    pub(super) at: i64,
    pub(super) producer_epoch: ProducerEpoch,
    /// Number of the first record.
    pub(super) seq: Seq,
}

impl Slot {
    pub(super) fn last(&self) -> Offset {
        Offset(self.first.0 + u64::from(self.count) - 1)
    }

    /// `None` without entries.
    pub(super) fn of(producer_epoch: ProducerEpoch, first: Offset, at: i64, entries: &[Entry], place: (u64, usize)) -> Option<Self> {
        let seq = entries.first()?.record_id.seq;
        let bytes: usize = entries.iter().map(|entry| entry.message.len()).sum();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let position = u32::try_from(place.0).unwrap_or(u32::MAX);
        Some(Self { first, count: small(entries.len()), bytes: small(bytes), position, length: small(place.1), at, producer_epoch, seq })
    }
}

type SenderKey = (LogKey, ProducerEpoch, Option<SessionName>);

/// Writes frames, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    chapter: u64,
    next: u64,
    senders: HashMap<SenderKey, Sent>,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    /// How many frames have defined it.
    defined: u8,
    /// Time and number of the first record, from which those of all its frames are counted.
    at: i64,
    seq: u64,
    fence: Fence,
    seen: RangeSet,
}

impl Encoder {
    /// Goes on at `position` of a segment, whose chapter has given out the numbers before `next`.
    pub(super) fn after(position: u64, next: u64) -> Self {
        Self { chapter: position / CHAPTER, next, senders: HashMap::new() }
    }

    /// Adds a batch to `out`, which will be written at `start` of the segment.
    pub(super) fn append(&mut self, out: &mut Vec<u8>, start: u64, draft: &Draft<'_>) -> Option<Slot> {
        let at = out.len();
        let position = start + at as u64;
        if position / CHAPTER != self.chapter {
            self.senders.clear();
            (self.chapter, self.next) = (position / CHAPTER, 0);
        }
        let seq = draft.entries.first().map_or(0, |entry| entry.record_id.seq.0);
        let name = (draft.key, draft.producer_epoch, draft.session.map(|(name, ..)| name.clone()));
        let mut flags = if at == 0 { FIRST } else { 0 };
        if !draft.ids.is_empty() {
            flags |= IDS;
        }
        let next = &mut self.next;
        let sent = self.senders.entry(name).or_insert_with(|| {
            *next += 1;
            Sent { number: *next - 1, defined: 0, at: draft.at, seq, fence: Fence(0), seen: RangeSet::new() }
        });
        if sent.defined < DEFINITIONS {
            sent.defined += 1;
            flags |= DEFINES;
        }
        if let Some((_, fence, seen)) = draft.session {
            draft.entries.iter().for_each(|entry| {
                sent.seen.insert(entry.record_id.seq.0);
            });
            if flags & DEFINES != 0 || sent.fence != fence || sent.seen != *seen {
                flags |= WINDOW;
                (sent.fence, sent.seen) = (fence, seen.clone());
            }
        }
        begin(out, flags);
        put(out, sent.number);
        if flags & DEFINES != 0 {
            put_key(out, draft.key);
            out.put_u64_le(draft.producer_epoch.0);
            put_text(out, draft.session.map_or("", |(name, ..)| name.text()));
            put_signed(out, sent.at);
            put(out, sent.seq);
        }
        put(out, draft.first.0);
        put_signed(out, draft.at.wrapping_sub(sent.at));
        if flags & WINDOW != 0 {
            put(out, sent.fence.0);
            put_ranges(out, &sent.seen);
        }
        put(out, draft.entries.len() as u64);
        let mut before = sent.seq;
        for entry in draft.entries {
            put_signed(out, entry.record_id.seq.0.wrapping_sub(before).cast_signed());
            before = entry.record_id.seq.0;
            put(out, entry.message.len() as u64);
            out.put_slice(&entry.message);
        }
        if flags & IDS != 0 {
            put_texts(out, draft.ids.iter().map(|id| &**id));
        }
        end(out, at);
        Slot::of(draft.producer_epoch, draft.first, draft.at, draft.entries, (position, out.len() - at))
    }

    /// Adds a note to `out`.
    pub(super) fn note(out: &mut Vec<u8>, note: &Note) {
        let at = out.len();
        begin(out, NOTE | if at == 0 { FIRST } else { 0 });
        put_key(out, note.key);
        put(out, note.epochs.iter().len() as u64);
        for (log_epoch, began) in note.epochs.iter() {
            put(out, log_epoch.0);
            put(out, began.0);
        }
        put(out, note.removed.0);
        put(out, u64::from(note.gone_at.is_some()));
        put_signed(out, note.gone_at.unwrap_or(0));
        put_texts(out, note.gone.iter().map(SessionName::text));
        put_texts(out, note.ids_gone.iter().map(|id| &**id));
        end(out, at);
    }
}

/// Reads frames in the order of their segment.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    chapter: u64,
    next: u64,
    senders: HashMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    key: LogKey,
    producer_epoch: ProducerEpoch,
    name: Option<SessionName>,
    at: i64,
    seq: u64,
    fence: Fence,
    seen: RangeSet,
}

impl Decoder {
    /// The frame at `position`, which [`whole`] has found; `None` where it says nothing, or names a sender that nobody defined.
    pub(super) fn frame(&mut self, position: u64, frame: &Bytes) -> Option<Frame> {
        self.turn(position);
        let (flags, body) = (frame[1], frame.slice(HEADER..));
        if flags & NOTE != 0 {
            return note(body).map(Frame::Note);
        }
        let raw = Raw::parse(flags, body)?;
        let known = match raw.defined {
            Some(Defined { key, producer_epoch, name, at, seq }) => {
                self.next = self.next.max(raw.number.checked_add(1)?);
                self.senders.insert(raw.number, Known { key, producer_epoch, name, at, seq, fence: Fence(0), seen: RangeSet::new() });
                self.senders.get_mut(&raw.number)?
            }
            None => self.senders.get_mut(&raw.number)?,
        };
        let by = raw.entries.first().map_or(0, |(by, _)| by.cast_unsigned());
        let (at, first) = (known.at.wrapping_add(raw.at), known.seq.wrapping_add(by));
        let entries = entries(known.producer_epoch, Seq(first), raw.entries);
        let session = match (&known.name, raw.window) {
            (None, _) => None,
            (Some(name), window) => {
                match window {
                    Some(window) => (known.fence, known.seen) = window,
                    None => entries.iter().for_each(|entry| {
                        known.seen.insert(entry.record_id.seq.0);
                    }),
                }
                Some((name.clone(), known.fence, known.seen.clone()))
            }
        };
        let (key, producer_epoch) = (known.key, known.producer_epoch);
        Some(Frame::Append(Append { key, producer_epoch, session, first: raw.first, at, entries, ids: raw.ids }))
    }

    /// The number that the chapter of `position` has not given out yet.
    pub(super) fn next(&mut self, position: u64) -> u64 {
        self.turn(position);
        self.next
    }

    fn turn(&mut self, position: u64) {
        if position / CHAPTER != self.chapter {
            self.senders.clear();
            (self.chapter, self.next) = (position / CHAPTER, 0);
        }
    }
}

/// Bytes of the frame that `bytes` begin with, if they begin with a whole one that is what its checksum says.
pub(super) fn whole(bytes: &[u8]) -> Option<usize> {
    let header = bytes.get(..HEADER)?;
    let length = u32::from_le_bytes(header[2..6].try_into().ok()?) as usize;
    if header[0] != MARK || header[1] & !KNOWN != 0 {
        return None;
    }
    let body = bytes.get(HEADER..)?.get(..length)?;
    (sum(&header[1..6], body) == u32::from_le_bytes(header[6..10].try_into().ok()?)).then_some(HEADER + length)
}

/// Whether a frame begins a group: all that was written before it had been synced.
pub(super) fn begins_group(frame: &[u8]) -> bool {
    frame.get(1).is_some_and(|flags| flags & FIRST != 0)
}

/// Entries of the batch in this frame, as its slot knows it; `None` where the frame is damaged, or another.
pub(super) fn read(frame: &Bytes, slot: &Slot) -> Option<Vec<Entry>> {
    if whole(frame)? != frame.len() || frame[1] & NOTE != 0 {
        return None;
    }
    let raw = Raw::parse(frame[1], frame.slice(HEADER..))?;
    (raw.first == slot.first && raw.entries.len() == slot.count as usize).then(|| entries(slot.producer_epoch, slot.seq, raw.entries))
}

/// The sender that a number stands for.
struct Defined {
    key: LogKey,
    producer_epoch: ProducerEpoch,
    name: Option<SessionName>,
    at: i64,
    seq: u64,
}

/// A batch's frame without what other frames say.
struct Raw {
    number: u64,
    defined: Option<Defined>,
    first: Offset,
    at: i64,
    window: Option<(Fence, RangeSet)>,
    /// Each with the distance of its number from the one before.
    entries: Vec<(i64, Bytes)>,
    ids: Vec<Arc<str>>,
}

impl Raw {
    fn parse(flags: u8, mut body: Bytes) -> Option<Self> {
        let number = get(&mut body)?;
        let defined = if flags & DEFINES != 0 {
            let (key, producer_epoch, name) = (get_key(&mut body)?, ProducerEpoch(body.try_get_u64_le().ok()?), get_text(&mut body)?);
            let name = (!name.is_empty()).then(|| SessionName::stored(&name));
            Some(Defined { key, producer_epoch, name, at: get_signed(&mut body)?, seq: get(&mut body)? })
        } else {
            None
        };
        let (first, at) = (Offset(get(&mut body)?), get_signed(&mut body)?);
        let window = if flags & WINDOW != 0 { Some((Fence(get(&mut body)?), get_ranges(&mut body)?)) } else { None };
        let count = count(&mut body)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let by = get_signed(&mut body)?;
            entries.push((by, get_bytes(&mut body)?));
        }
        if first.0.checked_add(count as u64).is_none() || (first.0 == 0) != entries.is_empty() {
            return None;
        }
        let ids = if flags & IDS != 0 { get_texts(&mut body)?.into_iter().map(Arc::from).collect() } else { Vec::new() };
        body.is_empty().then_some(Self { number, defined, first, at, window, entries, ids })
    }
}

fn entries(producer_epoch: ProducerEpoch, first: Seq, raw: Vec<(i64, Bytes)>) -> Vec<Entry> {
    let mut seq = first.0;
    let entry = |(i, (by, message)): (usize, (i64, Bytes))| {
        if i > 0 {
            seq = seq.wrapping_add(by.cast_unsigned());
        }
        Entry { record_id: RecordId { producer_epoch, seq: Seq(seq) }, message }
    };
    raw.into_iter().enumerate().map(entry).collect()
}

fn note(mut body: Bytes) -> Option<Note> {
    let key = get_key(&mut body)?;
    let mut epochs = Epochs::default();
    for _ in 0..count(&mut body)? {
        let (log_epoch, began) = (LogEpoch(get(&mut body)?), Offset(get(&mut body)?));
        epochs.begin(log_epoch, began);
    }
    let removed = Offset(get(&mut body)?);
    let (is_gone, gone_at) = (get(&mut body)? != 0, get_signed(&mut body)?);
    let gone = get_texts(&mut body)?.iter().map(|name| SessionName::stored(name)).collect();
    let ids_gone = get_texts(&mut body)?.into_iter().map(Arc::from).collect();
    body.is_empty().then_some(Note { key, epochs, removed, gone_at: is_gone.then_some(gone_at), gone, ids_gone })
}

fn begin(out: &mut Vec<u8>, flags: u8) {
    out.put_slice(&[MARK, flags]);
    out.put_slice(&[0; HEADER - 2]);
}

fn end(out: &mut [u8], at: usize) {
    let (header, body) = out[at..].split_at_mut(HEADER);
    header[2..6].copy_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    let sum = sum(&header[1..6], body);
    header[6..].copy_from_slice(&sum.to_le_bytes());
}

fn sum(header: &[u8], body: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(header);
    sum.update(body);
    sum.finalize()
}

#[cfg(test)]
mod tests;
