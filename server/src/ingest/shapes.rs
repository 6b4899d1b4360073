//! The shapes of a connection's compact records.

use motience_shared::wire::{
    CloseCode, Compact, Record, Shape,
    compact::{self, Decoder},
    features,
};
use parking_lot::RwLock;

use super::ending::Ending;

/// What the device has announced so far; `None` where it did not say that it would.
pub(super) struct Shapes(Option<RwLock<Decoder>>);

impl Shapes {
    /// `features`: what the device can.
    pub(super) fn new(features: u64) -> Self {
        Self((features & features::COMPACT != 0).then(|| RwLock::new(Decoder::new())))
    }

    /// Learns a shape. Returns its number, with which the device may use it.
    pub(super) fn learn(&self, shape: Shape) -> Result<u64, Ending> {
        Ok(self.agreed()?.write().add(shape)?)
    }

    /// The very record that a compact one stands for.
    pub(super) fn expand(&self, record: &Compact, limit: usize) -> Result<Record, Ending> {
        let json = self.agreed()?.read().expand(record, limit)?;
        Ok(Record { seq: record.seq, json })
    }

    fn agreed(&self) -> Result<&RwLock<Decoder>, Ending> {
        self.0.as_ref().ok_or_else(|| Ending::new(CloseCode::Protocol, "compact records were not agreed on"))
    }
}

impl From<compact::Error> for Ending {
    fn from(error: compact::Error) -> Self {
        Self::new(CloseCode::Protocol, error.to_string())
    }
}
