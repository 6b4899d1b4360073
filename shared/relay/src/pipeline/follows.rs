//! The follows of a connection with a stream and a pipeline for each: they begin when the store and the log allow it, and end when
//! the consumer says so on its control stream, or with the subscription, which must not wait for that stream.

use std::{convert::Infallible, sync::Arc};

use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use motience_auth::Standing;
use motience_log as log;
use motience_proto::model::{ConsumerId, Cursor, CursorName, ProducerId};
use motience_runtime::clock::until;
use motience_store as store;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Options, Pipeline, Stages,
    active::{Active, Entry, FollowRight},
    allowance::{Held, look_at},
    authorized::{Authorized, FollowParts},
    bounded,
    named_cursors::NamedCursors,
    rights::{RETRY_AFTER, Rights},
};
use crate::{Error, Relay, StartPosition, Subscriber};

/// A follow that is asked for. `T` is what its egress needs to know of it.
#[derive(Clone, Debug)]
pub struct Follow<T> {
    /// Producer to follow.
    pub producer: ProducerId,
    /// Where to begin, unless its named cursor stands somewhere.
    pub start: StartPosition,
    /// The form in which records come.
    pub options: Options,
    /// The egress's own part.
    pub egress: T,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A [`FollowEvent`] answers.
    Later,
    /// The producer is followed already, and nothing changes.
    Already,
}

/// Why a follow does not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowRefusal {
    /// There is no active subscription.
    #[error("the account is not subscribed to this producer")]
    NotSubscribed,
    /// The key that the connection lives by lacks the scope.
    #[error("this key lacks the scope to read this producer")]
    OutOfScope,
    /// The connection follows as many producers as it may.
    #[error("this connection follows as many producers as it may")]
    TooMany,
    /// The consumer has as many named cursors as it may.
    #[error("the account has as many named cursors as it may")]
    TooManyCursors,
    /// As many connections of the consumer receive this producer's records as its grant allows.
    #[error("as many connections receive this producer's records as its grant allows")]
    TooManyConnections,
}

impl FollowRefusal {
    /// A stable name for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotSubscribed => "not_subscribed",
            Self::OutOfScope => "scope_missing",
            Self::TooMany => "too_many",
            Self::TooManyCursors => "too_many_cursors",
            Self::TooManyConnections => "too_many_connections",
        }
    }
}

/// A follow in force.
#[derive(Debug)]
pub struct Begun<T> {
    /// Producer that it follows.
    pub producer: ProducerId,
    /// Its records, until [`super::Event::Ended`].
    pub pipeline: Box<Pipeline>,
    /// Cancelled with the follow, whatever its egress waits for.
    pub stop: CancellationToken,
    /// The egress's own part.
    pub egress: T,
}

/// Events of a connection's follows.
#[derive(Debug)]
pub enum FollowEvent<T> {
    /// A follow is in force.
    Begun(Begun<T>),
    /// A follow does not begin.
    Refused(ProducerId, FollowRefusal),
    /// A follow has ended with its subscription: the code says how.
    Ended(ProducerId, &'static str),
}

/// The follows of one connection.
pub struct Follows<T> {
    relay: Relay,
    consumer: ConsumerId,
    standing: Arc<Standing>,
    rights: Arc<Rights>,
    active: Arc<Active>,
    most: usize,
    /// Follows that have yet to begin.
    openings: FuturesUnordered<BoxFuture<'static, Result<Opened<T>, Error>>>,
    cursors: NamedCursors,
}

struct Opened<T> {
    producer: ProducerId,
    stop: CancellationToken,
    outcome: Result<(Box<Pipeline>, T), FollowRefusal>,
}

impl<T: Send + 'static> Follows<T> {
    /// None yet; at most `most` at once.
    pub(crate) fn new(relay: Relay, standing: Arc<Standing>, most: usize) -> Self {
        let consumer = standing.grant().user.consumer();
        let rights = Arc::new(Rights::new(relay.clone(), consumer));
        let cursors = relay.named_cursors(consumer);
        Self { relay, consumer, standing, rights, active: Arc::default(), most, openings: FuturesUnordered::new(), cursors }
    }

    /// Ends the follows that the consumer loses its right to, for as long as it is polled: beside everything else of the connection,
    /// whose control stream may be full.
    pub fn keep(&self) -> impl Future<Output = Infallible> + Send + use<T> {
        let (rights, active) = (Arc::clone(&self.rights), Arc::clone(&self.active));
        async move { rights.keep(&active).await }
    }

    /// Asks for a follow.
    pub fn ask(&mut self, follow: Follow<T>) -> Result<Asked, FollowRefusal> {
        let Follow { producer, start, options, egress } = follow;
        if self.active.contains(producer) {
            return Ok(Asked::Already);
        }
        if self.active.len() >= self.most {
            return Err(FollowRefusal::TooMany);
        }
        if self.standing.grant().may_consume(producer).is_err() {
            return Err(FollowRefusal::OutOfScope);
        }
        // Before the right is checked, so that the notice of its end cannot be missed.
        let Entry { stop, right, low_watermark, .. } = self.active.enter(producer, options.cursor.clone());
        let (relay, rights, standing) = (self.relay.clone(), Arc::clone(&self.rights), Arc::clone(&self.standing));
        let (consumer, active) = (self.consumer, Arc::clone(&self.active));
        let opening = async move {
            let opened = stop.run_until_cancelled(open(&relay, consumer, producer, start, options.cursor.as_ref(), &right)).await;
            let outcome = match opened.transpose()? {
                // The consumer that ended it knows.
                None => Err(FollowRefusal::NotSubscribed),
                Some(Err(refusal)) => Err(refusal),
                Some(Ok((subscriber, seen, held))) => {
                    let stages = Stages::new(&options, relay.0.limits.pipeline, relay.0.clock.clone());
                    let parts = FollowParts { rights, stop: stop.clone(), right, seen, active };
                    let authorized = Authorized::of_follow(relay, (producer, subscriber, held), parts);
                    let pipeline = Pipeline { low_watermark, ..Pipeline::new(authorized, stages, standing) };
                    Ok((Box::new(pipeline), egress))
                }
            };
            Ok(Opened { producer, stop, outcome })
        };
        self.openings.push(opening.boxed());
        Ok(Asked::Later)
    }

    /// Ends a follow, if it is there.
    pub fn end(&self, producer: ProducerId) {
        self.active.end(producer);
    }

    /// Moves the named cursor of a follow, never past a record that is held; `false` where the follow has none. Of a producer that is
    /// not followed there is no cursor to move.
    pub fn confirm(&mut self, producer: ProducerId, cursor: Cursor) -> bool {
        let Some(Entry { name, low_watermark, .. }) = self.active.get(producer) else { return true };
        let Some(name) = name else { return false };
        let mark = *low_watermark.lock();
        self.cursors.confirm(&name, producer, bounded(cursor, mark));
        true
    }

    /// The next thing that happens. Cancel-safe.
    pub async fn next(&mut self) -> Result<FollowEvent<T>, Error> {
        loop {
            if let Some((producer, why)) = self.active.take_ended() {
                return Ok(FollowEvent::Ended(producer, why));
            }
            tokio::select! {
                biased;
                () = self.active.ended() => {}
                Some(opened) = self.openings.next() => {
                    let Opened { producer, stop, outcome } = opened?;
                    match outcome {
                        _ if stop.is_cancelled() => {}
                        Ok((pipeline, egress)) => return Ok(FollowEvent::Begun(Begun { producer, pipeline, stop, egress })),
                        Err(refusal) => {
                            self.active.end(producer);
                            return Ok(FollowEvent::Refused(producer, refusal));
                        }
                    }
                }
                () = until(self.cursors.due()) => self.cursors.flush().await,
            }
        }
    }

    /// How many have yet to begin or to be refused.
    pub fn opening(&self) -> usize {
        self.openings.len()
    }

    /// Writes what was confirmed, when the connection ends.
    pub async fn finish(&mut self) {
        self.cursors.finish().await;
    }
}

/// A reader of a producer's log; or why the consumer gets none. Asks again while the database or the log is away.
async fn open(
    relay: &Relay,
    consumer: ConsumerId,
    producer: ProducerId,
    start: StartPosition,
    name: Option<&CursorName>,
    right: &FollowRight,
) -> Result<Result<(Subscriber, u64, Held), FollowRefusal>, Error> {
    let attempt = async || {
        let Some(allowance) = look_at(relay, consumer, producer).await? else { return Ok(Err(FollowRefusal::NotSubscribed)) };
        let seen = right.version();
        let allowance = right.begin(allowance);
        let Ok(held) = allowance.hold(relay, &Arc::new(Notify::new())) else { return Ok(Err(FollowRefusal::TooManyConnections)) };
        let start = match name {
            Some(name) => relay.named_cursors(consumer).position(name, producer, start).await?,
            None => start,
        };
        let mut subscriber = relay.subscriber();
        subscriber.follow(producer, held.bounded(start, relay)).await?;
        Ok(Ok((subscriber, seen, held)))
    };
    loop {
        match attempt().await {
            Err(Error::Store(e)) if matches!(*e, store::Error::TooManyNames) => return Ok(Err(FollowRefusal::TooManyCursors)),
            Err(e @ (Error::Store(_) | Error::Log(log::Error::Unavailable(_)))) => {
                warn!(%consumer, %producer, error = %e, "a follow cannot begin yet; trying again");
                sleep(RETRY_AFTER).await;
            }
            outcome => return outcome,
        }
    }
}

impl<T> Drop for Follows<T> {
    fn drop(&mut self) {
        self.active.end_all();
    }
}
