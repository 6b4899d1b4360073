//! The shapes of a connection's compact records.

use motience_proto::wire::{Compact, Record, Shape, compact::Decoder, features};
use motience_session::CloseReason;
use parking_lot::RwLock;

/// What the device has announced so far; `None` where it did not say that it would.
pub(super) struct Shapes(Option<RwLock<Decoder>>);

impl Shapes {
    /// `features`: what the device can.
    pub(super) fn new(features: u64) -> Self {
        Self((features & features::COMPACT != 0).then(|| RwLock::new(Decoder::new())))
    }

    /// Learns a shape. Returns its number, with which the device may use it.
    pub(super) fn learn(&self, shape: Shape) -> Result<u64, CloseReason> {
        Ok(self.agreed()?.write().add(shape)?)
    }

    /// The very record that a compact one stands for.
    pub(super) fn expand(&self, record: &Compact, limit: usize) -> Result<Record, CloseReason> {
        let json = self.agreed()?.read().expand(record, limit)?;
        Ok(Record { seq: record.seq, json })
    }

    fn agreed(&self) -> Result<&RwLock<Decoder>, CloseReason> {
        self.0.as_ref().ok_or_else(|| CloseReason::protocol("compact records were not agreed on"))
    }
}
