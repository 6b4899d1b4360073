//! Devices whose records are refused or withheld, as this node knows them. The truth is in the store and reaches the nodes over the bus.
//!
//! Each record that comes in, and each that goes out to a consumer, is compared with them. While nothing is restricted that costs one load.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use motience_proto::model::{
    DeviceState, ProducerId,
    record::{self, Invalid},
};
use parking_lot::RwLock;
use tokio::sync::watch;

/// Waiting connections are woken by group, so that one change does not wake every connection of a node.
const GROUPS: usize = 64;

/// The restricted devices. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DeviceStates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Whether there is any: a look at this spares the look at the map.
    any: AtomicBool,
    changes: AtomicU64,
    restricted: RwLock<HashMap<ProducerId, HashMap<Box<str>, Restriction>>>,
    groups: Vec<watch::Sender<()>>,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Restriction {
    revoked: bool,
    withheld: bool,
}

impl Default for DeviceStates {
    fn default() -> Self {
        Self(Arc::new(Inner {
            any: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            restricted: RwLock::default(),
            groups: (0..GROUPS).map(|_| watch::Sender::new(())).collect(),
            hasher: RandomState::new(),
        }))
    }
}

impl DeviceStates {
    /// How often it was changed: for [`DeviceStates::replace`].
    pub fn changes(&self) -> u64 {
        self.0.changes.load(Relaxed)
    }

    /// Takes the state of a device. `withheld`: whether its records are kept from consumers.
    pub fn set(&self, producer: ProducerId, device: &str, state: DeviceState, withheld: bool) {
        let mut restricted = self.0.restricted.write();
        self.0.changes.fetch_add(1, Relaxed);
        if state == DeviceState::Active {
            if let Some(devices) = restricted.get_mut(&producer) {
                devices.remove(device);
                if devices.is_empty() {
                    restricted.remove(&producer);
                }
            }
        } else {
            let restriction = Restriction { revoked: state == DeviceState::Revoked, withheld };
            restricted.entry(producer).or_default().insert(device.into(), restriction);
        }
        self.0.any.store(!restricted.is_empty(), Relaxed);
        drop(restricted);
        self.group(producer, device).send_replace(());
    }

    /// Takes all that the store has, read when [`DeviceStates::changes`] said `seen`. `false`, and nothing happens, where something changed
    /// since: what was read may lack it.
    pub fn replace<'d>(&self, seen: u64, all: impl IntoIterator<Item = (ProducerId, &'d str, DeviceState, bool)>) -> bool {
        let mut fresh: HashMap<ProducerId, HashMap<Box<str>, Restriction>> = HashMap::new();
        for (producer, device, state, withheld) in all {
            let restriction = Restriction { revoked: state == DeviceState::Revoked, withheld };
            fresh.entry(producer).or_default().insert(device.into(), restriction);
        }
        let mut restricted = self.0.restricted.write();
        if self.0.changes.load(Relaxed) != seen {
            return false;
        }
        let changed = *restricted != fresh;
        self.0.any.store(!fresh.is_empty(), Relaxed);
        *restricted = fresh;
        drop(restricted);
        if changed {
            self.0.groups.iter().for_each(|group| group.send_replace(()));
        }
        true
    }

    /// State of a device.
    pub fn state(&self, producer: ProducerId, device: &str) -> DeviceState {
        match self.restriction(producer, device) {
            None => DeviceState::Active,
            Some(Restriction { revoked: true, .. }) => DeviceState::Revoked,
            Some(_) => DeviceState::Quarantined,
        }
    }

    /// Whether a device was revoked.
    pub fn is_revoked(&self, producer: ProducerId, device: &str) -> bool {
        self.restriction(producer, device).is_some_and(|restriction| restriction.revoked)
    }

    /// Whether the records of a device are kept from consumers.
    pub fn is_withheld(&self, producer: ProducerId, device: &str) -> bool {
        self.restriction(producer, device).is_some_and(|restriction| restriction.withheld)
    }

    /// Refuses a record that names a device that was revoked.
    pub fn check(&self, producer: ProducerId, device: &str) -> Result<(), Invalid> {
        if self.is_revoked(producer, device) { Err(Invalid::DeviceRevoked { device: device.to_owned() }) } else { Ok(()) }
    }

    /// [`DeviceStates::check`] of a record that is complete.
    pub fn check_record(&self, producer: ProducerId, json: &[u8]) -> Result<(), Invalid> {
        if !self.restricts(producer) {
            return Ok(());
        }
        record::device_of(json).map_or(Ok(()), |device| self.check(producer, &device))
    }

    /// Whether a record or a consumer's message is of a device whose records are withheld.
    pub fn withholds(&self, producer: ProducerId, json: &[u8]) -> bool {
        self.restricts(producer) && device_of_message(json).is_some_and(|device| self.is_withheld(producer, &device))
    }

    /// Resolves when a device is revoked, and at once where it already is. Cancel-safe.
    pub async fn revoked(&self, producer: ProducerId, device: &str) {
        let mut changes = self.group(producer, device).subscribe();
        while !self.is_revoked(producer, device) {
            // The sender is in `self`, so the channel does not close.
            let _ = changes.changed().await;
        }
    }

    fn restricts(&self, producer: ProducerId) -> bool {
        self.0.any.load(Relaxed) && self.0.restricted.read().contains_key(&producer)
    }

    fn restriction(&self, producer: ProducerId, device: &str) -> Option<Restriction> {
        if !self.0.any.load(Relaxed) {
            return None;
        }
        self.0.restricted.read().get(&producer)?.get(device).copied()
    }

    fn group(&self, producer: ProducerId, device: &str) -> &watch::Sender<()> {
        let hash = usize::try_from(self.0.hasher.hash_one((producer, device)) % GROUPS as u64).expect("less than the number of groups");
        &self.0.groups[hash]
    }
}

/// The device of a consumer's message, which is a record behind its producer's id.
pub fn device_of_message(json: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
    const PRODUCER: &[u8] = b"{\"producer_id\":\"";
    const DEVICE: &[u8] = b"\"device_id\":\"";
    let plain = json.strip_prefix(PRODUCER).and_then(|rest| {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        let rest = rest[end + 1..].strip_prefix(b",")?.strip_prefix(DEVICE)?;
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
        if rest[end] == b'"' { std::str::from_utf8(&rest[..end]).ok() } else { None }
    });
    plain.map(std::borrow::Cow::Borrowed).or_else(|| record::device_of(json))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const P: ProducerId = ProducerId(7);
    const OTHER: ProducerId = ProducerId(8);

    #[test]
    fn what_is_withheld_stays_so_while_it_is_revoked() {
        let states = DeviceStates::default();
        let seen = |states: &DeviceStates| (states.state(P, "a"), states.is_withheld(P, "a"));
        assert_eq!(seen(&states), (DeviceState::Active, false));
        states.set(P, "a", DeviceState::Quarantined, true);
        assert_eq!(seen(&states), (DeviceState::Quarantined, true));
        states.set(P, "a", DeviceState::Revoked, true);
        assert_eq!(seen(&states), (DeviceState::Revoked, true));
        assert_eq!((states.state(P, "b"), states.state(OTHER, "a")), (DeviceState::Active, DeviceState::Active));
        states.set(P, "a", DeviceState::Active, false);
        assert_eq!(seen(&states), (DeviceState::Active, false));
        assert!(!states.0.any.load(Relaxed));
    }

    #[test]
    fn a_record_is_known_by_its_device_wherever_it_names_it() {
        let states = DeviceStates::default();
        let record = br#"{"device_id":"a","timestamp":1,"data":1}"#;
        assert!(states.check_record(P, record).is_ok());
        states.set(P, "a", DeviceState::Revoked, true);
        for json in [
            &record[..],
            br#"{"data":{"device_id":"b"},"timestamp":1,"device_id":"a"}"#,
            br#"{"device_id":"\u0061","timestamp":1,"data":1}"#,
        ] {
            assert_eq!(states.check_record(P, json), Err(Invalid::DeviceRevoked { device: "a".into() }));
            assert!(states.check_record(OTHER, json).is_ok());
            let mut message = bytes_of(json);
            assert!(states.withholds(P, &message), "{}", String::from_utf8_lossy(&message));
            message = bytes_of(br#"{"device_id":"b","timestamp":1,"data":1}"#);
            assert!(!states.withholds(P, &message));
        }
    }

    fn bytes_of(json: &[u8]) -> Vec<u8> {
        [b"{\"producer_id\":\"7\",", json.strip_prefix(b"{").unwrap()].concat()
    }

    #[test]
    fn what_was_read_before_a_change_does_not_undo_it() {
        let states = DeviceStates::default();
        let seen = states.changes();
        states.set(P, "a", DeviceState::Revoked, false);
        assert!(!states.replace(seen, []));
        assert!(states.is_revoked(P, "a"));
        assert!(states.replace(states.changes(), [(P, "b", DeviceState::Quarantined, true)]));
        assert_eq!((states.state(P, "a"), states.state(P, "b")), (DeviceState::Active, DeviceState::Quarantined));
    }

    #[tokio::test]
    async fn a_waiting_connection_learns_of_it() {
        let states = DeviceStates::default();
        let wait = |device: &'static str| {
            let states = states.clone();
            tokio::spawn(async move { states.revoked(P, device).await })
        };
        let (revoked, quarantined) = (wait("a"), wait("b"));
        tokio::task::yield_now().await;
        states.set(P, "b", DeviceState::Quarantined, true);
        states.set(P, "a", DeviceState::Revoked, false);
        tokio::time::timeout(Duration::from_secs(10), revoked).await.expect("revoked in time").unwrap();
        assert!(!quarantined.is_finished());
        assert!(states.replace(states.changes(), [(P, "b", DeviceState::Revoked, true)]));
        tokio::time::timeout(Duration::from_secs(10), quarantined).await.expect("revoked in time").unwrap();
    }
}
