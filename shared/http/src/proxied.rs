//! The PROXY protocol, versions 1 and 2: a balancer that passes TCP on says, ahead of the connection's own bytes, which client it speaks for.
//!
//! The header is read to its last byte and no further, so that TLS, HTTP and WebSocket begin on the socket as if it were not there. Each read
//! is for bytes that the header has announced: whoever sends a long one waits for nothing but its own bytes.

use std::{io, net::SocketAddr};

use motience_settings::env::settings;
use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

use super::Network;

/// First bytes of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before those whose number it announces.
const HEAD: usize = 16;
/// Longest header of version 2. Balancers send some 50 to 500 bytes: addresses, and what they know of the client's TLS.
const LONGEST: usize = 2048;
/// Longest line of version 1.
const LONGEST_LINE: usize = 107;

settings! {
    /// Balancers that announce each connection by the PROXY protocol.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Announced {
        /// Balancers, as addresses or networks, whose every TCP connection begins with a header of the PROXY protocol (version 2 or 1). The client that it names counts
        /// for limits and logs. Such a connection without a header is closed; a header from anybody else is no request. The operations port expects none.
        PROXY_PROTOCOL_FROM = "" => balancers: Vec<Network>;
    }
}

impl Announced {
    /// Whether a connection from there begins with a header.
    pub(super) fn expects_header(&self, peer: SocketAddr) -> bool {
        self.balancers.iter().any(|network| network.contains(peer.ip()))
    }
}

/// Reads the header. `None`: the balancer speaks for itself (a health check), or does not know the client.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(HEAD, 0);
        stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let length = HEAD + usize::from(u16::from_be_bytes([header[HEAD - 2], header[HEAD - 1]]));
        if length > LONGEST {
            return Err(malformed("it is too long"));
        }
        header.resize(length, 0);
        stream.read_exact(&mut header[HEAD..]).await?;
    } else {
        while !header.ends_with(b"\n") {
            if !header.starts_with(b"PROXY ") || header.len() == LONGEST_LINE {
                return Err(malformed("it is missing"));
            }
            header.push(stream.read_u8().await?);
        }
    }
    let (parsed, length) = ProxyHeader::parse(&header, ParseConfig::default()).map_err(|e| malformed(&e.to_string()))?;
    match parsed.proxied_address() {
        _ if length != header.len() => Err(malformed("it has bytes to spare")),
        Some(address) if address.protocol != Protocol::Stream => Err(malformed("it is not of a TCP connection")),
        Some(address) => Ok(Some(address.source)),
        None => Ok(None),
    }
}

fn malformed(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the header of the PROXY protocol is no good: {why}"))
}
