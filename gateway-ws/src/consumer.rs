//! `/consumer`: every record of every producer the consumer is subscribed to, from its connection on.
//!
//! In: deliveries of one feed.
//! Out: WebSocket messages.
//! Next: the consumer.
//!
//! A v1 client receives exactly the documented message and nothing else. `motience.v2` adds the place and name of
//! each record, resume from any place, durable cursors, notices of gaps and resets, and device order. Nothing is queued
//! for a consumer: while its socket is full, its cursor stands; only device order holds a bounded number of records back.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use axum::{extract::State, response::Response};
use bytes::{Bytes, BytesMut};
use motience_auth::Standing;
use motience_http::{ApiError, Client};
use motience_limits::{permits::Permit, rate::Bucket, uploads::Owner};
use motience_proto::model::{Cursor, CursorName, ProducerId, Role, Selection, record};
use motience_relay::{
    Delivery, Feed, FeedEvent, Kind, ReadFrom,
    order::{self, Reorder},
    places::{self, Place},
    view::{Thinned, View},
};
use motience_session::{CloseReason, pong};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::{Instrument, debug, info_span, warn};

use crate::{
    Shared,
    arranged::{Arranged, MAX_CURSORS},
    handshake::WebSocket,
    socket::{Heard, Socket},
    upgrade::{Admitted, Request},
};

/// The upgrade.
pub(crate) async fn upgrade(State(shared): State<Arc<Shared>>, Client(client): Client, request: Request) -> Result<Response, ApiError> {
    let Admitted { upgrade, grant, v2, resume, durable, order, cursors, received, selection, permit } =
        request.admit(Role::Consumer, shared.config.consumer_message, &shared).await?;
    let places = resume.as_deref().map(places::resume).transpose().map_err(|e| ApiError::invalid("resume", e))?;
    let durable = durable.as_deref().map(CursorName::new).transpose().map_err(|e| ApiError::invalid("durable", e.to_string()))?;
    if durable.is_some() && !v2 {
        return Err(ApiError::invalid(
            "durable",
            "A durable cursor is moved by messages of motience.v2: offer that subprotocol, or add v=2.",
        ));
    }
    if received && !v2 {
        let why = "received_at is a member of motience.v2: offer that subprotocol, or add v=2.";
        return Err(ApiError::malformed(why).with_code("v2_needed"));
    }
    let order = device_order(order.as_deref(), v2, shared.config.order)?;
    let view = view(&selection, v2)?.map(|view| Thinned::new(view, shared.config.view));
    let mut feed = shared.backend.relay.feed(grant.user.consumer(), durable).await?;
    if let Some(places) = places {
        feed.resume(&places).await?;
    }
    let span = info_span!("wss2", user = %grant.user, %client);
    let alive = shared.shutdown.guard();
    let (serving, upload) = (Arc::clone(&shared), shared.upload(Owner::Account(grant.user)));
    Ok(upgrade.accept(&shared, upload, move |socket| {
        async move {
            let shared = serving;
            let arranged = Arranged::new(order, view);
            let told = (v2 && cursors).then(HashSet::new);
            let standing = shared.backend.standing(grant);
            let session = Session {
                shared: &shared,
                standing: &standing,
                feed,
                v2,
                arranged,
                told,
                received,
                ready: VecDeque::new(),
                notice: None,
                released: Vec::new(),
                pace: Bucket::new(shared.config.control),
                scratch: BytesMut::new(),
            };
            serve(socket, session, permit).await;
            drop(alive);
        }
        .instrument(span)
    }))
}

/// `order=device`, or the log's own order.
fn device_order(order: Option<&str>, v2: bool, limits: order::Limits) -> Result<Option<Reorder>, ApiError> {
    let refuse = |why| ApiError::malformed(why).with_code("invalid_field").with_field(Some("order".to_owned()));
    match order {
        None | Some("log") => Ok(None),
        Some("device") if v2 => Ok(Some(Reorder::new(limits))),
        Some("device") => Err(refuse("Device order needs the cursors of motience.v2: offer that subprotocol, or add v=2.")),
        Some(_) => Err(refuse("order is `log` or `device`.")),
    }
}

/// What the query selects; `None`: everything.
fn view(selection: &Selection, v2: bool) -> Result<Option<View>, ApiError> {
    if selection.is_empty() {
        return Ok(None);
    }
    if !v2 {
        let why = "where, fields and every need the cursors of motience.v2: offer that subprotocol, or add v=2.";
        return Err(ApiError::malformed(why).with_code("v2_needed"));
    }
    Ok(Some(View::of(selection)?))
}

async fn serve(socket: WebSocket, mut session: Session<'_>, _permit: Permit) {
    let (shared, standing) = (session.shared, session.standing);
    let _open = (shared.consumers.open(), shared.backend.relay.own_node().open(Kind::Consumer));
    let mut socket = Socket::new(socket, &shared.config);
    // The end of the token comes before everything else, a write that the peer does not take among it.
    let goodbye = tokio::select! {
        biased;
        () = standing.over() => CloseReason::TokenEnded,
        goodbye = session.run(&mut socket) => goodbye,
    };
    session.feed.finish().await;
    debug!(?goodbye, "consumer leaves");
    socket.close(&goodbye).await;
}

struct Session<'s> {
    shared: &'s Shared,
    standing: &'s Standing,
    feed: Feed,
    v2: bool,
    /// Order and view, where they are asked for.
    arranged: Arranged,
    /// The producers of which the client was told where it begins; `None` where it did not ask.
    told: Option<HashSet<ProducerId>>,
    /// Whether it wants to know when each record came.
    received: bool,
    /// What is to be written next: at most one delivery's records.
    ready: VecDeque<order::Record>,
    /// What a v2 client is told after them, and whose log it is about.
    notice: Option<(ProducerId, String)>,
    /// Room that is used again.
    released: Vec<order::Record>,
    /// How much the client may still ask for.
    pace: Bucket,
    scratch: BytesMut,
}

impl Session<'_> {
    async fn run(&mut self, socket: &mut Socket) -> CloseReason {
        let soft = self.shared.shutdown.soft().clone();
        let every = self.shared.config.ping;
        let mut tell = interval_at(Instant::now() + every, every);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(goodbye) = self.tell_beginnings(socket).await {
            return goodbye;
        }
        loop {
            let step = tokio::select! {
                biased;
                () = soft.cancelled() => Err(CloseReason::Draining),
                heard = socket.hear() => match heard {
                    Ok(heard) => self.take(heard, socket).await,
                    Err(goodbye) => Err(goodbye),
                },
                () = self.arranged.due() => self.expire(socket).await,
                _ = tell.tick(), if self.arranged.is_selective() => self.tell_moved(socket).await,
                event = self.feed.next() => match event {
                    FeedEvent::Delivery(delivery) => self.deliver_all(delivery, socket).await,
                    FeedEvent::Joined(_) | FeedEvent::Left(_) => {
                        self.keep_followed();
                        self.tell_beginnings(socket).await
                    }
                },
            };
            if let Err(goodbye) = step {
                return goodbye;
            }
        }
    }

    /// Writes this and all that is ready behind it, then flushes once.
    async fn deliver_all(&mut self, first: Delivery, socket: &mut Socket) -> Result<(), CloseReason> {
        let mut next = Some(first);
        while let Some(delivery) = next {
            self.arranged.deliver(&delivery, &mut self.released);
            self.ready.extend(self.released.drain(..));
            self.notice = self.v2.then(|| delivery.notice()).flatten().map(|notice| (delivery.producer(), notice.to_string()));
            self.write(socket).await?;
            next = self.feed.try_next();
        }
        socket.flush().await
    }

    /// Writes what is ready into the socket's buffer, as it finds room. What ends meanwhile is left out: a subscription and, since
    /// much may have been published while this thread was elsewhere, the token.
    async fn write(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        let (mut records, mut bytes) = (0, 0);
        let (mut checked, mut changed) = (false, false);
        while !self.ready.is_empty() || self.notice.is_some() {
            if !socket.has_room()? {
                checked = false;
                tokio::select! {
                    biased;
                    _ = self.feed.changed() => {
                        self.keep_followed();
                        changed = true;
                        continue;
                    }
                    room = socket.room() => room?,
                }
            }
            if !checked {
                if self.standing.is_over() {
                    return Err(CloseReason::TokenEnded);
                }
                if self.feed.settle().await.is_some() {
                    self.keep_followed();
                    changed = true;
                    continue;
                }
                checked = true;
            }
            if let Some(record) = self.ready.pop_front() {
                records += 1;
                bytes += record.message.len() as u64;
                socket.put(Message::Text(self.message(record)?))?;
            } else if let Some((_, notice)) = self.notice.take() {
                socket.put(Message::Text(notice.into()))?;
            }
        }
        self.shared.consumers.count(records, bytes);
        // Before anything of whoever was followed anew meanwhile.
        if changed { self.tell_beginnings(socket).await } else { Ok(()) }
    }

    /// Lets go what was held back for long enough.
    async fn expire(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        self.arranged.expire(&mut self.released);
        self.ready.extend(self.released.drain(..));
        self.write(socket).await?;
        socket.flush().await
    }

    /// Moves a consumer's cursors past what its view does not show.
    async fn tell_moved(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        for moved in self.arranged.moved(self.feed.followed()) {
            socket.send(Message::Text(moved.to_string().into())).await?;
        }
        Ok(())
    }

    /// Says where the consumer begins with each producer that is new to it, before anything of it: one that is cut off before
    /// it has heard a producer goes on from there, and misses nothing.
    async fn tell_beginnings(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        let Some(told) = &mut self.told else { return Ok(()) };
        let feed = &self.feed;
        told.retain(|producer| feed.cursor(*producer).is_some());
        let new = feed.followed().filter(|producer| !told.contains(producer));
        let new: Vec<(ProducerId, Cursor)> = new.filter_map(|producer| Some((producer, feed.cursor(producer)?))).collect();
        told.extend(new.iter().map(|(producer, _)| producer));
        for cursors in new.chunks(MAX_CURSORS) {
            socket.send(Message::Text(places::moved(cursors.iter().map(|(p, c)| (p, c))).to_string().into())).await?;
        }
        Ok(())
    }

    /// Nothing that was held back of a producer, or that waits to be written, is delivered once its subscription is over.
    fn keep_followed(&mut self) {
        let followed: HashSet<ProducerId> = self.feed.followed().collect();
        self.arranged.retain(&followed);
        self.ready.retain(|record| followed.contains(&record.producer));
        self.notice.take_if(|(producer, _)| !followed.contains(producer));
    }

    fn message(&mut self, record: order::Record) -> Result<Utf8Bytes, CloseReason> {
        let order::Record { cursor, offset, record_id, received, message, .. } = record;
        let received = received.filter(|_| self.received);
        let bytes = if self.v2 {
            record::with_place(&message, offset, cursor, record_id, received, &mut self.scratch);
            self.scratch.split().freeze()
        } else {
            message
        };
        Utf8Bytes::try_from(bytes).map_err(|_| {
            warn!(%cursor, "an entry of the log is not text");
            CloseReason::internal("a record could not be written")
        })
    }

    async fn take(&mut self, heard: Heard, socket: &mut Socket) -> Result<(), CloseReason> {
        let said: Bytes = match heard {
            Heard::Text(text) => text.into(),
            // Some clients send the same JSON as bytes.
            Heard::Binary(bytes) => bytes,
            Heard::Life => return Ok(()),
        };
        let request = serde_json::from_slice::<Spoken>(&record::without_mark(said)).ok();
        // A consumer may confirm each record; nothing else that it says has a reason to be said often.
        if request.as_ref().is_none_or(|request| request.r#type != "confirm") {
            socket.spend()?;
        }
        let Some(request) = request else {
            return if self.v2 { self.complain(socket, "invalid_json", "not a message this service knows").await } else { Ok(()) };
        };
        if request.r#type != "confirm" && self.pace.take(request.cost()).is_err() {
            metrics::counter!("motience_limited_total", "reason" => "control").increment(1);
            return Err(CloseReason::TooManyRequests);
        }
        match request.r#type.as_str() {
            "ping" => socket.send(Message::Text(pong(request.id.as_deref().map(RawValue::get)).into())).await,
            "resume" if self.v2 => match request.cursors.map(places::checked).transpose() {
                Ok(Some(places)) => match self.feed.resume(&places).await {
                    Ok(refused) => {
                        self.begin_anew(places.keys().filter(|producer| !refused.contains(producer)));
                        if refused.is_empty() {
                            return Ok(());
                        }
                        self.complain(socket, "not_subscribed", "some of these producers are not subscribed to").await
                    }
                    Err(e) => {
                        warn!(error = %e, "a consumer cannot resume");
                        Err(CloseReason::Unavailable)
                    }
                },
                _ => self.complain(socket, "invalid_cursors", places::CURSORS).await,
            },
            "confirm" if self.v2 => match request.cursors.map(confirmed).transpose() {
                Ok(Some(cursors)) => {
                    // What is held back is not dealt with, whatever the consumer says of records after it.
                    let (arranged, feed) = (&self.arranged, &mut self.feed);
                    let kept = cursors.into_iter().all(|(producer, cursor)| feed.confirm(producer, arranged.bounded(producer, cursor)));
                    if kept { Ok(()) } else { self.complain(socket, "not_durable", "connect with `?durable=NAME` to confirm").await }
                }
                _ => self.complain(socket, "invalid_cursors", CONFIRMED).await,
            },
            _ if self.v2 => self.complain(socket, "unknown_type", "there is no message of this type").await,
            // Clients of the first Motience may say what they like; nobody listened then either.
            _ => Ok(()),
        }
    }

    /// What was held back of these is read again, if the consumer has not gone past it.
    fn begin_anew<'p>(&mut self, producers: impl Iterator<Item = &'p ProducerId>) {
        producers.for_each(|&producer| self.arranged.forget(producer));
    }

    async fn complain(&self, socket: &mut Socket, code: &str, message: &str) -> Result<(), CloseReason> {
        let text = json!({"type": "error", "code": code, "message": message}).to_string();
        socket.send(Message::Text(text.into())).await
    }
}

impl Spoken {
    /// Each cursor of a resume has the subscriptions looked at and a log opened.
    fn cost(&self) -> u32 {
        let cursors = self.cursors.as_ref().map_or(0, HashMap::len);
        u32::try_from(cursors).unwrap_or(u32::MAX).saturating_add(1)
    }
}

const CONFIRMED: &str = "cursors are written like {\"123\": \"7-456\"}: a producer's id, and the cursor of the last message dealt with";

#[derive(Deserialize)]
struct Spoken {
    r#type: String,
    /// Of a ping: its pong has the same.
    id: Option<Box<RawValue>>,
    cursors: Option<HashMap<String, Place>>,
}

fn confirmed(cursors: HashMap<String, Place>) -> Result<Vec<(ProducerId, Cursor)>, &'static str> {
    let cursor = |(producer, place): (String, Place)| match place.read().ok()? {
        ReadFrom::After(cursor) if cursor.log_epoch.0 != 0 => Some((producer.parse().ok()?, cursor)),
        _ => None,
    };
    cursors.into_iter().map(|entry| cursor(entry).ok_or(CONFIRMED)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_cursors_are_confirmed() {
        let spoken = |place| confirmed(HashMap::from([("1".to_owned(), place)]));
        assert!(spoken(Place::Text("7-456".to_owned())).is_ok());
        assert!(spoken(Place::Number(5)).is_err());
        assert!(spoken(Place::Text("earliest".to_owned())).is_err());
    }
}
