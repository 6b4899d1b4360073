//! The parts of a node that a session needs, and the limits of one session.

use motience_backend::Backend;
use motience_limits::rate::Rate;
use motience_runtime::lifecycle::Drain;
use motience_settings::env::settings;
use tokio_util::sync::CancellationToken;

settings! {
    /// Limits of one device or one consumer, by whatever transport.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        /// Records that a device may have in flight, over QUIC and in the tunnel.
        QUIC_CREDIT = "8192" => credit: u64, > 0;
        /// Producers that one native consumer or one WebTransport session may follow.
        QUIC_MAX_FOLLOWS = "1000" => follows: usize;
        /// Requests of one consumer on its WebSocket, its WebTransport session or its QUIC connection. A resume counts one for each cursor.
        RATE_LIMIT_CONTROL = "3000/m" => control: Rate;
    }
    with {
        /// Time to finish when the node drains.
        drain: Drain,
    }
}

/// The parts of a node that a session needs.
#[derive(Clone, Copy)]
pub struct Host<'s> {
    /// Accounts, tokens and the relay.
    pub backend: &'s Backend,
    /// Limits of the session.
    pub limits: Limits,
    /// Cancelled when the node drains.
    pub draining: &'s CancellationToken,
}
