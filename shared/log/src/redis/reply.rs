//! Reading what the functions answer and publish.

use std::{collections::HashSet, sync::Arc};

use bytes::{Buf, Bytes};
use motience_proto::model::{LogEpoch, LogKey, Offset, ProducerEpoch, RangeSet, RecordId, Seq, times};
use redis::Value;
use time::OffsetDateTime;

use super::{
    chunk,
    seal::{self, Seal},
};
use crate::{Batch, Bounds, Entry, Error, Fetch, Hold, SessionState, batch::blank, retention::Segment};

/// Longest first line of a published chunk: it may name each of its records.
const MAX_HEAD: usize = 16 << 10;

/// Sessions that one call has evicted, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Evicted([u64; 3]);

impl Evicted {
    const REASONS: [&str; 3] = ["count", "bytes", "age"];

    /// Reason and number, where there are any.
    pub(super) fn by_reason(self) -> impl Iterator<Item = (&'static str, u64)> {
        Self::REASONS.into_iter().zip(self.0).filter(|(_, number)| *number > 0)
    }
}

/// Sessions that a function has evicted.
pub(super) fn evicted(value: Value) -> Result<Evicted, Error> {
    let Value::Array(parts) = value else { return Err(damaged("number of evicted sessions")) };
    let numbers: Vec<u64> = parts
        .into_iter()
        .filter_map(|part| match part {
            Value::Int(number) => u64::try_from(number).ok(),
            _ => None,
        })
        .collect();
    numbers.try_into().map(Evicted).map_err(|_| damaged("number of evicted sessions"))
}

/// The session, which nobody holds yet, and what had to go for it.
pub(super) fn opened(value: Value) -> Result<(SessionState, Evicted), Error> {
    let Value::Array(mut parts) = value else { return Err(damaged("open")) };
    if parts.len() == 1 {
        return Err(match text(parts.remove(0))?.as_str() {
            "fenced" => Error::Fenced,
            "stale" => Error::Stale,
            _ => damaged("open"),
        });
    }
    let [log_epoch, fence, seen, gone] = <[Value; 4]>::try_from(parts).map_err(|_| damaged("open"))?;
    let opened = SessionState {
        log_epoch: text(log_epoch)?.parse().map_err(|_| damaged("epoch"))?,
        fence: text(fence)?.parse().map_err(|_| damaged("fence"))?,
        seen: text(seen)?.parse().map_err(|_| damaged("dedup window"))?,
        held: Hold::default(),
    };
    Ok((opened, evicted(gone)?))
}

/// Answer to an append.
pub(super) struct Appended {
    /// Outcome of each batch.
    pub(super) outcomes: Vec<Result<(), Error>>,
    /// Steps beside the append that failed.
    pub(super) notes: Vec<String>,
    /// Sessions that had to go for the room that windows take.
    pub(super) evicted: Evicted,
}

pub(super) fn appended(value: Value, batches: usize) -> Result<Appended, Error> {
    let Value::Array(parts) = value else { return Err(damaged("append")) };
    let [Value::Array(outcomes), Value::Array(notes), gone] = <[Value; 3]>::try_from(parts).map_err(|_| damaged("append"))? else {
        return Err(damaged("append"));
    };
    if outcomes.len() != batches {
        return Err(damaged("append"));
    }
    let outcomes: Result<_, Error> = outcomes
        .iter()
        .map(|part| match part {
            Value::Int(1) => Ok(Ok(())),
            Value::Int(-1) => Ok(Err(Error::Fenced)),
            Value::Int(-2) => Ok(Err(Error::Stale)),
            _ => Err(damaged("append")),
        })
        .collect();
    Ok(Appended { outcomes: outcomes?, notes: notes.into_iter().map(text).collect::<Result<_, _>>()?, evicted: evicted(gone)? })
}

/// Bounds of the log, and whether its present epoch has begun.
pub(super) fn bounds(value: Value) -> Result<(Bounds, bool), Error> {
    let Value::Array(parts) = value else { return Err(damaged("bounds")) };
    let [epochs, first, last, begun] = <[Value; 4]>::try_from(parts).map_err(|_| damaged("bounds"))?;
    let bounds = Bounds { epochs: text(epochs)?.parse().map_err(|_| damaged("epochs"))?, first: offset(first)?, last: offset(last)? };
    Ok((bounds, begun == Value::Int(1)))
}

/// The ends of a log's segments, oldest first.
pub(super) fn segments(value: Value) -> Result<Vec<Segment>, Error> {
    let Value::Array(marks) = value else { return Err(damaged("segments")) };
    let segment = |mark| {
        let mark = text(mark)?;
        let parts: Vec<u64> = mark.split(' ').map_while(|part| part.parse().ok()).collect();
        let [last, total, at] = parts[..] else { return Err(damaged("segment")) };
        Ok(Segment { last: Offset(last), total, at: times::from_millis(at).ok_or_else(|| damaged("segment"))? })
    };
    marks.into_iter().map(segment).collect()
}

pub(super) fn read(value: Value, key: LogKey) -> Result<Fetch, Error> {
    let Value::Array(parts) = value else { return Err(damaged("log")) };
    let [log_epoch, found] = <[Value; 2]>::try_from(parts).map_err(|_| damaged("log"))?;
    let log_epoch = text(log_epoch)?.parse().map_err(|_| damaged("epoch"))?;
    Ok(Fetch { log_epoch, batches: entries(found, key, log_epoch)?, damaged: None })
}

/// Records that follow each other and came at one time.
struct Run {
    first: Offset,
    received: Option<OffsetDateTime>,
    entries: Vec<Entry>,
}

/// The answer of XRANGE: runs of consecutive offsets become batches.
fn entries(value: Value, key: LogKey, log_epoch: LogEpoch) -> Result<Vec<Arc<Batch>>, Error> {
    let Value::Array(entries) = value else { return Err(damaged("log")) };
    let mut runs: Vec<Run> = Vec::new();
    for entry in entries {
        let next = one(entry)?;
        match runs.last_mut() {
            Some(run) if next.first.0 == run.first.0 + run.entries.len() as u64 && next.received == run.received => {
                run.entries.extend(next.entries);
            }
            _ => runs.push(next),
        }
    }
    let batch = |run: Run| Arc::new(Batch::new(key, log_epoch, run.first, run.entries).received(run.received));
    Ok(runs.into_iter().map(batch).collect())
}

/// One entry of the stream: a chunk, or a single record as nodes of the last version wrote them.
fn one(entry: Value) -> Result<Run, Error> {
    let Value::Array(parts) = entry else { return Err(damaged("entry")) };
    let [id, fields] = <[Value; 2]>::try_from(parts).map_err(|_| damaged("entry"))?;
    let id = text(id)?;
    let (offset, number) = id.split_once('-').ok_or_else(|| damaged("entry id"))?;
    let (offset, number): (u64, u64) = (offset.parse().map_err(|_| damaged("entry id"))?, number.parse().map_err(|_| damaged("entry id"))?);
    let Value::Array(fields) = fields else { return Err(damaged("entry")) };
    let [field, value] = <[Value; 2]>::try_from(fields).map_err(|_| damaged("entry"))?;
    let (field, Value::BulkString(value)) = (text(field)?, value) else { return Err(damaged("entry")) };
    if let Some(field) = field.strip_prefix('=') {
        let (sender, omitted) = field.split_at_checked(EPOCH).ok_or_else(|| damaged("sender"))?;
        let (entries, received) = chunk_of(value.into(), hex(sender)?, omitted)?;
        let first = (offset + 1).checked_sub(number).filter(|first| *first > 0 && entries.len() as u64 == number);
        return Ok(Run { first: Offset(first.ok_or_else(|| damaged("entry id"))?), received, entries });
    }
    let record_id = RecordId { producer_epoch: hex(&field)?, seq: Seq(number) };
    let (message, received) = unstamped(Bytes::from(value));
    Ok(Run { first: Offset(offset), received, entries: vec![Entry { record_id, message }] })
}

/// An entry of the stream whose value is to be another, and where it stands.
pub(super) struct Rewritten {
    pub(super) id: String,
    /// Offset of the last record.
    pub(super) last: Offset,
    /// The value without the messages that are erased; `None`: it has none of them.
    pub(super) value: Option<Vec<u8>>,
}

/// Takes the messages at these offsets out of an entry. Records that were left out, as their client ids were known, lose theirs with them.
pub(super) fn erased(entry: Value, offsets: &RangeSet) -> Result<Rewritten, Error> {
    let Value::Array(parts) = &entry else { return Err(damaged("entry")) };
    let [Value::BulkString(id), Value::Array(fields)] = &parts[..] else { return Err(damaged("entry")) };
    let [Value::BulkString(field), Value::BulkString(value)] = &fields[..] else { return Err(damaged("entry")) };
    let (id, field, value) = (String::from_utf8_lossy(id).into_owned(), field.clone(), value.clone());
    let Run { first, entries: mut logged, .. } = one(entry)?;
    let last = Offset(first.0 + logged.len() as u64 - 1);
    if !blank(&mut logged, first, offsets) {
        return Ok(Rewritten { id, last, value: None });
    }
    if !field.starts_with(b"=") {
        return Ok(Rewritten { id, last, value: Some(Vec::new()) });
    }
    let (mut all, received) = chunk::decode(Bytes::from(value), ProducerEpoch(0)).map_err(|chunk::Damaged| damaged("chunk"))?;
    let mut logged = logged.iter().peekable();
    for entry in &mut all {
        let is_kept = logged.peek().is_some_and(|next| next.record_id.seq == entry.record_id.seq);
        entry.message = if is_kept { logged.next().map(|next| next.message.clone()).unwrap_or_default() } else { Bytes::new() };
    }
    Ok(Rewritten { id, last, value: Some(chunk::again(&all, received)) })
}

/// Records of a chunk that are in the log, and when they came: without those at the places `omitted`, whose client ids were known.
fn chunk_of(chunk: Bytes, sender: ProducerEpoch, omitted: &str) -> Result<(Vec<Entry>, Option<OffsetDateTime>), Error> {
    let (mut entries, received) = chunk::decode(chunk, sender).map_err(|chunk::Damaged| damaged("chunk"))?;
    if !omitted.is_empty() {
        let omitted: HashSet<usize> = omitted.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| damaged("chunk"))?;
        let mut places = 0..;
        entries.retain(|_| places.next().is_none_or(|place| !omitted.contains(&place)));
    }
    if entries.is_empty() { Err(damaged("chunk")) } else { Ok((entries, received)) }
}

/// A published chunk: `LIFE FIRST SENDER SEAL OMITTED\n` and the chunk. Records whose place in it is OMITTED are not in the log. `None`: the
/// message has no seal of ours, and tells nothing, be it readable or not.
pub(super) fn published(key: LogKey, channel: &str, seal: &Seal, mut payload: Bytes) -> Result<Option<Batch>, Error> {
    let Some(told) = Told::read(&mut payload) else { return Ok(None) };
    let lent = seal.chunk(channel, told.log_epoch, told.sender, &payload);
    if !seal::same(seal::placed(&lent, &told.first.to_string(), &told.omitted).as_bytes(), told.seal.as_bytes()) {
        return Ok(None);
    }
    let (entries, received) = chunk_of(payload, told.sender, &told.omitted)?;
    Ok(Some(Batch::new(key, told.log_epoch, told.first, entries).received(received)))
}

/// First line of a published chunk as it came, whoever sent it.
struct Told {
    log_epoch: LogEpoch,
    first: Offset,
    sender: ProducerEpoch,
    seal: String,
    omitted: String,
}

impl Told {
    /// Takes the line from the payload.
    fn read(payload: &mut Bytes) -> Option<Self> {
        let end = payload.iter().take(MAX_HEAD).position(|&b| b == b'\n')?;
        let line = payload.split_to(end);
        payload.advance(1);
        let parts: Vec<&str> = std::str::from_utf8(&line).ok()?.split(' ').collect();
        let [log_epoch, first, sender, seal, omitted] = parts[..] else { return None };
        Some(Self {
            log_epoch: LogEpoch(log_epoch.parse().ok()?),
            first: Offset(first.parse().ok()?),
            sender: hex(sender).ok()?,
            seal: seal.to_owned(),
            omitted: omitted.to_owned(),
        })
    }
}

/// Digits of a producer epoch in a field's name.
const EPOCH: usize = 16;
/// Digits of a stamp: milliseconds since 1970, until the year 2527.
const STAMP: usize = 11;

/// A message and when it came, as nodes of the last version wrote them. One without a stamp ends as every object does, and no stamp has a brace in it.
fn unstamped(mut kept: Bytes) -> (Bytes, Option<OffsetDateTime>) {
    let Some(at) = kept.len().checked_sub(STAMP).filter(|at| *at > 0 && kept[at - 1] == b'}') else { return (kept, None) };
    let millis = std::str::from_utf8(&kept[at..]).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let received = millis.and_then(times::from_millis);
    if received.is_some() {
        kept.truncate(at);
    }
    (kept, received)
}

/// Milliseconds that a hash keeps, or nothing.
pub(super) fn time(value: Value) -> Result<Option<OffsetDateTime>, Error> {
    if value == Value::Nil {
        return Ok(None);
    }
    let millis: u64 = text(value)?.parse().map_err(|_| damaged("time"))?;
    Ok(times::from_millis(millis))
}

fn offset(value: Value) -> Result<Offset, Error> {
    text(value)?.parse().map_err(|_| damaged("offset"))
}

fn hex(text: &str) -> Result<ProducerEpoch, Error> {
    u64::from_str_radix(text, 16).map(ProducerEpoch).map_err(|_| damaged("sender"))
}

fn text(value: Value) -> Result<String, Error> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.to_vec()).map_err(|_| damaged("text")),
        Value::SimpleString(text) => Ok(text),
        _ => Err(damaged("text")),
    }
}

fn damaged(what: &str) -> Error {
    Error::Damaged(format!("Redis answered with no valid {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AppendRecord;
    use motience_proto::model::ProducerId;

    const KEY: LogKey = LogKey::numbered(ProducerId(3));
    const NOW: u64 = 1_738_150_500_123;
    /// Id of the second record of [`chunk`].
    const ID: RecordId = RecordId { producer_epoch: ProducerEpoch(255), seq: Seq(6) };

    fn chunk() -> Vec<u8> {
        let record = |seq, text: &'static str| AppendRecord { seq: Seq(seq), id: None, message: text.into() };
        chunk::encode(&[record(5, "{}"), record(6, "{ }")], times::from_millis(NOW).unwrap())
    }

    fn message(seal: &Seal, first: &str, omitted: &str, chunk: &[u8]) -> Vec<u8> {
        let lent = seal.chunk("c", LogEpoch(77), ProducerEpoch(255), chunk);
        [format!("77 {first} ff {} {omitted}\n", seal::placed(&lent, first, omitted)).as_bytes(), chunk].concat()
    }

    #[test]
    fn a_published_chunk_is_read_and_its_seal_looked_at() {
        let seal = Seal::new(&"a secret".into());
        let read = |payload: Vec<u8>| published(KEY, "c", &seal, payload.into());
        let good = read(message(&seal, "12", "", &chunk())).unwrap().unwrap();
        assert_eq!((good.log_epoch, good.first, good.len()), (LogEpoch(77), Offset(12), 2));
        assert_eq!((good.entries()[1].record_id, good.received), (ID, times::from_millis(NOW)));
        let part = read(message(&seal, "12", "0", &chunk())).unwrap().unwrap();
        assert_eq!((part.first, part.len(), part.entries()[0].record_id), (Offset(12), 1, ID));

        let whole = message(&seal, "12", "", &chunk());
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert_eq!(read(other).unwrap(), None, "{at}");
        }
        for bad in ["77 12 ff\n{}", "77 12 ff x \n", "77 12 zz x \n", "", "\n"] {
            assert_eq!(read(bad.into()).unwrap(), None, "{bad}");
        }
        // Of a node of ours, and of no use: as good as lost.
        for sealed in [message(&seal, "12", "", b"\x09{}"), message(&seal, "12", "0,1", &chunk()), message(&seal, "12", "x", &chunk())] {
            assert!(read(sealed).is_err());
        }
    }

    fn entry(id: &str, field: &str, value: impl Into<Vec<u8>>) -> Value {
        let text = |text: &str| Value::BulkString(text.into());
        Value::Array(vec![text(id), Value::Array(vec![text(field), Value::BulkString(value.into())])])
    }

    #[test]
    fn chunks_and_the_records_of_the_last_version_are_read_beside_each_other() {
        let found = Value::Array(vec![
            // Of the first release, and of the last version.
            entry("3-1", "ff", "{}"),
            entry("4-2", "ff", r#"{"n":2}0194b1c0d2b"#),
            entry("5-3", "ff", r#"{"n":3}0194b1c0d2b"#),
            entry("7-2", "=00000000000000ff", chunk()),
            entry("8-1", "=00000000000000ff0", chunk()),
        ]);
        let batches = entries(found, KEY, LogEpoch(9)).unwrap();
        let shape: Vec<_> = batches.iter().map(|batch| (batch.first.0, batch.last().0, batch.received.is_some())).collect();
        assert_eq!(shape, [(3, 3, false), (4, 5, true), (6, 8, true)]);
        let records = batches.iter().flat_map(|batch| batch.entries()).map(|entry| (entry.record_id.seq.0, &entry.message[..]));
        let expected: [(u64, &[u8]); 6] = [(1, b"{}"), (2, br#"{"n":2}"#), (3, br#"{"n":3}"#), (5, b"{}"), (6, b"{ }"), (6, b"{ }")];
        assert!(records.eq(expected));
        for bad in [
            entry("7-3", "=00000000000000ff", chunk()),
            entry("1-2", "=00000000000000ff", chunk()),
            entry("7-2", "=ff", chunk()),
            entry("7-2", "=00000000000000ff", "{}"),
            entry("7-2", "zz", "{}"),
        ] {
            assert!(entries(Value::Array(vec![bad]), KEY, LogEpoch(9)).is_err());
        }
    }

    #[test]
    fn when_a_message_of_the_last_version_came_stands_behind_it() {
        let now = times::from_millis(0x0019_4b1c_0d2b).unwrap();
        assert_eq!(unstamped(Bytes::from_static(br#"{"a":1}0194b1c0d2b"#)), (Bytes::from_static(br#"{"a":1}"#), Some(now)));
        // As nodes of the first release wrote them.
        for plain in [&br#"{"a":"0194b1c0d2b"}"#[..], b"{}", b""] {
            assert_eq!(unstamped(plain.into()), (plain.into(), None));
        }
    }

    #[test]
    fn marks_are_the_ends_of_segments() {
        let marks = |marks: &[&str]| segments(Value::Array(marks.iter().map(|mark| Value::BulkString((*mark).into())).collect()));
        let segment = |last, total, at| Segment { last: Offset(last), total, at: times::from_millis(at).unwrap() };
        assert_eq!(marks(&["5 100 1000", "9 200 2000"]).unwrap(), [segment(5, 100, 1000), segment(9, 200, 2000)]);
        for bad in ["5 100", "5 100 1000 1", "a 100 1000", ""] {
            assert!(marks(&[bad]).is_err(), "{bad}");
        }
    }
}
