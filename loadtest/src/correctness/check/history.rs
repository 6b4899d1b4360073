//! The history files: what devices, consumers and the harness did, one JSON object a line, in the order in which it was done.
//!
//! A line is written by one `write(2)` before its writer goes on, so that a SIGKILL loses nothing that has happened.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use motience_proto::model::{Cursor, RecordId};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::common::egress::Egress;

/// The name that its maker gives a record: device, incarnation of the device's process, number in it. Part of the record's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Id {
    pub(crate) device: u32,
    pub(crate) incarnation: u32,
    pub(crate) number: u64,
}

/// Something that happened, and when: microseconds since 1970, all processes of a check being on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) t: u64,
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// An event of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "snake_case")]
pub(crate) enum Event {
    // The harness, before anything else: who there is.
    Device {
        device: u32,
        producer: i64,
        drops: bool,
    },
    Consumer {
        consumer: u32,
        kind: Kind,
        producers: Vec<i64>,
    },
    // The harness, while it runs.
    Subscribed {
        consumer: u32,
        producer: i64,
    },
    Unsubscribing {
        consumer: u32,
        producer: i64,
    },
    Unsubscribed {
        consumer: u32,
        producer: i64,
    },
    Fault {
        fault: String,
        phase: Phase,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        what: String,
    },
    // Devices.
    Started {
        incarnation: u32,
    },
    Offered {
        id: Id,
        hash: Hash,
    },
    Taken {
        id: Id,
        #[serde(with = "text")]
        name: RecordId,
    },
    Rejected {
        id: Id,
        why: String,
    },
    Acked {
        id: Id,
    },
    Refused {
        id: Id,
        code: String,
    },
    Dropped {
        id: Id,
    },
    Lost {
        id: Id,
    },
    Done {
        incarnation: u32,
    },
    // Consumers.
    Resumed {
        producer: i64,
        /// `None`: from the log's beginning.
        #[serde(with = "maybe_text", default)]
        cursor: Option<Cursor>,
    },
    Received {
        producer: i64,
        #[serde(with = "text")]
        cursor: Cursor,
        #[serde(with = "text")]
        name: RecordId,
        id: Id,
        hash: Hash,
    },
    Following {
        producer: i64,
    },
    Gap {
        producer: i64,
        from: u64,
        to: u64,
    },
    Reset {
        producer: i64,
        #[serde(with = "text")]
        cursor: Cursor,
    },
    Ended {
        producer: i64,
        why: String,
    },
    /// For a reader of the history.
    Note {
        what: String,
    },
}

/// How a consumer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// motience/1, with the client library, which removes doubles within one life of the process.
    Native,
    /// One of the egresses by which JSON goes out, with a client that removes nothing.
    Json(Egress),
}

impl Kind {
    /// As reports name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Native => "motience/1",
            Self::Json(egress) => egress.name(),
        }
    }
}

/// Where a fault stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Begin,
    End,
}

/// FNV-1a over what a device says in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Hash(pub(crate) u64);

impl Hash {
    /// Over parts, so that what lies between two parts counts too.
    pub(crate) fn of(parts: &[&[u8]]) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        for part in parts {
            part.iter().copied().for_each(&mut eat);
            eat(0xff);
        }
        Self(hash)
    }
}

/// Now, in microseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}

/// A file that is being written.
pub(crate) struct Writer(Mutex<File>);

impl Writer {
    /// Goes on at the end of the file, or begins it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self(Mutex::new(file.with_context(|| format!("{} cannot be written", path.display()))?)))
    }

    /// Writes one line. A history that cannot be written proves nothing, so the process ends.
    pub(crate) fn put(&self, event: Event) {
        let mut file = self.0.lock();
        // The time is taken under the lock: times rise within a file.
        let mut line = serde_json::to_vec(&Line { t: now(), event }).expect("every event is JSON");
        line.push(b'\n');
        file.write_all(&line).expect("the history can be written");
    }
}

/// Reads a file. The last line may be half written where its writer was killed.
pub(crate) fn read(path: &Path) -> Result<Vec<Line>> {
    let Ok(text) = std::fs::read_to_string(path) else { return Ok(Vec::new()) };
    let mut lines = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate() {
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            Err(_) if !line.ends_with('\n') => break,
            Err(e) => return Err(e).with_context(|| format!("{} line {} is no history", path.display(), i + 1)),
        }
    }
    Ok(lines)
}

impl Event {
    /// The record that this is about.
    pub(crate) fn id(&self) -> Option<Id> {
        match self {
            Self::Offered { id, .. }
            | Self::Taken { id, .. }
            | Self::Rejected { id, .. }
            | Self::Acked { id }
            | Self::Refused { id, .. }
            | Self::Dropped { id }
            | Self::Lost { id }
            | Self::Received { id, .. } => Some(*id),
            _ => None,
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.device, self.incarnation, self.number)
    }
}

impl FromStr for Id {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().context("an id has three parts");
        Ok(Self { device: part()?.parse()?, incarnation: part()?.parse()?, number: part()?.parse()? })
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Hash {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

macro_rules! as_text {
    ($($kind:ty),*) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                text::serialize(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $kind {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::deserialize(deserializer)
            }
        }
    )*};
}

as_text!(Id, Hash);

mod text {
    use super::*;

    pub(super) fn serialize<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod maybe_text {
    use super::*;

    #[expect(clippy::ref_option, reason = "serde passes it so")]
    pub(super) fn serialize<T: fmt::Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use motience_proto::model::{LogEpoch, Offset, ProducerEpoch, Seq};

    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_torn_last_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history");
        let id = Id { device: 1, incarnation: 2, number: 3 };
        let received = Event::Received {
            producer: 7,
            cursor: Cursor { log_epoch: LogEpoch(u64::MAX), offset: Offset(5) },
            name: RecordId { producer_epoch: ProducerEpoch(u64::MAX), seq: Seq(9) },
            id,
            hash: Hash::of(&[b"a", b"b"]),
        };
        let events = [
            Event::Resumed { producer: 7, cursor: None },
            received,
            Event::Fault { fault: "node-kill".into(), phase: Phase::Begin, what: String::new() },
        ];
        for event in &events {
            Writer::open(&path).unwrap().put(event.clone());
        }
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"t\":5,\"e\":\"no").unwrap();
        let lines = read(&path).unwrap();
        assert_eq!(lines.iter().map(|line| line.event.clone()).collect::<Vec<_>>(), events);
        assert_eq!(lines[1].event.id(), Some(id));
        assert_ne!(Hash::of(&[b"ab", b""]), Hash::of(&[b"a", b"b"]));
    }
}
