//! The state: devices, connections, writes in progress, the log, the consumer.

use crate::{
    names::{Name, Names},
    scenario::{Faults, Scenario},
};

/// Epoch of the log. A new one begins wherever the log may have lost its tail.
pub type LogEpoch = u8;

/// A place in an epoch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The log epoch.
    pub log_epoch: LogEpoch,
    /// The last offset behind it.
    pub offset: u8,
}

/// A device and the way it sees its link. Its outbox survives a crash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    /// Records not yet acknowledged.
    pub outbox: Names,
    /// Whether it has a connection: the newest of its connections whose `linked` is set.
    pub linked: bool,
}

/// A node's state of a device's connection, and the messages on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// Device of the connection.
    pub device: u8,
    /// The right to append.
    pub fence: Fence,
    /// Whether the device still has it, too. Where it has not, the node may go on with it for a while.
    pub linked: bool,
    /// Sent and not yet at the node.
    pub arriving: Names,
    /// Records that the node has handed on, and drops when they come again.
    pub submitted: Names,
    /// Handed on and not yet in a write.
    pub queue: Names,
    /// Records that this connection knows to be in the log.
    pub logged: Names,
    /// The records of the running write.
    pub writing: Option<Names>,
    /// Acknowledgements on their way to the device.
    pub acks: Names,
}

/// A right to append: it is good as long as the log holds the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence {
    /// The epoch of the log in which it was raised.
    pub log_epoch: LogEpoch,
    /// Grows with each connection of the device.
    pub number: u8,
}

/// A write on its way to the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Write {
    /// Device of the records.
    pub device: u8,
    /// The right of the connection that sent it.
    pub fence: Fence,
    /// Dedup window of the device afterwards.
    pub seen: Names,
    /// Records to append.
    pub records: Names,
}

/// All that the log loses together when it loses its tail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Data {
    /// The epochs so far.
    pub epochs: Epochs,
    /// All entries ever, the first at offset 1. Those that retention removed are kept here for the properties to know.
    pub entries: Vec<Name>,
    /// Offsets up to here are removed.
    pub removed: u8,
    /// Of each device.
    pub sessions: [Session; 2],
}

/// The log's session state of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Session {
    /// The newest fence.
    pub fence: Fence,
    /// The records that are in.
    pub seen: Names,
}

/// Which epochs a log has had, and the last offset before each. An epoch in which nothing was asked left no trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epochs(pub Vec<(LogEpoch, u8)>);

/// The log: what it holds now, and what of it would survive a crash.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Log {
    /// The present epoch; named by the server, not kept beside the data.
    pub log_epoch: LogEpoch,
    /// Entries.
    pub data: Data,
    /// Entries that a crash would leave.
    pub saved: Option<Box<Data>>,
}

/// An application that reads the log and saves its state in one step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Consumer {
    /// Its state.
    pub now: Progress,
    /// State that a kill would leave; a consumer that never saved begins again.
    pub saved: Option<Progress>,
}

/// A consumer's state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Its place.
    pub place: Cursor,
    /// Records it has worked on.
    pub handled: Names,
    /// Whether it got a reset: from then on record ids, and not only offsets, show doubles.
    pub reset: bool,
    /// Records in ranges that a gap notice reported as removed.
    pub told: Names,
    /// Records it has worked on twice: must stay empty.
    pub doubled: Names,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The two devices.
    pub devices: [Device; 2],
    /// Connections that some node holds, of each device in the order of their beginning.
    pub connections: Vec<Connection>,
    /// Writes on their way to the log. One that arrives never is lost.
    pub writes: Vec<Write>,
    /// The log.
    pub log: Log,
    /// The consumer.
    pub consumer: Option<Consumer>,
    /// Faults that may still happen.
    pub left: Faults,
    /// History, for the properties.
    pub past: Past,
}

/// Facts that no part of the system keeps, but the properties speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Past {
    /// Records whose device dropped them, because they were acknowledged.
    pub acknowledged: Names,
    /// Records that were acknowledged, or just being so, when the log lost them.
    pub destroyed: Names,
    /// The entries of each earlier log epoch at its end, where there is a consumer: they may have been published, and may still arrive.
    pub epochs: Vec<(LogEpoch, Vec<Name>)>,
    /// Whether a record was kept from being appended twice.
    pub filtered: bool,
}

impl State {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let consumer = Consumer { now: Progress::start(1), saved: None };
        Self {
            devices: scenario.records.map(|outbox| Device { outbox, linked: false }),
            connections: Vec::new(),
            writes: Vec::new(),
            log: Log { log_epoch: 1, data: Data::default(), saved: None },
            consumer: scenario.consumer.then_some(consumer),
            left: scenario.faults,
            past: Past::default(),
        }
    }

    /// Forgets what can have no effect any more, so that states which differ in nothing else are one.
    pub(crate) fn tidy(&mut self) {
        let writes = &self.writes;
        self.connections.retain(|c| {
            c.linked || c.arriving != Names::NONE || c.queue != Names::NONE || writes.iter().any(|w| c.sent(w)) || c.writing.is_some()
        });
        self.writes.sort();
    }
}

impl Connection {
    /// Whether this is the running write of this connection.
    pub(crate) fn sent(&self, write: &Write) -> bool {
        self.device == write.device && self.fence == write.fence && self.writing == Some(write.records)
    }
}

impl Data {
    /// The offset of the last entry.
    pub(crate) fn last(&self) -> u8 {
        self.entries.len() as u8
    }

    /// How often a record is in the log.
    pub(crate) fn count(&self, name: Name) -> usize {
        self.entries.iter().filter(|n| **n == name).count()
    }

    /// The records in the log.
    pub(crate) fn names(&self) -> Names {
        self.entries.iter().copied().collect()
    }
}

impl Epochs {
    /// Notes the epoch `log_epoch`, unless it is the last one noted.
    pub(crate) fn enter(&mut self, log_epoch: LogEpoch, last: u8) {
        if self.0.last().is_none_or(|(present, _)| *present != log_epoch) {
            self.0.push((log_epoch, last));
        }
    }

    /// Where a consumer at `cursor` goes on: at its place, or at the last one that its epoch and all later ones share.
    pub(crate) fn resume(&self, cursor: Cursor, log_epoch: LogEpoch, last: u8) -> Cursor {
        let later = match self.0.iter().position(|(log_epoch, _)| *log_epoch == cursor.log_epoch) {
            Some(at) => &self.0[at + 1..],
            None => &self.0[..],
        };
        let shared = later.iter().map(|(_, began)| *began).min().unwrap_or(last);
        Cursor { log_epoch, offset: cursor.offset.min(shared).min(last) }
    }
}

impl Progress {
    /// Reads from the beginning.
    pub(crate) fn start(log_epoch: LogEpoch) -> Self {
        let place = Cursor { log_epoch, offset: 0 };
        Self { place, handled: Names::NONE, reset: false, told: Names::NONE, doubled: Names::NONE }
    }
}
