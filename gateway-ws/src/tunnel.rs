//! `/motience`: motience/1 for a device whose network lets no UDP through. The same frames in binary messages, the same
//! session, epoch, numbers and fence as over QUIC, so a device changes between the two without losing or doubling a record.
//!
//! ```text
//! upgrade (motience.1) -> Hello in the first message -> Welcome -> records up, acknowledgements down -> 4100 + close code
//! ```
//!
//! A message holds any number of whole frames; control and records share one order. Only senders come here: consumers
//! have wss2.

mod device;

use std::sync::Arc;

use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::BytesMut;
use motience_http::{ApiError, Client, ClientAddress, check_origin};
use motience_limits::{permits::Permit, uploads::Owner};
use motience_log::{self as log, Transport};
use motience_proto::wire::{Frame, Hello, Intent, Limits};
use motience_relay::Kind;
use motience_session::{self as session, Admitted, CloseReason};
use tokio::time::timeout;
use tracing::{Instrument, info_span};

use crate::{
    Shared,
    handshake::{Upgrade, WebSocket},
    socket::{Heard, Socket},
};

/// The subprotocol of the tunnel.
const PROTOCOL: &str = "motience.1";
/// Longest message, in bytes, unless a single record may be longer: frames are gathered for fewer packets, not for size.
const MAX_MESSAGE: usize = 256 * 1024;
/// What a frame may add to its record.
const HEAD: usize = 1024 + 16;

/// The upgrade: who comes is asked later, by Hello.
pub(crate) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    Client(client): Client,
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
    Ok(upgrade.accept(&shared, upload, move |socket| {
        async move {
            serve(socket, permit, client, &serving).await;
            drop(alive);
        }
        .instrument(info_span!("tunnel", %client))
    }))
}

async fn serve(socket: WebSocket, mut permit: Permit, client: ClientAddress, shared: &Shared) {
    let mut socket = Socket::new(socket, &shared.config);
    let reason = run(&mut socket, &mut permit, shared).await.err().unwrap_or(CloseReason::Done);
    session::report_end(&reason, Transport::Tunnel, client, &permit);
    socket.close_tunnel(&reason).await;
}

async fn run(socket: &mut Socket, permit: &mut Permit, shared: &Shared) -> Result<(), CloseReason> {
    let (hello, rest) = timeout(shared.config.limits.header, greet(socket)).await.map_err(|_| CloseReason::NoHello)??;
    if hello.intent == Intent::Consume {
        return Err(CloseReason::protocol("the tunnel only carries records up: consumers connect by QUIC, or to wss2"));
    }
    let Admitted { device, standing } = session::admit(&hello, permit, &shared.backend, shared.shutdown.soft()).await?;
    let grant = standing.grant();
    socket.is_of(grant.user);
    let relay = &shared.backend.relay;
    let _open = (shared.tunnels.open(), relay.own_node().open(Kind::Tunnel));
    let publisher = relay.publisher(grant.log_key(), log::SessionName::device(&device), hello.epoch).await?;
    let presence = relay.devices().enter(grant.log_key(), device.as_str(), Transport::Tunnel);
    let session = device::Session::new(socket, shared, &publisher, presence, &standing, hello.features);
    session::while_authorized(&standing, async {
        tokio::select! {
            biased;
            () = publisher.superseded() => Err(CloseReason::Fenced),
            ended = session.run(rest) => ended,
        }
    })
    .await
}

/// Waits for Hello, and gives what came behind it in the same message.
async fn greet(socket: &mut Socket) -> Result<(Hello, BytesMut), CloseReason> {
    loop {
        let mut message = match socket.hear().await? {
            Heard::Binary(message) => BytesMut::from(message),
            Heard::Life => continue,
            Heard::Text(_) => return Err(not_binary()),
        };
        let first = Frame::decode(&mut message, Limits::control())?;
        let first = first.ok_or_else(|| CloseReason::protocol("the first message holds no Hello"))?;
        return Ok((session::hello(first)?, message));
    }
}

fn not_binary() -> CloseReason {
    CloseReason::protocol("frames are sent in binary messages")
}
