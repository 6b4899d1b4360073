//! One node: every start-up step in order, then running, then the shutdown.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{HeaderValue, header},
};
use motience_backend::{self as backend, Backend};
use motience_certs::{
    ServerIdentity, Source,
    server::{AuthorityError, EarlyData, quic_config, tcp_config},
    source,
};
use motience_gateway::{
    Gateway, WebTransport, cert_hash, certificate,
    pages::{self, BaseUrlMode, EndpointDirectory},
};
use motience_http::{self as shared_http, Detail, Limits, ListenAddress, Listener, Origins};
use motience_proto::wire::ALPN;
use motience_runtime::{clock::Clock, lifecycle::Shutdown};
use motience_settings::env::Group as _;
use serde::Serialize;
use tokio::net::TcpListener;
use tower_http::set_header::SetResponseHeaderLayer;
use tracing::{info, warn};

use crate::{
    accounts,
    config::{Config, Roles},
    data, h3,
    http::{self, Rates},
    ingest::{self, Ingest},
    subscriptions, webtransport,
};

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
        /// The error of the system.
        cause: std::io::Error,
    },
    /// The QUIC endpoint.
    #[error(transparent)]
    Ingest(#[from] ingest::Error),
    /// The WebSocket gateway.
    #[error(transparent)]
    Gateway(#[from] motience_gateway::Error),
    /// The authorities of devices.
    #[error("clients cannot be asked for certificates of devices")]
    Devices(#[from] AuthorityError),
    /// The certificate.
    #[error("the certificate cannot be used ({setting})")]
    Certificate {
        /// The settings that name it.
        setting: &'static str,
        /// The error of the certificate.
        source: source::Error,
    },
}

/// Where the node listens. A role that it lacks has no address.
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
    listeners: Vec<(Listener, Router)>,
    limits: Limits,
    gateway: Option<Gateway>,
    ingest: Option<Ingest>,
    identity: Option<(Arc<ServerIdentity>, Source)>,
    addresses: Addresses,
    shutdown: Shutdown,
    persist: bool,
    counts_usage: bool,
    live: Live,
}

/// The settings that may change while the node runs.
#[derive(Clone)]
pub(crate) struct Live {
    services: Arc<http::Services>,
    /// Origins of WebSocket and of WebTransport.
    origins: [(&'static str, Origins); 2],
}

impl Live {
    /// Puts them in force. Returns those of the `changed` settings that are.
    pub(crate) fn apply(&self, config: &Config, changed: &[&'static str]) -> Vec<&'static str> {
        if let Err(e) = self.services.backend.tokens.read_keys() {
            warn!(error = %e, "the keys that sign tokens cannot be read again; those read before go on");
        }
        let mut live: Vec<&str> = Rates::SETTINGS.iter().map(|setting| setting.name).collect();
        live.extend(self.services.set(&config.http).then_some("CORS_ORIGINS"));
        for ((name, origins), newer) in self.origins.iter().zip([&config.gateway.origins, &config.webtransport.origins]) {
            origins.set(newer);
            live.push(name);
        }
        changed.iter().copied().filter(|name| live.contains(name)).collect()
    }
}

impl Server {
    /// Opens the backend and every port.
    pub async fn bind(config: Config, clock: Clock, shutdown: Shutdown) -> Result<Self, Error> {
        motience_certs::install_provider();
        let (identity, ca) = load_identity(&config, &clock)?;
        let sockets = ServiceSockets::open(&config)?;
        let opening = Backend::open_when_there(config.backend.clone(), clock);
        let backend = shared_http::while_starting(&sockets.all(), &config.http.limits, opening).await?;
        backend.reports.nodes.set_roles(config.roles.names());
        identity.iter().try_for_each(|identity| backend.ask_for_certificates(identity))?;
        let services = http::Services::new(Arc::clone(&backend), config.http.clone(), shutdown.clone());
        let origins = [("WSS_ORIGINS", config.gateway.origins.clone()), ("WT_ORIGINS", config.webtransport.origins.clone())];
        let live = Live { services: Arc::clone(&services), origins };
        let ingest = bind_quic(&config, identity.as_ref(), &backend, &shutdown)?;
        let webtransport = ingest.as_ref().zip(identity.as_ref()).map(|(ingest, identity)| WebTransport {
            identity: Arc::clone(identity),
            self_made: config.certificate.is_self_made(),
            address: ingest.address(),
            url: config.webtransport.url.clone(),
        });
        let mut addresses = Addresses { ca, ..sockets.addresses(&config) };
        let directory = EndpointDirectory::default();
        let gateway =
            bind_gateway(&config, &mut addresses, &directory, identity.as_ref(), webtransport.as_ref(), &services, &shutdown).await?;
        let mut listeners = sockets.listeners(&services, gateway.as_ref(), webtransport.as_ref(), &directory);
        if let Some(identity) = &identity {
            let router = combined_router(&services, config.roles, webtransport.as_ref(), directory);
            let router = certificate::strictly(router, config.gateway.hsts.0.as_ref());
            listeners.extend(https_listeners(&config, &mut addresses, identity, &router, gateway.as_ref(), webtransport.as_ref())?);
            if let Some(ingest) = &ingest {
                let sessions = webtransport::Shared::new(Arc::clone(&backend), config.webtransport.clone(), shutdown.draining().clone());
                ingest.serve_http(h3::Shared {
                    config: config.h3.clone(),
                    limits: config.http.limits.clone(),
                    router,
                    clock: backend.clock.clone(),
                    webtransport: Arc::new(sessions),
                });
                addresses.quic = Some(reachable(ingest.address()).to_string());
                addresses.webtransport = webtransport.as_ref().map(|webtransport| webtransport.url("localhost"));
            }
        }
        Ok(Self {
            backend,
            services,
            listeners,
            limits: config.http.limits,
            gateway,
            ingest,
            identity: identity.map(|identity| (identity, config.certificate)),
            addresses,
            shutdown,
            persist: config.persist && config.roles.dsm,
            counts_usage: config.backend.limits.count_usage && config.roles.dsm,
            live,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The settings that may change while it runs.
    pub(crate) fn live(&self) -> Live {
        self.live.clone()
    }

    /// The opened backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// Serves until the shutdown begins, then drains: no new connections, the old ones asked to leave, what was
    /// submitted written, log and database closed.
    pub async fn run(self) {
        let Self { backend, services, listeners, limits, gateway, ingest, identity, shutdown, persist, counts_usage, .. } = self;
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
            shutdown.spawn("history", data::history_writer(Arc::clone(&services), shutdown.soft().clone()));
        }
        if counts_usage {
            shutdown.spawn("usage", data::usage_counter(services, shutdown.soft().clone()));
        }
        shutdown.soft().cancelled().await;
        info!("draining");
        if !shutdown.drain(limits.drain.limit).await {
            warn!("not everything ended in time");
        }
        if tokio::time::timeout(Duration::from_secs(1), backend.close()).await.is_err() {
            warn!("the backend did not close in time");
        }
        info!("stopped");
    }
}

/// The open ports of the REST services and of the operations listener. A service that the node lacks has none.
struct ServiceSockets {
    ap: Option<Vec<TcpListener>>,
    sm: Option<Vec<TcpListener>>,
    dsm: Option<Vec<TcpListener>>,
    operations: Vec<TcpListener>,
}

impl ServiceSockets {
    fn open(config: &Config) -> Result<Self, Error> {
        let roles = config.roles;
        let open = |wanted: bool, setting, at| wanted.then(|| listen(setting, at)).transpose();
        Ok(Self {
            ap: open(roles.ap, "AP_PORT", config.ap)?,
            sm: open(roles.sm, "SM_PORT", config.sm)?,
            dsm: open(roles.dsm, "DSM_PORT", config.dsm)?,
            operations: listen("OPERATIONS_PORT", config.operations)?,
        })
    }

    fn all(&self) -> Vec<&TcpListener> {
        [&self.ap, &self.sm, &self.dsm].into_iter().flatten().chain([&self.operations]).flatten().collect()
    }

    fn addresses(&self, config: &Config) -> Addresses {
        let at = |asked: ListenAddress, sockets: &[TcpListener]| url("http", asked.local(sockets), "");
        Addresses {
            ap: self.ap.as_ref().map(|sockets| at(config.ap, sockets)),
            sm: self.sm.as_ref().map(|sockets| at(config.sm, sockets)),
            dsm: self.dsm.as_ref().map(|sockets| at(config.dsm, sockets)),
            operations: Some(at(config.operations, &self.operations)),
            ..Addresses::default()
        }
    }

    /// Each socket with the router of its service.
    fn listeners(
        self,
        services: &Arc<http::Services>,
        gateway: Option<&Gateway>,
        webtransport: Option<&WebTransport>,
        directory: &EndpointDirectory,
    ) -> Vec<(Listener, Router)> {
        let dsm = || {
            let pages = cert_hash::router(webtransport.cloned()).merge(pages::console(directory.clone(), BaseUrlMode::Ports));
            data::service(services).with_extra_routes(pages).standalone_router(services)
        };
        let mut listeners: Vec<(Listener, Router)> = Vec::new();
        let mut add = |sockets: Option<Vec<TcpListener>>, router: &dyn Fn() -> Router| {
            if let Some(sockets) = sockets {
                let router = router();
                listeners.extend(sockets.into_iter().map(|socket| (socket.into(), router.clone())));
            }
        };
        add(self.ap, &|| accounts::router(services));
        add(self.sm, &|| subscriptions::router(services));
        add(self.dsm, &dsm);
        let operations = shared_http::operations("motience-server", Arc::clone(&services.backend), Detail::Full, &services.shutdown);
        let operations = gateway.into_iter().fold(operations, |operations, gateway| operations.merge(gateway.statistics()));
        let operations = shared_http::operations_listener(operations, &services.backend);
        listeners.extend(self.operations.into_iter().map(|socket| (Listener::kept(socket), operations.clone())));
        listeners
    }
}

/// The certificate, where a listener of the node needs one, and the development CA that signed it.
fn load_identity(config: &Config, clock: &Clock) -> Result<(Option<Arc<ServerIdentity>>, Option<PathBuf>), Error> {
    if !config.speaks_tls() {
        return Ok((None, None));
    }
    let failed = |source| Error::Certificate { setting: certificate::settings(&config.certificate), source };
    let (identity, ca) = config.certificate.load(clock.now()).map_err(failed)?;
    Ok((Some(identity), ca))
}

fn bind_quic(
    config: &Config,
    identity: Option<&Arc<ServerIdentity>>,
    backend: &Arc<Backend>,
    shutdown: &Shutdown,
) -> Result<Option<Ingest>, Error> {
    let Some(identity) = identity.filter(|_| config.roles.ingest) else { return Ok(None) };
    let tls = quic_config(Arc::clone(identity), &[ALPN, h3::ALPN], EarlyData::Accept);
    Ok(Some(Ingest::bind(config.ingest.clone(), tls, Arc::clone(backend), shutdown.draining().clone())?))
}

/// Opens the gateway's ports, where the node has that role, and fills the directory for the pages.
async fn bind_gateway(
    config: &Config,
    addresses: &mut Addresses,
    directory: &EndpointDirectory,
    identity: Option<&Arc<ServerIdentity>>,
    webtransport: Option<&WebTransport>,
    services: &Arc<http::Services>,
    shutdown: &Shutdown,
) -> Result<Option<Gateway>, Error> {
    let mut settings = config.gateway.clone();
    settings.services.ap = port_of(addresses.ap.as_deref()).unwrap_or(config.ap.port());
    settings.services.sm = port_of(addresses.sm.as_deref()).unwrap_or(config.sm.port());
    settings.services.dsm = port_of(addresses.dsm.as_deref()).unwrap_or(config.dsm.port());
    let issuers = services.backend.issuers().console_clients();
    if !config.roles.wss {
        // Another node of the platform has the sockets, on the ports that are set.
        let [wss1, wss2, wss1_ui, wss2_ui] = settings.listeners().map(|(_, at, _)| at.first());
        directory.set(settings, motience_gateway::Addresses { wss1, wss2, wss1_ui, wss2_ui }, webtransport.cloned(), false, issuers);
        return Ok(None);
    }
    let (scheme, backend) = (settings.scheme(), Arc::clone(&services.backend));
    let gateway = motience_gateway::bind(settings.clone(), identity, webtransport.cloned(), backend, shutdown.clone()).await?;
    let at = gateway.addresses();
    directory.set(settings, at, webtransport.cloned(), true, issuers);
    addresses.wss1 = Some(url(scheme, at.wss1, "/producer"));
    addresses.wss2 = Some(url(scheme, at.wss2, "/consumer"));
    addresses.producer_page = Some(url("http", at.wss1_ui, "/"));
    addresses.consumer_page = Some(url("http", at.wss2_ui, "/"));
    Ok(Some(gateway))
}

/// Opens the port on which all services, and the gateway's sockets, are under TLS.
fn https_listeners(
    config: &Config,
    addresses: &mut Addresses,
    identity: &Arc<ServerIdentity>,
    router: &Router,
    gateway: Option<&Gateway>,
    webtransport: Option<&WebTransport>,
) -> Result<impl Iterator<Item = (Listener, Router)> + use<>, Error> {
    let sockets = listen("HTTPS_PORT", config.https)?;
    addresses.https = Some(url("https", config.https.local(&sockets), ""));
    let http3 = webtransport.and_then(|at| HeaderValue::from_str(&format!("h3=\":{}\"; ma=86400", at.address.port())).ok());
    let router = router.clone().layer(SetResponseHeaderLayer::overriding(header::ALT_SVC, move |_: &_| http3.clone()));
    // One address for everything that a client over TCP can want.
    let router = gateway.into_iter().fold(router, |all, gateway| all.merge(gateway.sockets()));
    let tls = tcp_config(Arc::clone(identity), &[b"h2", b"http/1.1"]);
    Ok(sockets.into_iter().map(move |socket| (Listener::tls(socket, Arc::clone(&tls)), router.clone())))
}

/// The router of all services that the node has.
fn combined_router(
    services: &Arc<http::Services>,
    roles: Roles,
    webtransport: Option<&WebTransport>,
    directory: EndpointDirectory,
) -> Router {
    let cert_hash = cert_hash::router(webtransport.cloned());
    let dsm = data::service(services).with_extra_routes(cert_hash.clone());
    let parts = [(roles.ap, accounts::service(services)), (roles.sm, subscriptions::service(services)), (roles.dsm, dsm)];
    let parts = parts.into_iter().filter_map(|(wanted, part)| wanted.then_some(part));
    http::combined_router(parts, cert_hash.merge(pages::console(directory, BaseUrlMode::Paths)), services)
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
