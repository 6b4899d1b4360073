//! `Hello`: the client's first frame.

use std::fmt;

use bytes::{BufMut, BytesMut};

use super::{
    error::Error,
    varint::{self, Body},
};
use crate::model::{ProducerEpoch, ids::MAX_DEVICE_ID_BYTES};

/// Longest access token, in bytes.
const MAX_TOKEN: usize = 4096;

/// Purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// To send records.
    Produce,
    /// To receive records.
    Consume,
}

/// Body of [`super::Frame::Hello`].
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`super::VERSION`].
    pub version: u64,
    /// Purpose of the connection.
    pub intent: Intent,
    /// Access token of an account with the fitting role.
    pub token: String,
    /// Name of the device within its account; for a consumer, of the client.
    pub device_id: String,
    /// Producer epoch of the device's outbox; 0 for a consumer.
    pub epoch: ProducerEpoch,
    /// Bits of optional abilities: [`super::features`].
    pub features: u64,
}

impl Hello {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.version, out);
        out.put_u8(match self.intent {
            Intent::Produce => 1,
            Intent::Consume => 2,
        });
        varint::put_text(&self.token, out);
        varint::put_text(&self.device_id, out);
        out.put_u64(self.epoch.0);
        varint::put(self.features, out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        Ok(Self {
            version: body.number()?,
            intent: match body.number()? {
                1 => Intent::Produce,
                2 => Intent::Consume,
                _ => return Err(body.malformed()),
            },
            token: body.text(MAX_TOKEN)?,
            device_id: body.text(MAX_DEVICE_ID_BYTES)?,
            epoch: ProducerEpoch(body.u64()?),
            features: body.number()?,
        })
    }
}

impl fmt::Debug for Hello {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("version", &self.version)
            .field("intent", &self.intent)
            .field("device_id", &self.device_id)
            .field("epoch", &self.epoch)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}
