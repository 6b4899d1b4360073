//! How many connections are past their Hello: the others are handshakes, of which there may be few without a proof of address.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Connections past their Hello.
#[derive(Default)]
pub(super) struct Established(AtomicUsize);

/// One of them; given back when dropped.
pub(super) struct Entered<'e>(&'e Established);

impl Established {
    pub(super) fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Relaxed);
        metrics::gauge!("motience_quic_connections").increment(1);
        Entered(self)
    }

    pub(super) fn count(&self) -> usize {
        self.0.load(Relaxed)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
        metrics::gauge!("motience_quic_connections").decrement(1);
    }
}
