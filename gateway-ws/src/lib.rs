//! The WebSocket gateway: `/producer` and `/consumer` as every existing client knows them, `/motience` for devices that
//! QUIC does not reach, and the pages: a console, and a tester for each side.
//!
//! A connection authenticates at its upgrade and then holds a `Publisher` or a delivery `Pipeline` until it closes or its token ends.
//! Four listeners: producers, consumers, and a page for trying each. Linked into the server, and a program of its own.

pub mod cert_hash;
pub mod certificate;
mod config;
mod consumer;
mod counters;
mod frame_guard;
mod handshake;
mod later;
pub mod pages;
mod producer;
mod socket;
mod tunnel;
mod upgrade;

use std::{net::SocketAddr, sync::Arc};

use axum::{Router, middleware::from_fn_with_state, routing::any};
use motience_backend::Backend;
use motience_certs::{ServerIdentity, server::tcp_config};
use motience_http::{
    ApiError, HasProxies, Limits, ListenAddress, Listener, OPERATIONS, Proxies, log_refusals, operations, serve, tolerant,
};
use motience_limits::uploads::{self, Owner, Upload};
use motience_runtime::lifecycle::Shutdown;
use tokio::net::TcpListener;

use counters::Counters;

pub use cert_hash::WebTransport;
pub use config::{Config, PublicUrls};

/// Why the gateway could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port is taken or not allowed.
    #[error("TCP {address} ({setting}) cannot be opened: {cause}")]
    Bind {
        /// The address asked for.
        address: ListenAddress,
        /// The setting of its port.
        setting: &'static str,
        /// The system's error.
        cause: std::io::Error,
    },
    /// TLS is asked for, and nothing to show at a handshake.
    #[error("WSS_TLS needs a certificate")]
    NoCertificate,
}

/// Where the gateway listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// WebSocket producers.
    pub wss1: SocketAddr,
    /// WebSocket consumers.
    pub wss2: SocketAddr,
    /// The producers' tester page.
    pub wss1_ui: SocketAddr,
    /// The consumers' tester page.
    pub wss2_ui: SocketAddr,
}

/// State that all connections share.
pub(crate) struct Shared {
    pub(crate) backend: Arc<Backend>,
    pub(crate) config: Config,
    pub(crate) shutdown: Shutdown,
    pub(crate) producers: Counters,
    pub(crate) consumers: Counters,
    pub(crate) tunnels: Counters,
    pub(crate) webtransport: Option<WebTransport>,
}

impl Shared {
    /// All that a new socket sends.
    pub(crate) fn upload(&self, owner: Owner) -> Upload {
        self.backend.uploads.upload(&uploads::Connection::default(), owner)
    }
}

impl HasProxies for Shared {
    fn proxies(&self) -> &Proxies {
        &self.config.limits.trusted
    }
}

/// A gateway whose ports are open.
pub struct Gateway {
    addresses: Addresses,
    listeners: Vec<(Listener, Router, Limits)>,
    shared: Arc<Shared>,
}

/// Opens the four ports. `identity` is what clients are shown where they connect over TLS, `webtransport` what pages are told of.
pub async fn bind(
    config: Config,
    identity: Option<&Arc<ServerIdentity>>,
    webtransport: Option<WebTransport>,
    backend: Arc<Backend>,
    shutdown: Shutdown,
) -> Result<Gateway, Error> {
    let tls = match identity {
        _ if !config.tls => None,
        Some(identity) => Some(tcp_config(Arc::clone(identity), &[b"http/1.1"])),
        None => return Err(Error::NoCertificate),
    };
    let (wss1, wss2) = (listen("WSS1_PORT", config.wss1())?, listen("WSS2_PORT", config.wss2())?);
    let (wss1_ui, wss2_ui) = (listen("WSS1_UI_PORT", config.wss1_ui())?, listen("WSS2_UI_PORT", config.wss2_ui())?);
    let addresses = Addresses {
        wss1: config.wss1().local(&wss1),
        wss2: config.wss2().local(&wss2),
        wss1_ui: config.wss1_ui().local(&wss1_ui),
        wss2_ui: config.wss2_ui().local(&wss2_ui),
    };
    let limits = config.limits.clone();
    // Sockets that stay count as connections too.
    let staying = limits.clone().with_more(backend.permits.limits().websocket);
    let (producers, consumers, tunnels) = (Counters::new("producer"), Counters::new("consumer"), Counters::new("tunnel"));
    let shared = Arc::new(Shared { backend, config, shutdown, producers, consumers, tunnels, webtransport });
    let secured = |listener: TcpListener| match &tls {
        Some(tls) => Listener::tls(listener, Arc::clone(tls)),
        None => listener.into(),
    };
    let page = |side, at| pages::router(side, at).merge(cert_hash::router(shared.webtransport.clone()).with_state(()));
    let mut listeners = Vec::new();
    for (name, router, sockets, under_tls) in [
        ("motience-wss1", producer_sockets(), wss1, true),
        ("motience-wss2", consumer_sockets(), wss2, true),
        ("motience-wss1-ui", page(pages::Side::Producer, addresses), wss1_ui, false),
        ("motience-wss2-ui", page(pages::Side::Consumer, addresses), wss2_ui, false),
    ] {
        let router = around(name, router, &shared);
        let router = if tls.is_some() && under_tls { certificate::strictly(router, shared.config.hsts.0.as_ref()) } else { router };
        let limits = if under_tls { &staying } else { &limits };
        let secured = |socket| if under_tls { secured(socket) } else { socket.into() };
        listeners.extend(sockets.into_iter().map(|socket| (secured(socket), router.clone(), limits.clone())));
    }
    Ok(Gateway { addresses, listeners, shared })
}

impl Gateway {
    /// `/stats/producer` and `/stats/consumer`: what each side has done, for the operations port.
    pub fn statistics(&self) -> Router {
        pages::statistics().with_state(Arc::clone(&self.shared))
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The sockets of producers, devices and consumers, for a listener that has everything else too.
    pub fn sockets(&self) -> Router {
        let logged = from_fn_with_state(Arc::clone(&self.shared), log_refusals);
        producer_sockets().merge(consumer_sockets()).layer(logged).with_state(Arc::clone(&self.shared))
    }

    /// Serves until the shutdown begins. Connections end by themselves then; the shutdown's owner waits for them.
    pub async fn run(self) {
        let serving =
            self.listeners.into_iter().map(|(listener, router, limits)| serve(listener, router, limits, self.shared.shutdown.clone()));
        futures_util::future::join_all(serving).await;
    }
}

fn producer_sockets() -> Router<Arc<Shared>> {
    Router::new().route("/producer", any(producer::upgrade)).route("/motience", any(tunnel::upgrade))
}

fn consumer_sockets() -> Router<Arc<Shared>> {
    Router::new().route("/consumer", any(consumer::upgrade))
}

/// The gateway's own paths.
const PATHS: [&str; 5] = ["/producer", "/consumer", "/motience", "/stats", "/cert-hash"];

/// A listener's own paths, with those of operators and one form of error around them.
fn around(name: &'static str, router: Router<Arc<Shared>>, shared: &Arc<Shared>) -> Router {
    let router = router
        .with_state(Arc::clone(shared))
        .merge(operations(name, Arc::clone(&shared.backend), shared.config.detail, &shared.shutdown))
        .fallback(async || ApiError::not_found("There is nothing at this path."))
        .layer(from_fn_with_state(Arc::clone(shared), log_refusals));
    tolerant(router, PATHS.into_iter().chain(OPERATIONS))
}

fn listen(setting: &'static str, address: ListenAddress) -> Result<Vec<TcpListener>, Error> {
    address.listen().map_err(|cause| Error::Bind { address, setting, cause })
}
