//! The consumer's frames: following a producer, and the feed of its log.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    frame::Error,
    varint::{self, Body},
};
use crate::model::{LogEpoch, Offset, ProducerId};

/// Longest code of a refused follow, in bytes.
const MAX_CODE: usize = 64;

/// Where a follow begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the next record.
    Live,
    /// With the oldest record that retention still holds.
    Earliest,
    /// With the record after this offset.
    After(Offset),
}

/// Body of [`super::Frame::Subscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Whom to follow; the account must hold an active subscription.
    pub producer: ProducerId,
    /// Where to begin.
    pub from: From,
}

impl Subscribe {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        match self.from {
            From::Live => out.put_u8(0),
            From::Earliest => out.put_u8(1),
            From::After(offset) => {
                out.put_u8(2);
                varint::put(offset.0, out);
            }
        }
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        let producer = read_producer(body)?;
        let from = match body.number()? {
            0 => From::Live,
            1 => From::Earliest,
            2 => From::After(Offset(body.number()?)),
            _ => return Err(body.malformed()),
        };
        Ok(Self { producer, from })
    }
}

/// Body of [`super::Frame::Unsubscribe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe {
    /// Whom to follow no longer.
    pub producer: ProducerId,
}

impl Unsubscribe {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { producer: read_producer(body)? })
    }
}

/// Body of [`super::Frame::Followed`]: the answer to `Subscribe`, and word of a follow that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The producer.
    pub producer: ProducerId,
    /// Empty: the follow is in force. Otherwise the reason it is not: `not_subscribed`, `unsubscribed`, `too_many`.
    pub refusal: String,
}

impl Followed {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        varint::put_text(&self.refusal, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { producer: read_producer(body)?, refusal: body.text(MAX_CODE)? })
    }
}

/// Body of [`super::Frame::Gap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Whose log.
    pub producer: ProducerId,
    /// First offset that is gone.
    pub from: Offset,
    /// Last offset that is gone.
    pub to: Offset,
}

impl Gap {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        varint::put(self.from.0, out);
        varint::put(self.to.0, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { producer: read_producer(body)?, from: Offset(body.number()?), to: Offset(body.number()?) })
    }
}

/// Body of [`super::Frame::Feed`]: the first frame of a stream of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Whose entries follow.
    pub producer: ProducerId,
    /// The life of the log that the offsets belong to.
    pub log_epoch: LogEpoch,
}

impl Feed {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        out.put_u64(self.log_epoch.0);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { producer: read_producer(body)?, log_epoch: LogEpoch(body.u64()?) })
    }
}

/// Body of [`super::Frame::Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place in the producer's log.
    pub offset: Offset,
    /// `{"producer_id","device_id","timestamp","data"}`.
    pub message: Bytes,
}

impl Entry {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.offset.0, out);
        out.put_slice(&self.message);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { offset: Offset(body.number()?), message: body.rest() })
    }
}

/// Ids of accounts are positive; 0 stands for any other, which no log has.
fn put_producer(producer: ProducerId, out: &mut BytesMut) {
    varint::put(u64::try_from(producer.0).unwrap_or(0), out);
}

fn read_producer(body: &mut Body) -> Result<ProducerId, Error> {
    let id = body.number()?;
    i64::try_from(id).map(ProducerId).map_err(|_| body.malformed())
}
