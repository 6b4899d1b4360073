//! A consumer: it says whom it wants to follow, and each of those has a stream of its own, or datagrams.

use std::sync::Arc;

use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use motience_auth::Standing;
use motience_h3::Inbox;
use motience_limits::rate::Bucket;
use motience_proto::model::ProducerId;
use motience_relay::{
    self as relay, Follows, ReadFrom, Rights,
    view::{self, Thinned, View},
};
use motience_session::{CloseReason, renewal_reply};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    feed::{self, Feed},
    messages::{Lines, Said},
    say,
    session::{Outgoing, Peer},
};

/// Why a follow is refused: a code for programs, a sentence for people, and where an expression is wrong.
struct Refusal {
    code: &'static str,
    message: String,
    column: Option<usize>,
}

/// A follow that may begin, or not.
struct Opened {
    producer: ProducerId,
    latest: bool,
    stop: CancellationToken,
    outcome: Result<Feed, Refusal>,
}

/// The follows of one session.
struct Session<'s> {
    peer: &'s Peer,
    shared: &'s Shared,
    standing: &'s Arc<Standing>,
    rights: &'s Arc<Rights>,
    follows: &'s Follows,
    /// Follows that have yet to begin.
    openings: FuturesUnordered<BoxFuture<'static, Result<Opened, CloseReason>>>,
    feeds: JoinSet<Result<(), CloseReason>>,
    /// How much the client may still ask for.
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
    let rights = Arc::new(shared.backend.relay.rights(standing.grant().user.consumer()));
    let follows = Follows::default();
    let (openings, feeds) = (FuturesUnordered::new(), JoinSet::new());
    let pace = Bucket::new(shared.config.control);
    let mut session = Session { peer, shared, standing, rights: &rights, follows: &follows, openings, feeds, pace };
    tokio::select! {
        biased;
        // Beside the control stream, which may be full.
        never = rights.keep(&follows) => match never {},
        ending = session.run(send, lines, &mut place) => ending,
    }
}

impl Session<'_> {
    async fn run(&mut self, send: &mut Outgoing, lines: &mut Lines, place: &mut Inbox) -> Result<(), CloseReason> {
        loop {
            for producer in self.follows.take_ended() {
                say(send, self.peer, &ended(producer).to_string()).await?;
            }
            // What ends comes before what begins, so that as much has ended as was asked to.
            let busy = self.feeds.len() + self.openings.len() >= 2 * self.shared.config.follows;
            let answer = tokio::select! {
                biased;
                () = self.shared.draining.cancelled() => return Err(CloseReason::Draining),
                () = self.follows.ended() => None,
                Some(finished) = self.feeds.join_next() => match finished {
                    Ok(finished) => finished.map(|()| None)?,
                    Err(e) => return Err(CloseReason::internal(format!("a feed failed: {e}"))),
                },
                Some(opened) = self.openings.next() => self.begin(opened?),
                stream = place.streams.recv() => return Err(match stream {
                    Some(_) => CloseReason::protocol("a consumer opens one stream"),
                    None => CloseReason::gone("the connection is over"),
                }),
                // Nothing that a consumer could mean by it.
                Some(_) = place.datagrams.recv() => None,
                line = lines.next(), if !busy => {
                    let Some(line) = line? else { return Ok(()) };
                    self.take(&Said::read(&line)?).await?
                }
            };
            if let Some(answer) = answer {
                say(send, self.peer, &answer).await?;
            }
            // However fast the client speaks.
            tokio::task::consume_budget().await;
        }
    }

    async fn take(&mut self, said: &Said) -> Result<Option<String>, CloseReason> {
        if self.pace.take(1).is_err() {
            metrics::counter!("motience_limited_total", "reason" => "control").increment(1);
            return Err(CloseReason::TooManyRequests);
        }
        Ok(match said.r#type.as_str() {
            "subscribe" => {
                let producer = said.producer()?;
                self.subscribe(producer, said).err().map(|refusal| refused(producer, refusal))
            }
            "unsubscribe" => {
                let producer = said.producer()?;
                self.follows.end(producer);
                Some(ended(producer).to_string())
            }
            "ping" => Some(said.pong().to_string()),
            "token" => Some(renewal_reply(&self.shared.backend, self.standing, said.token.as_deref()).await?),
            other => return Err(CloseReason::protocol(format!("{other} is not expected here"))),
        })
    }

    /// Has a follow begin once it may, or says why not.
    fn subscribe(&mut self, producer: ProducerId, said: &Said) -> Result<(), Refusal> {
        let refuse = |code, message: &str| Refusal { code, message: message.to_owned(), column: None };
        if self.follows.contains(producer) {
            return Err(refuse("already_subscribed", "it is followed already: unsubscribe first"));
        }
        if self.follows.len() >= self.shared.config.follows {
            return Err(refuse("too_many", "this session follows as many producers as it may"));
        }
        let latest = match said.lane.as_deref() {
            None | Some("records") => false,
            Some("latest") => true,
            Some(_) => return Err(refuse("invalid_lane", "a lane is `records` or `latest`")),
        };
        let from = match said.from.as_ref().map(relay::places::Place::read) {
            None => ReadFrom::Live,
            Some(Ok(from)) => from,
            Some(Err(e)) => return Err(refuse("invalid_place", &e.to_string())),
        };
        let view =
            View::of(&said.selection).map_err(|e| Refusal { code: view::Error::CODE, message: e.to_string(), column: Some(e.column) })?;
        // Before anyone is asked whether it may be, so that word of its end cannot be missed.
        let stop = self.follows.enter(producer, None);
        let (peer, standing, rights) = (self.peer.clone(), Arc::clone(self.standing), Arc::clone(self.rights));
        let (thinned, received, beat) = (Thinned::new(view, self.shared.config.view), said.received_at, self.shared.config.beat);
        let opening = async move {
            let opened = stop.run_until_cancelled(rights.open(producer, from, None)).await;
            let outcome = match opened.transpose()? {
                None => Err(refuse("unsubscribed", "it was unsubscribed before it began")),
                Some(None) => Err(refuse("not_subscribed", "the account is not subscribed to this producer")),
                Some(Some(subscriber)) => {
                    Ok(Feed { peer, producer, subscriber, thinned, received, beat, standing, rights, stop: stop.clone() })
                }
            };
            Ok(Opened { producer, latest, stop, outcome })
        };
        self.openings.push(opening.boxed());
        Ok(())
    }

    /// What the client is told of a follow that may begin, or not.
    fn begin(&mut self, opened: Opened) -> Option<String> {
        let Opened { producer, latest, stop, outcome } = opened;
        if stop.is_cancelled() {
            // Whoever ended it has said so.
            return None;
        }
        Some(match outcome {
            Ok(feed) => {
                if latest {
                    self.feeds.spawn(feed::latest(feed));
                } else {
                    self.feeds.spawn(feed::records(feed));
                }
                json!({"type": "subscribed", "producer_id": producer.to_string()}).to_string()
            }
            Err(refusal) => {
                self.follows.end(producer);
                refused(producer, refusal)
            }
        })
    }
}

fn refused(producer: ProducerId, refusal: Refusal) -> String {
    let Refusal { code, message, column } = refusal;
    let mut refused = json!({"type": "refused", "producer_id": producer.to_string(), "code": code, "message": message});
    if let Some(column) = column {
        refused["column"] = column.into();
    }
    refused.to_string()
}

fn ended(producer: ProducerId) -> Value {
    json!({"type": "ended", "producer_id": producer.to_string(), "code": "unsubscribed"})
}
