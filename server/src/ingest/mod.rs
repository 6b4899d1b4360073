//! The QUIC endpoint: one UDP port, ALPN dispatch, and for each motience/1 connection one task.
//!
//! ```text
//! accept -> (Retry under load) -> handshake -> ALPN -> Hello -> Welcome -> lanes and control | feeds
//! ```
//!
//! A connection authenticates once. It then holds a `Publisher` that knows its producer, or the right to follow what
//! its consumer is subscribed to, until it closes or its token ends. Every close carries a code the device acts on.

mod config;
mod connection;
mod consumer;
mod control;
mod devices;
mod lanes;
mod producer;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use motience_shared::{
    backend::Backend,
    wire::{ALPN, CloseCode},
};
use quinn::{Endpoint, Incoming, VarInt};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, info, info_span, warn};

pub use config::Config;

/// How long devices have to finish and leave when the node drains, before they are cut.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The UDP port is taken or not allowed.
    #[error("UDP {address} cannot be opened: {cause}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        cause: io::Error,
    },
    /// The TLS configuration is not fit for QUIC.
    #[error("the TLS configuration is not fit for QUIC: {0}")]
    Tls(String),
}

/// An open endpoint.
pub struct Ingest {
    endpoint: Endpoint,
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    soft: CancellationToken,
}

/// What every connection of the endpoint uses.
struct Shared {
    backend: Arc<Backend>,
    config: Config,
    devices: devices::Devices,
    /// Cancelled when the node drains.
    draining: CancellationToken,
}

impl Ingest {
    /// Opens the UDP port. Connections are accepted once [`Ingest::run`] is called.
    pub fn bind(config: Config, tls: Arc<rustls::ServerConfig>, backend: Arc<Backend>) -> Result<Self, Error> {
        let server = config.quinn(tls)?;
        let bind_error = |cause| Error::Bind { address: config.address, cause };
        let socket = config.socket().map_err(bind_error)?;
        let endpoint =
            Endpoint::new(quinn::EndpointConfig::default(), Some(server), socket, Arc::new(quinn::TokioRuntime)).map_err(bind_error)?;
        let address = endpoint.local_addr().map_err(bind_error)?;
        let soft = CancellationToken::new();
        let shared = Arc::new(Shared { backend, config, devices: devices::Devices::default(), draining: soft.child_token() });
        Ok(Self { endpoint, address, shared, tasks: TaskTracker::new(), soft })
    }

    /// The address in use, for a port 0 that was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves new connections with this identity; those that stand keep theirs.
    pub fn reload(&self, tls: Arc<rustls::ServerConfig>) -> Result<(), Error> {
        self.endpoint.set_server_config(Some(self.shared.config.quinn(tls)?));
        Ok(())
    }

    /// Accepts until `shutdown`; then asks every device to leave, waits for them within [`DRAIN_LIMIT`], and closes.
    pub async fn run(self, shutdown: CancellationToken) {
        info!(address = %self.address, "listening for QUIC");
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.admit(incoming),
                    None => break,
                },
            }
        }
        self.soft.cancel();
        self.endpoint.set_server_config(None);
        self.tasks.close();
        if timeout(DRAIN_LIMIT, self.tasks.wait()).await.is_err() {
            warn!(connections = self.tasks.len(), "devices did not leave in time; closing their connections");
        }
        self.endpoint.close(number(CloseCode::Draining), b"the node is going away");
        // The close frames have to leave the machine.
        let _ = timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }

    /// Decides about one new peer before anything is spent on it.
    fn admit(&self, incoming: Incoming) {
        let open = self.endpoint.open_connections();
        if open >= self.shared.config.max_connections {
            metrics::counter!("motience_quic_refused_total").increment(1);
            return incoming.refuse();
        }
        let handshakes = self.tasks.len().saturating_sub(self.shared.devices.established());
        if handshakes >= self.shared.config.retry_above && incoming.may_retry() {
            metrics::counter!("motience_quic_retries_total").increment(1);
            if incoming.retry().is_err() {
                debug!("a peer that proved its address was asked again");
            }
            return;
        }
        let span = info_span!("quic", peer = %incoming.remote_address());
        self.tasks.spawn(handle(incoming, Arc::clone(&self.shared)).instrument(span));
    }
}

async fn handle(incoming: Incoming, shared: Arc<Shared>) {
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(e) => return debug!(error = %e, "a connection could not be accepted"),
    };
    let connection = match timeout(shared.config.hello_limit, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(e)) => return debug!(error = %e, "a handshake failed"),
        Err(_) => return debug!("a handshake took too long"),
    };
    match protocol(&connection).as_deref() {
        Some(ALPN) => connection::serve(connection, shared).await,
        // TLS lets no other name through; `h3` joins here.
        _ => connection.close(number(CloseCode::Protocol), b"unknown ALPN protocol"),
    }
}

fn protocol(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?.protocol
}

fn number(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.number())
}
