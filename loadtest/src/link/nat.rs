//! A NAT that forgets: it gives UDP flows of the device other ports outside when it is told to, as a real one does after its
//! time-out or a restart. Until then packets pass as they are.

use std::collections::HashMap;

const UDP: u8 = 17;
/// First port outside that is given away; far from what a kernel chooses for itself, so that an old mapping hits nothing.
const FIRST: u16 = 1024;

/// Whether this is IPv4, the only thing the link carries.
pub(super) fn is_ipv4(packet: &[u8]) -> bool {
    packet.len() >= 20 && packet[0] >> 4 == 4
}

/// Whether this is UDP.
pub(super) fn is_udp(packet: &[u8]) -> bool {
    packet[9] == UDP
}

/// Where an IPv4 packet goes.
pub(super) fn destination(packet: &[u8]) -> [u8; 4] {
    [packet[16], packet[17], packet[18], packet[19]]
}

/// The table of the NAT.
#[derive(Debug, Default)]
pub(super) struct Nat {
    active: bool,
    next: u16,
    outside: HashMap<u16, u16>,
    inside: HashMap<u16, u16>,
}

impl Nat {
    /// Forgets all flows: from now on each has another port outside, and what comes for the old one is dropped.
    pub(super) fn rebind(&mut self) {
        self.active = true;
        self.outside.clear();
        self.inside.clear();
    }

    /// A packet of the device.
    pub(super) fn up(&mut self, packet: &mut [u8]) {
        let Some(at) = self.port(packet, 0) else { return };
        let inner = read(packet, at);
        let next = &mut self.next;
        let outer = *self.outside.entry(inner).or_insert_with(|| {
            *next = next.wrapping_add(1) % 20_000;
            FIRST + *next
        });
        self.inside.insert(outer, inner);
        write(packet, at, outer);
    }

    /// A packet for the device; `false`: nobody there has this port.
    pub(super) fn down(&self, packet: &mut [u8]) -> bool {
        let Some(at) = self.port(packet, 2) else { return true };
        let Some(&inner) = self.inside.get(&read(packet, at)) else { return false };
        write(packet, at, inner);
        true
    }

    /// Where the port is, in a UDP packet while the NAT does anything.
    fn port(&self, packet: &[u8], offset: usize) -> Option<usize> {
        let header = usize::from(packet[0] & 0xf) * 4;
        (self.active && is_udp(packet) && packet.len() >= header + 8).then_some(header + offset)
    }
}

fn read(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

/// Writes a port and mends the checksum (RFC 1624).
fn write(packet: &mut [u8], at: usize, port: u16) {
    let checksum_at = usize::from(packet[0] & 0xf) * 4 + 6;
    let (old, checksum) = (read(packet, at), read(packet, checksum_at));
    packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
    // Zero: the sender gave none.
    if checksum != 0 {
        let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(port);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let mended = match !(sum as u16) {
            0 => 0xffff,
            sum => sum,
        };
        packet[checksum_at..checksum_at + 2].copy_from_slice(&mended.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(source: u16, destination: u16) -> Vec<u8> {
        let mut packet = vec![0; 32];
        packet[0] = 0x45;
        packet[9] = UDP;
        packet[20..22].copy_from_slice(&source.to_be_bytes());
        packet[22..24].copy_from_slice(&destination.to_be_bytes());
        packet[26..28].copy_from_slice(&0x1234_u16.to_be_bytes());
        packet
    }

    /// Sum of the addresses, ports and checksum that a rewrite may not change.
    fn sum(packet: &[u8]) -> u32 {
        let mut sum: u32 = [20, 22, 26].iter().map(|at| u32::from(read(packet, *at))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }

    #[test]
    fn before_it_forgets_it_changes_nothing() {
        let (mut nat, mut there) = (Nat::default(), packet(40_000, 443));
        nat.up(&mut there);
        assert_eq!(there, packet(40_000, 443));
        assert!(nat.down(&mut there));
    }

    #[test]
    fn a_rebound_flow_has_another_port_and_finds_back() {
        let mut nat = Nat::default();
        nat.rebind();
        let mut there = packet(40_000, 443);
        nat.up(&mut there);
        let outer = read(&there, 20);
        assert_ne!(outer, 40_000);
        assert_eq!(sum(&there), sum(&packet(40_000, 443)));
        let mut back = packet(443, outer);
        assert!(nat.down(&mut back));
        assert_eq!(read(&back, 22), 40_000);

        nat.rebind();
        assert!(!nat.down(&mut packet(443, outer)), "the old mapping is forgotten");
        let mut again = packet(40_000, 443);
        nat.up(&mut again);
        assert_ne!(read(&again, 20), outer);
    }
}
