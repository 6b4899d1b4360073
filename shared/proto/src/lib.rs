//! Ids, records and motience/1: bytes in, frames out. No I/O and no clock; all that a device needs.

pub mod model;
pub mod wire;
