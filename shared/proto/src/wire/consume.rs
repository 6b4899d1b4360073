//! The consumer's frames: following a producer, and the feed of its log.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    error::Error,
    varint::{self, Body},
};
use crate::model::{Cursor, LogEpoch, Offset, Order, ProducerEpoch, ProducerId, RecordId, Seq, selection::MAX_SELECTION};

/// Longest code of a refused follow, in bytes.
const MAX_CODE: usize = 64;
/// Longest name of a durable cursor, in bytes.
const MAX_DURABLE: usize = 64;

/// Where a follow begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// With the next record.
    Live,
    /// With the oldest record that retention still holds.
    Earliest,
    /// With the record after this cursor; after a reset, with the first that the cursor's life may not have had.
    After(Cursor),
    /// With the records logged at this time (milliseconds since 1970 UTC) or later; some earlier ones may come first.
    Time(u64),
}

/// Body of [`super::Frame::Subscribe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Whom to follow; the account must hold an active subscription.
    pub producer: ProducerId,
    /// Where to begin. A durable cursor that exists goes before all but `After`.
    pub from: From,
    /// The name of the cursor that the server keeps for this account, moved by [`Confirm`]; empty for none.
    pub durable: String,
    /// A [`crate::model::Selection`] as JSON; empty for everything, and not there at all where an older peer wrote the frame.
    /// Offset order then does not hold, and [`Feed`] frames say how far the follow has come.
    pub view: String,
    /// The order of its records; the log's where an older peer wrote the frame. In device order [`Feed`] frames say how far the
    /// follow has come.
    pub order: Order,
}

impl Subscribe {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        match self.from {
            From::Live => out.put_u8(0),
            From::Earliest => out.put_u8(1),
            From::After(cursor) => {
                out.put_u8(2);
                put_cursor(cursor, out);
            }
            From::Time(ms) => {
                out.put_u8(3);
                varint::put(ms.min(varint::MAX), out);
            }
        }
        varint::put_text(&self.durable, out);
        if !self.view.is_empty() || self.order != Order::Log {
            varint::put_text(&self.view, out);
        }
        if self.order == Order::Device {
            out.put_u8(1);
        }
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        let producer = read_producer(body)?;
        let from = match body.number()? {
            0 => From::Live,
            1 => From::Earliest,
            2 => From::After(read_cursor(body)?),
            3 => From::Time(body.number()?),
            _ => return Err(body.malformed()),
        };
        let durable = body.text(MAX_DURABLE)?;
        let view = if body.is_empty() { String::new() } else { body.text(MAX_SELECTION)? };
        let order = if body.is_empty() { 0 } else { body.number()? };
        let order = match order {
            0 => Order::Log,
            1 => Order::Device,
            _ => return Err(body.malformed()),
        };
        Ok(Self { producer, from, durable, view, order })
    }
}

/// Body of [`super::Frame::Confirm`]: moves the durable cursor of a follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Whose log.
    pub producer: ProducerId,
    /// Everything up to here is dealt with.
    pub cursor: Cursor,
}

impl Confirm {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        put_cursor(self.cursor, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { producer: read_producer(body)?, cursor: read_cursor(body)? })
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
    /// Empty: the follow is in force. Otherwise the reason it is not: `not_subscribed`, `unsubscribed`, `too_many`, `invalid_expression`.
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

/// Body of [`super::Frame::Feed`]: the first frame of a stream of entries. Of a follow with a view it comes again when everything
/// up to `after` is dealt with, be it delivered or not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feed {
    /// Whose entries follow.
    pub producer: ProducerId,
    /// What they come after, in the life of the log that their offsets belong to.
    pub after: Cursor,
}

impl Feed {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        put_cursor(self.after, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { producer: read_producer(body)?, after: read_cursor(body)? })
    }
}

/// Body of [`super::Frame::Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset in the producer's log.
    pub offset: Offset,
    /// Identity of the record, whatever its offset.
    pub record_id: RecordId,
    /// `{"producer_id","device_id","timestamp","data"}`.
    pub message: Bytes,
}

impl Entry {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.offset.0, out);
        out.put_u64(self.record_id.producer_epoch.0);
        varint::put(self.record_id.seq.0, out);
        out.put_slice(&self.message);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        let offset = Offset(body.number()?);
        let record_id = RecordId { producer_epoch: ProducerEpoch(body.u64()?), seq: Seq(body.number()?) };
        Ok(Self { offset, record_id, message: body.rest() })
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

fn put_cursor(cursor: Cursor, out: &mut BytesMut) {
    out.put_u64(cursor.log_epoch.0);
    varint::put(cursor.offset.0, out);
}

fn read_cursor(body: &mut Body) -> Result<Cursor, Error> {
    Ok(Cursor { log_epoch: LogEpoch(body.u64()?), offset: Offset(body.number()?) })
}
