//! One node, assembled: every start-up step in order, then running, then the way down.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::http::{HeaderValue, header};
use motience_backend::{self as backend, Backend};
use motience_certs::{
    ServerIdentity, Source,
    server::{EarlyData, quic_config, tcp_config},
    source,
};
use motience_gateway::{
    Gateway, WebTransport, certificate,
    pages::{self, Reach, Whereabouts},
};
use motience_http::{self as shared_http, Detail, Limits, ListenAddress, Listener};
use motience_proto::wire::ALPN;
use motience_runtime::{clock::Clock, lifecycle::Shutdown};
use serde::Serialize;
use tokio::net::TcpListener;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{info, warn};

use crate::{
    ap,
    config::{Config, Roles},
    dsm, h3, http,
    ingest::{self, Ingest},
    sm, webtransport,
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
    #[error("TCP {address} ({setting}) cannot be opened: {cause}")]
    Bind {
        /// The address asked for.
        address: ListenAddress,
        /// The setting of its port.
        setting: &'static str,
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
    #[error("the certificate cannot be used ({setting})")]
    Certificate {
        /// The settings that name it.
        setting: &'static str,
        /// What is wrong.
        source: source::Error,
    },
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
    /// Base URL of all services under TLS; the same paths answer over HTTP/3 on the QUIC endpoint.
    pub https: Option<String>,
    /// URL for WebTransport.
    pub webtransport: Option<String>,
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

impl Addresses {
    /// One line for each listener.
    pub(crate) fn log(&self) {
        let quic = self.quic.as_ref().map(|at| format!("quic://{at}"));
        for (role, url) in [
            ("ap: accounts", &self.ap),
            ("sm: subscriptions", &self.sm),
            ("dsm: data streams", &self.dsm),
            ("all services under TLS", &self.https),
            ("ingest: devices, HTTP/3, WebTransport", &quic),
            ("wss1: producers", &self.wss1),
            ("wss2: consumers", &self.wss2),
            ("producers' tester page", &self.producer_page),
            ("console and consumers' tester page", &self.consumer_page),
            ("operations: health, readiness, metrics", &self.operations),
        ] {
            if let Some(url) = url {
                info!(role, url, "listening");
            }
        }
    }
}

/// A node whose ports are open.
pub struct Server {
    backend: Arc<Backend>,
    services: Arc<http::Services>,
    listeners: Vec<(Listener, axum::Router)>,
    limits: Limits,
    gateway: Option<Gateway>,
    ingest: Option<Ingest>,
    identity: Option<(Arc<ServerIdentity>, Source)>,
    addresses: Addresses,
    shutdown: Shutdown,
    persist: bool,
}

impl Server {
    /// Opens the backend and every port.
    pub async fn bind(config: Config, clock: Clock, shutdown: Shutdown) -> Result<Self, Error> {
        motience_certs::install_provider();
        let mut addresses = Addresses::default();
        let identity = if config.speaks_tls() {
            let failed = |source| Error::Certificate { setting: certificate::settings(&config.certificate), source };
            let (identity, ca) = config.certificate.load(clock.now()).map_err(failed)?;
            addresses.ca = ca;
            Some(identity)
        } else {
            None
        };
        let roles = config.roles;
        let mut sockets = Vec::new();
        for (wanted, setting, at) in [
            (roles.ap, "AP_PORT", config.ap),
            (roles.sm, "SM_PORT", config.sm),
            (roles.dsm, "DSM_PORT", config.dsm),
            (true, "OPERATIONS_PORT", config.operations),
        ] {
            sockets.push(if wanted { Some(listen(setting, at)?) } else { None });
        }
        let open: Vec<&TcpListener> = sockets.iter().flatten().flatten().collect();
        let backend = shared_http::while_starting(&open, &config.http.limits, Backend::open_when_there(config.backend, clock)).await?;
        let services = http::Services::new(Arc::clone(&backend), config.http.clone(), shutdown.soft().clone());
        let whereabouts = Whereabouts::default();
        backend.relay.own_node().set_roles(roles.names());
        let ingest = match identity.as_ref().filter(|_| roles.ingest) {
            None => None,
            Some(identity) => {
                let tls = quic_config(Arc::clone(identity), &[ALPN, h3::ALPN], EarlyData::Accept);
                Some(Ingest::bind(config.ingest, tls, Arc::clone(&backend))?)
            }
        };
        let here = ingest.as_ref().zip(identity.as_ref()).map(|(ingest, identity)| WebTransport {
            identity: Arc::clone(identity),
            self_made: config.certificate.is_self_made(),
            address: ingest.address(),
            url: config.webtransport.url.clone(),
        });
        let dsm = || {
            let more = motience_gateway::webtransport::router(here.clone());
            dsm::service(&services).with(more).with(pages::console(whereabouts.clone(), Reach::Ports))
        };
        let mut listeners: Vec<(Listener, axum::Router)> = Vec::new();
        let services_routers = [ap::router(&services), sm::router(&services), dsm().alone(&services)];
        let mut operations = shared_http::operations("motience-server", Arc::clone(&backend), Detail::Full);
        let places = [&mut addresses.ap, &mut addresses.sm, &mut addresses.dsm, &mut addresses.operations];
        let asked = [config.ap, config.sm, config.dsm, config.operations];
        for ((place, asked), sockets) in places.into_iter().zip(asked).zip(&sockets) {
            *place = sockets.as_ref().map(|sockets| url("http", asked.local(sockets), ""));
        }
        let hsts = config.gateway.hsts.clone();
        let mut gateway = config.gateway;
        gateway.ap_port = port_of(addresses.ap.as_deref()).unwrap_or(config.ap.port());
        gateway.sm_port = port_of(addresses.sm.as_deref()).unwrap_or(config.sm.port());
        gateway.dsm_port = port_of(addresses.dsm.as_deref()).unwrap_or(config.dsm.port());
        let told = gateway.clone();
        let gateway = if roles.wss {
            let scheme = gateway.scheme();
            let gateway = motience_gateway::bind(gateway, identity.as_ref(), here.clone(), Arc::clone(&backend), shutdown.clone()).await?;
            let at = gateway.addresses();
            operations = operations.merge(gateway.statistics());
            whereabouts.tell(told, at, here.clone(), true);
            addresses.wss1 = Some(url(scheme, at.wss1, "/producer"));
            addresses.wss2 = Some(url(scheme, at.wss2, "/consumer"));
            addresses.producer_page = Some(url("http", at.wss1_ui, "/"));
            addresses.consumer_page = Some(url("http", at.wss2_ui, "/"));
            Some(gateway)
        } else {
            // Another node of the platform has the sockets, on the ports that are set.
            let [wss1, wss2, wss1_ui, wss2_ui] = told.listeners().map(|(_, at, _)| at.first());
            let at = motience_gateway::Addresses { wss1, wss2, wss1_ui, wss2_ui };
            whereabouts.tell(told, at, here.clone(), false);
            None
        };
        if let Some(identity) = &identity {
            let router = certificate::strictly(together(&services, roles, here.clone(), whereabouts.clone()), hsts.as_ref());
            let https = listen("HTTPS_PORT", config.https)?;
            addresses.https = Some(url("https", config.https.local(&https), ""));
            let told = here.as_ref().and_then(|here| HeaderValue::from_str(&format!("h3=\":{}\"; ma=86400", here.address.port())).ok());
            let over_tcp = router.clone().layer(SetResponseHeaderLayer::overriding(header::ALT_SVC, move |_: &_| told.clone()));
            // One address for everything that a client over TCP can want.
            let over_tcp = gateway.iter().fold(over_tcp, |all, gateway| all.merge(gateway.sockets()));
            let tls = tcp_config(Arc::clone(identity), &[b"h2", b"http/1.1"]);
            listeners.extend(https.into_iter().map(|socket| (Listener::tls(socket, Arc::clone(&tls)), over_tcp.clone())));
            if let Some(ingest) = &ingest {
                let sessions = webtransport::Shared::new(Arc::clone(&backend), config.webtransport, ingest.draining().clone());
                let limits = config.http.limits.clone();
                let clock = backend.clock.clone();
                ingest.serve_http(h3::Shared { config: config.h3, limits, router, clock, webtransport: Arc::new(sessions) });
                addresses.quic = Some(reachable(ingest.address()).to_string());
                addresses.webtransport = here.as_ref().map(|here| here.url("localhost"));
            }
        }
        let operators = sockets.pop().flatten().unwrap_or_default();
        let operations = shared_http::operations_listener(operations);
        listeners.extend(operators.into_iter().map(|socket| (Listener::kept(socket), operations.clone())));
        for (sockets, router) in sockets.into_iter().zip(services_routers) {
            listeners.extend(sockets.into_iter().flatten().map(|socket| (socket.into(), router.clone())));
        }
        let limits = config.http.limits;
        Ok(Self {
            backend,
            services,
            listeners,
            limits,
            gateway,
            ingest,
            identity: identity.map(|identity| (identity, config.certificate)),
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
        if let Some((identity, source)) = identity {
            shutdown.spawn("certificates", certificate::reload(Arc::clone(&identity), shutdown.clone()));
            shutdown.spawn("renewal", certificate::renew(identity, source, backend.clock.clone(), shutdown.clone()));
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

/// The router of all services that the node has.
fn together(services: &Arc<http::Services>, roles: Roles, here: Option<WebTransport>, whereabouts: Whereabouts) -> axum::Router {
    let more = motience_gateway::webtransport::router(here);
    let parts =
        [(roles.ap, ap::service(services)), (roles.sm, sm::service(services)), (roles.dsm, dsm::service(services).with(more.clone()))];
    let parts = parts.into_iter().filter_map(|(wanted, part)| wanted.then_some(part));
    http::together(parts, more.merge(pages::console(whereabouts, Reach::Paths)), services)
}

fn listen(setting: &'static str, address: ListenAddress) -> Result<Vec<TcpListener>, Error> {
    address.listen().map_err(|cause| Error::Bind { address, setting, cause })
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
