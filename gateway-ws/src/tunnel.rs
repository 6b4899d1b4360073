//! `/motience`: motience/1 for a device whose network lets no UDP through. The same frames in binary messages, the same
//! session, epoch, numbers and fence as over QUIC, so a device changes between the two without losing or doubling a record.
//!
//! ```text
//! upgrade (motience.1) -> Hello in the first message -> Welcome -> records up, acknowledgements down -> 4100 + close code
//! ```
//!
//! A message holds any number of whole frames; control and records share one order. Only senders come here: consumers
//! have wss2.

mod session;

use std::{borrow::Cow, sync::Arc};

use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::BytesMut;
use motience_shared::{
    auth::Grant,
    http::{ApiError, ClientAddress, check_origin, session_refused},
    log::{self, Transport},
    model::{DeviceId, Role},
    permits::{Permit, Share},
    relay::{self, Kind},
    uploads::Owner,
    wire::{self, CloseCode, Frame, Hello, Intent, Limits, VERSION},
};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tracing::{Instrument, debug, info, info_span, warn};

use crate::{
    Shared,
    handshake::{Upgrade, WebSocket},
    socket::{Goodbye, Heard, Socket},
};

/// The subprotocol of the tunnel.
const PROTOCOL: &str = "motience.1";
/// WebSocket close codes are this plus motience/1's own: the range that is free for applications begins at 4000.
const CLOSE_BASE: u16 = 4100;
/// Longest message, in bytes, unless a single record may be longer: frames are gathered for fewer packets, not for size.
const MAX_MESSAGE: usize = 256 * 1024;
/// What a frame may add to its record.
const HEAD: usize = 1024 + 16;

/// Why a tunnel ends; the device acts on the code.
#[derive(Debug)]
enum Ending {
    Close(CloseCode, Cow<'static, str>),
    /// What the socket says in WebSocket's own way, if there is anybody to tell.
    Socket(Goodbye),
}

/// The upgrade: who comes is asked later, by Hello.
pub(crate) async fn upgrade(
    State(shared): State<Arc<Shared>>,
    client: ClientAddress,
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
    let ending = match run(&mut socket, &mut permit, shared).await {
        Ok(()) => Ending::new(CloseCode::Done, "done"),
        Err(ending) => ending,
    };
    match ending {
        Ending::Close(code, reason) => {
            if !permit.is_identified() {
                session_refused(Transport::Tunnel, code.name(), client, &reason);
            }
            if code == CloseCode::Internal {
                warn!(%reason, "tunnel closed");
            } else {
                debug!(?code, %reason, "tunnel closed");
            }
            socket.close_with(farewell(code, &reason)).await;
        }
        Ending::Socket(goodbye) => {
            debug!(?goodbye, "the device is gone");
            socket.close(goodbye).await;
        }
    }
}

async fn run(socket: &mut Socket, permit: &mut Permit, shared: &Shared) -> Result<(), Ending> {
    let (hello, rest) =
        timeout(shared.config.limits.header, greet(socket)).await.map_err(|_| Ending::new(CloseCode::Done, "no Hello in time"))??;
    let grant = admit(&hello, shared).await?;
    let device = DeviceId::new(&hello.device_id).map_err(|e| Ending::new(CloseCode::Protocol, e.to_string()))?;
    if grant.only_device().is_some_and(|own| own != device.as_str()) {
        return Err(Ending::new(CloseCode::Forbidden, "wrong_device: this account speaks for the device it was registered with only"));
    }
    permit.identify(grant.user, Share::Devices).map_err(|e| Ending::new(CloseCode::RateLimited, e.to_string()))?;
    socket.is_of(grant.user);
    let relay = &shared.backend.relay;
    let _open = (shared.tunnels.open(), relay.own_node().open(Kind::Tunnel));
    info!(user = %grant.user, %device, "device connected by tunnel");
    let name = log::SessionName::device(&device);
    let publisher = relay.publisher(grant.log_key(), name, hello.epoch).await?;
    let presence = relay.devices().enter(grant.log_key(), device.as_str(), Transport::Tunnel);
    let standing = shared.backend.standing(grant);
    let session = session::Session::new(socket, shared, &publisher, presence, &standing, hello.features);
    // Before everything else, a write that the device does not take among it.
    tokio::select! {
        biased;
        () = standing.over() => Err(ended()),
        () = publisher.superseded() => Err(relay::Error::from(log::Error::Fenced).into()),
        ending = session.run(rest) => ending,
    }
}

/// Waits for Hello, and gives what came behind it in the same message.
async fn greet(socket: &mut Socket) -> Result<(Hello, BytesMut), Ending> {
    loop {
        let mut message = match socket.hear().await? {
            Heard::Binary(message) => BytesMut::from(message),
            Heard::Life => continue,
            Heard::Text(_) => return Err(not_binary()),
        };
        return match Frame::decode(&mut message, Limits::control())? {
            Some(Frame::Hello(hello)) => Ok((hello, message)),
            Some(other) => Err(Ending::new(CloseCode::Protocol, format!("{} before Hello", other.name()))),
            None => Err(Ending::new(CloseCode::Protocol, "the first message holds no Hello")),
        };
    }
}

async fn admit(hello: &Hello, shared: &Shared) -> Result<Grant, Ending> {
    if hello.version != VERSION {
        return Err(Ending::new(CloseCode::Protocol, format!("version {} is not spoken here", hello.version)));
    }
    if hello.intent == Intent::Consume {
        return Err(Ending::new(CloseCode::Protocol, "the tunnel only carries records up: consumers connect by QUIC, or to wss2"));
    }
    if shared.shutdown.soft().is_cancelled() {
        return Err(draining());
    }
    let grant = shared.backend.authenticate(&hello.token).await.map_err(|e| Ending::new(CloseCode::Unauthenticated, e.to_string()))?;
    if grant.role == Role::Producer { Ok(grant) } else { Err(Ending::new(CloseCode::Forbidden, "this account is no producer")) }
}

fn not_binary() -> Ending {
    Ending::new(CloseCode::Protocol, "frames are sent in binary messages")
}

fn ended() -> Ending {
    Ending::new(CloseCode::Unauthenticated, "the token has expired or was revoked")
}

fn draining() -> Ending {
    Ending::new(CloseCode::Draining, "the node is going away")
}

/// A control frame has room for 123 bytes of reason (RFC 6455, section 5.5).
fn farewell(code: CloseCode, reason: &str) -> CloseFrame {
    let number = u16::try_from(code.number()).unwrap_or_default();
    CloseFrame { code: (CLOSE_BASE + number).into(), reason: reason[..reason.floor_char_boundary(123)].into() }
}

impl Ending {
    fn new(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Close(code, reason.into())
    }
}

/// What a WebSocket says in its own way.
impl From<Goodbye> for Ending {
    fn from(goodbye: Goodbye) -> Self {
        match goodbye {
            Goodbye::TooMuch => Self::new(CloseCode::RateLimited, "too much is sent at once"),
            Goodbye::TooLarge => Self::new(CloseCode::TooLarge, "the message is too large"),
            goodbye => Self::Socket(goodbye),
        }
    }
}

impl From<wire::Error> for Ending {
    fn from(error: wire::Error) -> Self {
        let code = if matches!(error, wire::Error::TooLarge { .. }) { CloseCode::TooLarge } else { CloseCode::Protocol };
        Self::new(code, error.to_string())
    }
}

/// The reasons a device is told carry no causes: those are logged here.
impl From<relay::Error> for Ending {
    fn from(error: relay::Error) -> Self {
        match error {
            relay::Error::Log(log::Error::Fenced) => Self::new(CloseCode::Fenced, "a newer connection of this device took over"),
            relay::Error::Log(log::Error::Stale) => Self::new(CloseCode::Draining, "the log began a new life: connect again"),
            relay::Error::Closed => draining(),
            other => {
                warn!(error = %other, "a tunnel is closed because a dependency failed");
                Self::new(CloseCode::Internal, "the log or the database is away")
            }
        }
    }
}
