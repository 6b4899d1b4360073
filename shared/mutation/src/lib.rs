//! Faults put into the product on purpose, so that the history checker can be seen to find them (`loadtest check`).
//!
//! Without the feature `mutation`, which no shipped program has, [`Mutation::is_on`] is always `false`, and the compiler removes what asks.

/// A promise broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// Acknowledges records before they are in the log.
    AckBeforeAppend,
    /// Keeps the log's epoch beside its data, so that a log which lost its tail keeps its name.
    EpochBesideData,
    /// Does not drop what a sender's dedup window holds already.
    SkipDedupWindow,
    /// Goes on with an outbox whose end is torn as if nothing were missing.
    IgnoreTornTail,
}

/// The variable that names the one mutation in force.
pub const VARIABLE: &str = "MOTIENCE_MUTATION";

impl Mutation {
    /// Those that the checker must find.
    pub const ALL: [Self; 4] = [Self::AckBeforeAppend, Self::EpochBesideData, Self::SkipDedupWindow, Self::IgnoreTornTail];

    /// Its name in [`VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeAppend => "ack-before-append",
            Self::EpochBesideData => "epoch-beside-data",
            Self::SkipDedupWindow => "skip-dedup-window",
            Self::IgnoreTornTail => "ignore-torn-tail",
        }
    }

    /// Whether this process breaks this promise; never without the feature.
    pub fn is_on(self) -> bool {
        chosen() == Some(self.name())
    }
}

/// The value of [`VARIABLE`] under which an embedded node keeps no log at all: records go from producers to live consumers, and no promise
/// holds. The cost of the log is measured against it.
pub const NO_LOG: &str = "no-log";

/// Whether this process keeps no log; never without the feature.
pub fn keeps_no_log() -> bool {
    chosen() == Some(NO_LOG)
}

#[cfg(feature = "mutation")]
fn chosen() -> Option<&'static str> {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var(VARIABLE).ok()).as_deref()
}

#[cfg(not(feature = "mutation"))]
const fn chosen() -> Option<&'static str> {
    None
}
