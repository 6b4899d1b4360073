//! Settings of WebTransport.

use std::time::Duration;

use motience_http::Origins;
use motience_settings::env::settings;

use crate::http::{http3, stream};

settings! {
    /// Settings of WebTransport.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// Origins whose pages may open WebTransport sessions. Nothing, or `*`, is any: tokens and not cookies say who connects.
        WT_ORIGINS = "" => origins: Origins;
        /// Sessions of one connection at once.
        WT_MAX_SESSIONS_PER_CONNECTION = "16" => sessions: usize;
        /// Longest wait for the control stream of a session, and again for its hello.
        WT_HELLO_LIMIT = "10s" => hello: Duration, > 0;
        /// Where pages find WebTransport, where that is not QUIC_PORT of the host they came from: https://HOST/wt.
        PUBLIC_WEBTRANSPORT_URL => url: Option<String>;
    }
    with {
        /// HTTP/3, on which it runs.
        h3: http3::Config,
        /// How often a delivery stream says how far it is, where its filter passes nothing.
        stream: stream::Config,
        /// Limits of one session.
        session: motience_session::Limits,
    }
}
