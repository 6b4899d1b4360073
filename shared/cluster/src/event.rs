//! Events that nodes broadcast on the cluster bus. An event is a hint to read the store again, never the truth itself: one that is lost
//! costs the lifetime of a cache, not correctness.

use motience_proto::model::{Account, ConsumerId, DeviceState, ProducerId, UserId};
use serde::{Deserialize, Serialize};

use crate::report::{ConnectionReport, DeviceReport, NodeReport, PlanUseReport, StreamReport};

/// An event of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// A subscription came into force.
    Subscribed {
        /// The consumer.
        consumer: ConsumerId,
        /// The producer.
        producer: ProducerId,
    },
    /// A subscription ended.
    Unsubscribed {
        /// The consumer.
        consumer: ConsumerId,
        /// The producer.
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
    /// An account was logged out everywhere: its tokens of other issuers are ended.
    ExternalEnded {
        /// The account.
        user: UserId,
        /// Up to when, in milliseconds since 1970.
        at_ms: i64,
        /// When the token was issued that stays, likewise.
        #[serde(default)]
        kept_ms: Option<i64>,
    },
    /// A device was quarantined, revoked or restored.
    DeviceChanged {
        /// Its producer.
        producer: ProducerId,
        /// The device.
        device: String,
        /// Its state by now.
        state: DeviceState,
        /// Whether its records are kept from consumers.
        #[serde(default)]
        withheld: bool,
    },
    /// Records of a producer were erased: nodes keep none of them in memory.
    Erased {
        /// The producer.
        producer: ProducerId,
    },
    /// The accounts were restored from a backup: whatever a node knows of them has to be looked up again.
    Restored,
    /// Plans, or whose they are, have changed.
    QuotasChanged,
    /// Report of the producers that a node has taken records from lately.
    Streams {
        /// Name of the node.
        node: String,
        /// Live producers, or some of them where there are many.
        streams: Vec<StreamReport>,
    },
    /// Report of a node.
    Node {
        /// The node's report of itself.
        report: NodeReport,
    },
    /// Report of a node's devices, or of some of them where there are many.
    Devices {
        /// Name of the node.
        node: String,
        /// One report for each device.
        devices: Vec<DeviceReport>,
    },
    /// Report of the plans that organisations use on a node, or of some of them where there are many.
    PlansUsed {
        /// Name of the node.
        node: String,
        /// One report for each organisation.
        used: Vec<PlanUseReport>,
    },
    /// An operator asks every node for its live connections.
    ConnectionsAsked {
        /// Number of the question: answers repeat it.
        ask: u64,
        /// A part of account, device, address or node, in lower case; or the id of one.
        query: String,
        /// Most connections in one answer.
        limit: u32,
    },
    /// The answer of a node.
    Connections {
        /// Number of the question.
        ask: u64,
        /// Name of the node.
        node: String,
        /// How many match.
        total: u64,
        /// The newest of them.
        connections: Vec<ConnectionReport>,
    },
    /// An operator has ended a connection.
    ConnectionEnded {
        /// Its id.
        connection: String,
    },
    /// An event of a newer version, unknown to this one.
    #[serde(other)]
    Unknown,
}

/// Families in one event.
const FAMILIES_AT_ONCE: usize = 500;

impl Event {
    /// Whether the event is about the node's own state, which has a topic of its own (see [`motience_log::Topic`]).
    pub(crate) fn is_own_report(&self) -> bool {
        matches!(
            self,
            Self::Node { .. }
                | Self::Devices { .. }
                | Self::PlansUsed { .. }
                | Self::ConnectionsAsked { .. }
                | Self::Connections { .. }
                | Self::ConnectionEnded { .. }
        )
    }

    /// Cuts all times of the event to `now`, in milliseconds since 1970: another node's clock may be ahead.
    #[must_use]
    pub fn until(mut self, now: i64) -> Self {
        let clamp = |ms: &mut i64| *ms = now.min(*ms);
        match &mut self {
            Self::UserRevoked { at_ms, .. } => at_ms.iter_mut().for_each(clamp),
            Self::ExternalEnded { at_ms, .. } => clamp(at_ms),
            Self::Streams { streams, .. } => streams.iter_mut().map(|stream| &mut stream.last_record_ms).for_each(clamp),
            Self::Node { report } => clamp(&mut report.started_ms),
            Self::Devices { devices, .. } => devices.iter_mut().map(|device| &mut device.seen_ms).for_each(clamp),
            Self::Connections { connections, .. } => connections.iter_mut().map(|one| &mut one.since_ms).for_each(clamp),
            Self::PlansUsed { .. }
            | Self::ConnectionsAsked { .. }
            | Self::ConnectionEnded { .. }
            | Self::Subscribed { .. }
            | Self::Unsubscribed { .. }
            | Self::FamilyRevoked { .. }
            | Self::DeviceChanged { .. }
            | Self::Erased { .. }
            | Self::Restored
            | Self::QuotasChanged
            | Self::Unknown => {}
        }
        self
    }

    /// Events that tell of a closed account and of the token families that ended with it: one event, or several for many families.
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
        let ended = |at_ms| Event::ExternalEnded { user: UserId(1), at_ms, kept_ms: None };
        assert_eq!(ended(5000).until(1000), ended(1000));
        let stream = |last_record_ms| StreamReport { producer: ProducerId(1), log: None, records: 1, millirate: 0, last_record_ms };
        let streams = |at| Event::Streams { node: "n".into(), streams: vec![stream(at)] };
        assert_eq!(streams(5000).until(1000), streams(1000));
        let node = |started_ms| Event::Node { report: NodeReport { started_ms, ..NodeReport::default() } };
        assert_eq!(node(5000).until(1000), node(1000));
    }
}
