//! Why there is no connection, or no longer one.

use std::io;

use motience_proto::wire::{self, CloseCode};
use quinn::ConnectionError;

use crate::clock;

/// Longest reason kept from a peer's close, in characters.
const MAX_REASON: usize = 256;

/// Why a connection was not made, or ended.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work: a CA file, a name.
    #[error("{0}")]
    Config(String),
    /// The server's name has no address.
    #[error("cannot resolve {host}: {reason}")]
    Resolve {
        /// The name.
        host: String,
        /// The cause.
        reason: String,
    },
    /// No UDP socket.
    #[error("cannot open a UDP socket: {0}")]
    Socket(String),
    /// No `Welcome` within the time limit.
    #[error("no answer within the time limit")]
    Timeout,
    /// The server's certificate is not trusted, or TLS failed otherwise.
    #[error("the secure connection failed: {}", explain(.0))]
    Tls(String),
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The server closed it, and said why.
    #[error("the server closed the connection ({code:?}): {reason}")]
    Closed {
        /// The server's reason.
        code: CloseCode,
        /// Its words.
        reason: String,
    },
    /// The server broke the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// This side closed it.
    #[error("closed")]
    Ended,
}

impl Error {
    /// Whether the server was reached and said no, or nobody could be asked: another way there would end alike.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Config(_) | Self::Protocol(_))
    }

    pub(super) fn socket(error: &io::Error) -> Self {
        Self::Socket(error.to_string())
    }
}

/// A TLS failure in words that say what to do about it.
pub(crate) fn explain(failure: &str) -> String {
    // rustls's names of what it found.
    if ["UnknownIssuer", "UnknownCA", "CaUsedAsEndEntity", "BadSignature"].iter().any(|name| failure.contains(name)) {
        format!("{failure}. No authority trusted here vouches for the certificate: where the CA is your own, pass --ca FILE (`ca`, CA)")
    } else if ["Expired", "NotValidYet", "certificate expired", "not valid yet"].iter().any(|name| failure.contains(name)) {
        let now = clock::timestamp();
        format!("{failure}. Renew the server's certificate; or mend this device's clock, which says {now}, where that is wrong")
    } else if failure.contains("NotValidForName") || failure.contains("not valid for name") {
        format!("{failure}. Connect by a name that the certificate carries, or say which that is (`server_name`)")
    } else {
        failure.to_owned()
    }
}

impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let reason: String = String::from_utf8_lossy(&close.reason).chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
                match CloseCode::from_number(close.error_code.into_inner()) {
                    Some(code) => Self::Closed { code, reason },
                    // A code from the future: the one whose meaning is "try again".
                    None => Self::Closed { code: CloseCode::Internal, reason: format!("code {}: {reason}", close.error_code) },
                }
            }
            // 0x100 to 0x1ff are TLS alerts (RFC 9001, section 4.8).
            ConnectionError::TransportError(error) if (0x100..0x200).contains(&u64::from(error.code)) => Self::Tls(error.to_string()),
            ConnectionError::LocallyClosed => Self::Ended,
            ConnectionError::TimedOut => Self::Lost("nothing was heard within the idle time limit".into()),
            error => Self::Lost(error.to_string()),
        }
    }
}

impl From<wire::Error> for Error {
    fn from(error: wire::Error) -> Self {
        Self::Protocol(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device's clock may be years off until it has asked for the time: that must be told, and passes.
    #[test]
    fn each_fault_of_a_certificate_says_what_to_do() {
        for (failure, told) in [
            ("invalid peer certificate: UnknownIssuer", "--ca FILE"),
            ("invalid peer certificate: Expired", "this device's clock, which says 20"),
            ("invalid peer certificate: certificate expired: verification time 5 (UNIX)", "this device's clock"),
            ("invalid peer certificate: certificate not valid yet: verification time 5 (UNIX)", "this device's clock"),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is only valid for DnsName(\"b\")",
                "`server_name`",
            ),
        ] {
            let words = explain(failure);
            assert!(words.starts_with(failure) && words.contains(told), "{words}");
        }
        assert_eq!(explain("connection refused"), "connection refused");
    }
}
