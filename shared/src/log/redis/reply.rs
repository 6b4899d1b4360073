//! Reading what the functions answer and publish.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use redis::Value;

use crate::{
    log::{Batch, Error, Opened},
    model::{Fence, LogEpoch, Offset, ProducerId},
};

pub(super) fn opened(value: Value) -> Result<Opened, Error> {
    let Value::Array(parts) = value else { return Err(damaged("open")) };
    let parts: Vec<String> = parts.into_iter().map(text).collect::<Result<_, _>>()?;
    match &parts[..] {
        [word] if word == "fenced" => Err(Error::Fenced),
        [fence, seen] => {
            Ok(Opened { fence: Fence(fence.parse().map_err(|_| damaged("fence"))?), seen: seen.parse().map_err(|_| damaged("seen-set"))? })
        }
        _ => Err(damaged("open")),
    }
}

pub(super) fn outcomes(value: Value, sections: usize) -> Result<Vec<Result<Offset, Error>>, Error> {
    let Value::Array(parts) = value else { return Err(damaged("append")) };
    if parts.len() != sections {
        return Err(damaged("append"));
    }
    parts
        .iter()
        .map(|part| match part {
            Value::Int(-1) => Ok(Err(Error::Fenced)),
            other => offset(other).map(Ok),
        })
        .collect()
}

pub(super) fn offset(value: &Value) -> Result<Offset, Error> {
    match value {
        Value::Int(n) => u64::try_from(*n).map(Offset).map_err(|_| damaged("offset")),
        _ => Err(damaged("offset")),
    }
}

/// The answer of XRANGE: runs of consecutive offsets become batches.
pub(super) fn entries(value: Value, producer: ProducerId, epoch: LogEpoch) -> Result<Vec<Arc<Batch>>, Error> {
    let Value::Array(entries) = value else { return Err(damaged("log")) };
    let mut batches = Vec::new();
    let mut run: (Offset, Vec<Bytes>) = (Offset(0), Vec::new());
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

/// The message of one append: `EPOCH FIRST\n` and then `LENGTH\nMESSAGE` for each.
pub(super) fn published(producer: ProducerId, mut payload: Bytes) -> Result<Batch, Error> {
    let head = line(&mut payload)?;
    let (epoch, first) = head.split_once(' ').ok_or_else(|| damaged("published batch"))?;
    let epoch = LogEpoch(epoch.parse().map_err(|_| damaged("published epoch"))?);
    let first = Offset(first.parse().map_err(|_| damaged("published offset"))?);
    let mut messages = Vec::new();
    while payload.has_remaining() {
        let length: usize = line(&mut payload)?.parse().map_err(|_| damaged("published length"))?;
        if length > payload.len() {
            return Err(damaged("published message"));
        }
        messages.push(payload.split_to(length));
    }
    if messages.is_empty() {
        return Err(damaged("published batch"));
    }
    Ok(Batch::new(producer, epoch, first, messages))
}

fn one(entry: Value) -> Result<(Offset, Bytes), Error> {
    let Value::Array(parts) = entry else { return Err(damaged("entry")) };
    let [id, fields] = <[Value; 2]>::try_from(parts).map_err(|_| damaged("entry"))?;
    let offset = text(id)?.split('-').next().and_then(|n| n.parse().ok()).ok_or_else(|| damaged("entry id"))?;
    let Value::Array(fields) = fields else { return Err(damaged("entry")) };
    let [_, message] = <[Value; 2]>::try_from(fields).map_err(|_| damaged("entry"))?;
    let Value::BulkString(message) = message else { return Err(damaged("entry")) };
    Ok((Offset(offset), Bytes::from(message)))
}

fn line(payload: &mut Bytes) -> Result<String, Error> {
    let end = payload.iter().take(48).position(|&b| b == b'\n').ok_or_else(|| damaged("published batch"))?;
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
        let cut = published(ProducerId(3), Bytes::from_static(b"77 12\n2\n{}9\n{\"\":")).unwrap_err();
        assert!(matches!(cut, Error::Damaged(_)));
        let batch = published(ProducerId(3), Bytes::from_static(b"77 12\n2\n{}3\n{ }")).unwrap();
        assert_eq!((batch.epoch, batch.first, batch.len()), (LogEpoch(77), Offset(12), 2));
        assert!(published(ProducerId(3), Bytes::from_static(b"77 12\n")).is_err());
    }
}
