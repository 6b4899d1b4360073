//! Promises broken on purpose, one at a time. The checker must find what follows from each.

use crate::{property, scenario::Scenario};

/// A way to build it wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A node acknowledges a record when it has arrived.
    AckBeforeAppend,
    /// The name of the log's epoch is kept beside its data: a log that lost its tail goes on under the same name.
    EpochBesideData,
    /// A node does not look which records are in the log already.
    SkipDedupWindow,
    /// The log appends whatever the fence of the write.
    SkipFenceCheck,
    /// A write says its fence's number but not in which epoch it was raised. After a loss the same number is given out again.
    FenceOfAnyEpoch,
    /// A node looks what is in the log when a record arrives, but not again when it writes: a connection that has outlived a
    /// newer one, which the log forgot with its tail, writes what that one has written.
    FilterOnArrivalOnly,
    /// A write of unknown outcome is sent again without raising the fence and reading the dedup window first.
    AppendAgain,
    /// The dedup windows survive when the log loses its tail.
    DedupWindowOutlives,
    /// An epoch's name comes back, as where it is that of a server to which a failover goes and from which another returns.
    EpochReturns,
    /// A cursor of an epoch that the log does not know, because it lost every trace of it, is believed.
    BelieveUnknownEpoch,
    /// A killed consumer forgets that it got a reset.
    ForgetReset,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::AckBeforeAppend,
        Self::EpochBesideData,
        Self::SkipDedupWindow,
        Self::SkipFenceCheck,
        Self::FenceOfAnyEpoch,
        Self::FilterOnArrivalOnly,
        Self::AppendAgain,
        Self::DedupWindowOutlives,
        Self::EpochReturns,
        Self::BelieveUnknownEpoch,
        Self::ForgetReset,
    ];

    /// The scenario that shows it.
    pub fn scenario(self) -> Scenario {
        match self {
            Self::AckBeforeAppend | Self::SkipDedupWindow | Self::SkipFenceCheck | Self::AppendAgain => Scenario::CONNECTIONS,
            Self::FenceOfAnyEpoch | Self::FilterOnArrivalOnly | Self::DedupWindowOutlives => Scenario::ROLLBACK,
            Self::EpochBesideData | Self::ForgetReset => Scenario::RESET,
            Self::EpochReturns | Self::BelieveUnknownEpoch => Scenario::READER_OF_THREE_EPOCHS,
        }
    }

    /// The promise that it breaks, and that the checker must find broken.
    pub fn breaks(self) -> &'static str {
        match self {
            Self::AckBeforeAppend => property::ACKNOWLEDGED,
            Self::SkipDedupWindow | Self::SkipFenceCheck | Self::FenceOfAnyEpoch | Self::FilterOnArrivalOnly | Self::AppendAgain => {
                property::ONCE
            }
            Self::DedupWindowOutlives => property::ACKNOWLEDGED,
            Self::EpochBesideData | Self::EpochReturns | Self::BelieveUnknownEpoch => property::MISSED,
            Self::ForgetReset => property::DOUBLED,
        }
    }
}
