//! Plans: how much an account or an organisation may have, as an operator sets it.

use serde::{Deserialize, Serialize};

/// The plan that holds for every account without one, where there is a plan of this name.
pub const DEFAULT_PLAN: &str = "default";

/// The limits of a plan. A limit that is not set is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlanLimits {
    /// Records taken in, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_per_second: Option<u64>,
    /// Bytes of records taken in, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Records given out, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records_out_per_second: Option<u64>,
    /// Bytes of records given out, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out_per_second: Option<u64>,
    /// Requests to ap, sm and dsm, a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u64>,
    /// Devices connected at once, on each node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<u64>,
    /// Other connections at once, on each node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u64>,
    /// Subscriptions of a consumer that are in force or asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows: Option<u64>,
    /// Bytes of records that each producer's log keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// Rows that each producer has in the history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_rows: Option<u64>,
    /// Bytes of records that the logs of all producers keep together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_log_bytes: Option<u64>,
    /// Rows that all producers have in the history together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_history_rows: Option<u64>,
}

/// Whether the text can name a plan or an organisation: 1 to 64 letters, digits, `-`, `_` and `.`.
pub fn is_plain_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}
