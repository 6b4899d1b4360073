//! A consumer: it says whom it wants to follow, and each of those has a pipeline and a stream of its own, or datagrams.

use std::sync::Arc;

use motience_auth::Standing;
use motience_h3::Inbox;
use motience_limits::rate::Bucket;
use motience_proto::model::ProducerId;
use motience_relay::{
    StartPosition,
    pipeline::{
        Asked, Follow, FollowEvent, FollowRefusal, Follows, InvalidRequest,
        position::{self, WrittenPosition},
    },
};
use motience_session::{CloseReason, error_reply, ration, renewal_reply};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Shared,
    delivery::{self, Delivery},
    messages::{ClientMessage, Lines},
    say,
    session::{Outgoing, Peer},
};

/// The egress's own part of a follow.
struct Form {
    /// Whether the newest record of each device comes as a datagram, and no other.
    latest: bool,
    /// Whether each record says when it came.
    received: bool,
}

/// Why a follow is refused: a code for programs, a sentence for people, and where an expression is wrong.
struct Refusal {
    code: &'static str,
    message: String,
    column: Option<usize>,
}

/// The follows of one session.
struct Session<'s> {
    peer: &'s Peer,
    shared: &'s Shared,
    standing: &'s Arc<Standing>,
    follows: Follows<Form>,
    deliveries: JoinSet<Result<(), CloseReason>>,
    /// Requests that the client may still make.
    pace: Bucket,
}

/// Serves a consumer until it leaves or has to.
pub(super) async fn serve(
    peer: &Peer,
    (send, lines): (&mut Outgoing, &mut Lines),
    mut place: Inbox,
    standing: &Arc<Standing>,
    shared: &Arc<Shared>,
) -> Result<(), CloseReason> {
    let follows = shared.backend.relay.follows(Arc::clone(standing), shared.config.follows);
    let rights = follows.keep();
    let pace = Bucket::new(shared.config.control);
    let mut session = Session { peer, shared, standing, follows, deliveries: JoinSet::new(), pace };
    let ending = tokio::select! {
        biased;
        // Beside the control stream, which may be full.
        never = rights => match never {},
        ending = session.run(send, lines, &mut place) => ending,
    };
    session.follows.finish().await;
    ending
}

impl Session<'_> {
    async fn run(&mut self, send: &mut Outgoing, lines: &mut Lines, place: &mut Inbox) -> Result<(), CloseReason> {
        loop {
            // Ends come before beginnings, so that every follow that was to end has ended first.
            let busy = self.deliveries.len() + self.follows.opening() >= 2 * self.shared.config.follows;
            let answer = tokio::select! {
                biased;
                () = self.shared.draining.cancelled() => return Err(CloseReason::Draining),
                Some(finished) = self.deliveries.join_next() => match finished {
                    Ok(finished) => finished.map(|()| None)?,
                    Err(e) => return Err(CloseReason::internal(format!("a delivery failed: {e}"))),
                },
                event = self.follows.next() => Some(self.follow(event?)),
                stream = place.streams.recv() => return Err(match stream {
                    Some(_) => CloseReason::protocol("a consumer opens one stream"),
                    None => CloseReason::gone("the connection is over"),
                }),
                // Nothing that a consumer could mean by it.
                Some(_) = place.datagrams.recv() => None,
                line = lines.next(), if !busy => {
                    let Some(line) = line? else { return Ok(()) };
                    self.take(ClientMessage::read(&line)?).await?
                }
            };
            if let Some(answer) = answer {
                say(send, self.peer, &answer).await?;
            }
            // However fast the client speaks.
            tokio::task::consume_budget().await;
        }
    }

    async fn take(&mut self, message: ClientMessage) -> Result<Option<String>, CloseReason> {
        // Confirmations cost nothing.
        if message.r#type != "confirm" {
            ration(&mut self.pace, 1)?;
        }
        Ok(match message.r#type.as_str() {
            "subscribe" => {
                let producer = message.producer()?;
                match self.subscribe(producer, &message) {
                    Ok(Asked::Later) => None,
                    Ok(Asked::Already) => Some(subscribed(producer)),
                    Err(refusal) => Some(refused(producer, refusal)),
                }
            }
            "unsubscribe" => {
                let producer = message.producer()?;
                self.follows.end(producer);
                Some(ended(producer))
            }
            "confirm" => self.confirm(message),
            "ping" => Some(message.pong().to_string()),
            "token" => Some(renewal_reply(&self.shared.backend, self.standing, message.token.as_deref()).await?),
            other => return Err(CloseReason::protocol(format!("{other} is not expected here"))),
        })
    }

    /// Has a follow begin once it may, or says why not.
    fn subscribe(&mut self, producer: ProducerId, message: &ClientMessage) -> Result<Asked, Refusal> {
        let latest = match message.lane.as_deref() {
            None | Some("records") => false,
            Some("latest") => true,
            Some(_) => return Err(Refusal::new("invalid_lane", "a lane is `records` or `latest`")),
        };
        let start = message.from.as_ref().map(WrittenPosition::read).transpose();
        let start = start.map_err(|e| Refusal::new("invalid_place", &e))?.unwrap_or(StartPosition::Live);
        let egress = Form { latest, received: message.received_at };
        Ok(self.follows.ask(Follow { producer, start, options: message.wishes.read()?, egress })?)
    }

    /// Moves named cursors; says what is wrong.
    fn confirm(&mut self, message: ClientMessage) -> Option<String> {
        match message.cursors.map(position::confirmed).transpose() {
            Ok(Some(cursors)) => {
                let follows = &mut self.follows;
                let kept = cursors.into_iter().all(|(producer, cursor)| follows.confirm(producer, cursor));
                (!kept).then(|| error_reply("not_durable", "subscribe with `durable` to confirm"))
            }
            _ => Some(error_reply("invalid_cursors", position::CONFIRMED)),
        }
    }

    /// The message about an event of a follow.
    fn follow(&mut self, event: FollowEvent<Form>) -> String {
        match event {
            FollowEvent::Begun { producer, pipeline, stop, egress: Form { latest, received } } => {
                let (peer, beat) = (self.peer.clone(), self.shared.config.beat);
                let delivery = Delivery { peer, producer, pipeline: *pipeline, received, beat, stop };
                if latest {
                    self.deliveries.spawn(delivery::latest(delivery));
                } else {
                    self.deliveries.spawn(delivery::records(delivery));
                }
                subscribed(producer)
            }
            FollowEvent::Refused(producer, refusal) => refused(producer, refusal.into()),
            FollowEvent::Ended(producer) => ended(producer),
        }
    }
}

impl Refusal {
    fn new(code: &'static str, message: &(impl ToString + ?Sized)) -> Self {
        Self { code, message: message.to_string(), column: None }
    }
}

impl From<FollowRefusal> for Refusal {
    fn from(refusal: FollowRefusal) -> Self {
        Self::new(refusal.code(), &refusal)
    }
}

impl From<InvalidRequest> for Refusal {
    fn from(invalid: InvalidRequest) -> Self {
        let column = if let InvalidRequest::Selection(e) = &invalid { Some(e.column) } else { None };
        Self { column, ..Self::new(invalid.code(), &invalid) }
    }
}

fn subscribed(producer: ProducerId) -> String {
    json!({"type": "subscribed", "producer_id": producer.to_string()}).to_string()
}

fn refused(producer: ProducerId, refusal: Refusal) -> String {
    let Refusal { code, message, column } = refusal;
    let mut refused = json!({"type": "refused", "producer_id": producer.to_string(), "code": code, "message": message});
    if let Some(column) = column {
        refused["column"] = Value::from(column);
    }
    refused.to_string()
}

fn ended(producer: ProducerId) -> String {
    json!({"type": "ended", "producer_id": producer.to_string(), "code": "unsubscribed"}).to_string()
}
