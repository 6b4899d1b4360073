//! How keys and channels are called: the one place that builds their names, and reads a channel's.
//!
//! All keys and the channel of a producer carry its hash tag, so that one function call finds them on one shard.

use crate::{
    log::{Error, SessionName},
    model::ProducerId,
};

/// Names of one installation.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// What they all begin with.
    prefix: String,
}

/// What a message came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// A producer's batches.
    Live(ProducerId),
    /// Events.
    Bus,
    /// Those events that are reports.
    Reports,
}

impl Default for Names {
    fn default() -> Self {
        Self { prefix: "m".to_owned() }
    }
}

impl Names {
    /// One key of a producer: `meta`, `log`, `marks`, `ids`.
    pub(super) fn key(&self, producer: ProducerId, part: &str) -> String {
        format!("{}:{{{producer}}}:{part}", self.prefix)
    }

    /// The key of a sender's session.
    pub(super) fn session(&self, producer: ProducerId, sender: &SessionName) -> String {
        self.key(producer, &format!("s:{sender}"))
    }

    /// A key of the whole installation: `barrier`, `mended`, `epoch`.
    pub(super) fn shared(&self, part: &str) -> String {
        format!("{}:{part}", self.prefix)
    }

    /// A pattern that the logs' keys match.
    pub(super) fn logs(&self) -> String {
        format!("{}:{{*}}:log", self.prefix)
    }

    /// Another key of the producer whose log has the key `log`.
    pub(super) fn beside(&self, log: &str, part: &str) -> String {
        format!("{}{part}", log.strip_suffix("log").unwrap_or(log))
    }

    /// The channel's own name.
    pub(super) fn channel(&self, channel: Channel) -> String {
        match channel {
            Channel::Live(producer) => self.key(producer, "live"),
            Channel::Bus => self.shared("bus"),
            Channel::Reports => self.shared("reports"),
        }
    }

    /// Which channel has this name.
    pub(super) fn channel_of(&self, name: &[u8]) -> Result<Channel, Error> {
        let read = |name: &str| {
            let rest = name.strip_prefix(&self.prefix)?.strip_prefix(':')?;
            match rest {
                "bus" => Some(Channel::Bus),
                "reports" => Some(Channel::Reports),
                _ => rest.strip_prefix('{')?.strip_suffix("}:live")?.parse().ok().map(Channel::Live),
            }
        };
        let known = std::str::from_utf8(name).ok().and_then(read);
        known.ok_or_else(|| Error::Damaged("a message on an unknown channel".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_known_by_its_name() {
        let names = Names::default();
        for channel in [Channel::Bus, Channel::Reports, Channel::Live(ProducerId(7))] {
            assert_eq!(names.channel_of(names.channel(channel).as_bytes()).unwrap(), channel);
        }
        assert_eq!(names.key(ProducerId(7), "meta"), "m:{7}:meta");
        assert_eq!(names.beside(&names.key(ProducerId(7), "log"), "meta"), "m:{7}:meta");
        assert!(names.channel_of(b"m:{x}:live").is_err());
        assert!(names.channel_of(b"n:bus").is_err());
    }
}
