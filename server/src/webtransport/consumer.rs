//! A consumer over WebTransport: its control stream in lines of JSON, and for each producer it follows a stream, or datagrams.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use motience_auth::Standing;
use motience_h3::Inbox;
use motience_proto::model::ProducerId;
use motience_relay::{
    StartPosition,
    pipeline::{
        Begun, Follow,
        position::{self, WrittenPosition},
    },
};
use motience_runtime::lifecycle::Leave;
use motience_session::{Answer, CloseReason, ConsumerTransport, Host, Refusal, Request, consume, error_reply, given};
use serde_json::{Value, json};

use super::{
    Shared,
    delivery::{self, Delivery},
    messages::{ClientMessage, Lines},
    say,
    session::{Outgoing, Peer},
};

/// The transport's own part of a follow.
pub(super) struct Form {
    /// Whether the newest record of each device comes as a datagram, and no other.
    latest: bool,
    /// Whether each record has `received_at`.
    received: bool,
}

/// Serves a consumer until it leaves or has to.
pub(super) async fn serve(
    peer: &Peer,
    (send, lines): (&mut Outgoing, &mut Lines),
    inbox: Inbox,
    standing: &Arc<Standing>,
    (shared, leave): (&Shared, &Leave),
) -> Result<(), CloseReason> {
    let config = &shared.config;
    let host = Host { backend: &shared.backend, limits: config.session, draining: leave.asked() };
    consume(&mut Consumer { peer, send, lines, inbox, beat: config.stream.comment }, standing, host).await
}

struct Consumer<'s> {
    peer: &'s Peer,
    send: &'s mut Outgoing,
    lines: &'s mut Lines,
    /// Other streams and datagrams of the session.
    inbox: Inbox,
    /// How often a delivery stream without records says its cursor.
    beat: Duration,
}

impl ConsumerTransport for Consumer<'_> {
    type Form = Form;

    async fn recv(&mut self) -> Result<Request<Form>, CloseReason> {
        loop {
            tokio::select! {
                biased;
                stream = self.inbox.streams.recv() => return Err(match stream {
                    Some(_) => CloseReason::protocol("a consumer opens one stream"),
                    None => CloseReason::gone("the connection is over"),
                }),
                // A consumer's datagram means nothing.
                Some(_) = self.inbox.datagrams.recv() => {}
                line = self.lines.next() => return match line? {
                    Some(line) => request(ClientMessage::read(&line)?),
                    None => Ok(Request::Done),
                },
            }
        }
    }

    async fn send(&mut self, answer: Answer) -> Result<(), CloseReason> {
        let line = match answer {
            Answer::Following(producer) => json!({"type": "subscribed", "producer_id": producer.to_string()}),
            Answer::Refused(producer, refusal) => refused(producer, refusal),
            Answer::Ended(producer, why) => json!({"type": "ended", "producer_id": producer.to_string(), "code": why}),
            Answer::Renewed(expires_in) => json!({"type": "token_accepted", "expires_in": expires_in}),
            Answer::Pong(None) => json!({"type": "pong"}),
            Answer::Pong(Some(id)) => json!({"type": "pong", "id": id}),
            Answer::Error(code, message) => return say(self.send, self.peer, &error_reply(code, message)).await,
            Answer::Drain => return Err(CloseReason::Draining),
        };
        say(self.send, self.peer, &line.to_string()).await
    }

    fn deliver(&self, follow: Begun<Form>) -> BoxFuture<'static, Result<(), CloseReason>> {
        let Begun { producer, pipeline, stop, egress: Form { latest, received } } = follow;
        let delivery = Delivery { peer: self.peer.clone(), producer, pipeline: *pipeline, received, beat: self.beat, stop };
        if latest { Box::pin(delivery::latest(delivery)) } else { Box::pin(delivery::records(delivery)) }
    }
}

fn request(message: ClientMessage) -> Result<Request<Form>, CloseReason> {
    Ok(match message.r#type.as_str() {
        "subscribe" => {
            let producer = message.producer()?;
            Request::Subscribe(producer, follow(producer, &message))
        }
        "unsubscribe" => Request::Unsubscribe(message.producer()?),
        "confirm" => match message.cursors.map(position::confirmed).transpose() {
            Ok(Some(cursors)) => Request::Confirm(cursors),
            _ => Request::Invalid("invalid_cursors", position::CONFIRMED),
        },
        "ping" => Request::Ping(message.id),
        "token" => Request::Renew(given(message.token.as_deref())?.to_owned()),
        other => return Err(CloseReason::protocol(format!("{other} is not expected here"))),
    })
}

/// The follow that a message asks for.
fn follow(producer: ProducerId, message: &ClientMessage) -> Result<Follow<Form>, Refusal> {
    let latest = match message.lane.as_deref() {
        None | Some("records") => false,
        Some("latest") => true,
        Some(_) => return Err(Refusal::new("invalid_lane", "a lane is `records` or `latest`")),
    };
    let start = message.from.as_ref().map(WrittenPosition::read).transpose();
    let start = start.map_err(|e| Refusal::new("invalid_place", &e))?.unwrap_or(StartPosition::Live);
    Ok(Follow { producer, start, options: message.wishes.read()?, egress: Form { latest, received: message.received_at } })
}

fn refused(producer: ProducerId, refusal: Refusal) -> Value {
    let Refusal { code, message, column } = refusal;
    let mut refused = json!({"type": "refused", "producer_id": producer.to_string(), "code": code, "message": message});
    if let Some(column) = column {
        refused["column"] = Value::from(column);
    }
    refused
}
