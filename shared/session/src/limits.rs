//! Limits of one session, whatever transport it comes by.

use motience_limits::rate::Rate;
use motience_settings::env::settings;

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
}
