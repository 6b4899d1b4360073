//! The cluster: events that nodes broadcast, reports of nodes, producers and devices, and leases.
//!
//! | part | question | lost or late |
//! |---|---|---|
//! | [`Event`], [`broadcast`] | what changed in the store | costs the lifetime of a cache |
//! | [`Reports`] | what each node has open and takes in | costs people a glance: nothing depends on it |
//! | [`Lease`] | which node does a duty | costs work done twice: what must not happen twice has a condition of its own |
//!
//! The log carries the messages as bytes (`motience_log::Bus`) and seals them; this crate alone knows how they read. They are JSON
//! with optional fields, so that a node reads those of an earlier and of a later version.

mod bus;
mod day;
mod devices;
mod event;
mod lease;
mod nodes;
mod plan_use;
mod reads;
mod report;
mod reports;
mod streams;
mod window;

pub use bus::{Unreadable, broadcast, read};
pub use day::Minute;
pub use devices::{DeviceStats, Devices, Most, Path, Presence, Senders};
pub use event::Event;
pub use lease::Lease;
pub use nodes::{Kind, NodeStats, Nodes, Open};
pub use plan_use::{PlanCounts, PlanUse, PlanUsed};
pub use report::{ConnectionReport, Connections, DeviceReport, NodeReport, PlanUseReport, StreamReport};
pub use reports::Reports;
pub use streams::{StreamStats, Streams};
pub use window::LOOK_EVERY;
