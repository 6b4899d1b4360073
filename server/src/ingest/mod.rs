//! The QUIC endpoint: one UDP port, ALPN dispatch, and for each motience/1 connection one task.
//!
//! ```text
//! accept -> (Retry under load) -> handshake -> ALPN -> Hello -> Welcome -> uplink streams and control | delivery streams
//! ```
//!
//! A connection authenticates once. The connection then holds a `Publisher` that knows its producer, or the right to follow the producers
//! its consumer is subscribed to, until it closes or its token ends. Every close carries a code the device acts on.

mod config;
mod connection;
mod consumer;
mod control;
mod device;
mod established;
mod frames;
mod quic_lb;
mod resets;
mod resumption;
mod sockets;
mod tickets;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures_util::future::{FutureExt as _, join, join_all};
use motience_backend::Backend;
use motience_cluster::Kind;
use motience_http::{ClientAddress, ListenAddress};
use motience_limits::permits::Permit;
use motience_log::Log;
use motience_proto::{
    model::Transport,
    wire::{ALPN, CloseCode},
};
use motience_runtime::{histogram, lifecycle::Draining, traces};
use quinn::{
    Connecting, Connection, ConnectionError, Endpoint, Incoming, VarInt, ZeroRttAccepted,
    crypto::{self, rustls::QuicServerConfig},
};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, field::Empty, info_span, warn};

pub use config::Config;
pub use quic_lb::Readable;

use connection::Finished;
use established::Established;
use quic_lb::Scheme;
use resumption::{SharedSessions, Shown};
use sockets::{Ids, Steering};
use tickets::TicketKeys;

use crate::h3;

/// Why the endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The UDP port is taken or not allowed.
    #[error("UDP {address} (QUIC_PORT) cannot be opened: {cause}")]
    Bind {
        /// The address asked for.
        address: ListenAddress,
        /// The system's error.
        cause: io::Error,
    },
    /// The TLS configuration is not fit for QUIC.
    #[error("the TLS configuration is not fit for QUIC: {0}")]
    Tls(String),
}

/// An open endpoint.
pub struct Ingest {
    endpoints: Vec<Endpoint>,
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
}

/// Shared by every connection of the endpoint.
struct Shared {
    backend: Arc<Backend>,
    config: Config,
    established: Established,
    draining: Draining,
    /// Service for connections that speak HTTP/3.
    h3: OnceLock<Arc<h3::Shared>>,
}

impl Ingest {
    /// Opens the UDP port. Connections are accepted once [`Ingest::run`] is called.
    pub fn bind(config: Config, tls: Arc<rustls::ServerConfig>, backend: Arc<Backend>, draining: Draining) -> Result<Self, Error> {
        let server = match backend.relay.log() {
            Log::Redis(_) => {
                let keys = TicketKeys::new(backend.auth.secret.clone());
                config.quinn(Arc::new(SharedSessions::new(tls, keys, backend.clock.clone())?))?
            }
            Log::Embedded(_) => config.quinn(Arc::new(QuicServerConfig::try_from(tls).map_err(|e| Error::Tls(e.to_string()))?))?,
        };
        let bind_error = |cause| Error::Bind { address: config.address(), cause };
        let mut endpoints = Vec::new();
        // The name of a node may be another at each start; one that no other is beside knows the ids of its last connections without.
        let name = if matches!(backend.relay.log(), Log::Redis(_)) { backend.node.as_str() } else { "" };
        let (steering, scheme) = (Steering::new(config.sockets), Arc::new(Scheme::new(&config.ids, name)));
        let resets = Arc::new(resets::key(&backend.auth.secret, name));
        let open = |address| sockets::open(address, steering, scheme.length());
        let opened = config.address().open(open, |set| set.first().ok_or(io::ErrorKind::NotFound)?.local_addr());
        // Each address has sockets of its own, numbered from 0.
        for (number, socket) in opened.map_err(bind_error)?.into_iter().flat_map(|set| set.into_iter().enumerate()) {
            let ids = Ids::new(Arc::clone(&scheme), steering, number);
            let mut own = quinn::EndpointConfig::new(Arc::clone(&resets) as Arc<dyn crypto::HmacKey>);
            own.min_reset_interval(resets::BETWEEN).cid_generator(move || Box::new(ids.clone()));
            let endpoint = Endpoint::new(own, Some(server.clone()), socket, Arc::new(quinn::TokioRuntime)).map_err(bind_error)?;
            endpoints.push(endpoint);
        }
        let address = match endpoints.first() {
            Some(first) => first.local_addr().map_err(bind_error)?,
            None => config.address().first(),
        };
        let shared = Arc::new(Shared { backend, config, established: Established::default(), draining, h3: OnceLock::new() });
        Ok(Self { endpoints, address, shared, tasks: TaskTracker::new() })
    }

    /// The address in use, for a port 0 that was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves HTTP/3 too, from now on and for good.
    pub(crate) fn serve_http(&self, h3: h3::Shared) {
        // An error says that it does already.
        let _ = self.shared.h3.set(Arc::new(h3));
    }

    /// Accepts until `shutdown`, by which every device has been asked to leave; waits for them within their share of DRAIN_LIMIT, and closes.
    pub async fn run(self, shutdown: CancellationToken) {
        debug!(address = %self.address, sockets = self.endpoints.len(), "listening for QUIC");
        join_all(self.endpoints.iter().map(|endpoint| shutdown.run_until_cancelled(self.accept(endpoint)))).await;
        self.endpoints.iter().for_each(|endpoint| endpoint.set_server_config(None));
        self.tasks.close();
        if timeout(self.shared.config.session.drain.connections(), self.tasks.wait()).await.is_err() {
            warn!(connections = self.tasks.len(), "devices did not leave in time; closing their connections");
        }
        self.endpoints.iter().for_each(|endpoint| endpoint.close(number(CloseCode::Draining), b"the node is going away"));
        // The close frames have to leave the machine.
        let _ = timeout(Duration::from_secs(1), join_all(self.endpoints.iter().map(Endpoint::wait_idle))).await;
    }

    async fn accept(&self, endpoint: &Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            self.admit(incoming);
        }
    }

    /// Decides about one new peer before anything is spent on it.
    fn admit(&self, incoming: Incoming) {
        let (permits, address) = (&self.shared.backend.permits, ClientAddress::of(incoming.remote_address().ip()));
        let handshakes = self.tasks.len().saturating_sub(self.shared.established.count());
        if (handshakes >= self.shared.config.retry_above || permits.is_crowded(address)) && incoming.may_retry() {
            metrics::counter!("motience_quic_retries_total").increment(1);
            if incoming.retry().is_err() {
                debug!("a peer that proved its address was asked again");
            }
            return;
        }
        // A client that would be refused after its `Hello` is refused now.
        let permit = permits.unauthenticated(address, Transport::Quic).ok().filter(|_| permits.has_room(Transport::Quic));
        let Some(permit) = permit else {
            metrics::counter!("motience_quic_refused_total").increment(1);
            return incoming.refuse();
        };
        let mut opened = traces::Connection::begin("quic");
        opened.note("network.peer.address", &incoming.remote_address().ip());
        let span = info_span!("quic", peer = %incoming.remote_address(), connection = opened.number, trace = opened.trace(), user = Empty);
        self.tasks.spawn(handle(incoming, permit, opened, Arc::clone(&self.shared)).instrument(span));
    }
}

/// Serves a peer until its connection ends. `_opened`: the connection's span, which ends with it.
async fn handle(incoming: Incoming, permit: Permit, _opened: traces::Connection, shared: Arc<Shared>) {
    let begun = Instant::now();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(e) => return debug!(error = %e, "a connection could not be accepted"),
    };
    match timeout(shared.config.hello_limit, first_flight(connecting)).await {
        Ok(Ok((connection, shown, finished))) => {
            let (finished, watched) = watched(connection.clone(), finished, begun);
            let serving = serve(connection, shown, finished, permit, shared);
            join(watched, serving).await;
        }
        Ok(Err(e)) => failed(&e),
        Err(_) => {
            metrics::counter!("motience_handshakes_failed_total", "transport" => "quic", "reason" => "slow").increment(1);
            debug!("a handshake took too long");
        }
    }
}

/// Serves a connection whose first flight is there.
async fn serve(connection: Connection, shown: Shown, finished: Finished, mut permit: Permit, shared: Arc<Shared>) {
    match shown.protocol.as_deref() {
        Some(ALPN) => connection::serve(connection, (shown.early, finished), permit, shared).await,
        Some(h3::ALPN) if let Some(http) = shared.h3.get() => {
            if permit.speaks_http3().is_err() {
                return connection.close(h3::EXCESSIVE_LOAD, b"too many connections");
            }
            let (limit, leave) = (shared.config.hello_limit, shared.draining.enter());
            let _entered = shared.established.enter();
            let _open = shared.backend.reports.nodes.open(Kind::Http3);
            // On the heap: every device's task would have room for it.
            Box::pin(h3::serve(connection, finished, limit, leave.asked().clone(), Arc::clone(http))).await;
        }
        // TLS lets no other name through.
        _ => connection.close(number(CloseCode::Protocol), b"unknown ALPN protocol"),
    }
}

/// The end of a handshake, for whoever waits for it, and a future that measures it.
fn watched(connection: Connection, finished: ZeroRttAccepted, begun: Instant) -> (Finished, impl Future<Output = ()> + Send) {
    let finished = finished.shared();
    let watched = finished.clone().map(move |_| match connection.close_reason() {
        Some(e) if !matches!(e, ConnectionError::LocallyClosed | ConnectionError::ApplicationClosed(_)) => failed(&e),
        _ => histogram!("motience_handshake_seconds", "transport" => "quic").since(begun),
    });
    (finished, watched)
}

/// Counts a handshake that failed.
fn failed(error: &ConnectionError) {
    let reason = match error {
        ConnectionError::TransportError(_) | ConnectionError::ConnectionClosed(_) | ConnectionError::VersionMismatch => "tls",
        ConnectionError::TimedOut => "slow",
        _ => "gone",
    };
    metrics::counter!("motience_handshakes_failed_total", "transport" => "quic", "reason" => reason).increment(1);
    debug!(%error, "a handshake failed");
}

/// The connection as soon as the client's first flight is read, what the handshake has shown, and its end.
///
/// The early data of a returning client is acted on at once: a ticket is good for one connection only, so a first flight that someone sends again is
/// not early data to us (RFC 8446, section 8.1). A node by itself sees to that (`motience_certs::server`); nodes that share tickets ask the register
/// of the cluster (`connection.rs`).
async fn first_flight(mut connecting: Connecting) -> Result<(Connection, Shown, ZeroRttAccepted), ConnectionError> {
    let shown = Shown::of(connecting.handshake_data().await?);
    match connecting.into_0rtt() {
        Ok((connection, finished)) => Ok((connection, shown, finished)),
        // A server always can (quinn's `Connecting::into_0rtt`).
        Err(_) => Err(ConnectionError::LocallyClosed),
    }
}

/// Counts records that went through, and their bytes.
fn count(side: &'static str, records: u64, bytes: u64) {
    metrics::counter!("motience_quic_records_total", "side" => side).increment(records);
    metrics::counter!("motience_quic_bytes_total", "side" => side).increment(bytes);
}

fn number(code: CloseCode) -> VarInt {
    VarInt::from_u32(code.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room<A, B, C, D, F>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// Measured at 3.1 KiB; it was 49 KiB while all that comes seldom lay in it, some of it four times.
    #[test]
    fn the_task_of_a_connection_has_no_room_for_what_comes_seldom() {
        assert!(room(handle) <= 4 << 10, "{} bytes for each idle device", room(handle));
    }
}
