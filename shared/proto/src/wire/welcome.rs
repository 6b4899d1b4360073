//! `Welcome`: the node's answer to `Hello`.

use bytes::BytesMut;

use super::{
    ack::{put_ranges, read_ranges},
    error::Error,
    varint::{self, Body},
};
use crate::model::{Fence, RangeSet};

/// Longest name of a node, in bytes.
const MAX_NODE: usize = 255;
/// Longest name of a durability level, in bytes.
const MAX_DURABILITY: usize = 32;

/// Body of [`super::Frame::Welcome`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The node's name, for logs.
    pub node: String,
    /// The fence of this connection; 0 for a consumer.
    pub fence: Fence,
    /// Records of this epoch that the log already has: the device need not send them again.
    pub seen: RangeSet,
    /// Longest record, in bytes.
    pub max_record: u64,
    /// Records that may be in flight.
    pub credit: u64,
    /// Seconds for which the token is good.
    pub token_expires_in: u64,
    /// Durability of an acknowledged record on this node: `memory`, `file`, `redis`, `redis+N`.
    pub durability: String,
    /// Bits of optional abilities that both sides have.
    pub features: u64,
}

impl Welcome {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put_text(&self.node, out);
        varint::put(self.fence.0, out);
        put_ranges(&self.seen, out);
        varint::put(self.max_record, out);
        varint::put(self.credit, out);
        varint::put(self.token_expires_in, out);
        varint::put_text(&self.durability, out);
        varint::put(self.features, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self {
            node: body.text(MAX_NODE)?,
            fence: Fence(body.number()?),
            seen: read_ranges(body)?,
            max_record: body.number()?,
            credit: body.number()?,
            token_expires_in: body.number()?,
            durability: body.text(MAX_DURABILITY)?,
            features: body.number()?,
        })
    }
}
