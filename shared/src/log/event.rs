//! Word that nodes give each other over the log's bus. Every event is a hint to look at the store again, never the
//! truth itself: one that is lost costs a cache's lifetime, not correctness.

use serde::{Deserialize, Serialize};

use super::report::{DeviceReport, NodeReport, StreamReport};
use crate::model::{Account, ConsumerId, ProducerId, UserId};

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

    /// Word of a closed account, whose logins of these families were ended: one event, or several where they are many.
    pub fn account_closed(account: &Account, families: &[String]) -> Vec<Self> {
        let at_ms = account.revoked_at.map(|at| (at.unix_timestamp_nanos() / 1_000_000) as i64);
        let event = |families: &[String]| Self::UserRevoked { user: account.user.id, at_ms, families: families.to_vec() };
        if families.is_empty() { vec![event(&[])] } else { families.chunks(FAMILIES_AT_ONCE).map(event).collect() }
    }
}
