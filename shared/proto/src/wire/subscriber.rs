//! `Subscriber`: news of one of a producer's subscribers, for a device that has offered the feature.

use bytes::BytesMut;

use super::{
    error::Error,
    varint::{self, Body},
};
use crate::model::{ConsumerId, Status};

/// Longest name of a state, in bytes.
const MAX_STATUS: usize = 32;

/// Body of [`super::Frame::Subscriber`], on the control stream, down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscriber {
    /// The subscription, by which the producer decides about it.
    pub subscription: u64,
    /// The consumer.
    pub consumer: ConsumerId,
    /// Its state by now.
    pub status: Status,
}

impl Subscriber {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.subscription, out);
        varint::put(self.consumer.0.unsigned_abs(), out);
        varint::put_text(self.status.as_str(), out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self {
            subscription: body.number()?,
            consumer: ConsumerId(i64::try_from(body.number()?).map_err(|_| body.malformed())?),
            status: body.text(MAX_STATUS)?.parse().map_err(|_| body.malformed())?,
        })
    }
}
