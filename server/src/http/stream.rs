//! Settings of live streams over HTTP.

use std::time::Duration;

use motience_settings::env::{self, Env};

/// Limits of live streams, down and up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Producers that one stream follows. STREAM_MAX_PRODUCERS, 100: their cursors must fit into a request's head.
    pub producers: usize,
    /// Interval of keep-alives with the cursors, on a stream without records. STREAM_COMMENT_INTERVAL, 15 s.
    pub comment: Duration,
    /// Longest silence within records that are sent as a stream. DATA_SILENCE_LIMIT, 30 s.
    pub silence: Duration,
}

impl Config {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let config = Self {
            producers: env.parse("STREAM_MAX_PRODUCERS", 100)?,
            comment: env.duration("STREAM_COMMENT_INTERVAL", Duration::from_secs(15))?,
            silence: env.duration("DATA_SILENCE_LIMIT", Duration::from_secs(30))?,
        };
        for (name, none) in [
            ("STREAM_MAX_PRODUCERS", config.producers == 0),
            ("STREAM_COMMENT_INTERVAL", config.comment.is_zero()),
            ("DATA_SILENCE_LIMIT", config.silence.is_zero()),
        ] {
            if none {
                return Err(env::Error::invalid(name, "must be greater than zero"));
            }
        }
        Ok(config)
    }
}
