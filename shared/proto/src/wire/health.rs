//! `Health`: what only the device knows of itself and of its link, for whoever looks after it.

use bytes::BytesMut;

use super::{
    error::Error,
    varint::{self, Body},
};

/// Body of [`super::Frame::Health`], on the control stream, up. A server that does not know it passes over it, and one that knows
/// less of it than the device passes over the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Records that wait in the outbox.
    pub backlog: u64,
    /// Millionths of the packets sent that were lost; `None`: the device cannot tell, as behind a tunnel.
    pub loss_ppm: Option<u64>,
}

impl Health {
    pub(super) fn put(&self, out: &mut BytesMut) {
        varint::put(self.backlog, out);
        varint::put(self.loss_ppm.map_or(0, |ppm| ppm.saturating_add(1)), out);
    }

    pub(super) fn read(body: &mut Body) -> Result<Self, Error> {
        let health = Self { backlog: body.number()?, loss_ppm: body.number()?.checked_sub(1) };
        let _ = body.rest();
        Ok(health)
    }
}
