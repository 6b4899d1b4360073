//! `/producer`: messages in, one record each; an acknowledgement out for each, in order, once it is in the log.
//!
//! Reading goes on while the log writes: what waits for it is a queue of replies, bounded, drained from the front.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use motience_auth::Grant;
use motience_http::{ApiError, Client};
use motience_limits::{permits::Permit, uploads::Owner};
use motience_log::Transport;
use motience_proto::model::{
    Role,
    envelope::{self, MAX_ENVELOPE},
};
use motience_relay::{
    self as relay, Kind, Publisher, Senders,
    replies::{Gathered, Replies},
};
use motience_session::CloseReason;
use tokio::time::{Duration, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::{Instrument, debug, info_span, warn};

use crate::{
    Shared,
    handshake::WebSocket,
    socket::{Heard, Socket},
    upgrade::{Admitted, Request},
};

/// Frames read before the group is handed on.
const GROUP: usize = 512;
/// Bytes of records and answers before it is.
const GROUP_BYTES: usize = 256 * 1024;
/// How long acknowledgements under way are waited for when the node drains.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

/// The upgrade.
pub(crate) async fn upgrade(State(shared): State<Arc<Shared>>, Client(client): Client, request: Request) -> Result<Response, ApiError> {
    let record = shared.backend.relay.limits().record;
    let Admitted { upgrade, grant, permit, .. } = request.admit(Role::Producer, record + MAX_ENVELOPE, &shared).await?;
    let publisher = shared.backend.relay.passing_publisher(grant.log_key()).await?;
    let span = info_span!("wss1", user = %grant.user, %client);
    let alive = shared.shutdown.guard();
    let serving = Arc::clone(&shared);
    let upload = shared.upload(Owner::Account(grant.user));
    Ok(upgrade.accept(&shared, upload, move |socket| {
        async move {
            serve(socket, grant, publisher, permit, serving).await;
            drop(alive);
        }
        .instrument(span)
    }))
}

async fn serve(socket: WebSocket, grant: Grant, publisher: Publisher, _permit: Permit, shared: Arc<Shared>) {
    let relay = &shared.backend.relay;
    let _open = (shared.producers.open(), relay.own_node().open(Kind::Producer));
    let devices = relay.devices().senders(grant.log_key(), Transport::WebSocket);
    let mut socket = Socket::new(socket, &shared.config);
    let mut session = Session { shared: &shared, grant: &grant, publisher, devices, replies: Replies::default() };
    let goodbye = session.run(&mut socket).await;
    debug!(?goodbye, "producer leaves");
    socket.close(&goodbye).await;
}

struct Session<'s> {
    shared: &'s Shared,
    grant: &'s Grant,
    publisher: Publisher,
    devices: Senders,
    replies: Replies,
}

impl Session<'_> {
    /// The end of the token comes before everything else, a write that the peer does not take among it.
    async fn run(&mut self, socket: &mut Socket) -> CloseReason {
        let ended = self.shared.backend.ended(self.grant);
        tokio::select! {
            biased;
            () = ended => CloseReason::TokenEnded,
            goodbye = self.work(socket) => goodbye,
        }
    }

    async fn work(&mut self, socket: &mut Socket) -> CloseReason {
        let soft = self.shared.shutdown.soft().clone();
        let mut progress = self.publisher.progress();
        loop {
            let step = tokio::select! {
                biased;
                () = soft.cancelled() => Err(CloseReason::Draining),
                // Cannot fail: the publisher holds the sender.
                _ = progress.changed(), if !self.replies.is_empty() => Ok(()),
                heard = socket.hear(), if self.replies.have_room() => match heard {
                    Ok(heard) => self.take(heard, socket).await,
                    Err(goodbye) => Err(goodbye),
                },
            };
            let committed = progress.borrow_and_update().clone();
            let answered = self.answer(socket, &committed).await;
            match step.and(answered) {
                Ok(()) => {}
                Err(CloseReason::Draining) => {
                    // What was submitted is still acknowledged, as far as the log allows.
                    let _ = timeout(DRAIN_LIMIT, self.finish(socket, &mut progress)).await;
                    return CloseReason::Draining;
                }
                Err(goodbye) => return goodbye,
            }
        }
    }

    /// Takes a frame and all that have come behind it, as one group.
    async fn take(&mut self, first: Heard, socket: &mut Socket) -> Result<(), CloseReason> {
        let now = self.shared.backend.clock.now();
        let limit = self.shared.backend.relay.limits().record;
        let defaults = self.grant.defaults(now);
        let mut gathered = Gathered::default();
        let mut heard = Some(Ok(first));
        let mut goodbye = None;
        while let Some(next) = heard {
            match next {
                Ok(Heard::Text(text)) => gathered.take(envelope::read(text.into(), limit, &defaults)),
                // Clients of the first platform send the same JSON as bytes.
                Ok(Heard::Binary(bytes)) => gathered.take(envelope::read(bytes, limit, &defaults)),
                Ok(Heard::Life) => {}
                Err(why) => {
                    goodbye = Some(why);
                    break;
                }
            }
            if gathered.len() >= GROUP || gathered.bytes() >= GROUP_BYTES {
                break;
            }
            heard = socket.heard();
        }
        self.submit(gathered).await?;
        goodbye.map_or(Ok(()), Err)
    }

    async fn submit(&mut self, gathered: Gathered) -> Result<(), CloseReason> {
        let (records, bytes) = gathered.submit(&self.publisher, &mut self.devices, &mut self.replies).await?;
        self.shared.producers.count(records, bytes);
        Ok(())
    }

    /// Writes the replies that are due, from the front.
    async fn answer(&mut self, socket: &mut Socket, committed: &relay::Committed) -> Result<(), CloseReason> {
        if self.replies.are_due(committed.up_to) {
            let subscribers = self.shared.backend.relay.subscriber_count(self.publisher.producer()).await.unwrap_or_else(|e| {
                // The record is in the log; the count is a courtesy.
                warn!(error = %e, "subscribers cannot be counted");
                0
            });
            while let Some(text) = self.replies.next(committed.up_to, subscribers) {
                socket.feed(Message::Text(text.into())).await?;
            }
            socket.flush().await?;
        }
        committed.error.as_ref().map_or(Ok(()), |e| Err(relay::Error::from(e.clone()).into()))
    }

    async fn finish(
        &mut self,
        socket: &mut Socket,
        progress: &mut tokio::sync::watch::Receiver<relay::Committed>,
    ) -> Result<(), CloseReason> {
        loop {
            let committed = progress.borrow_and_update().clone();
            self.answer(socket, &committed).await?;
            if self.replies.is_empty() || progress.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}
