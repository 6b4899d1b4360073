//! A consumer: it says whom it wants to follow, and each of those has a stream of its own, or datagrams.

use std::{collections::HashMap, sync::Arc};

use motience_shared::{
    auth::Grant,
    model::{ConsumerId, ProducerId},
    rate::Bucket,
    relay::{
        self, ReadFrom,
        view::{self, Thinned, View},
    },
    store,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    feed::{self, Feed},
    messages::{self, Lines, Said},
    say,
    session::{Code, Ending, Outgoing, Peer},
    sessions::Place,
};

/// Why a follow is refused: a code for programs, a sentence for people, and where an expression is wrong.
struct Refusal {
    code: &'static str,
    message: String,
    column: Option<usize>,
}

/// The follows of one session.
struct Follows<'s> {
    peer: &'s Peer,
    shared: &'s Shared,
    consumer: ConsumerId,
    running: HashMap<ProducerId, CancellationToken>,
    feeds: JoinSet<Result<(), Ending>>,
}

/// Serves a consumer until it leaves or has to.
pub(super) async fn serve(
    peer: &Peer,
    (send, lines): (&mut Outgoing, &mut Lines),
    mut place: Place,
    mut grant: Grant,
    shared: &Arc<Shared>,
) -> Result<(), Ending> {
    let backend = &shared.backend;
    let consumer = grant.user.consumer();
    let changes = backend.relay.watch_subscriptions(consumer);
    let mut follows = Follows { peer, shared, consumer, running: HashMap::new(), feeds: JoinSet::new() };
    let mut pace = Bucket::new(shared.config.control);
    let over = backend.ended(&grant);
    tokio::pin!(over);
    loop {
        tokio::select! {
            biased;
            () = &mut over => return Err(messages::ended()),
            () = shared.draining.cancelled() => return Err(messages::draining()),
            () = changes.changed() => {
                for ended in follows.keep_allowed().await? {
                    say(send, peer, &ended.to_string()).await?;
                }
            }
            line = lines.next() => {
                let Some(line) = line? else { return Ok(()) };
                let said = Said::read(&line)?;
                if pace.take(1).is_err() {
                    metrics::counter!("motience_limited_total", "reason" => "control").increment(1);
                    return Err(Ending::new(Code::TooMany, "too many requests on this session (RATE_LIMIT_CONTROL)"));
                }
                let answer = match said.r#type.as_str() {
                    "subscribe" => follows.subscribe(&said).await?,
                    "unsubscribe" => {
                        let producer = said.producer()?;
                        follows.end(producer);
                        ended(producer)
                    }
                    "ping" => said.pong(),
                    "token" => {
                        let accepted = messages::renew(backend, &mut grant, said.token.as_deref())?;
                        over.set(backend.ended(&grant));
                        say(send, peer, &accepted).await?;
                        continue;
                    }
                    other => return Err(Ending::new(Code::Protocol, format!("{other} is not expected here"))),
                };
                say(send, peer, &answer.to_string()).await?;
            }
            Some(finished) = follows.feeds.join_next() => match finished {
                Ok(finished) => finished?,
                Err(e) => return Err(Ending::new(Code::Internal, format!("a feed failed: {e}"))),
            },
            stream = place.streams.recv() => return Err(match stream {
                Some(_) => Ending::new(Code::Protocol, "a consumer opens one stream"),
                None => Ending::gone("the connection is over"),
            }),
            // Nothing that a consumer could mean by it.
            Some(_) = place.datagrams.recv() => {}
        }
    }
}

impl Follows<'_> {
    /// Begins a follow, or says why not.
    async fn subscribe(&mut self, said: &Said) -> Result<Value, Ending> {
        let producer = said.producer()?;
        match self.begin(producer, said).await? {
            Ok(()) => Ok(json!({"type": "subscribed", "producer_id": producer.to_string()})),
            Err(Refusal { code, message, column }) => {
                let mut refused = json!({"type": "refused", "producer_id": producer.to_string(), "code": code, "message": message});
                if let Some(column) = column {
                    refused["column"] = column.into();
                }
                Ok(refused)
            }
        }
    }

    async fn begin(&mut self, producer: ProducerId, said: &Said) -> Result<Result<(), Refusal>, Ending> {
        let refuse = |code, message: &str| Ok(Err(Refusal { code, message: message.to_owned(), column: None }));
        if self.running.contains_key(&producer) {
            return refuse("already_subscribed", "it is followed already: unsubscribe first");
        }
        if self.running.len() >= self.shared.config.follows {
            return refuse("too_many", "this session follows as many producers as it may");
        }
        let latest = match said.lane.as_deref() {
            None | Some("records") => false,
            Some("latest") => true,
            Some(_) => return refuse("invalid_lane", "a lane is `records` or `latest`"),
        };
        let from = match said.from.as_ref().map(relay::places::Place::read) {
            None => ReadFrom::Live,
            Some(Ok(from)) => from,
            Some(Err(e)) => return refuse("invalid_place", &e.to_string()),
        };
        let view = match View::of(&said.selection) {
            Ok(view) => view,
            Err(e) => return Ok(Err(Refusal { code: view::Error::CODE, message: e.to_string(), column: Some(e.column) })),
        };
        let backend = &self.shared.backend;
        if !backend.store.is_following(self.consumer, producer).await.map_err(store_away)? {
            return refuse("not_subscribed", "the account is not subscribed to this producer");
        }
        let mut subscriber = backend.relay.subscriber();
        subscriber.follow(producer, from).await?;
        let stop = CancellationToken::new();
        let feed = Feed {
            peer: self.peer.clone(),
            producer,
            subscriber,
            thinned: Thinned::new(view, self.shared.config.view),
            received: said.received_at,
            beat: self.shared.config.beat,
            stop: stop.clone(),
        };
        if latest {
            self.feeds.spawn(feed::latest(feed));
        } else {
            self.feeds.spawn(feed::records(feed));
        }
        self.running.insert(producer, stop);
        Ok(Ok(()))
    }

    fn end(&mut self, producer: ProducerId) {
        if let Some(stop) = self.running.remove(&producer) {
            stop.cancel();
        }
    }

    /// Ends what the account is subscribed to no longer; the words that say so.
    async fn keep_allowed(&mut self) -> Result<Vec<Value>, Ending> {
        let allowed = self.shared.backend.store.follows(self.consumer).await.map_err(store_away)?;
        let gone: Vec<ProducerId> = self.running.keys().copied().filter(|producer| !allowed.contains(producer)).collect();
        gone.iter().for_each(|&producer| self.end(producer));
        Ok(gone.into_iter().map(ended).collect())
    }
}

fn ended(producer: ProducerId) -> Value {
    json!({"type": "ended", "producer_id": producer.to_string(), "code": "unsubscribed"})
}

fn store_away(error: store::Error) -> Ending {
    relay::Error::Store(Arc::new(error)).into()
}
