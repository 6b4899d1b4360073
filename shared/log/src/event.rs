//! Word that nodes give each other over the log's bus. Every event is a hint to look at the store again, never the
//! truth itself: one that is lost costs a cache's lifetime, not correctness.

use motience_proto::model::{Account, ConsumerId, ProducerId, UserId};
use serde::{Deserialize, Serialize};

use super::report::{DeviceReport, NodeReport, StreamReport};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A subscription came into force.
    Subscribed {
        /// Who.
        consumer: ConsumerId,
        /// To whom.
        producer: ProducerId,
    },
    /// A subscription ended.
    Unsubscribed {
        /// Who.
        consumer: ConsumerId,
        /// From whom.
        producer: ProducerId,
    },
    /// A login was ended: tokens of this family are no longer good.
    FamilyRevoked {
        /// The family of its tokens.
        family: String,
    },
    /// An account was closed: none of its tokens is good any more.
    UserRevoked {
        /// The account.
        user: UserId,
        /// When, in milliseconds since 1970; nodes of the first release did not say, and mean now.
        #[serde(default)]
        at_ms: Option<i64>,
        /// The families of its tokens that were alive, some of them where there are many.
        #[serde(default)]
        families: Vec<String>,
    },
    /// The accounts were restored from a backup: whatever a node knows of them has to be looked up again.
    Restored,
    /// What a node has taken in lately.
    Streams {
        /// Name of the node.
        node: String,
        /// Its live producers, some of them where there are many.
        streams: Vec<StreamReport>,
    },
    /// How a node is.
    Node {
        /// Its own word.
        report: NodeReport,
    },
    /// How the devices of a node are, some of them where there are many.
    Devices {
        /// Name of the node.
        node: String,
        /// What it knows of them.
        devices: Vec<DeviceReport>,
    },
    /// What a newer node says and this one does not know.
    #[serde(other)]
    Unknown,
}

/// Families told in one event.
const FAMILIES_AT_ONCE: usize = 500;

impl Event {
    /// Whether it is news of the node's own state, which travels apart: nodes of the first release would take what they cannot read
    /// on the bus for a lost message, and empty their rings each time.
    pub(super) fn is_report(&self) -> bool {
        matches!(self, Self::Node { .. } | Self::Devices { .. })
    }

    /// The same with no time later than `now`, in milliseconds since 1970: another node's clock may be ahead.
    #[must_use]
    pub fn until(mut self, now: i64) -> Self {
        let clamp = |ms: &mut i64| *ms = now.min(*ms);
        match &mut self {
            Self::UserRevoked { at_ms, .. } => at_ms.iter_mut().for_each(clamp),
            Self::Streams { streams, .. } => streams.iter_mut().map(|stream| &mut stream.last_record_ms).for_each(clamp),
            Self::Node { report } => clamp(&mut report.started_ms),
            Self::Devices { devices, .. } => devices.iter_mut().map(|device| &mut device.seen_ms).for_each(clamp),
            Self::Subscribed { .. } | Self::Unsubscribed { .. } | Self::FamilyRevoked { .. } | Self::Restored | Self::Unknown => {}
        }
        self
    }

    /// Word of a closed account, whose logins of these families were ended: one event, or several where they are many.
    pub fn account_closed(account: &Account, families: &[String]) -> Vec<Self> {
        let at_ms = account.revoked_at.map(|at| (at.unix_timestamp_nanos() / 1_000_000) as i64);
        let event = |families: &[String]| Self::UserRevoked { user: account.user.id, at_ms, families: families.to_vec() };
        if families.is_empty() { vec![event(&[])] } else { families.chunks(FAMILIES_AT_ONCE).map(event).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_event_is_of_the_time_to_come() {
        let revoked = |at_ms| Event::UserRevoked { user: UserId(1), at_ms, families: Vec::new() };
        assert_eq!(revoked(Some(i64::MAX)).until(1000), revoked(Some(1000)));
        assert_eq!(revoked(Some(7)).until(1000), revoked(Some(7)));
        assert_eq!(revoked(None).until(1000), revoked(None));
        let stream = |last_record_ms| StreamReport { producer: ProducerId(1), log: None, records: 1, millirate: 0, last_record_ms };
        let streams = |at| Event::Streams { node: "n".into(), streams: vec![stream(at)] };
        assert_eq!(streams(5000).until(1000), streams(1000));
        let node = |started_ms| Event::Node { report: NodeReport { started_ms, ..NodeReport::default() } };
        assert_eq!(node(5000).until(1000), node(1000));
    }
}
