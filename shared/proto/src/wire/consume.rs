//! The consumer's frames: following a producer, and what a delivery stream carries.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    error::Error,
    varint::{self, Body},
};
use crate::model::{Cursor, GapCause, LogEpoch, Offset, Order, ProducerEpoch, ProducerId, RecordId, Seq, selection::MAX_SELECTION};

/// Longest code of a refused follow, in bytes.
const MAX_CODE: usize = 64;
/// Longest name of a named cursor, in bytes.
const MAX_CURSOR_NAME: usize = 64;
/// Longest name of the cause of a gap, in bytes.
const MAX_CAUSE: usize = 32;

/// Start position of a follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next record.
    Live,
    /// With the oldest record that retention still holds.
    Earliest,
    /// With the record after this cursor; in a later log epoch, with the first record that the cursor's epoch may not have had.
    After(Cursor),
    /// With the records logged at this time (milliseconds since 1970 UTC) or later. Some earlier records may come first.
    Time(u64),
}

/// Body of [`super::Frame::Subscribe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe {
    /// Producer to follow; the account must hold an active subscription.
    pub producer: ProducerId,
    /// Start position. A named cursor that exists takes precedence over all but `After`.
    pub start: Start,
    /// Name of the cursor that the server keeps for this account and that [`Confirm`] moves; empty for none.
    pub cursor_name: String,
    /// A [`crate::model::Selection`] as JSON; empty for all records. With a selection the offsets of records do not show the progress
    /// of the follow: [`DeliveryCursor`] frames do.
    pub selection: String,
    /// Order of the records. In device order too, [`DeliveryCursor`] frames show the progress.
    pub order: Order,
}

impl Subscribe {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        match self.start {
            Start::Live => out.put_u8(0),
            Start::Earliest => out.put_u8(1),
            Start::After(cursor) => {
                out.put_u8(2);
                put_cursor(cursor, out);
            }
            Start::Time(ms) => {
                out.put_u8(3);
                varint::put(ms.min(varint::MAX), out);
            }
        }
        varint::put_text(&self.cursor_name, out);
        if !self.selection.is_empty() || self.order != Order::Log {
            varint::put_text(&self.selection, out);
        }
        if self.order == Order::Device {
            out.put_u8(1);
        }
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        let producer = read_producer(body)?;
        let start = match body.number()? {
            0 => Start::Live,
            1 => Start::Earliest,
            2 => Start::After(read_cursor(body)?),
            3 => Start::Time(body.number()?),
            _ => return Err(body.malformed()),
        };
        let cursor_name = body.text(MAX_CURSOR_NAME)?;
        let selection = if body.is_empty() { String::new() } else { body.text(MAX_SELECTION)? };
        let order = if body.is_empty() { 0 } else { body.number()? };
        let order = match order {
            0 => Order::Log,
            1 => Order::Device,
            _ => return Err(body.malformed()),
        };
        Ok(Self { producer, start, cursor_name, selection, order })
    }
}

/// Body of [`super::Frame::Confirm`]: moves the named cursor of a follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// Producer of the log.
    pub producer: ProducerId,
    /// The consumer has dealt with everything up to here.
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
    /// Producer of the follow to end.
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

/// Body of [`super::Frame::Followed`]: the answer to `Subscribe`, and the notice that a follow has ended.
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
    /// Producer of the log.
    pub producer: ProducerId,
    /// First offset that is gone.
    pub from: Offset,
    /// Last offset that is gone.
    pub to: Offset,
    /// Why they are gone; `None`: the peer has not offered [`super::features::CAUSES`], or the cause is one of a later version.
    pub cause: Option<GapCause>,
}

impl Gap {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        varint::put(self.from.0, out);
        varint::put(self.to.0, out);
        if let Some(cause) = self.cause {
            varint::put_text(cause.as_str(), out);
        }
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        let (producer, from, to) = (read_producer(body)?, Offset(body.number()?), Offset(body.number()?));
        let cause = if body.is_empty() { None } else { GapCause::named(&body.text(MAX_CAUSE)?) };
        Ok(Self { producer, from, to, cause })
    }
}

/// Body of [`super::Frame::Cursor`]: the first frame of a delivery stream, repeated after each reset. A follow with a selection or in
/// device order gets more of them: each says that every record up to `cursor` was delivered or left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryCursor {
    /// Producer of the entries.
    pub producer: ProducerId,
    /// Position before the next entry, in the log epoch that the offsets of the entries belong to.
    pub cursor: Cursor,
}

impl DeliveryCursor {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_producer(self.producer, out);
        put_cursor(self.cursor, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self { producer: read_producer(body)?, cursor: read_cursor(body)? })
    }
}

/// Body of [`super::Frame::Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Offset in the producer's log.
    pub offset: Offset,
    /// Identity of the record, which stays when the record gets another offset.
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
