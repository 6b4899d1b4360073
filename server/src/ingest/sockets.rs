//! The UDP sockets: one, or several on one port with an endpoint each, so that several cores share the load.
//!
//! The kernel has to give a connection's packets to one socket even after its address changed (RFC 9000, section 5.1). An id may be encrypted for
//! a balancer, so it cannot simply name its socket. Instead a hash of its last four bytes does, which lie in the nonce or in the ciphertext: the nonce
//! is drawn anew until the hash is that of the socket, on average once for each socket, and a classic BPF program on the SO_REUSEPORT group (socket(7))
//! computes the same hash. Its factor is drawn at the start of the process, so that an id shows its socket to nobody else. The id of a client's first
//! packets, which is random, chooses a socket in the same way.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use socket2::{Domain, Protocol, Socket, Type};

use super::quic_lb::Scheme;

/// Most sockets; each makes drawing an id longer.
const MAX_SOCKETS: usize = 256;
/// Bytes that the hash is made of, at the end of an id.
const HASHED: usize = 4;
/// Bits of the product that the hash leaves out: the low ones depend on few bits of the id.
const LOW_BITS: u32 = 16;
/// Random bytes drawn at once.
const DRAWN: usize = 128;
/// Socket buffers asked of the system, in bytes; it may give less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Which socket of a set a connection id belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steering {
    sockets: u32,
    factor: u32,
}

impl Steering {
    /// For so many sockets; 0: one for each core.
    pub(super) fn new(count: usize) -> Self {
        let count = match count {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let mut factor = [0; 4];
        draw(&mut factor);
        let sockets = u32::try_from(count.min(MAX_SOCKETS)).unwrap_or(1);
        Self { sockets, factor: u32::from_be_bytes(factor) | 1 }
    }

    fn socket(self, id: &[u8]) -> u32 {
        let hashed = id.last_chunk::<HASHED>().map_or(0, |last| u32::from_be_bytes(*last));
        (hashed.wrapping_mul(self.factor) >> LOW_BITS) % self.sockets
    }
}

fn draw(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes once it has started");
}

/// Makes the connection ids of one socket's endpoint.
#[derive(Clone)]
pub(super) struct Ids {
    scheme: Arc<Scheme>,
    steering: Steering,
    socket: u32,
}

impl Ids {
    pub(super) fn new(scheme: Arc<Scheme>, steering: Steering, socket: usize) -> Self {
        Self { scheme, steering, socket: u32::try_from(socket).unwrap_or(0) }
    }
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut drawn = [0; DRAWN];
        loop {
            draw(&mut drawn);
            let mut ids = drawn.chunks_exact(self.scheme.nonce_length()).map(|nonce| self.scheme.id(nonce));
            if let Some(id) = ids.find(|id| self.steering.socket(id) == self.socket) {
                return id;
            }
        }
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let ours = self.steering.socket(id) == self.socket && self.scheme.made(id);
        if ours { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        self.scheme.length()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Opens the sockets. Ids have `length` bytes.
pub(super) fn open(address: SocketAddr, steering: Steering, length: usize) -> io::Result<Vec<UdpSocket>> {
    let mut sockets = Vec::new();
    let mut address = address;
    for _ in 0..steering.sockets {
        let socket = bind(address, steering.sockets > 1)?;
        // For a port 0 that was asked for.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    if let [first, _, ..] = &sockets[..] {
        steer(first, steering, u32::try_from(length).map_err(io::Error::other)?)?;
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

/// Has the kernel choose the socket by the connection id. In a long header that stands behind five bytes and its length, in a short one, where only
/// our own ids occur, behind one byte (RFC 9000, section 17).
#[cfg(target_os = "linux")]
fn steer(first: &UdpSocket, steering: Steering, length: u32) -> io::Result<()> {
    use nix::{
        libc::{
            BPF_A, BPF_ABS, BPF_ALU, BPF_B, BPF_IND, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH,
            BPF_TAX, BPF_W, sock_filter, sock_fprog,
        },
        sys::socket::{setsockopt, sockopt::AttachReusePortCbpf},
    };
    const HASHED_BYTES: u32 = HASHED as u32;
    let step = |code: u32, k: u32, jt: u8, jf: u8| sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(BPF_LD | BPF_B | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JSET | BPF_K, 0x80, 0, 4),
        step(BPF_LD | BPF_B | BPF_ABS, 5, 0, 0),
        step(BPF_MISC | BPF_TAX, 0, 0, 0),
        step(BPF_LD | BPF_W | BPF_IND, 6 - HASHED_BYTES, 0, 0),
        step(BPF_JMP, 1, 0, 0),
        step(BPF_LD | BPF_W | BPF_ABS, 1 + length - HASHED_BYTES, 0, 0),
        step(BPF_ALU | BPF_MUL | BPF_K, steering.factor, 0, 0),
        step(BPF_ALU | BPF_RSH | BPF_K, LOW_BITS, 0, 0),
        step(BPF_ALU | BPF_MOD | BPF_K, steering.sockets, 0, 0),
        step(BPF_RET | BPF_A, 0, 0, 0),
    ];
    let program = sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    Ok(setsockopt(first, AttachReusePortCbpf, &program)?)
}

#[cfg(not(target_os = "linux"))]
fn steer(_first: &UdpSocket, _steering: Steering, _length: u32) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux steers packets between sockets: set QUIC_SOCKETS to 1"))
}

#[cfg(test)]
mod tests {
    use motience_settings::env::Env;

    use super::*;
    use crate::ingest::quic_lb::Readable;

    fn ids(pairs: &[(&str, &str)], count: usize) -> (Steering, Vec<Ids>) {
        let settings = Readable::from_env(&Env::from_pairs(pairs.iter().copied())).unwrap();
        let (scheme, steering) = (Arc::new(Scheme::new(&settings, "node")), Steering::new(count));
        (steering, (0..count).map(|socket| Ids::new(Arc::clone(&scheme), steering, socket)).collect())
    }

    /// Without a server id, in plain text, in one pass and in four.
    const SCHEMES: [&[(&str, &str)]; 4] = [
        &[],
        &[("QUIC_SERVER_ID", "2d6575a16fa08ea4")],
        &[("QUIC_SERVER_ID", "2d6575a16fa08ea4"), ("QUIC_LB_KEY", "8f95f09245765f80256934e50c66207f")],
        &[("QUIC_SERVER_ID", "0a"), ("QUIC_LB_NONCE_LENGTH", "4"), ("QUIC_LB_KEY", "8f95f09245765f80256934e50c66207f")],
    ];

    #[test]
    fn an_id_is_its_sockets_and_its_nodes_only() {
        for settings in SCHEMES {
            let (_, mut ids) = ids(settings, 3);
            let (one, other) = (ids[2].generate_cid(), ids[2].generate_cid());
            assert_ne!(one, other);
            assert!(ids[2].validate(&one).is_ok() && ids[1].validate(&one).is_err());
            assert_eq!(ids[2].cid_len(), one.len());
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_gives_packets_to_the_socket_whose_id_they_have() {
        for settings in SCHEMES {
            let (steering, mut ids) = ids(settings, 3);
            let sockets = open(([127, 0, 0, 1], 0).into(), steering, ids[0].cid_len()).unwrap();
            let at = sockets[0].local_addr().unwrap();
            for n in 0..30 {
                let (ids, socket) = (&mut ids[n % 3], &sockets[n % 3]);
                // Each from an address of its own, as after a migration.
                let (peer, id) = (UdpSocket::bind(("127.0.0.1", 0)).unwrap(), ids.generate_cid());
                let short = [&[0x40], &id[..], b"packet"].concat();
                let long = [&[0xc0, 0, 0, 0, 1, u8::try_from(id.len()).unwrap()], &id[..], b"packet"].concat();
                for packet in [&short[..], &long[..]] {
                    peer.send_to(packet, at).unwrap();
                    let mut buffer = [0; 64];
                    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                    let (length, from) = socket.recv_from(&mut buffer).unwrap();
                    assert_eq!((&buffer[..length], from), (packet, peer.local_addr().unwrap()));
                }
            }
        }
    }
}
