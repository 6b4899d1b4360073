//! Sessions: one authenticated connection of a device or a client, whatever transport it comes by.
//!
//! A transport brings the peer's frames or messages here and says how the session ended: [`CloseReason`].

mod admission;
mod close;

pub use admission::{Admitted, admit, authenticate, hello, renew, report_end, while_authorized};
pub use close::CloseReason;
