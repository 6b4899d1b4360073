//! One process: its clock, its start and end, its telemetry, its private files.

pub mod backoff;
mod causes;
pub mod clock;
pub mod descriptors;
pub mod disk;
pub mod lifecycle;
pub mod origin;
pub mod private;
pub mod telemetry;
pub mod traces;

pub use causes::causes;
