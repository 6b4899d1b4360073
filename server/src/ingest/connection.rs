//! One motience/1 connection: Hello, the check of who it is, and then the role it came for.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use motience_shared::{
    auth::Grant,
    http::{Ration, count_ended},
    log::{self, Transport},
    model::{DeviceId, Role},
    permits::{Permit, Share},
    relay::{self, Kind, Path},
    wire::{self, CloseCode, Frame, Hello, Intent, Limits, VERSION},
};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, WriteError, ZeroRttAccepted};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{
    Shared, consumer,
    control::ended,
    number,
    producer::{self, Device},
};

/// Bytes taken from a stream in one read.
pub(super) const READ: usize = 64 * 1024;

/// Why a connection ends; each is told to the peer by a close code.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    #[error("{}", .1)]
    Close(CloseCode, String),
    /// The peer left or was lost: nobody to tell.
    #[error("{0}")]
    Gone(String),
}

impl Ending {
    pub(super) fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Self::Close(code, reason.into())
    }
}

/// A control stream with what was read ahead of the next frame.
pub(super) struct Control {
    pub(super) send: SendStream,
    pub(super) recv: Frames,
}

/// A stream read frame by frame.
pub(super) struct Frames {
    stream: RecvStream,
    buffer: BytesMut,
    limits: Limits,
    /// Of frames that carry nothing; `None` where there are none.
    ration: Option<Ration>,
}

impl Frames {
    pub(super) fn new(stream: RecvStream, buffer: BytesMut, limits: Limits) -> Self {
        Self { stream, buffer, limits, ration: None }
    }

    /// The same for a stream on which only so many frames that carry nothing may come.
    fn rationed(self, ration: Ration) -> Self {
        Self { ration: Some(ration), ..self }
    }

    fn count(&mut self, frame: &Frame) -> Result<(), Ending> {
        let carries_nothing = matches!(frame, Frame::Ping | Frame::Pong | Frame::Done | Frame::Health(_) | Frame::TokenRefresh(_));
        let Some(ration) = self.ration.as_mut().filter(|_| carries_nothing) else { return Ok(()) };
        ration.spend().map_err(|flooded| {
            count_ended("control_flood");
            Ending::new(CloseCode::RateLimited, flooded.to_string())
        })
    }

    /// The next frame; `None` where the stream ends. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Ending> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, self.limits)? {
                self.count(&frame)?;
                return Ok(Some(frame));
            }
            match self.stream.read_chunk(READ, true).await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Ending::new(CloseCode::Protocol, "a stream ends within a frame")),
            }
        }
    }
}

/// Serves the connection until it ends.
///
/// `finished`: resolves with the handshake's end.
pub(super) async fn serve(connection: Connection, finished: ZeroRttAccepted, permit: Permit, shared: Arc<Shared>) {
    let ending = match run(&connection, finished, permit, &shared).await {
        Ok(()) => Ending::new(CloseCode::Done, "done"),
        Err(ending) => ending,
    };
    match &ending {
        Ending::Close(code, reason) => {
            if *code == CloseCode::Internal {
                warn!(%reason, "connection closed");
            } else {
                debug!(?code, %reason, "connection closed");
            }
            connection.close(number(*code), reason.as_bytes());
        }
        Ending::Gone(reason) => debug!(%reason, "the peer is gone"),
    }
}

async fn run(connection: &Connection, finished: ZeroRttAccepted, mut permit: Permit, shared: &Arc<Shared>) -> Result<(), Ending> {
    let (hello, control) = timeout(shared.config.hello_limit, greet(connection, shared.config.control_frames))
        .await
        .map_err(|_| Ending::new(CloseCode::Protocol, "no Hello in time"))??;
    let grant = admit(&hello, shared).await?;
    let device = DeviceId::new(&hello.device_id).map_err(|e| Ending::new(CloseCode::Protocol, e.to_string()))?;
    if hello.intent == Intent::Produce && grant.only_device().is_some_and(|own| own != device.as_str()) {
        return Err(Ending::new(CloseCode::Forbidden, "wrong_device: this account speaks for the device it was registered with only"));
    }
    let share = match hello.intent {
        Intent::Produce => Share::Devices,
        Intent::Consume => Share::Connections,
    };
    permit.identify(grant.user, share).map_err(|e| Ending::new(CloseCode::RateLimited, e.to_string()))?;
    let relay = &shared.backend.relay;
    let _entered = (shared.established.enter(), relay.own_node().open(Kind::Quic));
    info!(user = %grant.user, %device, intent = ?hello.intent, "device connected");
    let standing = Arc::new(shared.backend.standing(grant.clone()));
    let serving = async {
        match hello.intent {
            Intent::Produce => {
                let name = log::SessionName::device(&device);
                let publisher = relay.publisher(grant.log_key(), name, hello.epoch).await?;
                let presence = relay.devices().enter(grant.log_key(), device.as_str(), Transport::Quic);
                let path = connection.clone();
                presence.watch(move || Path { rtt: path.rtt(), address: path.remote_address(), packets: path.stats().udp_rx.datagrams });
                let device = Device { publisher, presence, offered: hello.features };
                producer::serve(connection, control, &standing, device, shared).await
            }
            Intent::Consume => {
                // Nothing is given away before the peer has shown that it is there.
                timeout(shared.config.hello_limit, finished).await.map_err(|_| Ending::Gone("the handshake does not end".into()))?;
                consumer::serve(connection, control, &standing, hello.features, shared).await
            }
        }
    };
    // Before everything else, a write that the peer does not take among it.
    tokio::select! {
        biased;
        () = standing.over() => Err(ended()),
        ending = serving => ending,
    }
}

/// `control_frames`: frames that carry nothing, for each second.
async fn greet(connection: &Connection, control_frames: u32) -> Result<(Hello, Control), Ending> {
    let (send, recv) = connection.accept_bi().await?;
    let mut recv = Frames::new(recv, BytesMut::new(), Limits::control()).rationed(Ration::new(control_frames));
    match recv.next().await? {
        Some(Frame::Hello(hello)) => Ok((hello, Control { send, recv })),
        Some(other) => Err(Ending::new(CloseCode::Protocol, format!("{} before Hello", other.name()))),
        None => Err(Ending::new(CloseCode::Protocol, "no Hello")),
    }
}

async fn admit(hello: &Hello, shared: &Shared) -> Result<Grant, Ending> {
    if hello.version != VERSION {
        return Err(Ending::new(CloseCode::Protocol, format!("version {} is not spoken here", hello.version)));
    }
    if shared.draining.is_cancelled() {
        return Err(Ending::new(CloseCode::Draining, "the node is going away"));
    }
    let grant = shared.backend.authenticate(&hello.token).await.map_err(|e| Ending::new(CloseCode::Unauthenticated, e.to_string()))?;
    let wanted = match hello.intent {
        Intent::Produce => Role::Producer,
        Intent::Consume => Role::Consumer,
    };
    if grant.role == wanted { Ok(grant) } else { Err(Ending::new(CloseCode::Forbidden, format!("this account is no {wanted}"))) }
}

/// The reasons a device is told carry no causes: those are logged here.
impl From<relay::Error> for Ending {
    fn from(error: relay::Error) -> Self {
        match error {
            relay::Error::Log(log::Error::Fenced) => Self::new(CloseCode::Fenced, "a newer connection of this device took over"),
            // Which of two connections is the newer one got lost with the log's tail; whoever is still there comes again.
            relay::Error::Log(log::Error::Stale) => Self::new(CloseCode::Draining, "the log began a new life: connect again"),
            relay::Error::Closed => Self::new(CloseCode::Draining, "the node is going away"),
            other => {
                warn!(error = %other, "a connection is closed because a dependency failed");
                Self::new(CloseCode::Internal, "the log or the database is away")
            }
        }
    }
}

impl From<wire::Error> for Ending {
    fn from(error: wire::Error) -> Self {
        let code = if matches!(error, wire::Error::TooLarge { .. }) { CloseCode::TooLarge } else { CloseCode::Protocol };
        Self::new(code, error.to_string())
    }
}

impl From<ConnectionError> for Ending {
    fn from(error: ConnectionError) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<ReadError> for Ending {
    fn from(error: ReadError) -> Self {
        Self::Gone(error.to_string())
    }
}

impl From<WriteError> for Ending {
    fn from(error: WriteError) -> Self {
        Self::Gone(error.to_string())
    }
}

/// Writes frames that are already encoded.
pub(super) async fn write(send: &mut SendStream, buffer: &mut BytesMut) -> Result<(), Ending> {
    let bytes: Bytes = buffer.split().freeze();
    Ok(send.write_chunk(bytes).await?)
}
