//! `/producer`: messages in, one record each; an acknowledgement out for each, in order, once it is in the log.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use bytes::Bytes;
use motience_auth::Standing;
use motience_cluster::Kind;
use motience_http::{ApiError, Client};
use motience_limits::{permits::Permit, uploads::Owner};
use motience_proto::model::{Role, Transport, envelope::MAX_ENVELOPE};
use motience_relay::SubscriberWatch;
use motience_runtime::traces;
use motience_session::{self as session, CloseReason, MessagePublisher, MessageSession, MessageTransport, NoEvents};
use tokio_tungstenite::tungstenite::Message;
use tracing::{Instrument, debug, info_span};

use crate::{
    Shared,
    counters::Counters,
    handshake::WebSocket,
    socket::{Socket, SocketEvent},
    upgrade::{Admitted, Request, connected},
};

/// The upgrade.
pub(crate) async fn upgrade(State(shared): State<Arc<Shared>>, Client(client): Client, request: Request) -> Result<Response, ApiError> {
    let record = shared.backend.relay.limits().record;
    let Admitted { upgrade, grant, permit, events, .. } = request.admit(Role::Producer, record + MAX_ENVELOPE, &shared).await?;
    let news = session::wanted_events(&shared.backend, &grant, events.as_deref()).map_err(|refused| match refused {
        NoEvents::Denied(denied) => denied.into(),
        NoEvents::Unknown => ApiError::invalid("events", refused.to_string()),
    })?;
    let publisher = MessagePublisher::open(&shared.backend, grant.log_key(), Transport::WebSocket).await?;
    let opened = traces::Connection::begin("wss1");
    let span = info_span!("wss1", user = %grant.user, %client, connection = opened.number, trace = opened.trace());
    let alive = shared.shutdown.guard();
    let serving = Arc::clone(&shared);
    let upload = shared.upload(Owner::Account(grant.user));
    let standing = shared.backend.standing(grant, connected(client));
    Ok(upgrade.accept(&shared, upload, move |socket| {
        async move {
            serve(socket, (publisher, news), &standing, permit, &serving).await;
            drop((alive, opened));
        }
        .instrument(span)
    }))
}

async fn serve(
    socket: WebSocket,
    (publisher, news): (MessagePublisher, Option<SubscriberWatch>),
    standing: &Standing,
    _permit: Permit,
    shared: &Shared,
) {
    let _open = (shared.producers.open(), shared.backend.reports.nodes.open(Kind::Producer));
    let mut producer = Producer { socket: Socket::new(socket, &shared.config), counters: &shared.producers };
    let leave = shared.shutdown.draining().enter();
    let session = MessageSession::new(publisher, standing).hearing(news).run(&mut producer, leave.asked(), shared.config.session.drain);
    let reason = session::while_authorized(standing, session).await.err().unwrap_or(CloseReason::Done);
    session::count_end(&reason, Transport::WebSocket);
    debug!(%reason, "producer leaves");
    producer.socket.close(&reason).await;
}

/// A producer's WebSocket as the transport of its session.
struct Producer<'s> {
    socket: Socket,
    counters: &'s Counters,
}

impl MessageTransport for Producer<'_> {
    const RENEWS: bool = false;

    async fn recv(&mut self) -> Result<Option<session::Message>, CloseReason> {
        loop {
            let bytes = match self.socket.event().await? {
                SocketEvent::Text(text) => Bytes::from(text),
                // Clients of the first platform send the same JSON as bytes.
                SocketEvent::Binary(bytes) => bytes,
                SocketEvent::KeepAlive => continue,
            };
            return Ok(Some(session::Message::Text(bytes)));
        }
    }

    async fn send(&mut self, replies: Vec<String>) -> Result<(), CloseReason> {
        for reply in replies {
            self.socket.feed(Message::Text(reply.into())).await?;
        }
        self.socket.flush().await
    }

    fn count(&self, records: u64, bytes: u64) {
        self.counters.count(records, bytes);
    }
}
