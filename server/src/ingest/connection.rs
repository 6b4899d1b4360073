//! One motience/1 connection: Hello, the check of who it is, and then the role it came for.

use std::sync::Arc;

use bytes::BytesMut;
use motience_shared::{
    auth::Grant,
    http::{Ration, session_refused},
    log::{self, Transport},
    model::{DeviceId, Role},
    permits::{ClientAddress, Permit, Share},
    relay::{Kind, Path},
    wire::{CloseCode, Frame, Hello, Intent, Limits, VERSION},
};
use quinn::{Connection, ZeroRttAccepted};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{
    Shared, consumer,
    control::ended,
    ending::Ending,
    frames::{Control, Frames},
    number,
    producer::{self, Device},
};

/// Serves the connection until it ends.
///
/// `finished`: resolves with the handshake's end.
pub(super) async fn serve(connection: Connection, finished: ZeroRttAccepted, mut permit: Permit, shared: Arc<Shared>) {
    let ending = match run(&connection, finished, &mut permit, &shared).await {
        Ok(()) => Ending::new(CloseCode::Done, "done"),
        Err(ending) => ending,
    };
    if let (Ending::Close(code, reason), false) = (&ending, permit.is_identified()) {
        session_refused(Transport::Quic, code.name(), ClientAddress::of(connection.remote_address().ip()), reason);
    }
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

async fn run(connection: &Connection, finished: ZeroRttAccepted, permit: &mut Permit, shared: &Arc<Shared>) -> Result<(), Ending> {
    let (hello, control) = timeout(shared.config.hello_limit, greet(connection, shared.config.control_frames))
        .await
        // No breach of the protocol: a bad link or a busy machine delayed it, and the device must come again.
        .map_err(|_| Ending::new(CloseCode::Done, "no Hello in time"))??;
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
