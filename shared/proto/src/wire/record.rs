//! `Record`: one message of a device on its way up.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    error::Error,
    varint::{self, Body},
};
use crate::model::Seq;

/// Body of [`super::Frame::Record`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number within the outbox's epoch, from 1.
    pub seq: Seq,
    /// The JSON object, not yet checked.
    pub json: Bytes,
}

impl Record {
    /// Bytes of the body.
    pub fn size(&self) -> usize {
        varint::size(self.seq.0) + self.json.len()
    }

    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.seq.0, out);
        out.put_slice(&self.json);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        let seq = Seq(body.number()?);
        if seq.0 == 0 {
            return Err(body.malformed());
        }
        Ok(Self { seq, json: body.rest() })
    }
}
