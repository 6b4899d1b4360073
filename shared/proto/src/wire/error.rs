//! Why bytes are no frames, and how much of them a reader takes.

/// Limits of a reader. A frame over its limit is refused before it is buffered.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest body of any frame, in bytes.
    pub frame: usize,
}

impl Limits {
    /// Limits that let records of `bytes` through, with room for what is around them.
    pub fn for_records(bytes: usize) -> Self {
        Self { frame: bytes + 1024 }
    }

    /// Limits of the control stream: tokens of 4 KiB, a few thousand ranges.
    pub fn control() -> Self {
        Self { frame: 64 * 1024 }
    }
}

/// Why bytes are no frames. Each ends the connection with [`super::CloseCode::Protocol`] or `TooLarge`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A body longer than the limit.
    #[error("a frame of {length} bytes, over the limit of {limit}")]
    TooLarge {
        /// The length it announced.
        length: u64,
        /// The length allowed.
        limit: usize,
    },
    /// A critical frame this version does not know.
    #[error("unknown critical frame type {0}")]
    UnknownCritical(u64),
    /// A stream of a kind this version does not know.
    #[error("unknown stream kind {0}")]
    UnknownStream(u64),
    /// A body that ends too early.
    #[error("a {0} frame ends too early")]
    Truncated(&'static str),
    /// A part of a body over its own limit.
    #[error("a part of a {0} frame is too long")]
    TooLong(&'static str),
    /// A body that makes no sense.
    #[error("a {0} frame is malformed")]
    Malformed(&'static str),
}
