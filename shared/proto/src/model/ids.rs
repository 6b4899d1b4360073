//! Newtypes for every id and counter, so that none can stand in another's place.

use std::{fmt, num::ParseIntError, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest device id, in characters, as databases and JSON Schema count: the width of the seed's `device_id VARCHAR(255)`.
pub const MAX_DEVICE_ID: usize = 255;

/// Longest device id in bytes: a character of UTF-8 has up to four.
pub const MAX_DEVICE_ID_BYTES: usize = 4 * MAX_DEVICE_ID;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }

        impl From<$inner> for $name {
            fn from(n: $inner) -> Self {
                Self(n)
            }
        }

        impl From<$name> for $inner {
            fn from(n: $name) -> Self {
                n.0
            }
        }
    };
}

number! {
    /// `users.id` of any account.
    UserId(i64)
}
number! {
    /// `users.id` of an account with the role `producer`.
    ProducerId(i64)
}
number! {
    /// `users.id` of an account with the role `consumer`.
    ConsumerId(i64)
}
number! {
    /// One incarnation of a device's outbox, which numbers records: random, kept beside the outbox.
    ProducerEpoch(u64)
}
number! {
    /// A record's number within its producer epoch: from 1, without holes.
    Seq(u64)
}
number! {
    /// A record's place in its producer's log: from 1, without holes.
    Offset(u64)
}
number! {
    /// Grows with each new connection of one device; late writes of an older connection carry a smaller one.
    Fence(u64)
}
number! {
    /// One incarnation of a producer's log: another one whenever the log's tail may have been lost (compare Kafka's leader epoch, KIP-101).
    LogEpoch(u64)
}

number! {
    /// The log of one account: random, given to the account when it is made, and never to another. An account from before there were
    /// log ids has the log that bears its own number.
    LogId(u64)
}

/// A producer's log: the number by which clients know the producer, and the id of its log. A number may come back where the database is
/// restored from a backup; the id does not, so whatever is kept by both is never mistaken for a newcomer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogKey {
    /// Producer of the log.
    pub producer: ProducerId,
    /// Which log.
    pub log: LogId,
}

impl LogKey {
    /// The log of an account that was made before accounts had log ids.
    pub const fn numbered(producer: ProducerId) -> Self {
        Self { producer, log: LogId(producer.0.cast_unsigned()) }
    }
}

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.producer, self.log)
    }
}

impl FromStr for LogKey {
    type Err = InvalidPair;

    fn from_str(s: &str) -> Result<Self, InvalidPair> {
        let (producer, log) = s.split_once('-').ok_or(InvalidPair)?;
        Ok(Self { producer: producer.parse().map_err(|_| InvalidPair)?, log: log.parse().map_err(|_| InvalidPair)? })
    }
}

impl UserId {
    /// This account in the role of a producer.
    pub fn producer(self) -> ProducerId {
        ProducerId(self.0)
    }

    /// This account in the role of a consumer.
    pub fn consumer(self) -> ConsumerId {
        ConsumerId(self.0)
    }
}

impl ProducerId {
    /// The account behind this producer.
    pub fn user(self) -> UserId {
        UserId(self.0)
    }
}

impl ConsumerId {
    /// The account behind this consumer.
    pub fn user(self) -> UserId {
        UserId(self.0)
    }
}

impl Offset {
    /// The offset after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The permanent identity of a record within its producer. A record may get another offset in another epoch of the log; its id stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The incarnation of the outbox that numbered the record: 64 random bits, so no two senders share one.
    pub producer_epoch: ProducerEpoch,
    /// Its number within that incarnation.
    pub seq: Seq,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.producer_epoch.0, self.seq)
    }
}

impl FromStr for RecordId {
    type Err = InvalidPair;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (producer_epoch, seq) = s.split_once('-').ok_or(InvalidPair)?;
        let producer_epoch = ProducerEpoch(u64::from_str_radix(producer_epoch, 16).map_err(|_| InvalidPair)?);
        Ok(Self { producer_epoch, seq: seq.parse().map_err(|_| InvalidPair)? })
    }
}

/// How far a reader has come in a producer's log: everything up to `offset` in the epoch `log_epoch`.
///
/// No log has the epoch 0: such a cursor trusts its offset, whatever the log's epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The epoch that the offset belongs to.
    pub log_epoch: LogEpoch,
    /// The last offset read; 0 before the first.
    pub offset: Offset,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.log_epoch, self.offset)
    }
}

impl FromStr for Cursor {
    type Err = InvalidPair;

    /// `EPOCH-OFFSET`, or an offset alone.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (log_epoch, offset) = s.split_once('-').unwrap_or(("0", s));
        let number = |text: &str| text.parse().map_err(|_| InvalidPair);
        Ok(Self { log_epoch: LogEpoch(number(log_epoch)?), offset: Offset(number(offset)?) })
    }
}

/// Why a string is no [`RecordId`], [`Cursor`] or [`LogKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two numbers joined by '-' are expected")]
pub struct InvalidPair;

/// The name a device gives itself: 1 to 255 characters without control characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId(Arc<str>);

/// Why a string is no device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device id is 1 to {MAX_DEVICE_ID} characters without control characters")]
pub struct InvalidDeviceId;

impl DeviceId {
    /// Checks length and characters.
    pub fn new(id: &str) -> Result<Self, InvalidDeviceId> {
        if Self::is_valid(id) { Ok(Self(id.into())) } else { Err(InvalidDeviceId) }
    }

    /// Whether `id` would be accepted by [`DeviceId::new`].
    pub fn is_valid(id: &str) -> bool {
        // The bytes first: nobody counts the characters of a megabyte.
        !id.is_empty() && id.len() <= MAX_DEVICE_ID_BYTES && id.chars().count() <= MAX_DEVICE_ID && !id.chars().any(char::is_control)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::new(s)
    }
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let id = String::deserialize(deserializer)?;
        Self::new(&id).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_ids_are_bounded_and_printable() {
        assert!(DeviceId::new("rpi_001").is_ok());
        assert!(DeviceId::new(&"x".repeat(255)).is_ok());
        assert!(DeviceId::new(&"𝔵".repeat(255)).is_ok());
        for bad in ["", "a\nb", &"x".repeat(256), &"é".repeat(256)] {
            assert_eq!(DeviceId::new(bad), Err(InvalidDeviceId));
        }
    }

    #[test]
    fn numbers_print_and_parse() {
        assert_eq!("123".parse::<ProducerId>().unwrap(), ProducerId(123));
        assert_eq!(UserId(7).producer().to_string(), "7");
        let key = LogKey { producer: ProducerId(7), log: LogId(99) };
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!("-1".parse::<Seq>().is_err());
    }
}
