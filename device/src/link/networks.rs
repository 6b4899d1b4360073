//! The networks that a device has been in, each with what its link was like: told apart by the device's own address there.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
};

use parking_lot::Mutex;

use super::Meter;

/// Networks that are remembered; the one that was used least lately is forgotten.
const MAX: usize = 8;

/// One meter for each network.
#[derive(Debug, Default)]
pub(crate) struct Networks(Mutex<Vec<(Option<IpAddr>, Arc<Meter>)>>);

impl Networks {
    /// The meter of the network through which `peer` is reached now.
    pub(crate) fn towards(&self, peer: SocketAddr) -> Arc<Meter> {
        self.meter(own_address(peer))
    }

    fn meter(&self, network: Option<IpAddr>) -> Arc<Meter> {
        let mut known = self.0.lock();
        let meter = match known.iter().position(|(address, _)| *address == network) {
            Some(at) => known.remove(at).1,
            None => Arc::default(),
        };
        known.truncate(MAX - 1);
        known.insert(0, (network, Arc::clone(&meter)));
        meter
    }
}

/// The address that the system would send from. Nothing is sent. `None`: there is no way there just now.
fn own_address(peer: SocketAddr) -> Option<IpAddr> {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let any: SocketAddr = if peer.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(peer).ok()?;
    Some(socket.local_addr().ok()?.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_network_has_its_own_meter_and_the_oldest_is_forgotten() {
        let networks = Networks::default();
        let network = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let first = networks.meter(network(0));
        let again = networks.meter(network(0));
        assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &networks.meter(network(1))));
        for n in 2..=MAX {
            networks.meter(network(n as u8));
        }
        assert!(!Arc::ptr_eq(&first, &networks.meter(network(0))));
    }

    #[test]
    fn the_own_address_is_found_without_a_packet() {
        assert_eq!(own_address(([127, 0, 0, 1], 9).into()), Some(IpAddr::from([127, 0, 0, 1])));
    }
}
