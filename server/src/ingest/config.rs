//! Settings of the QUIC endpoint, and the quinn configuration made of them.
//!
//! quinn's own defaults are not safe for a server: its receive window is unlimited and it buffers 10 MiB for each peer
//! that has not finished its handshake.

use std::{sync::Arc, time::Duration};

use motience_http::{Host, ListenAddress};
use motience_limits::rate::Rate;
use motience_settings::env::{self, Env};
use quinn::{IdleTimeout, TransportConfig, VarInt, crypto::rustls::QuicServerConfig};

use super::Error;

/// Settings of the endpoint.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen. BIND_ADDRESS and QUIC_PORT, localhost:4433.
    pub address: ListenAddress,
    /// Handshakes at once above which a peer must first prove its address (Retry, RFC 9000 section 8.1.2).
    /// QUIC_RETRY_ABOVE, 256.
    pub retry_above: usize,
    /// Time for the handshake, and again for the Hello. QUIC_HELLO_LIMIT, 10 s.
    pub hello_limit: Duration,
    /// Silence after which a connection is dead. QUIC_IDLE_TIMEOUT, 60 s.
    pub idle_timeout: Duration,
    /// Unidirectional streams a device may have open: each costs about 48 bytes. QUIC_MAX_STREAMS, 128.
    pub max_streams: u32,
    /// Bytes a connection may send ahead of what is read. QUIC_RECEIVE_WINDOW, 2 MiB.
    pub receive_window: u32,
    /// Bytes one stream may send ahead. QUIC_STREAM_WINDOW, 1 MiB.
    pub stream_window: u32,
    /// Bytes kept for retransmission to one peer. QUIC_SEND_WINDOW, 2 MiB.
    pub send_window: u32,
    /// Records that a device may have in flight. QUIC_CREDIT, 8,192.
    pub credit: u64,
    /// How long a peer may leave a stream unread, or the server without one, before it counts as gone. QUIC_WRITE_LIMIT, 30 s.
    pub write: Duration,
    /// Producers one native consumer may follow. QUIC_MAX_FOLLOWS, 1,000.
    pub max_follows: usize,
    /// Generic segmentation offload: far cheaper, but its bursts cost loss on some mobile links. QUIC_GSO, true.
    pub gso: bool,
    /// UDP sockets that share the port, each with an endpoint of its own; 0: one for each core. Linux. QUIC_SOCKETS, 1.
    pub sockets: usize,
    /// Bytes of datagrams kept for each connection until they are read; the oldest goes where more come.
    /// QUIC_DATAGRAM_BUFFER, 64 KiB.
    pub datagram_buffer: usize,
    /// Requests of one consumer on its connection. RATE_LIMIT_CONTROL, 3000/m.
    pub control: Rate,
    /// Frames of motience/1 that carry nothing (pings and the like) for each second, and ten seconds' worth at once.
    /// CONTROL_FRAMES_PER_SECOND, 100.
    pub control_frames: u32,
}

/// Bytes buffered for a peer before its handshake is accepted.
const INCOMING_BUFFER: u64 = 64 << 10;
/// Bytes buffered for all such peers.
const INCOMING_BUFFER_TOTAL: u64 = 16 << 20;
/// Peers that may wait for their handshake to be accepted.
const MAX_INCOMING: usize = 4096;

impl Config {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env, host: Host) -> Result<Self, env::Error> {
        let size = |name: &str, default: usize| -> Result<u32, env::Error> {
            u32::try_from(env.bytes(name, default)?).map_err(|_| env::Error::invalid(name, "must be under 4 GiB"))
        };
        let config = Self {
            address: host.at(env.parse("QUIC_PORT", 4433)?),
            retry_above: env.parse("QUIC_RETRY_ABOVE", 256)?,
            hello_limit: env.duration("QUIC_HELLO_LIMIT", Duration::from_secs(10))?,
            idle_timeout: env.duration("QUIC_IDLE_TIMEOUT", Duration::from_secs(60))?,
            max_streams: env.parse("QUIC_MAX_STREAMS", 128)?,
            receive_window: size("QUIC_RECEIVE_WINDOW", 2 << 20)?,
            stream_window: size("QUIC_STREAM_WINDOW", 1 << 20)?,
            send_window: size("QUIC_SEND_WINDOW", 2 << 20)?,
            credit: env.parse("QUIC_CREDIT", 8192)?,
            write: env.duration("QUIC_WRITE_LIMIT", Duration::from_secs(30))?,
            max_follows: env.parse("QUIC_MAX_FOLLOWS", 1000)?,
            gso: env.flag("QUIC_GSO", true)?,
            sockets: env.parse("QUIC_SOCKETS", 1)?,
            datagram_buffer: env.bytes("QUIC_DATAGRAM_BUFFER", 64 << 10)?,
            control: env.parse("RATE_LIMIT_CONTROL", Rate::per_minute(3000))?,
            control_frames: env.parse("CONTROL_FRAMES_PER_SECOND", 100)?,
        };
        if config.control_frames == 0 {
            return Err(env::Error::invalid("CONTROL_FRAMES_PER_SECOND", "must be greater than zero"));
        }
        if config.write.is_zero() {
            return Err(env::Error::invalid("QUIC_WRITE_LIMIT", "must be greater than zero"));
        }
        if config.credit == 0 {
            return Err(env::Error::invalid("QUIC_CREDIT", "must be at least 1"));
        }
        if config.max_streams == 0 || config.max_streams > 65_536 {
            return Err(env::Error::invalid("QUIC_MAX_STREAMS", "must lie between 1 and 65536"));
        }
        Ok(config)
    }

    pub(super) fn quinn(&self, tls: Arc<rustls::ServerConfig>) -> Result<quinn::ServerConfig, Error> {
        let crypto = QuicServerConfig::try_from(tls).map_err(|e| Error::Tls(e.to_string()))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
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
