//! Settings of HTTP/3, on which WebTransport runs too.

use std::time::Duration;

use motience_settings::env::settings;

settings! {
    /// Settings of HTTP/3.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// Requests of one connection at once, WebTransport sessions and their streams included.
        HTTP3_MAX_STREAMS = "100" => streams: u32, "1"..="65536";
        /// A connection without a request or a session for this long is closed.
        HTTP3_IDLE_LIMIT = "60s" => idle: Duration, > 0;
        /// How long a client may take for a piece of an answer, for its end, and for a stream that the server wants to open.
        HTTP3_WRITE_LIMIT = "30s" => write: Duration, > 0;
    }
}
