//! Measurements: throughput, latency and cost, each in a setting of its own.

pub(crate) mod egress;
pub(crate) mod fleet;
pub(crate) mod grants;
pub(crate) mod laws;
pub(crate) mod levels;
pub(crate) mod link;
pub(crate) mod lossy;
pub(crate) mod model;
pub(crate) mod neighbours;
pub(crate) mod peers;
pub(crate) mod run;
pub(crate) mod storm;
