//! Settings of live streams over HTTP.

use std::time::Duration;

use motience_settings::env::settings;

settings! {
    /// Limits of live streams, down and up.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// Producers that one stream of server-sent events (GET /stream) follows: each event names the cursors of all, which must fit into the head
        /// of a request. Streams of lines follow any number.
        STREAM_MAX_PRODUCERS = "100" => producers: usize, > 0;
        /// How often a stream, or a delivery stream of WebTransport, tells that it is alive and how far its cursors are.
        STREAM_COMMENT_INTERVAL = "15s" => comment: Duration, > 0;
        /// Longest silence within records that are sent as a stream of lines (POST /data).
        DATA_SILENCE_LIMIT = "30s" => silence: Duration, > 0;
    }
}
