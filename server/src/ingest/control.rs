//! Writes to a peer that must take them in time.

use std::{fmt::Display, time::Duration};

use motience_session::CloseReason;
use tokio::time::timeout;

/// Waits for a write at most for `limit`: a peer that takes nothing for so long is let go.
pub(super) async fn within<T, E: Display>(limit: Duration, write: impl Future<Output = Result<T, E>>) -> Result<T, CloseReason> {
    match timeout(limit, write).await {
        Ok(outcome) => outcome.map_err(CloseReason::gone),
        Err(_) => {
            metrics::counter!("motience_quic_let_go_total", "reason" => "unread").increment(1);
            Err(CloseReason::rate_limited("a stream is not read"))
        }
    }
}
