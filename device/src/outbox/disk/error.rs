//! Errors of the outbox's file.

use std::io;

/// Why the disk does not take what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Another process, or another outbox of this one, has the file open.
    #[error("the outbox {0} is in use by another process")]
    InUse(String),
    /// There is no room on the disk. Taking goes on by itself when there is.
    #[error("no room on disk for the outbox {0}")]
    NoSpace(String),
    /// The disk fails in another way, or the file may not be written.
    #[error("the outbox {file} cannot be written: {reason}")]
    Failed {
        /// The file.
        file: String,
        /// The cause.
        reason: String,
    },
}

/// An error inside the file, where it may still be replaced.
#[derive(Debug)]
pub(super) enum Fault {
    /// The content of the file cannot be what was written.
    Damaged(String),
    NoSpace,
    InUse,
    Other(String),
}

impl Fault {
    pub(super) fn named(self, file: String) -> Error {
        match self {
            Self::InUse => Error::InUse(file),
            Self::NoSpace => Error::NoSpace(file),
            Self::Damaged(reason) | Self::Other(reason) => Error::Failed { file, reason },
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Io(error) => match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Self::Damaged(error.to_string()),
                // The medium itself: another attempt may read what this one did not.
                _ => Self::Other(error.to_string()),
            },
            error @ (redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_)) => {
                Self::Other(error.to_string())
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}
