//! `/motience`: motience/1 for a device whose network lets no UDP through. Binary messages carry
//! the frames of QUIC, of one session, producer epoch and fence, so a device changes between the two without losing or doubling a record.
//!
//! ```text
//! upgrade (motience.1) -> Hello in the first message -> Welcome -> records up, acknowledgements down -> 4100 + close code
//! ```
//!
//! A message holds any number of whole frames; control and records share one order. Only senders come here: consumers
//! have wss2.

use std::{convert::Infallible, future::pending, sync::Arc};

use axum::{Extension, extract::State, http::HeaderMap, response::Response};
use bytes::{Bytes, BytesMut};
use motience_cluster::{Kind, Path};
use motience_http::{ApiError, Client, ClientAddress, PeerCertificate, check_origin};
use motience_limits::{permits::Permit, uploads::Owner};
use motience_proto::{
    model::Transport,
    wire::{Frame, Intent, Limits, features},
};
use motience_runtime::traces;
use motience_session::{self as session, CloseReason, Host, Received, Transport as _, Wanted};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tracing::{Instrument, field::Empty, info_span};

use crate::{
    Shared,
    counters::Counters,
    handshake::{Upgrade, WebSocket},
    socket::{Socket, SocketEvent},
};

/// The subprotocol of the tunnel.
const PROTOCOL: &str = "motience.1";
/// Longest message, in bytes, unless a single record may be longer: frames are gathered for fewer packets, not for size.
const MAX_MESSAGE: usize = 256 * 1024;
/// Bytes that a frame may add to its record.
const HEAD: usize = 1024 + 16;

/// The upgrade: who comes is asked later, by Hello.
pub(crate) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Client(client): Client,
    certificate: Option<Extension<PeerCertificate>>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Result<Response, ApiError> {
    check_origin(&headers, &shared.config.origins)?;
    if !upgrade.offered().iter().any(|offered| offered == PROTOCOL) {
        return Err(ApiError::malformed("Offer the subprotocol motience.1.").with_code("no_subprotocol"));
    }
    let permit = shared.backend.permits.unauthenticated(client, Transport::Tunnel)?;
    let record = shared.backend.relay.limits().record;
    let upgrade = upgrade.protocols([PROTOCOL.to_owned()]).longest(MAX_MESSAGE.max(record + HEAD));
    let alive = shared.shutdown.guard();
    let serving = Arc::clone(&shared);
    let upload = shared.upload(Owner::Address(client));
    let opened = traces::Connection::begin("tunnel");
    let span = info_span!("tunnel", %client, connection = opened.number, trace = opened.trace(), user = Empty);
    Ok(upgrade.accept(&shared, upload, move |socket| {
        async move {
            let certificate = certificate.as_ref().map(|Extension(PeerCertificate(der))| der.as_ref());
            serve(socket, certificate, permit, client, &serving).await;
            drop((alive, opened));
        }
        .instrument(span)
    }))
}

async fn serve(socket: WebSocket, certificate: Option<&[u8]>, mut permit: Permit, client: ClientAddress, shared: &Shared) {
    let (socket, limits) = (Socket::new(socket, &shared.config), Limits::control());
    let mut tunnel = Tunnel { socket, counters: &shared.tunnels, message: BytesMut::new(), limits };
    let Err(reason) = run(&mut tunnel, certificate, &mut permit, shared).await;
    session::report_end(&reason, Transport::Tunnel, client, &permit);
    tunnel.socket.close_tunnel(&reason).await;
}

async fn run(tunnel: &mut Tunnel<'_>, certificate: Option<&[u8]>, permit: &mut Permit, shared: &Shared) -> Result<Infallible, CloseReason> {
    let first = timeout(shared.config.limits.header, tunnel.recv(Wanted::All)).await.map_err(|_| CloseReason::NoHello)??;
    let (Received::Frame(first) | Received::Datagram(first)) = first;
    let hello = session::hello(first)?;
    if hello.intent == Intent::Consume {
        return Err(CloseReason::protocol("the tunnel only carries records up: consumers connect by QUIC, or to wss2"));
    }
    let backend = &shared.backend;
    let admitted = session::admit(&hello, certificate, permit, backend, shared.shutdown.draining().begun()).await?;
    let leave = shared.shutdown.draining().enter();
    tunnel.socket.is_of(admitted.standing.grant().user);
    let records = Limits::for_records(backend.relay.limits().record);
    tunnel.limits = Limits { frame: records.frame.max(tunnel.limits.frame) };
    let _open = (shared.tunnels.open(), backend.reports.nodes.open(Kind::Tunnel));
    let host = Host { backend, limits: shared.config.session, draining: leave.asked() };
    session::produce(tunnel, &hello, &admitted, host).await
}

/// A device's WebSocket as the transport of a producer session.
struct Tunnel<'s> {
    socket: Socket,
    counters: &'s Counters,
    /// Bytes of the last message, from the next frame on.
    message: BytesMut,
    limits: Limits,
}

impl session::Transport for Tunnel<'_> {
    const KIND: Transport = Transport::Tunnel;
    const FEATURES: u64 = features::COMPACT;

    async fn recv(&mut self, wanted: Wanted) -> Result<Received, CloseReason> {
        if wanted == Wanted::Control {
            return pending().await;
        }
        loop {
            if let Some(frame) = Frame::decode(&mut self.message, self.limits)? {
                if session::carries_nothing(&frame) {
                    self.socket.spend()?;
                }
                return Ok(Received::Frame(frame));
            }
            if !self.message.is_empty() {
                return Err(CloseReason::protocol("a message ends within a frame"));
            }
            match self.socket.event().await? {
                SocketEvent::Binary(message) => self.message = message.into(),
                SocketEvent::KeepAlive => {}
                SocketEvent::Text(_) => return Err(CloseReason::protocol("frames are sent in binary messages")),
            }
        }
    }

    async fn send(&mut self, frames: Bytes) -> Result<(), CloseReason> {
        self.socket.send(Message::Binary(frames)).await
    }

    fn path(&self) -> Option<impl Fn() -> Path + Send + Sync + 'static> {
        None::<fn() -> Path>
    }

    fn count(&self, records: u64, bytes: u64) {
        self.counters.count(records, bytes);
    }
}
