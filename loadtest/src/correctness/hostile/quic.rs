//! The attacker's connections over QUIC: motience/1 by frames of its own making, and HTTP/3 for WebTransport.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use bytes::BytesMut;
use motience_certs::{Trust, client::quic_config};
use motience_proto::{
    model::ProducerEpoch,
    wire::{self, Frame, Hello, Intent, StreamKind},
};
use quinn::{Connection, Endpoint, IdleTimeout, SendStream, TransportConfig, crypto::rustls::QuicClientConfig};
use tokio::time::timeout;

use super::{raw, target::Target};
use crate::common::server::address;

/// Longest wait for a handshake.
const LIMIT: Duration = Duration::from_secs(5);
/// Silence after which a connection is given up.
const IDLE: Duration = Duration::from_secs(20);

/// A connection of one protocol that lets the server open `streams` streams at once.
pub(super) async fn connect(target: &Target, alpn: &[u8], streams: u32) -> Result<Connection> {
    let trust = target.addresses.ca.clone().map_or(Trust::Platform, Trust::Ca);
    let mut tls = quic_config(&trust, &[alpn])?;
    tls.enable_early_data = false;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE)?))
        .keep_alive_interval(Some(IDLE / 4))
        .max_concurrent_uni_streams(streams.into());
    config.transport_config(Arc::new(transport));
    let endpoint = Endpoint::client((raw::ATTACKER, 0).into())?;
    Ok(timeout(LIMIT, endpoint.connect_with(config, address(&target.addresses.quic)?, "localhost")?).await??)
}

/// The control stream of motience/1, with `Hello` said on it.
pub(super) async fn hello(connection: &Connection, intent: Intent, token: &str, device: &str) -> Result<SendStream> {
    let (mut control, _) = connection.open_bi().await?;
    let epoch = if intent == Intent::Produce { ProducerEpoch(fastrand::u64(1..)) } else { ProducerEpoch(0) };
    let hello = Hello { version: wire::VERSION, intent, token: token.to_owned(), device_id: device.to_owned(), epoch, features: 0 };
    control.write_all(&encoded([Frame::Hello(hello)])).await?;
    Ok(control)
}

/// A stream of records in order.
pub(super) async fn ordered(connection: &Connection) -> Result<SendStream> {
    let mut stream = connection.open_uni().await?;
    let mut kind = BytesMut::new();
    StreamKind::Ordered.encode(&mut kind);
    stream.write_all(&kind).await?;
    Ok(stream)
}

/// The frames, one behind the other.
pub(super) fn encoded(frames: impl IntoIterator<Item = Frame>) -> BytesMut {
    let mut bytes = BytesMut::new();
    frames.into_iter().for_each(|frame| frame.encode(&mut bytes));
    bytes
}
