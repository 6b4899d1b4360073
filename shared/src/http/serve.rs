//! The HTTP accept loop, plain or under TLS: what `axum::serve` leaves open (slow headers, endless connections) has a
//! limit here.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::Stalls;
use crate::{
    env::{self, Env},
    lifecycle::Shutdown,
};

/// Pause after an accept that failed for want of file descriptors or memory: the listener stays, and does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for requests under way when the drain begins.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Limits of one listener.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the listener's backlog. HTTP_MAX_CONNECTIONS, 10,000.
    pub connections: usize,
    /// Time for a request's head to arrive, from the connection's beginning or the last answer on; and before it for the TLS
    /// handshake. HTTP_HEADER_LIMIT, 10 s.
    pub header: Duration,
    /// Bytes of a request's head. HTTP_MAX_HEADER_BYTES, 16 KiB.
    pub header_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 10_000, header: Duration::from_secs(10), header_bytes: 16 * 1024 }
    }
}

impl Limits {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let default = Self::default();
        let limits = Self {
            connections: env.parse("HTTP_MAX_CONNECTIONS", default.connections)?,
            header: env.duration("HTTP_HEADER_LIMIT", default.header)?,
            header_bytes: env.bytes("HTTP_MAX_HEADER_BYTES", default.header_bytes)?,
        };
        if limits.header_bytes < 8192 {
            return Err(env::Error::invalid("HTTP_MAX_HEADER_BYTES", "must be at least 8KiB"));
        }
        if limits.connections == 0 {
            return Err(env::Error::invalid("HTTP_MAX_CONNECTIONS", "must be at least 1"));
        }
        if limits.header.is_zero() {
            return Err(env::Error::invalid("HTTP_HEADER_LIMIT", "must be more than nothing"));
        }
        Ok(limits)
    }
}

/// An open port, and how its connections begin.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Every connection begins with a TLS handshake; none is taken without.
    pub fn tls(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { tcp, tls: Some(config.into()) }
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None }
    }
}

/// Serves until the drain begins, then lets requests under way end, and cuts those that do not.
pub async fn serve(listener: impl Into<Listener>, router: Router, limits: Limits, shutdown: Shutdown) {
    let Listener { tcp: listener, tls } = listener.into();
    let address = listener.local_addr().ok();
    info!(address = ?address, tls = tls.is_some(), "listening for HTTP");
    let free = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    let cut = shutdown.hard().child_token();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.soft().cancelled() => break,
            accepted = accept(&listener, &free) => accepted,
        };
        let Some((permit, stream, peer)) = accepted else { continue };
        // Small messages must not wait for more; a socket that refuses the option is slower, not wrong.
        let _ = stream.set_nodelay(true);
        let (router, limits, shutdown, cut, tls) = (router.clone(), limits.clone(), shutdown.clone(), cut.clone(), tls.clone());
        connections.spawn(async move {
            let serving = async {
                match tls {
                    None => connection(stream, peer, router, &limits, &shutdown).await,
                    Some(tls) => {
                        if let Some(stream) = handshake(&tls, stream, &limits, &shutdown).await {
                            connection(stream, peer, router, &limits, &shutdown).await;
                        }
                    }
                }
            };
            cut.run_until_cancelled(serving).await;
            drop(permit);
        });
    }
    // New connections are refused by the system from here on.
    drop(listener);
    connections.close();
    if timeout(DRAIN_LIMIT, connections.wait()).await.is_err() {
        warn!(address = ?address, connections = connections.len(), "requests under way are cut");
        cut.cancel();
        connections.wait().await;
    }
}

async fn accept(listener: &TcpListener, free: &Arc<Semaphore>) -> Option<(tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    // Cannot fail: the semaphore is never closed.
    let permit = Arc::clone(free).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((permit, stream, peer)),
        Err(e) => {
            if !matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                warn!(error = %e, "a connection cannot be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// Nobody has asked for anything yet: the drain ends it at once.
async fn handshake(tls: &TlsAcceptor, stream: TcpStream, limits: &Limits, shutdown: &Shutdown) -> Option<TlsStream<TcpStream>> {
    let shaken = shutdown.soft().run_until_cancelled(timeout(limits.header, tls.accept(stream))).await?;
    match shaken {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(e)) => debug!(error = %e, "a handshake failed"),
        Err(_) => debug!("a handshake took too long"),
    }
    None
}

async fn connection<S>(stream: S, peer: SocketAddr, router: Router, limits: &Limits, shutdown: &Shutdown)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(limits.header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(128);
    let stalls = Stalls::default();
    let router = TowerToHyperService::new(router.layer(Extension(ConnectInfo(peer))).layer(Extension(stalls.clone())));
    let spoken = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let spoken = Arc::clone(&spoken);
        move |request| {
            spoken.store(true, Ordering::Relaxed);
            router.call(request)
        }
    });
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = serving.as_mut() => served,
        () = shutdown.soft().cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = silence(limits.header, &spoken) => return debug!("a connection without a request is closed"),
        () = stalls.stalled() => return debug!("a client that reads nothing is let go"),
    };
    if let Err(e) = served {
        debug!(error = %e, "a connection ended badly");
    }
}

/// Returns when a connection has not asked for anything in time. hyper's own limit on heads begins only once it knows the
/// version of HTTP, for which it would wait for ever.
async fn silence(limit: Duration, spoken: &AtomicBool) {
    sleep(limit).await;
    if spoken.load(Ordering::Relaxed) {
        pending::<()>().await;
    }
}

#[cfg(test)]
mod tests;
