//! The consumer side of motience/1 and of its JSON dialect, over any [`ConsumerTransport`].
//!
//! ```text
//! Subscribe -> follows (may it? from where?) -> delivery: a task with a pipeline and a stream of its own -> Unsubscribe, or its right ends
//! ```
//!
//! Nothing here waits for the consumer to read: the end of a right takes effect beside the control stream, and a delivery ends with its
//! follow, whatever it is about to write.

use std::{sync::Arc, time::Instant};

use futures_util::future::BoxFuture;
use motience_auth::Standing;
use motience_limits::rate::Bucket;
use motience_proto::model::{Cursor, ProducerId};
use motience_relay::pipeline::{Asked, Begun, Follow, FollowEvent, FollowRefusal, Follows, InvalidRequest};
use motience_runtime::clock::until;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    CloseReason, Host,
    admission::{ration, renew},
};

/// The control stream of one consumer, and a way to open delivery streams.
pub trait ConsumerTransport: Send {
    /// The transport's own part of a follow.
    type Form: Send + 'static;

    /// Returns the next request. Cancel-safe.
    fn recv(&mut self) -> impl Future<Output = Result<Request<Self::Form>, CloseReason>> + Send;

    /// Sends an answer, which the consumer must take in time.
    fn send(&mut self, answer: Answer) -> impl Future<Output = Result<(), CloseReason>> + Send;

    /// Writes the records of a follow until the follow ends. The session runs it as a task.
    fn deliver(&self, follow: Begun<Self::Form>) -> BoxFuture<'static, Result<(), CloseReason>>;
}

/// A consumer's request, read.
pub enum Request<F> {
    /// To follow a producer; or the reason why the follow is refused.
    Subscribe(ProducerId, Result<Follow<F>, Refusal>),
    /// To end a follow.
    Unsubscribe(ProducerId),
    /// To move the named cursors of follows.
    Confirm(Vec<(ProducerId, Cursor)>),
    /// To go on with this token.
    Renew(String),
    /// To be answered, with the id of the ping if it has one.
    Ping(Option<Value>),
    /// Nothing: the answer to a ping of ours.
    Pong,
    /// A request with a mistake that ends nothing.
    Invalid(&'static str, &'static str),
    /// To leave.
    Done,
}

/// A message to the consumer.
pub enum Answer {
    /// The follow is in force.
    Following(ProducerId),
    /// The follow does not begin.
    Refused(ProducerId, Refusal),
    /// The follow has ended, as the consumer asked or with its subscription: the code says how.
    Ended(ProducerId, &'static str),
    /// The new token is good for so many seconds.
    Renewed(u64),
    /// The answer to a ping, with its id.
    Pong(Option<Value>),
    /// A request had a mistake: code and sentence.
    Error(&'static str, &'static str),
    /// The node is going away. A transport that has no word for it fails with [`CloseReason::Draining`].
    Drain,
}

/// Why a follow is refused: a code for programs, a sentence for people, and the column where an expression is wrong.
pub struct Refusal {
    /// A stable name.
    pub code: &'static str,
    /// A sentence.
    pub message: String,
    /// The first wrong character of an expression.
    pub column: Option<usize>,
}

impl Refusal {
    /// A refusal that is about no expression.
    pub fn new(code: &'static str, message: &(impl ToString + ?Sized)) -> Self {
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

/// Serves a consumer until it leaves or has to. The caller watches the token's end.
pub async fn consume<T: ConsumerTransport>(transport: &mut T, standing: &Arc<Standing>, host: Host<'_>) -> Result<(), CloseReason> {
    let follows = host.backend.relay.follows(Arc::clone(standing), host.limits.follows);
    let rights = follows.keep();
    let mut session =
        Session { transport, host, standing, follows, deliveries: JoinSet::new(), requests: Bucket::new(host.limits.control) };
    let ended = tokio::select! {
        biased;
        // Beside the control stream, which may be full.
        never = rights => match never {},
        ended = session.run() => ended,
    };
    session.follows.finish().await;
    ended
}

struct Session<'s, T: ConsumerTransport> {
    transport: &'s mut T,
    host: Host<'s>,
    standing: &'s Standing,
    follows: Follows<T::Form>,
    deliveries: JoinSet<Result<(), CloseReason>>,
    /// Requests that the consumer may still make.
    requests: Bucket,
}

impl<T: ConsumerTransport> Session<'_, T> {
    async fn run(&mut self) -> Result<(), CloseReason> {
        let mut cut = None;
        loop {
            // Ends come before beginnings, so that every follow that was to end has ended first.
            let busy = self.deliveries.len() + self.follows.opening() >= 2 * self.host.limits.follows;
            let answer = tokio::select! {
                biased;
                () = self.host.draining.cancelled(), if cut.is_none() => {
                    cut = Some(Instant::now() + self.host.limits.drain.connections());
                    Some(Answer::Drain)
                }
                () = until(cut) => return Err(CloseReason::Draining),
                Some(finished) = self.deliveries.join_next() => {
                    finished.map_err(|e| CloseReason::internal(format!("a delivery failed: {e}")))??;
                    None
                }
                event = self.follows.next() => Some(self.follow(event?)),
                request = self.transport.recv(), if !busy => match request? {
                    Request::Done => return Ok(()),
                    request => self.take(request).await?,
                },
            };
            if let Some(answer) = answer {
                self.transport.send(answer).await?;
            }
            // However fast the consumer speaks.
            tokio::task::consume_budget().await;
        }
    }

    async fn take(&mut self, request: Request<T::Form>) -> Result<Option<Answer>, CloseReason> {
        // Confirmations cost nothing.
        if !matches!(request, Request::Confirm(_)) {
            ration(&mut self.requests, 1)?;
        }
        Ok(match request {
            Request::Subscribe(producer, follow) => match follow.and_then(|follow| Ok(self.follows.ask(follow)?)) {
                Ok(Asked::Later) => None,
                Ok(Asked::Already) => Some(Answer::Following(producer)),
                Err(refusal) => Some(Answer::Refused(producer, refusal)),
            },
            Request::Unsubscribe(producer) => {
                self.follows.end(producer);
                Some(Answer::Ended(producer, "unsubscribed"))
            }
            Request::Confirm(cursors) => {
                // One without a name keeps none of the others back.
                let named = cursors.into_iter().fold(true, |named, (producer, cursor)| self.follows.confirm(producer, cursor) && named);
                (!named).then_some(Answer::Error("not_durable", "subscribe with `durable` to confirm"))
            }
            Request::Renew(token) => Some(Answer::Renewed(renew(self.host.backend, self.standing, &token).await?)),
            Request::Ping(id) => Some(Answer::Pong(id)),
            Request::Invalid(code, message) => Some(Answer::Error(code, message)),
            Request::Pong | Request::Done => None,
        })
    }

    fn follow(&mut self, event: FollowEvent<T::Form>) -> Answer {
        match event {
            FollowEvent::Begun(follow) => {
                let producer = follow.producer;
                self.deliveries.spawn(self.transport.deliver(follow));
                Answer::Following(producer)
            }
            FollowEvent::Refused(producer, refusal) => Answer::Refused(producer, refusal.into()),
            FollowEvent::Ended(producer, why) => Answer::Ended(producer, why),
        }
    }
}
