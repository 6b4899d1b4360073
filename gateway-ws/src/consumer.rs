//! `/consumer`: every record of every producer the consumer is subscribed to, from its connection on.
//!
//! A v1 client receives exactly the documented message and nothing else. `motience.v2` adds the place and name of
//! each record, resume from any place, durable cursors, and notices of gaps and resets. Nothing is queued for a consumer: while its socket is full, its cursor stands.

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
    model::{Cursor, CursorName, Offset, ProducerId, RecordName, Role, record},
    relay::{Delivery, Feed, FeedEvent, ReadFrom},
};
use serde::Deserialize;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
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
    let Admitted { upgrade, grant, v2, resume, durable, seat } = request.admit(Role::Consumer, MAX_MESSAGE, &shared)?;
    let places = resume.as_deref().map(places).transpose().map_err(|e| ApiError::invalid("resume", e))?;
    let durable = durable.as_deref().map(CursorName::new).transpose().map_err(|e| ApiError::invalid("durable", e.to_string()))?;
    if durable.is_some() && !v2 {
        return Err(ApiError::invalid(
            "durable",
            "A durable cursor is moved by messages of motience.v2: offer that subprotocol, or add v=2.",
        ));
    }
    let mut feed = shared.backend.relay.feed(grant.user.consumer(), durable).await?;
    if let Some(places) = places {
        feed.resume(&places).await?;
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
    session.feed.finish().await;
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
                    for (offset, name, message) in batch.after(after) {
                        records += 1;
                        bytes += message.len() as u64;
                        let message = self.message(Cursor { epoch: batch.epoch, offset }, name, message)?;
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

    fn message(&mut self, cursor: Cursor, name: RecordName, message: &Bytes) -> Result<Utf8Bytes, Goodbye> {
        let bytes = if self.v2 {
            record::with_place(message, cursor, name, &mut self.scratch);
            self.scratch.split().freeze()
        } else {
            message.clone()
        };
        Utf8Bytes::try_from(bytes).map_err(|_| {
            warn!(%cursor, "an entry of the log is not text");
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
            Delivery::Reset { producer, cursor } => {
                json!({
                    "type": "reset", "producer_id": producer.to_string(), "cursor": cursor.to_string(),
                    "epoch": cursor.epoch.to_string(), "after": cursor.offset,
                })
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
                Ok(Some(places)) => match self.feed.resume(&places).await {
                    Ok(refused) if refused.is_empty() => Ok(()),
                    Ok(_) => self.complain(socket, "not_subscribed", "some of these producers are not subscribed to").await,
                    Err(e) => {
                        warn!(error = %e, "a consumer cannot resume");
                        Err(Goodbye::TryLater)
                    }
                },
                _ => self.complain(socket, "invalid_cursors", CURSORS).await,
            },
            "confirm" if self.v2 => match request.cursors.map(confirmed).transpose() {
                Ok(Some(cursors)) => {
                    let kept = cursors.into_iter().all(|(producer, cursor)| self.feed.confirm(producer, cursor));
                    if kept { Ok(()) } else { self.complain(socket, "not_durable", "connect with `?durable=NAME` to confirm").await }
                }
                _ => self.complain(socket, "invalid_cursors", CONFIRMED).await,
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

const CURSORS: &str = "cursors are written like {\"123\": \"7-456\"}: a producer's id, and the cursor of the last message seen; or its offset, \
                       \"earliest\", \"live\", or an RFC 3339 time";
const CONFIRMED: &str = "cursors are written like {\"123\": \"7-456\"}: a producer's id, and the cursor of the last message dealt with";

#[derive(Deserialize)]
struct Spoken {
    r#type: String,
    cursors: Option<HashMap<String, Place>>,
}

/// A place in a log, as a client writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Place {
    Offset(u64),
    Text(String),
}

impl Place {
    fn read(&self) -> Option<ReadFrom> {
        match self {
            Self::Offset(offset) => Some(ReadFrom::After(Cursor { offset: Offset(*offset), ..Cursor::default() })),
            Self::Text(text) => match text.as_str() {
                "live" => Some(ReadFrom::Live),
                "earliest" => Some(ReadFrom::Earliest),
                text => match text.parse() {
                    Ok(cursor) => Some(ReadFrom::After(cursor)),
                    Err(_) => OffsetDateTime::parse(text, &Rfc3339).ok().map(ReadFrom::Time),
                },
            },
        }
    }
}

fn places(text: &str) -> Result<HashMap<ProducerId, ReadFrom>, &'static str> {
    serde_json::from_str(text).map_err(|_| CURSORS).and_then(checked)
}

fn checked(cursors: HashMap<String, Place>) -> Result<HashMap<ProducerId, ReadFrom>, &'static str> {
    let place = |(producer, place): (String, Place)| Some((producer.parse().ok()?, place.read()?));
    cursors.into_iter().map(|entry| place(entry).ok_or(CURSORS)).collect()
}

fn confirmed(cursors: HashMap<String, Place>) -> Result<Vec<(ProducerId, Cursor)>, &'static str> {
    let cursor = |(producer, place): (String, Place)| match place.read()? {
        ReadFrom::After(cursor) if cursor.epoch.0 != 0 => Some((producer.parse().ok()?, cursor)),
        _ => None,
    };
    cursors.into_iter().map(|entry| cursor(entry).ok_or(CONFIRMED)).collect()
}

#[cfg(test)]
mod tests {
    use motience_shared::model::LogEpoch;

    use super::*;

    #[test]
    fn places_are_read_in_all_their_forms() {
        let read = |text: &str| places(text).map(|places| places[&ProducerId(1)]);
        let after = |epoch, offset| ReadFrom::After(Cursor { epoch: LogEpoch(epoch), offset: Offset(offset) });
        assert_eq!(read(r#"{"1": 456}"#), Ok(after(0, 456)));
        assert_eq!(read(r#"{"1": "7-456"}"#), Ok(after(7, 456)));
        assert_eq!(read(r#"{"1": "earliest"}"#), Ok(ReadFrom::Earliest));
        assert!(matches!(read(r#"{"1": "2025-01-29T11:35:00Z"}"#), Ok(ReadFrom::Time(_))));
        for wrong in [r#"{"1": "soon"}"#, r#"{"x": 1}"#, r#"{"1": -1}"#, "[]"] {
            assert!(places(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_whole_cursors_are_confirmed() {
        let spoken = |place| confirmed(HashMap::from([("1".to_owned(), place)]));
        assert!(spoken(Place::Text("7-456".to_owned())).is_ok());
        assert!(spoken(Place::Offset(5)).is_err());
        assert!(spoken(Place::Text("earliest".to_owned())).is_err());
    }
}
