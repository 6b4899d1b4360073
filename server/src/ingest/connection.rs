//! One motience/1 connection: Hello, the check of who it is, and then the role it came for.

use std::sync::Arc;

use bytes::BytesMut;
use motience_http::Ration;
use motience_limits::permits::{ClientAddress, Permit};
use motience_log::{self as log, Transport};
use motience_proto::wire::{Hello, Intent, Limits};
use motience_relay::{Kind, Path};
use motience_session::{self as session, Admitted, CloseReason};
use quinn::{Connection, ZeroRttAccepted};
use tokio::time::timeout;

use super::{
    Shared, consumer,
    frames::{Control, Frames},
    number,
    producer::{self, Device},
};

/// Serves the connection until it ends.
///
/// `finished`: resolves with the handshake's end.
pub(super) async fn serve(connection: Connection, finished: ZeroRttAccepted, mut permit: Permit, shared: Arc<Shared>) {
    let reason = run(&connection, finished, &mut permit, &shared).await.err().unwrap_or(CloseReason::Done);
    session::report_end(&reason, Transport::Quic, ClientAddress::of(connection.remote_address().ip()), &permit);
    if let Some(code) = reason.code() {
        connection.close(number(code), reason.to_string().as_bytes());
    }
}

async fn run(connection: &Connection, finished: ZeroRttAccepted, permit: &mut Permit, shared: &Arc<Shared>) -> Result<(), CloseReason> {
    let (hello, control) =
        timeout(shared.config.hello_limit, greet(connection, shared.config.control_frames)).await.map_err(|_| CloseReason::NoHello)??;
    let backend = &shared.backend;
    let Admitted { device, standing } = session::admit(&hello, permit, backend, &shared.draining).await?;
    let relay = &backend.relay;
    let _entered = (shared.established.enter(), relay.own_node().open(Kind::Quic));
    let serving = async {
        match hello.intent {
            Intent::Produce => {
                let key = standing.grant().log_key();
                let publisher = relay.publisher(key, log::SessionName::device(&device), hello.epoch).await?;
                let presence = relay.devices().enter(key, device.as_str(), Transport::Quic);
                let path = connection.clone();
                presence.watch(move || Path { rtt: path.rtt(), address: path.remote_address(), packets: path.stats().udp_rx.datagrams });
                let device = Device { publisher, presence, offered: hello.features };
                producer::serve(connection, control, &standing, device, shared).await
            }
            Intent::Consume => {
                // Nothing is given away before the peer has shown that it is there.
                timeout(shared.config.hello_limit, finished).await.map_err(|_| CloseReason::gone("the handshake does not end"))?;
                consumer::serve(connection, control, &standing, hello.features, shared).await
            }
        }
    };
    session::while_authorized(&standing, serving).await
}

/// `control_frames`: frames that carry nothing, for each second.
async fn greet(connection: &Connection, control_frames: u32) -> Result<(Hello, Control), CloseReason> {
    let (send, recv) = connection.accept_bi().await.map_err(CloseReason::gone)?;
    let mut recv = Frames::new(recv, BytesMut::new(), Limits::control()).rationed(Ration::new(control_frames));
    match recv.next().await? {
        Some(frame) => Ok((session::hello(frame)?, Control { send, recv })),
        None => Err(CloseReason::protocol("no Hello")),
    }
}
