//! One node, assembled: every start-up step in order, then running, then the way down.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use motience_certs::{ServerIdentity, server::EarlyData, source};
use motience_gateway::Gateway;
use motience_shared::{
    backend::{self, Backend},
    clock::Clock,
    http::{self as shared_http, Limits},
    lifecycle::Shutdown,
    wire::ALPN,
};
use serde::Serialize;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::{
    ap,
    config::Config,
    dsm, http,
    ingest::{self, Ingest},
    sm,
};

/// Time for connections to end and for what was submitted to be written, before the node leaves anyway: with the rest
/// of the way down it stays under the ten seconds that supervisors allow.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Database or log.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A TCP port is taken or not allowed.
    #[error("TCP {address} cannot be opened: {cause}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The QUIC endpoint.
    #[error(transparent)]
    Ingest(#[from] ingest::Error),
    /// The WebSocket gateway.
    #[error(transparent)]
    Gateway(#[from] motience_gateway::Error),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] source::Error),
}

/// Where the node listens; what has a role it lacks is absent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Addresses {
    /// Base URL of the accounts service.
    pub ap: Option<String>,
    /// Base URL of the subscriptions service.
    pub sm: Option<String>,
    /// Base URL of the data service.
    pub dsm: Option<String>,
    /// `host:port` of the QUIC endpoint.
    pub quic: Option<String>,
    /// URL for WebSocket producers.
    pub wss1: Option<String>,
    /// URL for WebSocket consumers.
    pub wss2: Option<String>,
    /// URL of the producers' tester page.
    pub producer_page: Option<String>,
    /// URL of the consumers' tester page.
    pub consumer_page: Option<String>,
    /// Base URL of health, readiness and metrics.
    pub operations: Option<String>,
    /// The development CA, where the certificate is self-made.
    pub ca: Option<PathBuf>,
}

/// A node whose ports are open.
pub struct Server {
    backend: Arc<Backend>,
    services: Arc<http::Services>,
    listeners: Vec<(TcpListener, axum::Router)>,
    limits: Limits,
    gateway: Option<Gateway>,
    ingest: Option<Ingest>,
    identity: Option<Arc<ServerIdentity>>,
    addresses: Addresses,
    shutdown: Shutdown,
    persist: bool,
}

impl Server {
    /// Opens the backend and every port.
    pub async fn bind(config: Config, clock: Clock, shutdown: Shutdown) -> Result<Self, Error> {
        motience_certs::install_provider();
        if config.backend.auth.generated {
            warn!("JWT_SECRET is not set: a random one is used, and every token ends with this process");
        }
        let mut addresses = Addresses::default();
        let identity = if config.speaks_tls() {
            let (identity, ca) = config.certificate.load(clock.now())?;
            addresses.ca = ca;
            Some(identity)
        } else {
            None
        };
        let backend = Backend::open(config.backend, clock).await?;
        let services = http::Services::new(Arc::clone(&backend), config.http.clone(), shutdown.soft().clone());
        let mut listeners = Vec::new();
        let roles = config.roles;
        for (wanted, at, router, place) in [
            (roles.ap, config.ap, ap::router(&services), &mut addresses.ap),
            (roles.sm, config.sm, sm::router(&services), &mut addresses.sm),
            (roles.dsm, config.dsm, dsm::router(&services), &mut addresses.dsm),
            (true, config.operations, shared_http::operations("motience-server", Arc::clone(&backend)), &mut addresses.operations),
        ] {
            if wanted {
                let listener = listen(at).await?;
                *place = Some(url("http", local(&listener, at), ""));
                listeners.push((listener, router));
            }
        }
        let ingest = match identity.as_ref().filter(|_| roles.ingest) {
            None => None,
            Some(identity) => {
                let tls = motience_certs::server::quic_config(Arc::clone(identity), &[ALPN], EarlyData::Accept);
                let ingest = Ingest::bind(config.ingest, tls, Arc::clone(&backend))?;
                addresses.quic = Some(reachable(ingest.address()).to_string());
                Some(ingest)
            }
        };
        let gateway = if roles.wss {
            let mut gateway = config.gateway;
            gateway.ap_port = port_of(addresses.ap.as_deref()).unwrap_or(config.ap.port());
            gateway.sm_port = port_of(addresses.sm.as_deref()).unwrap_or(config.sm.port());
            gateway.dsm_port = port_of(addresses.dsm.as_deref()).unwrap_or(config.dsm.port());
            let scheme = gateway.scheme();
            let gateway = motience_gateway::bind(gateway, identity.as_ref(), Arc::clone(&backend), shutdown.clone()).await?;
            let at = gateway.addresses();
            addresses.wss1 = Some(url(scheme, at.wss1, "/producer"));
            addresses.wss2 = Some(url(scheme, at.wss2, "/consumer"));
            addresses.producer_page = Some(url("http", at.wss1_ui, "/"));
            addresses.consumer_page = Some(url("http", at.wss2_ui, "/"));
            Some(gateway)
        } else {
            None
        };
        let limits = config.http.limits;
        Ok(Self {
            backend,
            services,
            listeners,
            limits,
            gateway,
            ingest,
            identity,
            addresses,
            shutdown,
            persist: config.persist && roles.dsm,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The opened backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Serves until the shutdown begins, then drains: no new connections, the old ones asked to leave, what was
    /// submitted written, log and database closed.
    pub async fn run(self) {
        let Self { backend, services, listeners, limits, gateway, ingest, identity, shutdown, persist, .. } = self;
        for (listener, router) in listeners {
            let serving = shared_http::serve(listener, router, limits.clone(), shutdown.clone());
            shutdown.spawn("http", serving);
        }
        if let Some(identity) = identity {
            shutdown.spawn("certificates", motience_gateway::certificate::reload(identity, shutdown.clone()));
        }
        if let Some(ingest) = ingest {
            let soft = shutdown.soft().clone();
            shutdown.spawn("ingest", ingest.run(soft));
        }
        if let Some(gateway) = gateway {
            shutdown.spawn("gateway", gateway.run());
        }
        if persist {
            shutdown.spawn("history", dsm::history_writer(services, shutdown.soft().clone()));
        }
        shutdown.soft().cancelled().await;
        info!("draining");
        if !shutdown.drain(DRAIN_LIMIT).await {
            warn!("not everything ended in time");
        }
        if tokio::time::timeout(Duration::from_secs(1), backend.close()).await.is_err() {
            warn!("the backend did not close in time");
        }
        info!("stopped");
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|cause| Error::Bind { address, cause })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// An address that a client on this machine can use: "every interface" is none.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut reachable = address;
    if address.ip().is_unspecified() {
        reachable.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    reachable
}

fn url(scheme: &str, address: SocketAddr, path: &str) -> String {
    let address = reachable(address);
    if address.ip().is_loopback() && address.is_ipv4() {
        format!("{scheme}://localhost:{}{path}", address.port())
    } else {
        format!("{scheme}://{address}{path}")
    }
}

fn port_of(url: Option<&str>) -> Option<u16> {
    url?.rsplit(':').next()?.parse().ok()
}
