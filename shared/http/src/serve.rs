//! The HTTP accept loop, plain or under TLS: what `axum::serve` leaves open (slow headers, endless connections, clients that read
//! nothing) has a limit here.
//!
//! ```text
//! accept -> permit -> (PROXY header) -> TLS -> Guarded (socket) -> hyper -> request with its connection's extensions -> router -> Paced (body)
//! ```
//!
//! A listener has one router and one set of options. A connection adds what is its own to each request, so that one which says
//! nothing costs its socket and a task.

use std::{convert::Infallible, fs::File, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, Version, header, uri::Authority},
    response::IntoResponse as _,
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use motience_limits::uploads;
use motience_runtime::{histogram, lifecycle::Shutdown, telemetry::Sampler};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::{
    ApiError, Limits, PageRoom,
    guarded::Guarded,
    limiter::{Limiter, Permit, Refused},
    paced::Paced,
    proxied,
    ration::count_ended,
    stalls::{Overdue, Stalls, Waits},
};

/// Pause after an accept that failed for want of memory: the listener stays, and does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often the log says that connections cannot be accepted.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// An open port, and how its connections begin.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
    kept: bool,
}

impl Listener {
    /// The operator's: when file descriptors run out, it still has some.
    pub fn kept(tcp: TcpListener) -> Self {
        Self { tcp, tls: None, kept: true }
    }

    /// Every connection begins with a TLS handshake; none is taken without.
    pub fn tls(tcp: TcpListener, config: Arc<ServerConfig>) -> Self {
        Self { tcp, tls: Some(config.into()), kept: false }
    }
}

/// The certificate (DER) that the client of a connection has shown, and whose signature was checked. An extension of each request of it.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Bytes);

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None, kept: false }
    }
}

/// Serves until the drain begins, then lets requests under way end, and cuts those that do not.
pub async fn serve(listener: impl Into<Listener>, router: Router, limits: Limits, shutdown: Shutdown) {
    let Listener { tcp: listener, tls, kept } = listener.into();
    let address = listener.local_addr().ok();
    debug!(address = ?address, tls = tls.is_some(), "listening for HTTP");
    let drain = limits.drain.connections();
    let limiter = Limiter::new(limits.connections, limits.connections_of_an_address(), limits.trusted.clone()).keeping(kept);
    let connections = TaskTracker::new();
    let cut = shutdown.hard().child_token();
    let service = Arc::new(Service { router, builder: builder(&limits), limits, limiter, tls, kept, shutdown, cut });
    let mut accepting = Accepting { listener, reserve: reserve(), warned: Sampler::new(WARN_EVERY) };
    loop {
        let accepted = tokio::select! {
            biased;
            () = service.shutdown.soft().cancelled() => break,
            accepted = accepting.next() => accepted,
        };
        let Some((stream, peer)) = accepted else { continue };
        let limiter = &service.limiter;
        match if service.is_announced(peer) { limiter.enter_unnamed() } else { limiter.enter(peer.ip()) } {
            Ok(permit) => drop(connections.spawn(Arc::clone(&service).take(stream, peer, permit))),
            Err(why) => service.refuse(stream, peer, why),
        }
    }
    // New connections are refused by the system from here on.
    drop(accepting);
    connections.close();
    if timeout(drain, connections.wait()).await.is_err() {
        warn!(address = ?address, connections = connections.len(), "requests in progress are cut off");
        service.cut.cancel();
        connections.wait().await;
    }
}

/// A listener, and a file descriptor that is given up to refuse a connection when there is no other.
struct Accepting {
    listener: TcpListener,
    reserve: Option<File>,
    warned: Sampler,
}

impl Accepting {
    /// The next connection; `None` where there is none to serve. Cancel-safe.
    async fn next(&mut self) -> Option<(TcpStream, SocketAddr)> {
        let error = match self.listener.accept().await {
            Ok(accepted) => return Some(accepted),
            Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => return None,
            Err(e) => e,
        };
        if self.warned.pass("accept").is_some() {
            warn!(%error, "connections cannot be accepted; raise the limit of open files (ulimit -n)");
        }
        // Without a descriptor nobody can even be turned away: whoever waits in the backlog would wait for ever.
        if self.reserve.take().is_some()
            && let Ok(Ok(refused)) = timeout(ACCEPT_PAUSE, self.listener.accept()).await
        {
            Refused::Descriptors.count();
            drop(refused);
        } else {
            sleep(ACCEPT_PAUSE).await;
        }
        self.reserve = reserve();
        None
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

/// The options of every connection of a listener.
fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let window = u32::try_from(limits.receive_window).unwrap_or(u32::MAX);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header).max_buf_size(limits.header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .initial_connection_window_size(window)
        .initial_stream_window_size(window / 4)
        .max_send_buf_size(limits.send_buffer)
        .max_concurrent_streams(limits.streams);
    builder
}

/// State that all connections of a listener share.
struct Service {
    router: Router,
    builder: auto::Builder<TokioExecutor>,
    limits: Limits,
    limiter: Limiter,
    tls: Option<TlsAcceptor>,
    /// Whether it is the operator's port.
    kept: bool,
    shutdown: Shutdown,
    /// Ends what the drain leaves.
    cut: CancellationToken,
}

impl Service {
    /// Whether a connection from there begins with a header of the PROXY protocol.
    fn is_announced(&self, peer: SocketAddr) -> bool {
        !self.kept && self.limits.announced.expects_header(peer)
    }

    fn refuse(&self, stream: TcpStream, peer: SocketAddr, why: Refused) {
        debug!(%peer, ?why, "a connection is refused");
        self.limiter.refuse(stream, why, self.tls.is_some());
    }

    async fn take(self: Arc<Self>, mut stream: TcpStream, mut peer: SocketAddr, mut permit: Permit) {
        // Small messages must not wait for more; a socket that refuses the option is slower, not wrong.
        let _ = stream.set_nodelay(true);
        let begun = Instant::now();
        if self.is_announced(peer) {
            let Some(named) = Box::pin(self.announced(stream, peer, permit)).await else { return };
            (stream, peer, permit) = named;
        }
        // Nothing is made for a client that says nothing, and what is made is boxed, so that it costs nothing before.
        let left = self.limits.header.saturating_sub(begun.elapsed());
        let spoken = self.shutdown.soft().run_until_cancelled(timeout(left, stream.readable())).await;
        match spoken {
            Some(Ok(Ok(()))) => {}
            Some(Err(_)) => return count_ended(Overdue::Silent.name()),
            Some(Ok(Err(_))) | None => return,
        }
        let first = self.limits.header.saturating_sub(begun.elapsed());
        match &self.tls {
            None => self.cut.run_until_cancelled(Box::pin(self.connection(stream, (peer, None), permit, first))).await,
            Some(tls) => {
                let Some(stream) = Box::pin(self.handshake(tls, stream, first)).await else { return };
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let shown = shown.map(|leaf| PeerCertificate(Bytes::copy_from_slice(leaf)));
                self.cut.run_until_cancelled(Box::pin(self.connection(stream, (peer, shown), permit, self.limits.header))).await
            }
        };
    }

    /// Reads the header of a balancer's connection, which counts as the client's from then on. The drain ends it at once.
    async fn announced(&self, mut stream: TcpStream, peer: SocketAddr, mut permit: Permit) -> Option<(TcpStream, SocketAddr, Permit)> {
        let header = timeout(self.limits.header, proxied::read(&mut stream));
        let header = self.shutdown.soft().run_until_cancelled(header).await?;
        match header {
            Ok(Ok(None)) => return Some((stream, peer, permit)),
            Ok(Ok(Some(client))) => match self.limiter.name(&mut permit, client.ip()) {
                Ok(()) => return Some((stream, client, permit)),
                Err(why) => self.refuse(stream, client, why),
            },
            Ok(Err(error)) => {
                debug!(%peer, %error, "a connection of a balancer is closed");
                Refused::Unannounced.count();
            }
            Err(_) => count_ended(Overdue::Silent.name()),
        }
        None
    }

    /// Nobody has asked for anything yet: the drain ends it at once.
    async fn handshake(&self, tls: &TlsAcceptor, stream: TcpStream, limit: Duration) -> Option<TlsStream<TcpStream>> {
        let begun = std::time::Instant::now();
        let shaken = self.shutdown.soft().run_until_cancelled(timeout(limit, tls.accept(stream))).await?;
        match shaken {
            Ok(Ok(stream)) => {
                histogram!("motience_handshake_seconds", "transport" => "tcp").since(begun);
                return Some(stream);
            }
            Ok(Err(e)) => {
                // rustls says in an error of this kind what is wrong with the client's part.
                let reason = if e.kind() == io::ErrorKind::InvalidData { "tls" } else { "gone" };
                metrics::counter!("motience_handshakes_failed_total", "transport" => "tcp", "reason" => reason).increment(1);
                debug!(error = %e, "a handshake failed");
            }
            Err(_) => {
                metrics::counter!("motience_handshakes_failed_total", "transport" => "tcp", "reason" => "slow").increment(1);
                count_ended(Overdue::Silent.name());
                debug!("a handshake took too long");
            }
        }
        None
    }

    /// `first`: time for its first request.
    async fn connection<S>(&self, stream: S, (peer, shown): (SocketAddr, Option<PeerCertificate>), permit: Permit, first: Duration)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let limits = &self.limits;
        let stream = TokioIo::new(Guarded::new(stream, permit, limits.write, limits.frames.each_second));
        let stalls = Stalls::new(Waits { first, idle: limits.idle, write: limits.write });
        let pages = PageRoom::of(limits.pages);
        let uploads = uploads::Connection::default();
        let service = service_fn(|mut request: Request<Incoming>| {
            if let Some(shown) = &shown {
                request.extensions_mut().insert(shown.clone());
            }
            self.answer(request, peer, &stalls, (&pages, &uploads))
        });
        let serving = self.builder.serve_connection_with_upgrades(stream, service);
        tokio::pin!(serving);
        let served = tokio::select! {
            served = serving.as_mut() => served,
            () = self.shutdown.soft().cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
            overdue = stalls.overdue() => {
                debug!(?overdue, "a connection that stands still is ended");
                count_ended(overdue.name());
                if overdue != Overdue::Idle {
                    return;
                }
                // The client is told which requests were served.
                serving.as_mut().graceful_shutdown();
                match timeout(limits.header, serving).await {
                    Ok(served) => served,
                    Err(_) => return,
                }
            }
        };
        if let Err(e) = served {
            debug!(error = %e, "a connection ended badly");
        }
    }

    /// Answers one request of a connection. The future borrows nothing: HTTP/2 runs each in a task of its own.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        stalls: &Stalls,
        (pages, uploads): (&PageRoom, &uploads::Connection),
    ) -> impl Future<Output = Result<Response<Paced>, Infallible>> + use<> {
        let (router, under_way) = (self.router.clone(), stalls.begin());
        let mut request = request.map(Body::new);
        let is_http_2 = request.version() == Version::HTTP_2;
        // Requests of HTTP/2 share their connection.
        request.extensions_mut().insert(under_way.answer(!is_http_2));
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(pages.clone());
        request.extensions_mut().insert(uploads.clone());
        async move {
            let mut response = match names_no_host(&request) {
                false => router.oneshot(request).await?,
                true => {
                    let mut refused = ApiError::malformed("HTTP/1.1 needs one Host header.").with_code("no_host").into_response();
                    refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    refused
                }
            };
            if is_http_2 {
                // They have no meaning there (RFC 9113, section 8.2.2), and hyper would warn of each.
                response.headers_mut().remove(header::CONNECTION);
                response.headers_mut().remove(header::UPGRADE);
            }
            Ok(response.map(|body| Paced::new(body, under_way)))
        }
    }
}

/// Whether a request of HTTP/1.1 lacks the host that it must name, or names several (RFC 9112, section 3.2).
fn names_no_host(request: &Request<Body>) -> bool {
    if request.version() != Version::HTTP_11 {
        return false;
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        // An empty one is what a target without a host is sent with.
        (Some(host), None) => !host.is_empty() && Authority::try_from(host.as_bytes()).is_err(),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
