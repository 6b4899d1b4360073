//! `/consumer`: every record of every producer the consumer is subscribed to, from its connection on.
//!
//! In: what leaves one delivery pipeline.
//! Out: WebSocket messages.
//! Next: the consumer.
//!
//! A v1 client receives exactly the documented message and nothing else. `motience.v2` adds the cursor and the id of each record,
//! resume from any position, named cursors, notices, and all that a pipeline does. Nothing is queued for a consumer: while its
//! socket is full, its pipeline stands.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    pin::pin,
    sync::Arc,
};

use axum::{extract::State, response::Response};
use bytes::{Bytes, BytesMut};
use motience_auth::Standing;
use motience_cluster::Kind;
use motience_http::{ApiError, Client};
use motience_limits::{permits::Permit, rate::Bucket, uploads::Owner};
use motience_proto::model::{Cursor, Order, ProducerId, Role, Transport, record};
use motience_relay::pipeline::{
    DeliveredRecord, Event, Item, Options, Pipeline, Reader, Request as Wishes, Start, json,
    position::{self, WrittenPosition},
};
use motience_runtime::{lifecycle::Leave, traces};
use motience_session::{CloseReason, count_end, error_reply, pong, ration, while_authorized};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::{Instrument, debug, info_span, warn};

use crate::{
    Shared,
    later::{self, LATER},
    socket::{Socket, SocketEvent},
    upgrade::{Admitted, Request, connected},
};

/// Cursors in one message: a message has to have room in the socket's buffer.
const MAX_CURSORS: usize = 1000;

/// The upgrade.
pub(crate) async fn upgrade(State(shared): State<Arc<Shared>>, Client(client): Client, request: Request) -> Result<Response, ApiError> {
    let Admitted { upgrade, grant, v2, resume, cursors, received, wishes, permit, .. } =
        request.admit(Role::Consumer, shared.config.consumer_message, &shared).await?;
    let is_later = v2 && resume.as_deref() == Some(LATER);
    let positions = resume.as_deref().filter(|_| !is_later).map(position::resume).transpose();
    let positions = positions.map_err(|e| ApiError::invalid("resume", e))?;
    let options = options(&wishes, v2, received)?;
    let standing = Arc::new(shared.backend.standing(grant.clone(), connected(client)));
    let open = {
        let (shared, standing, user) = (Arc::clone(&shared), Arc::clone(&standing), grant.user);
        async move |each: HashMap<_, _>| {
            let start = Start { each, ..Start::default() };
            let reader = Reader::Subscriptions(user.consumer());
            // On the heap: a future takes room twice in each that waits for it, and an idle consumer would cost several times its session.
            shared.backend.relay.pipeline(reader, &start, options, standing).await.map(Box::new)
        }
    };
    let begun = if is_later { Err(open) } else { Ok(open(positions.unwrap_or_default()).await?) };
    let opened = traces::Connection::begin("wss2");
    let span = info_span!("wss2", user = %grant.user, %client, connection = opened.number, trace = opened.trace());
    let alive = shared.shutdown.guard();
    let (serving, upload) = (Arc::clone(&shared), shared.upload(Owner::Account(grant.user)));
    Ok(upgrade.accept(&shared, upload, move |socket| {
        async move {
            let shared = serving;
            let mut socket = Socket::new(socket, &shared.config);
            let leave = shared.shutdown.draining().enter();
            let ready = match begun {
                Ok(pipeline) => Ok(pipeline),
                Err(open) => {
                    let opening = async {
                        let positions = tokio::select! {
                            biased;
                            () = leave.asked().cancelled() => return Err(CloseReason::Draining),
                            positions = later::positions(&mut socket) => positions?,
                        };
                        open(positions).await.map_err(|e| {
                            warn!(error = %e, "a consumer cannot resume");
                            CloseReason::Unavailable
                        })
                    };
                    while_authorized(&standing, opening).await
                }
            };
            let pipeline = match ready {
                Ok(pipeline) => pipeline,
                Err(reason) => {
                    count_end(&reason, Transport::WebSocket);
                    return socket.close(&reason).await;
                }
            };
            let session = Session {
                shared: &shared,
                standing: &standing,
                pipeline,
                v2,
                cursors: v2 && cursors,
                received,
                pace: Bucket::new(shared.config.session.control),
                crowded: HashSet::new(),
                scratch: BytesMut::new(),
            };
            serve(socket, session, &leave, permit).await;
            drop((alive, opened));
        }
        .instrument(span)
    }))
}

/// The meaning of the query. Everything that needs a cursor in each message, or a message beside the records, needs v2.
fn options(wishes: &Wishes, v2: bool, received: bool) -> Result<Options, ApiError> {
    if v2 {
        return Ok(wishes.read()?);
    }
    let needed = |code: &'static str, what: &str| {
        ApiError::malformed(format!("{what} of motience.v2: offer that subprotocol, or add v=2.")).with_code(code)
    };
    if wishes.durable.is_some() {
        return Err(ApiError::invalid(
            "durable",
            "A durable cursor is moved by messages of motience.v2: offer that subprotocol, or add v=2.",
        ));
    }
    if received {
        return Err(needed("v2_needed", "received_at is a member"));
    }
    if !wishes.selection.is_empty() {
        return Err(needed("v2_needed", "where, fields and every need the cursors"));
    }
    let options = wishes.read()?;
    if options.order == Order::Device {
        return Err(needed("invalid_field", "Device order needs the cursors").with_field(Some("order".to_owned())));
    }
    Ok(options)
}

async fn serve(mut socket: Socket, mut session: Session<'_>, leave: &Leave, _permit: Permit) {
    let shared = session.shared;
    let _open = (shared.consumers.open(), shared.backend.reports.nodes.open(Kind::Consumer));
    let Err(reason) = while_authorized(session.standing, session.run(&mut socket, leave)).await;
    session.pipeline.finish().await;
    count_end(&reason, Transport::WebSocket);
    debug!(%reason, "consumer leaves");
    socket.close(&reason).await;
}

struct Session<'s> {
    shared: &'s Shared,
    standing: &'s Standing,
    pipeline: Box<Pipeline>,
    v2: bool,
    /// Whether the client is told where it begins with each producer.
    cursors: bool,
    /// Whether the client is told when each record came.
    received: bool,
    /// Requests that the client may still make.
    pace: Bucket,
    /// Producers of which it was told that their grants have no room for it.
    crowded: HashSet<ProducerId>,
    scratch: BytesMut,
}

impl Session<'_> {
    async fn run(&mut self, socket: &mut Socket, leave: &Leave) -> Result<Infallible, CloseReason> {
        let every = self.shared.config.ping;
        let mut tell = interval_at(Instant::now() + every, every);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tell_news(socket).await?;
        self.tell_beginnings(socket).await?;
        // Registered once, and not for each record.
        let mut leaves = pin!(leave.asked().cancelled());
        loop {
            tokio::select! {
                biased;
                () = &mut leaves => return Err(CloseReason::Draining),
                event = socket.event() => self.take(event?, socket).await?,
                _ = tell.tick(), if self.v2 && !self.pipeline.is_plain() => self.tell_moved(socket).await?,
                event = self.pipeline.next() => match event {
                    Event::Ready => self.write(socket).await?,
                    Event::Changed => {
                        self.tell_news(socket).await?;
                        self.tell_beginnings(socket).await?;
                    }
                    Event::Ended => return Err(self.standing.into()),
                },
            }
        }
    }

    /// Writes what is ready into the socket's buffer, until nothing is or the buffer is full; then the pipeline looks at the reader's
    /// rights again.
    async fn write(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        let (mut records, mut bytes) = (0, 0);
        let full = loop {
            if !socket.has_room()? {
                break true;
            }
            match self.pipeline.take() {
                Some(Item::Record(record)) => {
                    records += 1;
                    bytes += record.message.len() as u64;
                    socket.put(Message::Text(self.message(record)?))?;
                }
                Some(Item::Notice(notice)) if self.v2 => socket.put(Message::Text(notice.json().to_string().into()))?,
                Some(Item::Notice(_)) => {}
                None => break false,
            }
        };
        self.shared.consumers.count(records, bytes);
        if full { socket.room().await } else { socket.flush().await }
    }

    /// Moves the client's cursors past records that its selection leaves out.
    async fn tell_moved(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        let moved = self.pipeline.moved();
        tell(&moved, socket).await
    }

    /// Says where the consumer begins with each producer that is new to it, before anything of it: a client that is cut off before
    /// the first record goes on from there, and misses nothing.
    async fn tell_beginnings(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        let begun = self.pipeline.take_begun();
        if self.cursors { tell(&begun, socket).await } else { Ok(()) }
    }

    /// Says what others have changed of its subscriptions, and which of them have no room for this connection.
    async fn tell_news(&mut self, socket: &mut Socket) -> Result<(), CloseReason> {
        let news = self.pipeline.take_news();
        let crowded = self.pipeline.crowded();
        self.crowded.retain(|producer| crowded.contains(producer));
        let crowded = crowded.into_iter().filter(|producer| self.crowded.insert(*producer)).collect::<Vec<_>>();
        if !self.v2 {
            return Ok(());
        }
        let news = news.into_iter().map(|(producer, status)| json::subscription(producer, status));
        for message in news.chain(crowded.into_iter().map(json::crowded)) {
            socket.send(Message::Text(message.to_string().into())).await?;
        }
        Ok(())
    }

    fn message(&mut self, record: DeliveredRecord) -> Result<Utf8Bytes, CloseReason> {
        let cursor = record.cursor;
        let bytes = if self.v2 {
            record.put_json(self.received, &mut self.scratch);
            self.scratch.split().freeze()
        } else {
            record.message
        };
        Utf8Bytes::try_from(bytes).map_err(|_| {
            warn!(%cursor, "an entry of the log is not text");
            CloseReason::internal("a record could not be written")
        })
    }

    async fn take(&mut self, event: SocketEvent, socket: &mut Socket) -> Result<(), CloseReason> {
        let text: Bytes = match event {
            SocketEvent::Text(text) => text.into(),
            // Some clients send the same JSON as bytes.
            SocketEvent::Binary(bytes) => bytes,
            SocketEvent::KeepAlive => return Ok(()),
        };
        let message = serde_json::from_slice::<ClientMessage>(&record::without_mark(text)).ok();
        // A consumer may confirm each record; nothing else that it says has a reason to be said often.
        if message.as_ref().is_none_or(|message| message.r#type != "confirm") {
            socket.spend()?;
        }
        let Some(message) = message else {
            return if self.v2 { complain(socket, "invalid_json", "not a message this service knows").await } else { Ok(()) };
        };
        if message.r#type != "confirm" {
            ration(&mut self.pace, message.cost())?;
        }
        match message.r#type.as_str() {
            "ping" => socket.send(Message::Text(pong(message.id.as_deref().map(RawValue::get)).into())).await,
            "resume" if self.v2 => match message.cursors.map(position::checked).transpose() {
                Ok(Some(positions)) => match self.pipeline.resume(&positions).await {
                    Ok(refused) if refused.is_empty() => Ok(()),
                    Ok(_) => complain(socket, "not_subscribed", "some of these producers are not subscribed to").await,
                    Err(e) => {
                        warn!(error = %e, "a consumer cannot resume");
                        Err(CloseReason::Unavailable)
                    }
                },
                _ => complain(socket, "invalid_cursors", position::CURSORS).await,
            },
            "confirm" if self.v2 => match message.cursors.map(position::confirmed).transpose() {
                Ok(Some(cursors)) => {
                    let pipeline = &mut self.pipeline;
                    let kept = cursors.into_iter().all(|(producer, cursor)| pipeline.confirm(producer, cursor));
                    if kept { Ok(()) } else { complain(socket, "not_durable", "connect with `?durable=NAME` to confirm").await }
                }
                _ => complain(socket, "invalid_cursors", position::CONFIRMED).await,
            },
            _ if self.v2 => complain(socket, "unknown_type", "there is no message of this type").await,
            // Clients of the first Motience may say what they like; nobody listened then either.
            _ => Ok(()),
        }
    }
}

async fn tell(cursors: &[(ProducerId, Cursor)], socket: &mut Socket) -> Result<(), CloseReason> {
    for cursors in cursors.chunks(MAX_CURSORS) {
        socket.send(Message::Text(json::moved(cursors.iter().map(|(p, c)| (p, c))).to_string().into())).await?;
    }
    Ok(())
}

async fn complain(socket: &mut Socket, code: &str, message: &str) -> Result<(), CloseReason> {
    socket.send(Message::Text(error_reply(code, message).into())).await
}

#[derive(Deserialize)]
struct ClientMessage {
    r#type: String,
    /// Of a ping: its pong has the same.
    id: Option<Box<RawValue>>,
    cursors: Option<HashMap<String, WrittenPosition>>,
}

impl ClientMessage {
    /// Each cursor of a resume has the subscriptions looked at and a log opened.
    fn cost(&self) -> u32 {
        let cursors = self.cursors.as_ref().map_or(0, HashMap::len);
        u32::try_from(cursors).unwrap_or(u32::MAX).saturating_add(1)
    }
}
