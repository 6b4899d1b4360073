//! Why a connection of motience/1 ends, and what its peer is told.

use motience_shared::{
    log, relay,
    wire::{self, CloseCode},
};
use quinn::{ConnectionError, ReadError, WriteError};
use tracing::warn;

/// Why a connection ends; each is told to the peer by a close code.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    #[error("{}", .1)]
    Close(CloseCode, String),
    /// The peer left or was lost: nobody to tell.
    #[error("{0}")]
    Gone(String),
}

impl Ending {
    pub(super) fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Self::Close(code, reason.into())
    }
}

/// The reasons a device is told carry no causes: those are logged here.
impl From<relay::Error> for Ending {
    fn from(error: relay::Error) -> Self {
        match error {
            relay::Error::Log(log::Error::Fenced) => Self::new(CloseCode::Fenced, "a newer connection of this device took over"),
            // Which of two connections is the newer one got lost with the log's tail; whoever is still there comes again.
            relay::Error::Log(log::Error::Stale) => Self::new(CloseCode::Draining, "the log began a new life: connect again"),
            relay::Error::Closed => Self::new(CloseCode::Draining, "the node is going away"),
            other => {
                warn!(error = %other, "a connection is closed because a dependency failed");
                Self::new(CloseCode::Internal, "the log or the database is away")
            }
        }
    }
}

impl From<wire::Error> for Ending {
    fn from(error: wire::Error) -> Self {
        let code = if matches!(error, wire::Error::TooLarge { .. }) { CloseCode::TooLarge } else { CloseCode::Protocol };
        Self::new(code, error.to_string())
    }
}

impl From<ConnectionError> for Ending {
    fn from(error: ConnectionError) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<ReadError> for Ending {
    fn from(error: ReadError) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<WriteError> for Ending {
    fn from(error: WriteError) -> Self {
        Self::Gone(error.to_string())
    }
}
