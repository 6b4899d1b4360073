//! The UDP sockets: one, or several on one port with an endpoint each, so that several cores share the load.
//!
//! The kernel has to give a connection's packets to one socket even after its address changed. So the server's connection
//! ids name their socket in the first byte, and a classic BPF program on the SO_REUSEPORT group reads it (socket(7); RFC
//! 9000, section 5.1). The id of a client's first packets, which is random, chooses a socket by the same byte. The next two
//! bytes name the node, for a balancer in front of several.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of a connection id: socket, node, and five at random.
const LENGTH: usize = 8;
/// Most sockets: what the first byte can tell apart.
const MAX_SOCKETS: usize = 256;
/// Socket buffers asked of the system, in bytes; it may give less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Makes the connection ids of one socket's endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    socket: u8,
    node: [u8; 2],
}

impl Ids {
    pub(super) fn new(socket: usize, node: &str) -> Self {
        // FNV-1a, folded: nodes of one platform only have to differ.
        let hash = node.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let [a, b, c, d] = hash.to_be_bytes();
        Self { socket: socket.to_le_bytes()[0], node: [a ^ c, b ^ d] }
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; LENGTH];
        id[0] = self.socket;
        id[1..3].copy_from_slice(&self.node);
        getrandom::fill(&mut id[3..]).expect("the operating system gives random bytes once it has started");
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let ours = id.len() == LENGTH && id[0] == self.socket && id[1..3] == self.node;
        if ours { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Opens `count` sockets; 0: one for each core.
pub(super) fn open(address: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let count = match count {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let count = count.min(MAX_SOCKETS);
    let mut sockets = Vec::with_capacity(count);
    let mut address = address;
    for _ in 0..count {
        let socket = bind(address, count > 1)?;
        // For a port 0 that was asked for.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    if let [first, _, ..] = &sockets[..] {
        steer(first, u32::try_from(count).map_err(io::Error::other)?)?;
    }
    Ok(sockets)
}

/// A UDP socket with room for bursts: a full buffer is loss.
fn bind(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    if shared {
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        #[cfg(not(unix))]
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this system gives one port to one socket: set QUIC_SOCKETS to 1"));
    }
    // A smaller buffer than asked for is not worth failing for.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Has the kernel choose the socket by the connection id: its first byte stands behind the five bytes of a long header and
/// the id's length, or behind the one byte of a short header (RFC 9000, section 17).
#[cfg(target_os = "linux")]
fn steer(first: &UdpSocket, count: u32) -> io::Result<()> {
    use nix::{
        libc::{BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MOD, BPF_RET, sock_filter, sock_fprog},
        sys::socket::{setsockopt, sockopt::AttachReusePortCbpf},
    };
    let step = |code: u32, k: u32, jt: u8, jf: u8| sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JSET | BPF_K, 0x80, 0, 2),
        step(BPF_LD | BPF_B | BPF_ABS, 6, 0, 0),
        step(BPF_JMP, 1, 0, 0),
        step(BPF_LD | BPF_B | BPF_ABS, 1, 0, 0),
        step(BPF_ALU | BPF_MOD | BPF_K, count, 0, 0),
        step(BPF_RET | BPF_A, 0, 0, 0),
    ];
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(first, AttachReusePortCbpf, &program)?)
}

#[cfg(not(target_os = "linux"))]
fn steer(_first: &UdpSocket, _count: u32) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux steers packets between sockets: set QUIC_SOCKETS to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_name_their_socket_and_node() {
        let mut ids = Ids::new(3, "node-a");
        let (one, other) = (ids.generate_cid(), ids.generate_cid());
        assert_ne!(one, other);
        assert_eq!((one[0], &one[1..3]), (3, &other[1..3]));
        assert!(ids.validate(&one).is_ok());
        assert!(Ids::new(2, "node-a").validate(&one).is_err());
        assert!(Ids::new(3, "node-b").validate(&one).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_gives_packets_to_the_socket_that_their_id_names() {
        let sockets = open(([127, 0, 0, 1], 0).into(), 3).unwrap();
        let at = sockets[0].local_addr().unwrap();
        for n in 0..30_u8 {
            // Each from an address of its own, as after a migration.
            let peer = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
            let short = [0x40, n % 3, 1, 2, 3, 4, 5, 6, 7, n];
            let long = [0xc0, 0, 0, 0, 1, 8, n % 3, 1, 2, 3, 4, 5, 6, n];
            for packet in [&short[..], &long[..]] {
                peer.send_to(packet, at).unwrap();
                let mut buffer = [0; 64];
                let socket = &sockets[usize::from(n % 3)];
                socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let (length, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((&buffer[..length], from), (packet, peer.local_addr().unwrap()));
            }
        }
    }
}
