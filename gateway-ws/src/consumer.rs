//! `/consumer`: every record of every producer the consumer is subscribed to, from its connection on.
//!
//! A v1 client receives exactly the documented message and nothing else. `motience.v2` adds the offset, resume from a
//! cursor, and notices of gaps. Nothing is queued for a consumer: while its socket is full, its cursor stands.

use std::{collections::HashMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::{
        State,
        ws::{Message, Utf8Bytes, WebSocket},
    },
    response::Response,
};
use bytes::BytesMut;
use motience_shared::{
    auth::Grant,
    http::ApiError,
    model::{Offset, ProducerId, Role, record},
    relay::{Delivery, Feed, FeedEvent},
};
use serde::Deserialize;
use serde_json::json;
use tracing::{Instrument, debug, info_span, warn};

use crate::{
    Shared,
    socket::{Goodbye, Heard, Socket},
    upgrade::{Admitted, Request, Seat},
};

/// Longest message a consumer may send: a resume with a few hundred cursors.
const MAX_MESSAGE: usize = 16 * 1024;
/// Bytes written before the socket is looked at again for what the peer says.
const TURN: usize = 1 << 20;

/// The upgrade.
pub(crate) async fn upgrade(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ApiError> {
    let Admitted { upgrade, grant, v2, resume, seat } = request.admit(Role::Consumer, MAX_MESSAGE, &shared)?;
    let cursors = resume.as_deref().map(cursors).transpose().map_err(|e| ApiError::invalid("resume", e))?;
    let mut feed = shared.backend.relay.feed(grant.user.consumer()).await?;
    if let Some(cursors) = cursors {
        feed.resume(&cursors).await?;
    }
    let span = info_span!("wss2", user = %grant.user);
    let alive = shared.shutdown.guard();
    Ok(upgrade.on_upgrade(move |socket| {
        async move {
            serve(socket, grant, feed, v2, seat, shared).await;
            drop(alive);
        }
        .instrument(span)
    }))
}

async fn serve(socket: WebSocket, grant: Grant, feed: Feed, v2: bool, _seat: Seat, shared: Arc<Shared>) {
    let _open = shared.consumers.open();
    let mut socket = Socket::new(socket, &shared.config);
    let mut session = Session { shared: &shared, feed, v2, scratch: BytesMut::new() };
    let goodbye = session.run(&mut socket, &grant).await;
    debug!(?goodbye, "consumer leaves");
    socket.close(goodbye).await;
}

struct Session<'s> {
    shared: &'s Shared,
    feed: Feed,
    v2: bool,
    scratch: BytesMut,
}

impl Session<'_> {
    async fn run(&mut self, socket: &mut Socket, grant: &Grant) -> Goodbye {
        let (backend, soft) = (Arc::clone(&self.shared.backend), self.shared.shutdown.soft().clone());
        let ended = backend.ended(grant);
        tokio::pin!(ended);
        loop {
            let step = tokio::select! {
                biased;
                () = &mut ended => Err(Goodbye::TokenEnded),
                () = soft.cancelled() => Err(Goodbye::Away),
                heard = socket.hear() => match heard {
                    Ok(heard) => self.take(heard, socket).await,
                    Err(goodbye) => Err(goodbye),
                },
                event = self.feed.next() => match event {
                    FeedEvent::Delivery(delivery) => self.deliver_all(delivery, socket).await,
                    FeedEvent::Joined(_) | FeedEvent::Left(_) => Ok(()),
                },
            };
            if let Err(goodbye) = step {
                return goodbye;
            }
        }
    }

    /// Writes this and all that is ready behind it, then flushes once.
    async fn deliver_all(&mut self, first: Delivery, socket: &mut Socket) -> Result<(), Goodbye> {
        let (mut records, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(delivery) = next {
            match delivery {
                Delivery::Batch { batch, after } => {
                    for (offset, message) in batch.after(after) {
                        records += 1;
                        bytes += message.len() as u64;
                        let message = self.message(offset, message)?;
                        socket.feed(Message::Text(message)).await?;
                    }
                }
                notice => self.notice(&notice, socket).await?,
            }
            next = if bytes < TURN as u64 { self.feed.try_next() } else { None };
        }
        self.shared.consumers.count(records, bytes);
        socket.flush().await
    }

    fn message(&mut self, offset: Offset, message: &Bytes) -> Result<Utf8Bytes, Goodbye> {
        let bytes = if self.v2 {
            record::with_offset(message, offset, &mut self.scratch);
            self.scratch.split().freeze()
        } else {
            message.clone()
        };
        Utf8Bytes::try_from(bytes).map_err(|_| {
            warn!(%offset, "an entry of the log is not text");
            Goodbye::Failed
        })
    }

    /// What only v2 clients are told.
    async fn notice(&self, notice: &Delivery, socket: &mut Socket) -> Result<(), Goodbye> {
        if !self.v2 {
            return Ok(());
        }
        let text = match notice {
            Delivery::Gap { producer, from, to } => {
                json!({"type": "gap", "producer_id": producer.to_string(), "from": from, "to": to})
            }
            Delivery::Reset { producer, epoch, after } => {
                json!({"type": "reset", "producer_id": producer.to_string(), "epoch": epoch.to_string(), "after": after})
            }
            Delivery::Batch { .. } => return Ok(()),
        };
        socket.feed(Message::Text(text.to_string().into())).await
    }

    async fn take(&mut self, heard: Heard, socket: &mut Socket) -> Result<(), Goodbye> {
        let Heard::Text(text) = heard else { return Ok(()) };
        let Ok(request) = serde_json::from_str::<Spoken>(&text) else {
            return if self.v2 { self.complain(socket, "invalid_json", "not a message this service knows").await } else { Ok(()) };
        };
        match request.r#type.as_str() {
            "ping" => socket.send(Message::Text(r#"{"type":"pong"}"#.into())).await,
            "resume" if self.v2 => match request.cursors.map(checked).transpose() {
                Ok(Some(cursors)) => match self.feed.resume(&cursors).await {
                    Ok(refused) if refused.is_empty() => Ok(()),
                    Ok(_) => self.complain(socket, "not_subscribed", "some of these producers are not subscribed to").await,
                    Err(e) => {
                        warn!(error = %e, "a consumer cannot resume");
                        Err(Goodbye::TryLater)
                    }
                },
                _ => self.complain(socket, "invalid_cursors", CURSORS).await,
            },
            _ if self.v2 => self.complain(socket, "unknown_type", "there is no message of this type").await,
            // Clients of the first Motience may say what they like; nobody listened then either.
            _ => Ok(()),
        }
    }

    async fn complain(&self, socket: &mut Socket, code: &str, message: &str) -> Result<(), Goodbye> {
        let text = json!({"type": "error", "code": code, "message": message}).to_string();
        socket.send(Message::Text(text.into())).await
    }
}

const CURSORS: &str = "cursors are written like {\"123\": 456}: a producer's id, and the last offset already seen";

#[derive(Deserialize)]
struct Spoken {
    r#type: String,
    #[serde(default)]
    cursors: Option<HashMap<String, u64>>,
}

fn cursors(text: &str) -> Result<HashMap<ProducerId, Offset>, &'static str> {
    serde_json::from_str(text).map_err(|_| CURSORS).and_then(checked)
}

fn checked(cursors: HashMap<String, u64>) -> Result<HashMap<ProducerId, Offset>, &'static str> {
    cursors.into_iter().map(|(producer, offset)| Ok((producer.parse().map_err(|_| CURSORS)?, Offset(offset)))).collect()
}
