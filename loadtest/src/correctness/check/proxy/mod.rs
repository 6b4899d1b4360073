//! Links of the harness's own, which fail when they are told to.

mod tcp;
mod udp;

pub(crate) use tcp::Pipe;
pub(crate) use udp::{Impairment, Link};
