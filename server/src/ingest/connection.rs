//! One motience/1 connection: Hello, the check of who it is, and then the role it came for.

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use motience_cluster::Kind;
use motience_http::Ration;
use motience_limits::{
    permits::{ClientAddress, Permit},
    uploads::{self, Owner},
};
use motience_proto::{
    model::Transport,
    wire::{Hello, Intent, Limits},
};
use motience_session::{self as session, CloseReason, Host};
use quinn::{Connection, ZeroRttAccepted};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use super::{
    Shared, consumer,
    device::Device,
    frames::{Control, Frames},
    number,
    tickets::{REMEMBERED, TicketId},
};

/// Longest wait for the register of tickets.
const REGISTER_LIMIT: Duration = Duration::from_millis(500);

/// The ticket of a client whose first flight has data, where nodes share tickets, and the end of the handshake.
pub(super) type Handshake = (Option<TicketId>, Finished);

/// The end of a handshake, which is waited for and measured.
pub(super) type Finished = futures_util::future::Shared<ZeroRttAccepted>;

/// Serves the connection until it ends.
///
/// `handshake`: the ticket of a client whose first flight has data, and the handshake's end.
pub(super) async fn serve(connection: Connection, handshake: Handshake, mut permit: Permit, shared: Arc<Shared>) {
    let reason = run(&connection, handshake, &mut permit, &shared).await.err().unwrap_or(CloseReason::Done);
    session::report_end(&reason, Transport::Quic, ClientAddress::of(connection.remote_address().ip()), &permit);
    if let Some(code) = reason.code() {
        connection.close(number(code), reason.to_string().as_bytes());
    }
}

async fn run(connection: &Connection, (ticket, finished): Handshake, permit: &mut Permit, shared: &Arc<Shared>) -> Result<(), CloseReason> {
    let mut finished = Some(finished);
    if let Some(ticket) = ticket
        && !is_first_use(ticket, shared).await
        && let Some(finished) = finished.take()
    {
        ended(finished, shared).await?;
    }
    let (hello, control) = timeout(shared.config.hello_limit, read_hello(connection, shared.config.frames.each_second))
        .await
        .map_err(|_| CloseReason::NoHello)??;
    let backend = &shared.backend;
    // Hello came by a finished handshake, or in the first flight of a resumed one, whose ticket keeps the certificate.
    let shown = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate = shown.as_ref().and_then(|chain| chain.first()).map(AsRef::as_ref);
    let admitted = Box::pin(session::admit(&hello, certificate, permit, backend, shared.draining.begun())).await?;
    let leave = shared.draining.enter();
    let _entered = (shared.established.enter(), backend.reports.nodes.open(Kind::Quic));
    match hello.intent {
        Intent::Produce => {
            // All uplink streams are one upload: how many there are bounds what one connection holds.
            let upload = backend.uploads.upload(&uploads::Connection::default(), Owner::Account(admitted.standing.grant().user));
            let max_record = backend.relay.limits().record;
            let mut device = Device::new(connection, control, hello.features, max_record, shared.config.write, upload);
            let host = Host { backend, limits: shared.config.session, draining: leave.asked() };
            session::produce(&mut device, &hello, &admitted, host).await.map(|never| match never {})
        }
        Intent::Consume => {
            let serving = async {
                // Nothing is given away before the peer has shown that it is there.
                if let Some(finished) = finished {
                    ended(finished, shared).await?;
                }
                consumer::serve(connection, control, &admitted.standing, hello.features, (shared, &leave)).await
            };
            session::while_authorized(&admitted.standing, serving).await
        }
    }
}

/// Waits for the end of the handshake, which only the client itself can bring about.
async fn ended(finished: Finished, shared: &Shared) -> Result<(), CloseReason> {
    let finished = timeout(shared.config.hello_limit, finished).await;
    finished.map(drop).map_err(|_| CloseReason::gone("the handshake does not end"))
}

/// Whether the data of a first flight may be acted on at once: its ticket was not used before, on any node. Where the register does not answer nobody
/// knows, and the data waits for the end of the handshake.
async fn is_first_use(ticket: TicketId, shared: &Shared) -> bool {
    let name = format!("ticket:{}", ticket.name());
    let asked = timeout(REGISTER_LIMIT, shared.backend.relay.log().take_once(&name, REMEMBERED)).await;
    let outcome = match asked {
        Ok(Ok(true)) => "first",
        Ok(Ok(false)) => "again",
        Ok(Err(_)) | Err(_) => "unknown",
    };
    metrics::counter!("motience_quic_early_data_total", "ticket" => outcome).increment(1);
    outcome == "first"
}

/// `control_frames`: frames that carry nothing, for each second.
async fn read_hello(connection: &Connection, control_frames: u32) -> Result<(Hello, Control), CloseReason> {
    let (send, recv) = connection.accept_bi().await.map_err(CloseReason::gone)?;
    let mut recv = Frames::new(recv, BytesMut::new(), Limits::control()).rationed(Ration::new(control_frames));
    match recv.next().await? {
        Some(frame) => Ok((session::hello(frame)?, Control { send, recv })),
        None => Err(CloseReason::protocol("no Hello")),
    }
}
