//! How keys and channels are called: the one place that builds their names, and reads a channel's.
//!
//! All keys and the channel of a producer carry its hash tag, so that one function call finds them on one shard.

use motience_proto::model::{LogKey, ProducerId};

use crate::{Error, SessionName, Topic};

/// Names of one installation: another one on the same Redis has names of its own, and hears nothing of this one.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Prefix of all of them.
    prefix: String,
}

/// Channel of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// A producer's batches.
    Live(LogKey),
    /// Messages of the cluster bus.
    Bus(Topic),
}

impl Names {
    /// Those of the installation with this id.
    pub(super) fn new(installation: &str) -> Self {
        Self { prefix: format!("m:{installation}") }
    }

    /// One of the keys of a producer's log, by which it is known which server has them all.
    pub(super) fn home(&self, log: LogKey) -> String {
        self.key(log, "meta")
    }

    /// One key of a producer's log: `meta`, `log`, `marks`, `ids`, `devices`, `passing`.
    pub(super) fn key(&self, log: LogKey, part: &str) -> String {
        format!("{}:{{{log}}}:{part}", self.prefix)
    }

    /// The key of a sender's session.
    pub(super) fn session(&self, log: LogKey, sender: &SessionName) -> String {
        self.key(log, &format!("s:{sender}"))
    }

    /// A key of the whole installation: `accounts`, `layout`, `once:NAME`, `node:NAME`; on one server also `barrier`, `mended`, `epoch`, which in a cluster have a hash
    /// tag of their server.
    pub(super) fn shared(&self, part: &str) -> String {
        format!("{}:{part}", self.prefix)
    }

    /// A pattern that the logs' keys match.
    pub(super) fn logs(&self) -> String {
        format!("{}:{{*}}:log", self.prefix)
    }

    /// The producer whose log has the key `log`.
    pub(super) fn producer_of(&self, log: &str) -> Option<ProducerId> {
        let key = log.strip_prefix(&self.prefix)?.strip_prefix(":{")?.strip_suffix("}:log")?;
        key.parse().ok().map(|key: LogKey| key.producer)
    }

    /// Another key of the producer whose log has the key `log`.
    pub(super) fn beside(&self, log: &str, part: &str) -> String {
        format!("{}{part}", log.strip_suffix("log").unwrap_or(log))
    }

    /// The channel's own name.
    pub(super) fn channel(&self, channel: Channel) -> String {
        match channel {
            Channel::Live(log) => self.key(log, "live"),
            Channel::Bus(Topic::Events) => self.shared("bus"),
            Channel::Bus(Topic::Reports) => self.shared("reports"),
        }
    }

    /// Whether this channel is a producer's, and none of the bus.
    pub(super) fn is_live(&self, channel: &str) -> bool {
        channel.ends_with("}:live")
    }

    /// Which channel has this name.
    pub(super) fn channel_of(&self, name: &[u8]) -> Result<Channel, Error> {
        let read = |name: &str| {
            let rest = name.strip_prefix(&self.prefix)?.strip_prefix(':')?;
            match rest {
                "bus" => Some(Channel::Bus(Topic::Events)),
                "reports" => Some(Channel::Bus(Topic::Reports)),
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
    use motience_proto::model::LogId;

    #[test]
    fn a_channel_is_known_by_its_name() {
        let names = Names::new("a");
        let log = LogKey { producer: ProducerId(7), log: LogId(99) };
        for channel in [Channel::Bus(Topic::Events), Channel::Bus(Topic::Reports), Channel::Live(log)] {
            assert_eq!(names.channel_of(names.channel(channel).as_bytes()).unwrap(), channel);
        }
        assert!(names.is_live(&names.channel(Channel::Live(log))) && !names.is_live(&names.channel(Channel::Bus(Topic::Events))));
        assert_eq!(names.key(log, "meta"), "m:a:{7-99}:meta");
        assert_eq!((names.producer_of(&names.key(log, "log")), names.producer_of("m:b:{7-99}:log")), (Some(ProducerId(7)), None));
        assert_eq!(names.beside(&names.key(log, "log"), "meta"), "m:a:{7-99}:meta");
        for other in ["m:a:{x}:live", "m:a:{7}:live", "m:bus", "m:ab:bus", "m:b:{7-99}:live"] {
            assert!(names.channel_of(other.as_bytes()).is_err(), "{other}");
        }
    }
}
