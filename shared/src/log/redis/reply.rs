//! Reading what the functions answer and publish.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use redis::Value;

use crate::{
    log::{Batch, Entry, Error, Head, Opened, Read},
    model::{Epoch, LogEpoch, Offset, ProducerId, RecordName, Seq},
};

pub(super) fn opened(value: Value) -> Result<Opened, Error> {
    let Value::Array(parts) = value else { return Err(damaged("open")) };
    let parts: Vec<String> = parts.into_iter().map(text).collect::<Result<_, _>>()?;
    match &parts[..] {
        [word] if word == "fenced" => Err(Error::Fenced),
        [word] if word == "stale" => Err(Error::Stale),
        [life, fence, seen] => Ok(Opened {
            life: life.parse().map_err(|_| damaged("life"))?,
            fence: fence.parse().map_err(|_| damaged("fence"))?,
            seen: seen.parse().map_err(|_| damaged("seen-set"))?,
        }),
        _ => Err(damaged("open")),
    }
}

pub(super) fn outcomes(value: Value, sections: usize) -> Result<Vec<Result<(), Error>>, Error> {
    let Value::Array(parts) = value else { return Err(damaged("append")) };
    if parts.len() != sections {
        return Err(damaged("append"));
    }
    parts
        .iter()
        .map(|part| match part {
            Value::Int(1) => Ok(Ok(())),
            Value::Int(-1) => Ok(Err(Error::Fenced)),
            Value::Int(-2) => Ok(Err(Error::Stale)),
            _ => Err(damaged("append")),
        })
        .collect()
}

pub(super) fn head(value: Value) -> Result<Head, Error> {
    let Value::Array(parts) = value else { return Err(damaged("head")) };
    let [lives, first, last] = <[Value; 3]>::try_from(parts).map_err(|_| damaged("head"))?;
    Ok(Head { lives: text(lives)?.parse().map_err(|_| damaged("lives"))?, first: offset(first)?, last: offset(last)? })
}

/// The offset of the newest mark older than `time`, in milliseconds.
pub(super) fn marked_before(value: Value, time: i128) -> Result<Option<Offset>, Error> {
    let Value::Array(marks) = value else { return Err(damaged("marks")) };
    let mut found = None;
    for mark in marks {
        let mark = text(mark)?;
        let mut parts = mark.split(' ');
        let (Some(offset), Some(at)) = (parts.next(), parts.nth(1)) else { return Err(damaged("mark")) };
        if at.parse::<i128>().map_err(|_| damaged("mark"))? >= time {
            break;
        }
        found = Some(Offset(offset.parse().map_err(|_| damaged("mark"))?));
    }
    Ok(found)
}

pub(super) fn read(value: Value, producer: ProducerId) -> Result<Read, Error> {
    let Value::Array(parts) = value else { return Err(damaged("log")) };
    let [life, found] = <[Value; 2]>::try_from(parts).map_err(|_| damaged("log"))?;
    let epoch = text(life)?.parse().map_err(|_| damaged("life"))?;
    Ok(Read { epoch, batches: entries(found, producer, epoch)? })
}

/// The answer of XRANGE: runs of consecutive offsets become batches.
fn entries(value: Value, producer: ProducerId, epoch: LogEpoch) -> Result<Vec<Arc<Batch>>, Error> {
    let Value::Array(entries) = value else { return Err(damaged("log")) };
    let mut batches = Vec::new();
    let mut run: (Offset, Vec<Entry>) = (Offset(0), Vec::new());
    for entry in entries {
        let (offset, message) = one(entry)?;
        if run.1.is_empty() {
            run.0 = offset;
        } else if offset.0 != run.0.0 + run.1.len() as u64 {
            batches.push(Arc::new(Batch::new(producer, epoch, run.0, std::mem::take(&mut run.1))));
            run.0 = offset;
        }
        run.1.push(message);
    }
    if !run.1.is_empty() {
        batches.push(Arc::new(Batch::new(producer, epoch, run.0, run.1)));
    }
    Ok(batches)
}

/// The message of one append: `EPOCH FIRST SENDER\n` and then `LENGTH SEQ\nMESSAGE` for each.
pub(super) fn published(producer: ProducerId, mut payload: Bytes) -> Result<Batch, Error> {
    let head = line(&mut payload)?;
    let mut parts = head.split(' ');
    let (Some(epoch), Some(first), Some(sender), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(damaged("published batch"));
    };
    let epoch = LogEpoch(epoch.parse().map_err(|_| damaged("published epoch"))?);
    let first = Offset(first.parse().map_err(|_| damaged("published offset"))?);
    let sender = hex(sender)?;
    let mut entries = Vec::new();
    while payload.has_remaining() {
        let head = line(&mut payload)?;
        let (length, seq) = head.split_once(' ').ok_or_else(|| damaged("published length"))?;
        let length: usize = length.parse().map_err(|_| damaged("published length"))?;
        let seq = Seq(seq.parse().map_err(|_| damaged("published number"))?);
        if length > payload.len() {
            return Err(damaged("published message"));
        }
        entries.push(Entry { name: RecordName { epoch: sender, seq }, message: payload.split_to(length) });
    }
    if entries.is_empty() {
        return Err(damaged("published batch"));
    }
    Ok(Batch::new(producer, epoch, first, entries))
}

fn one(entry: Value) -> Result<(Offset, Entry), Error> {
    let Value::Array(parts) = entry else { return Err(damaged("entry")) };
    let [id, fields] = <[Value; 2]>::try_from(parts).map_err(|_| damaged("entry"))?;
    let id = text(id)?;
    let (offset, seq) = id.split_once('-').ok_or_else(|| damaged("entry id"))?;
    let (offset, seq) = (offset.parse().map_err(|_| damaged("entry id"))?, seq.parse().map_err(|_| damaged("entry id"))?);
    let Value::Array(fields) = fields else { return Err(damaged("entry")) };
    let [sender, message] = <[Value; 2]>::try_from(fields).map_err(|_| damaged("entry"))?;
    let Value::BulkString(message) = message else { return Err(damaged("entry")) };
    let name = RecordName { epoch: hex(&text(sender)?)?, seq: Seq(seq) };
    Ok((Offset(offset), Entry { name, message: Bytes::from(message) }))
}

fn offset(value: Value) -> Result<Offset, Error> {
    text(value)?.parse().map_err(|_| damaged("offset"))
}

fn hex(text: &str) -> Result<Epoch, Error> {
    u64::from_str_radix(text, 16).map(Epoch).map_err(|_| damaged("sender"))
}

fn line(payload: &mut Bytes) -> Result<String, Error> {
    let end = payload.iter().take(64).position(|&b| b == b'\n').ok_or_else(|| damaged("published batch"))?;
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

    #[test]
    fn a_published_batch_is_read_without_copies() {
        let cut = published(ProducerId(3), Bytes::from_static(b"77 12 ff\n2 5\n{}9 6\n{\"\":")).unwrap_err();
        assert!(matches!(cut, Error::Damaged(_)));
        let batch = published(ProducerId(3), Bytes::from_static(b"77 12 ff\n2 5\n{}3 6\n{ }")).unwrap();
        assert_eq!((batch.epoch, batch.first, batch.len()), (LogEpoch(77), Offset(12), 2));
        assert_eq!(batch.entries()[1].name, RecordName { epoch: Epoch(255), seq: Seq(6) });
        assert!(published(ProducerId(3), Bytes::from_static(b"77 12 ff\n")).is_err());
    }

    #[test]
    fn the_mark_before_a_time_is_found() {
        let marks = || Value::Array(["5 100 1000", "9 200 2000"].map(|m| Value::BulkString(m.into())).to_vec());
        for (time, found) in [(1000, None), (1001, Some(5)), (2000, Some(5)), (5000, Some(9))] {
            assert_eq!(marked_before(marks(), time).unwrap(), found.map(Offset));
        }
    }
}
