//! Reading what the functions answer and publish.

use std::{collections::HashSet, sync::Arc};

use bytes::{Buf, Bytes};
use motience_proto::model::{LogEpoch, LogKey, Offset, ProducerEpoch, RecordId, Seq, times};
use redis::Value;
use time::OffsetDateTime;

use super::seal::{self, Seal};
use crate::{Batch, Bounds, Entry, Error, Fetch, Hold, SessionState};

/// Longest first line of a published batch: it may name each of some thousands of records.
const MAX_HEAD: usize = 64 << 10;
/// Longest line before a record.
const MAX_LINE: usize = 64;

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

/// Last offset of the newest segment older than `time`, in milliseconds.
pub(super) fn segment_before(value: Value, time: i128) -> Result<Option<Offset>, Error> {
    let Value::Array(marks) = value else { return Err(damaged("segments")) };
    let mut found = None;
    for mark in marks {
        let mark = text(mark)?;
        let mut parts = mark.split(' ');
        let (Some(offset), Some(at)) = (parts.next(), parts.nth(1)) else { return Err(damaged("segment")) };
        if at.parse::<i128>().map_err(|_| damaged("segment"))? >= time {
            break;
        }
        found = Some(Offset(offset.parse().map_err(|_| damaged("segment"))?));
    }
    Ok(found)
}

pub(super) fn read(value: Value, key: LogKey) -> Result<Fetch, Error> {
    let Value::Array(parts) = value else { return Err(damaged("log")) };
    let [log_epoch, found] = <[Value; 2]>::try_from(parts).map_err(|_| damaged("log"))?;
    let log_epoch = text(log_epoch)?.parse().map_err(|_| damaged("epoch"))?;
    Ok(Fetch { log_epoch, batches: entries(found, key, log_epoch)?, damaged: None })
}

/// Entries that follow each other and came at one time.
#[derive(Default)]
struct Run {
    first: Offset,
    received: Option<OffsetDateTime>,
    entries: Vec<Entry>,
}

impl Run {
    fn batch(self, key: LogKey, log_epoch: LogEpoch) -> Option<Batch> {
        if self.entries.is_empty() {
            return None;
        }
        Some(Batch::new(key, log_epoch, self.first, self.entries).received(self.received))
    }
}

/// The answer of XRANGE: runs of consecutive offsets become batches.
fn entries(value: Value, key: LogKey, log_epoch: LogEpoch) -> Result<Vec<Arc<Batch>>, Error> {
    let Value::Array(entries) = value else { return Err(damaged("log")) };
    let mut batches = Vec::new();
    let mut run = Run::default();
    let mut end = |run: Run| batches.extend(run.batch(key, log_epoch).map(Arc::new));
    for entry in entries {
        let (offset, received, entry) = one(entry)?;
        if offset.0 != run.first.0 + run.entries.len() as u64 || received != run.received {
            end(std::mem::replace(&mut run, Run { first: offset, received, entries: Vec::new() }));
        }
        run.entries.push(entry);
    }
    end(run);
    Ok(batches)
}

/// The message of one append: `LIFE FIRST SENDER SEAL OMITTED\n` and then `LENGTH SEQ\nMESSAGE` for each record. Those whose
/// place among them is OMITTED were known by their clients' ids, and are not in the log. `None`: it has no seal of ours, and tells
/// nothing, be it readable or not.
pub(super) fn published(key: LogKey, channel: &str, seal: &Seal, payload: Bytes) -> Option<Batch> {
    let told = Told::read(payload).ok()?;
    let records = told.entries.iter().map(|entry| (entry.record_id.seq, &entry.message[..]));
    let lent = seal.batch(channel, told.log_epoch, told.sender, records);
    let placed = seal::placed(&lent, &told.first.to_string(), &told.omitted);
    if !seal::same(placed.as_bytes(), told.seal.as_bytes()) {
        return None;
    }
    let omitted: HashSet<u64> = told.omitted.split(',').filter_map(|at| at.parse().ok()).collect();
    let mut entries = told.entries;
    if !omitted.is_empty() {
        let mut at = 0..;
        entries.retain(|_| at.next().is_none_or(|at| !omitted.contains(&at)));
    }
    // One append, so one time.
    let mut received = None;
    for entry in &mut entries {
        (entry.message, received) = unstamped(entry.message.clone());
    }
    (!entries.is_empty()).then(|| Batch::new(key, told.log_epoch, told.first, entries).received(received))
}

/// A published batch as it came, whoever sent it.
struct Told {
    log_epoch: LogEpoch,
    first: Offset,
    sender: ProducerEpoch,
    seal: String,
    omitted: String,
    entries: Vec<Entry>,
}

impl Told {
    fn read(mut payload: Bytes) -> Result<Self, Error> {
        let header = line(&mut payload, MAX_HEAD)?;
        let parts: Vec<&str> = header.split(' ').collect();
        let [log_epoch, first, sender, seal, omitted] = parts[..] else { return Err(damaged("published batch")) };
        let (log_epoch, first, sender) = (LogEpoch(number(log_epoch)?), Offset(number(first)?), hex(sender)?);
        let mut entries = Vec::new();
        while payload.has_remaining() {
            let header = line(&mut payload, MAX_LINE)?;
            let (length, seq) = header.split_once(' ').ok_or_else(|| damaged("published length"))?;
            let length: usize = length.parse().map_err(|_| damaged("published length"))?;
            let seq = Seq(number(seq)?);
            if length > payload.len() {
                return Err(damaged("published message"));
            }
            entries.push(Entry { record_id: RecordId { producer_epoch: sender, seq }, message: payload.split_to(length) });
        }
        Ok(Self { log_epoch, first, sender, seal: seal.to_owned(), omitted: omitted.to_owned(), entries })
    }
}

fn one(entry: Value) -> Result<(Offset, Option<OffsetDateTime>, Entry), Error> {
    let Value::Array(parts) = entry else { return Err(damaged("entry")) };
    let [id, fields] = <[Value; 2]>::try_from(parts).map_err(|_| damaged("entry"))?;
    let id = text(id)?;
    let (offset, seq) = id.split_once('-').ok_or_else(|| damaged("entry id"))?;
    let (offset, seq) = (offset.parse().map_err(|_| damaged("entry id"))?, seq.parse().map_err(|_| damaged("entry id"))?);
    let Value::Array(fields) = fields else { return Err(damaged("entry")) };
    let [sender, message] = <[Value; 2]>::try_from(fields).map_err(|_| damaged("entry"))?;
    let Value::BulkString(message) = message else { return Err(damaged("entry")) };
    let name = RecordId { producer_epoch: hex(&text(sender)?)?, seq: Seq(seq) };
    let (message, received) = unstamped(Bytes::from(message));
    Ok((Offset(offset), received, Entry { record_id: name, message }))
}

/// Digits of a stamp: milliseconds since 1970, until the year 2527.
const STAMP: usize = 11;

/// A message with the time it came behind it, as the log keeps it.
pub(super) fn stamped(message: &[u8], now: OffsetDateTime) -> Vec<u8> {
    let stamp = format!("{:011x}", now.unix_timestamp_nanos() / 1_000_000);
    [message, stamp.as_bytes()].concat()
}

/// A message and when it came. One without a stamp ends as every object does, and no stamp has a brace in it.
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

fn number(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| damaged("published number"))
}

fn line(payload: &mut Bytes, longest: usize) -> Result<String, Error> {
    let end = payload.iter().take(longest).position(|&b| b == b'\n').ok_or_else(|| damaged("published batch"))?;
    let line = payload.split_to(end);
    payload.advance(1);
    String::from_utf8(line.to_vec()).map_err(|_| damaged("published batch"))
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
    use motience_proto::model::ProducerId;

    const KEY: LogKey = LogKey::numbered(ProducerId(3));

    fn batch(seal: &Seal, first: &str, omitted: &str, body: &'static str, records: &[(u64, &[u8])]) -> Bytes {
        let lent = seal.batch("c", LogEpoch(77), ProducerEpoch(255), records.iter().map(|&(seq, message)| (Seq(seq), message)));
        Bytes::from(format!("77 {first} ff {} {omitted}\n{body}", seal::placed(&lent, first, omitted)))
    }

    #[test]
    fn a_published_batch_is_read_and_its_seal_looked_at() {
        let seal = Seal::new(&"a secret".into());
        let read = |payload| published(KEY, "c", &seal, payload);
        let (body, records): (_, &[(u64, &[u8])]) = ("2 5\n{}3 6\n{ }", &[(5, b"{}"), (6, b"{ }")]);
        let good = read(batch(&seal, "12", "", body, records)).unwrap();
        assert_eq!((good.log_epoch, good.first, good.len()), (LogEpoch(77), Offset(12), 2));
        assert_eq!(good.entries()[1].record_id, RecordId { producer_epoch: ProducerEpoch(255), seq: Seq(6) });
        let part = read(batch(&seal, "12", "0", body, records)).unwrap();
        assert_eq!((part.first, part.len(), part.entries()[0].record_id.seq), (Offset(12), 1, Seq(6)));

        let whole = String::from_utf8(batch(&seal, "12", "", body, records).to_vec()).unwrap();
        for (from, to) in [("77 12", "77 13"), ("77 12", "78 12"), ("{ }", "[ ]"), ("3 6", "3 7"), (" ff ", " fe "), (" \n2", " 1\n2")] {
            assert_ne!(whole, whole.replacen(from, to, 1));
            assert_eq!(read(Bytes::from(whole.replacen(from, to, 1))), None, "{from}");
        }
        for bad in ["77 12 ff\n2 5\n{}", "77 12 ff x \n2 5\n{}9 6\n{", "77 12 zz x \n", ""] {
            assert_eq!(read(Bytes::from(bad)), None, "{bad}");
        }
    }

    #[test]
    fn when_a_message_came_is_kept_behind_it() {
        let now = times::from_millis(1_738_150_500_123).unwrap();
        let kept = stamped(br#"{"a":1}"#, now);
        assert_eq!(unstamped(kept.into()), (Bytes::from_static(br#"{"a":1}"#), Some(now)));
        // As nodes of the first release wrote them.
        for plain in [&br#"{"a":"0194b1c0d2b"}"#[..], b"{}", b""] {
            assert_eq!(unstamped(plain.into()), (plain.into(), None));
        }
    }

    #[test]
    fn the_mark_before_a_time_is_found() {
        let marks = || Value::Array(["5 100 1000", "9 200 2000"].map(|m| Value::BulkString(m.into())).to_vec());
        for (time, found) in [(1000, None), (1001, Some(5)), (2000, Some(5)), (5000, Some(9))] {
            assert_eq!(segment_before(marks(), time).unwrap(), found.map(Offset));
        }
    }
}
