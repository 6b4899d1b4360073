//! The participants of a check, and how many faults of each kind may happen, in any order and at any moment.

use crate::names::Names;

/// How often each fault may happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Faults {
    /// A device crashes and restarts with its outbox, or its link is cut: the node does not know, and keeps the connection.
    pub cuts: u8,
    /// A node crashes: what it held of a connection is gone.
    pub node_crashes: u8,
    /// The log's answer to a write is lost or late; the write may still happen.
    pub unknown_outcomes: u8,
    /// A record's message arrives once more.
    pub duplicates: u8,
    /// The log loses its tail (a crash of Redis, a failover).
    pub rollbacks: u8,
    /// Retention removes the oldest entries.
    pub trims: u8,
    /// The consumer is killed and goes on from what it has saved.
    pub kills: u8,
}

/// A scenario to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scenario {
    /// Its name in the report.
    pub name: &'static str,
    /// The records of each device.
    pub records: [Names; 2],
    /// Whether there is a consumer. A consumer changes nothing for the log, so checks of the log do without.
    pub consumer: bool,
    /// The faults.
    pub faults: Faults,
}

/// Two records of the first device, one of the second.
const THREE: [Names; 2] = [Names(0b011), Names(0b100)];
/// Two records of one device.
const TWO: [Names; 2] = [Names(0b011), Names(0)];

/// One record.
const ONE: [Names; 2] = [Names(0b001), Names(0)];

const NONE: Faults = Faults { cuts: 0, node_crashes: 0, unknown_outcomes: 0, duplicates: 0, rollbacks: 0, trims: 0, kills: 0 };

impl Scenario {
    /// Everything that can break between a device and the log, which itself loses nothing.
    pub const CONNECTIONS: Self = Self {
        name: "connections break",
        records: THREE,
        consumer: false,
        faults: Faults { cuts: 1, node_crashes: 1, unknown_outcomes: 1, duplicates: 1, ..NONE },
    };

    /// A scenario whose log loses its tail. (A node that crashes does what a node does that keeps a connection and never uses it again.)
    pub const ROLLBACK: Self = Self {
        name: "the log loses its tail",
        records: THREE,
        consumer: false,
        faults: Faults { cuts: 1, unknown_outcomes: 1, rollbacks: 1, ..NONE },
    };

    /// A consumer is killed, falls behind retention and misses live entries; the log loses nothing.
    pub const CONSUMER: Self =
        Self { name: "a consumer falls behind", records: THREE, consumer: true, faults: Faults { cuts: 1, trims: 1, kills: 1, ..NONE } };

    /// A consumer of a log that loses its tail.
    pub const RESET: Self =
        Self { name: "a consumer is reset", records: THREE, consumer: true, faults: Faults { rollbacks: 1, trims: 1, kills: 1, ..NONE } };

    /// Writers of a log that loses its tail twice: fences and connections of three epochs.
    pub const WRITERS_OF_THREE_EPOCHS: Self =
        Self { name: "writers of three epochs", records: TWO, consumer: false, faults: Faults { cuts: 1, rollbacks: 2, ..NONE } };

    /// A consumer of a log that loses its tail twice: cursors of three epochs.
    pub const READER_OF_THREE_EPOCHS: Self =
        Self { name: "a consumer of three epochs", records: TWO, consumer: true, faults: Faults { rollbacks: 2, kills: 1, ..NONE } };

    /// Every fault, each with every other.
    pub const EVERYTHING: Self = Self {
        name: "every fault at once, for one record",
        records: ONE,
        consumer: true,
        faults: Faults { cuts: 1, node_crashes: 1, unknown_outcomes: 1, duplicates: 1, rollbacks: 1, trims: 1, kills: 1 },
    };

    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::CONNECTIONS,
        Self::ROLLBACK,
        Self::CONSUMER,
        Self::RESET,
        Self::WRITERS_OF_THREE_EPOCHS,
        Self::READER_OF_THREE_EPOCHS,
        Self::EVERYTHING,
    ];
}
