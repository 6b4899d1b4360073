//! Settings of the QUIC endpoint, and the quinn configuration made of them.
//!
//! quinn's own defaults are not safe for a server: its receive window is unlimited and it buffers 10 MiB for each peer
//! that has not finished its handshake.

use std::{sync::Arc, time::Duration};

use motience_http::{FrameRate, ListenAddress, Listening};
use motience_settings::env::settings;
use quinn::{IdleTimeout, TransportConfig, VarInt, crypto};

use super::{Error, quic_lb::Readable};

settings! {
    /// Settings of the endpoint.
    #[derive(Clone, Debug)]
    pub struct Config {
        /// Devices and native consumers over QUIC, HTTP/3 and WebTransport, all on one port (UDP).
        QUIC_PORT = "4433" => port: u16;
        /// Handshakes at once above which a peer must first prove its address (Retry, RFC 9000 section 8.1.2).
        QUIC_RETRY_ABOVE = "256" => retry_above: usize;
        /// Longest wait for the handshake, and again for the Hello.
        QUIC_HELLO_LIMIT = "10s" => hello_limit: Duration;
        /// A connection that is silent for this long is dead.
        QUIC_IDLE_TIMEOUT = "60s" => idle_timeout: Duration;
        /// Unidirectional streams that a device may have open: each costs about 48 bytes.
        QUIC_MAX_STREAMS = "128" => max_streams: u32, "1"..="65536";
        /// Bytes that a connection may send ahead of what is read.
        QUIC_RECEIVE_WINDOW = "2MiB" => receive_window: u32 as Size;
        /// Bytes that one stream may send ahead.
        QUIC_STREAM_WINDOW = "1MiB" => stream_window: u32 as Size;
        /// Bytes that are kept for retransmission to one peer.
        QUIC_SEND_WINDOW = "2MiB" => send_window: u32 as Size;
        /// How long a peer may leave a stream unread, or the server without a stream to write to, before it counts as gone.
        QUIC_WRITE_LIMIT = "30s" => write: Duration, > 0;
        /// Whether bursts go out in one system call (generic segmentation offload): far cheaper, but some mobile links lose them.
        QUIC_GSO = "true" => gso: bool;
        /// UDP sockets that share the port, so that several cores share the load; 0 means one for each core. More than 1 needs Linux.
        QUIC_SOCKETS = "1" => sockets: usize;
        /// Bytes of datagrams (records of the lane `latest`) kept for each connection until they are read. The oldest make room.
        QUIC_DATAGRAM_BUFFER = "64KiB" => datagram_buffer: usize as Size;
    }
    with {
        /// The address that everything listens on.
        listening: Listening,
        /// Limits of one session.
        session: motience_session::Limits,
        /// Frames of motience/1 that carry nothing.
        frames: FrameRate,
        /// Connection ids that a balancer can read.
        ids: Readable,
    }
}

/// Bytes buffered for a peer before its handshake is accepted.
const INCOMING_BUFFER: u64 = 64 << 10;
/// Bytes buffered for all such peers.
const INCOMING_BUFFER_TOTAL: u64 = 16 << 20;
/// Peers that may wait for their handshake to be accepted.
const MAX_INCOMING: usize = 4096;

impl Config {
    /// Where to listen.
    pub fn address(&self) -> ListenAddress {
        self.listening.host.at(self.port)
    }

    pub(super) fn quinn(&self, crypto: Arc<dyn crypto::ServerConfig>) -> Result<quinn::ServerConfig, Error> {
        let mut server = quinn::ServerConfig::with_crypto(crypto);
        server
            .max_incoming(MAX_INCOMING)
            .incoming_buffer_size(INCOMING_BUFFER)
            .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL)
            .migration(true)
            .transport_config(Arc::new(self.transport()?));
        Ok(server)
    }

    fn transport(&self) -> Result<TransportConfig, Error> {
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|e| Error::Tls(format!("QUIC_IDLE_TIMEOUT: {e}")))?;
        let mut transport = TransportConfig::default();
        transport
            .max_idle_timeout(Some(idle))
            .max_concurrent_uni_streams(VarInt::from_u32(self.max_streams))
            // The control stream, and one more for a client that opens it anew.
            .max_concurrent_bidi_streams(VarInt::from_u32(2))
            .receive_window(VarInt::from_u32(self.receive_window))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .send_window(u64::from(self.send_window))
            // Control frames before bulk; delivery streams share the rest fairly.
            .send_fairness(true)
            .datagram_receive_buffer_size(Some(self.datagram_buffer))
            .enable_segmentation_offload(self.gso);
        Ok(transport)
    }
}
