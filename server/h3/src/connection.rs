//! Drives one HTTP/3 connection: streams are sorted as they come, each request is a task, and at the end the peer is told which requests
//! will not be served.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use h3::{
    error::{Code, ConnectionError},
    frame::FrameStream,
    server::RequestResolver,
    stream::BufRecvStream,
};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug};

use crate::{
    Handler, Limits,
    exchange::Exchange,
    gate::Gate,
    opening::{self, Opened, code, reject},
    quic::{Bidi, Link, Out},
    sessions::Sessions,
};

/// Streams that wait for `h3` to read them. A peer has one of each of three types.
const CONTROL_STREAMS: usize = 4;
/// Time for tasks to notice that the connection is over.
const CUT_LIMIT: Duration = Duration::from_secs(1);

type H3 = h3::server::Connection<Link, Bytes>;

/// Serves the connection until it ends, and asks its peer to leave when `draining` is cancelled. `finished` resolves with the handshake's
/// end, which must come within `handshake`.
pub async fn serve<H: Handler>(
    connection: Connection,
    finished: impl Future<Output = bool> + Send,
    handshake: Duration,
    draining: CancellationToken,
    limits: Limits,
    handler: H,
) {
    if timeout(handshake, finished).await.is_err() {
        return connection.close(code(Code::H3_NO_ERROR), b"the handshake does not end");
    }
    let _open = Open::new();
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(limits.streams));
    let (control, controls) = mpsc::channel(CONTROL_STREAMS);
    let mut builder = h3::server::builder();
    builder
        .max_field_section_size(limits.head_bytes as u64)
        .enable_extended_connect(true)
        .enable_datagram(true)
        .enable_webtransport(true)
        .max_webtransport_sessions(limits.sessions as u64)
        .send_grease(false);
    let mut h3: H3 = match timeout(handshake, builder.build(Link::new(connection.clone(), controls))).await {
        Ok(Ok(h3)) => h3,
        Ok(Err(e)) => return debug!(error = %e, "HTTP/3 does not begin"),
        Err(_) => return connection.close(code(Code::H3_NO_ERROR), b"no room for control streams"),
    };
    let sessions = Sessions::new(connection.clone(), limits.sessions);
    let cut = CancellationToken::new();
    let requests = TaskTracker::new();
    let handler = Arc::new(handler);
    let mut driver = Driver { connection, limits, handler, sessions, control, requests, cut, first_refused: 0, leaving: None };
    match driver.run(&mut h3, &draining).await {
        Ok(()) => debug!("HTTP/3 ends"),
        Err(e) => debug!(error = %e, "HTTP/3 ended badly"),
    }
    driver.cut.cancel();
    driver.requests.close();
    // A task that is not gone by then notices at its next write.
    let _ = timeout(CUT_LIMIT, driver.requests.wait()).await;
    // Dropping `h3` closes the connection, unless that has happened.
}

struct Driver<H> {
    connection: Connection,
    limits: Limits,
    handler: Arc<H>,
    sessions: Arc<Sessions>,
    /// The peer's control streams, for `h3` to read.
    control: mpsc::Sender<Gate>,
    requests: TaskTracker,
    /// Ends the requests that are left.
    cut: CancellationToken,
    /// Number of the first request that was not taken yet.
    first_refused: u64,
    /// When the connection is cut, once the peer was told that it ends.
    leaving: Option<Instant>,
}

impl<H: Handler> Driver<H> {
    async fn run(&mut self, h3: &mut H3, draining: &CancellationToken) -> Result<(), Ended> {
        let connection = self.connection.clone();
        let mut opening: FuturesUnordered<BoxFuture<'static, Opened>> = FuturesUnordered::new();
        let (limit, idle) = (self.limits.head, self.limits.idle);
        let quiet = sleep(idle);
        tokio::pin!(quiet);
        let mut peer_listens = true;
        loop {
            tokio::select! {
                biased;
                () = draining.cancelled(), if self.leaving.is_none() => self.leave(h3, self.limits.drain).await?,
                () = self.requests.wait(), if self.leaving.is_some() && opening.is_empty() => return Ok(()),
                () = sleep_until(self.leaving.unwrap_or_else(Instant::now)), if self.leaving.is_some() => return Ok(()),
                event = poll_fn(|cx| h3.poll_accept_request_stream(cx)), if peer_listens => if event?.is_none() {
                    // The peer sent GOAWAY: no request comes any more, and those in progress may take their time.
                    peer_listens = false;
                    if self.leaving.is_none() {
                        self.leave(h3, idle).await?;
                    }
                },
                stream = connection.accept_bi() => {
                    let (send, recv) = stream?;
                    if self.leaving.is_some() {
                        reject(send, recv, Code::H3_REQUEST_REJECTED);
                    } else {
                        self.first_refused = u64::from(send.id()) + 4;
                        opening.push(opening::bidirectional(send, recv, limit).boxed());
                        quiet.as_mut().reset(Instant::now() + idle);
                    }
                }
                stream = connection.accept_uni() => opening.push(opening::unidirectional(stream?, limit).boxed()),
                datagram = connection.read_datagram() => self.sessions.datagram(datagram?),
                Some(opened) = opening.next() => self.sort(opened, h3),
                () = &mut quiet => {
                    quiet.as_mut().reset(Instant::now() + idle);
                    if self.requests.is_empty() && self.leaving.is_none() {
                        debug!("nothing was asked for a long time");
                        self.leave(h3, idle).await?;
                    }
                }
            }
        }
    }

    /// Tells the peer that requests which were not taken yet are not served (RFC 9114, section 5.2).
    async fn leave(&mut self, h3: &mut H3, limit: Duration) -> Result<(), Ended> {
        self.leaving = Some(Instant::now() + limit);
        self.requests.close();
        let first = h3::quic::StreamId::try_from(self.first_refused).map_err(|_| Ended::Numbers)?;
        Ok(timeout(self.limits.write, h3.inner.shutdown(&mut None, first)).await.map_err(|_| Ended::Unread)??)
    }

    fn sort(&self, opened: Opened, h3: &H3) {
        match opened {
            Opened::Request(send, recv, buffer) => self.request(send, recv, buffer, h3),
            Opened::Session(session, stream) => self.sessions.stream(session, stream),
            // Where the queue is full the peer has opened more than it may, and the stream is dropped.
            Opened::Control(gate) => drop(self.control.try_send(gate)),
            Opened::Nothing => {}
        }
    }

    fn request(&self, send: SendStream, recv: RecvStream, buffer: BytesMut, h3: &H3) {
        let id = u64::from(send.id());
        let armed = Arc::new(AtomicBool::new(false));
        let stopped = send.stopped();
        let recv = Gate::frames(recv, buffer, self.limits.head_bytes);
        let stream = Bidi { send: Out::new(send, Arc::clone(&armed)), recv };
        let resolver: RequestResolver<Link, Bytes> = h3.create_resolver(FrameStream::new(BufRecvStream::new(stream)));
        let exchange =
            Exchange { id, armed, limits: self.limits, sessions: Arc::clone(&self.sessions), handler: Arc::clone(&self.handler) };
        let cut = self.cut.clone();
        // On the heap, since a future takes room twice in each that waits for it.
        let serving = Box::pin(exchange.serve(resolver, stopped));
        let task = async move {
            cut.run_until_cancelled(serving).await;
        };
        self.requests.spawn(task.in_current_span());
    }
}

/// Why a connection ends on its own.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Quic(#[from] quinn::ConnectionError),
    #[error(transparent)]
    H3(#[from] ConnectionError),
    #[error("the peer does not take a frame")]
    Unread,
    #[error("the connection has no more numbers")]
    Numbers,
}

/// Counts open connections.
struct Open;

impl Open {
    fn new() -> Self {
        metrics::gauge!("motience_http3_connections").increment(1);
        Self
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("motience_http3_connections").decrement(1);
    }
}
