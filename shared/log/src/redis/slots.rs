//! Hash slots of a Redis Cluster: which slot a key has, and which server has a slot.

use std::collections::HashMap;

use super::sentinel::At;

/// Slots of every cluster.
const SLOTS: u16 = 16_384;

/// Slot of a key or channel: that of its hash tag, where it has one.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag).filter(|tag| !tag.is_empty());
    crc16(tag.unwrap_or(key).as_bytes()) % SLOTS
}

/// CRC-16/XMODEM, as the cluster's specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

/// Which server has a slot, as a node of the cluster tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// Places of all masters that have slots.
    masters: Vec<At>,
    /// For each slot the number of its master; none: nobody has it.
    owners: Vec<Option<u16>>,
}

impl Slots {
    pub(super) fn of(ranges: impl IntoIterator<Item = (u16, u16, At)>) -> Self {
        let mut slots = Self { masters: Vec::new(), owners: vec![None; usize::from(SLOTS)] };
        for (first, last, at) in ranges {
            let owner = slots.number(at);
            for slot in first..=last.min(SLOTS - 1) {
                slots.owners[usize::from(slot)] = Some(owner);
            }
        }
        slots
    }

    fn number(&mut self, at: At) -> u16 {
        let found = self.masters.iter().position(|master| *master == at);
        let number = found.unwrap_or_else(|| {
            self.masters.push(at);
            self.masters.len() - 1
        });
        // There are no more masters than slots.
        u16::try_from(number).unwrap_or(u16::MAX)
    }

    /// One slot is at another server by now.
    pub(super) fn give(&mut self, slot: u16, at: At) {
        let owner = self.number(at);
        if let Some(held) = self.owners.get_mut(usize::from(slot)) {
            *held = Some(owner);
        }
    }

    pub(super) fn master(&self, slot: u16) -> Option<&At> {
        let owner = (*self.owners.get(usize::from(slot))?)?;
        self.masters.get(usize::from(owner))
    }

    /// Every server that has a slot, with the lowest one.
    pub(super) fn masters(&self) -> HashMap<At, u16> {
        let mut found = HashMap::new();
        for (slot, owner) in (0..).zip(&self.owners) {
            if let Some(at) = owner.and_then(|owner| self.masters.get(usize::from(owner))) {
                found.entry(at.clone()).or_insert(slot);
            }
        }
        found
    }
}

/// A hash tag whose slot is this one.
pub(super) fn tag_of(slot: u16) -> String {
    (0_u32..).map(|n| n.to_string()).find(|tag| slot_of(tag) == slot).expect("numbers have every slot")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, slot) in [("foo", 12182), ("{foo}", 12182), ("m:a:{foo}:log", 12182), ("somekey", 11058), ("foo{hash_tag}", 2515)] {
            assert_eq!(slot_of(key), slot, "{key}");
        }
        assert_eq!(slot_of("{}a"), crc16(b"{}a") % SLOTS);
        for slot in [0, 1, 5460, 16_383] {
            assert_eq!(slot_of(&format!("m:a:{{{}}}:barrier", tag_of(slot))), slot);
        }
    }

    #[test]
    fn a_slot_has_one_server_and_may_move() {
        let at = |port| ("h".to_owned(), port);
        let mut slots = Slots::of([(0, 99, at(1)), (200, 16_383, at(2))]);
        assert_eq!((slots.master(99), slots.master(100), slots.master(200)), (Some(&at(1)), None, Some(&at(2))));
        slots.give(0, at(3));
        assert_eq!((slots.master(0), slots.master(1)), (Some(&at(3)), Some(&at(1))));
        assert_eq!(slots.masters(), HashMap::from([(at(1), 1), (at(2), 200), (at(3), 0)]));
    }
}
