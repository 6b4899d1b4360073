//! A native consumer: one unidirectional stream for each producer it follows, so that none delays another.
//!
//! ```text
//! Subscribe -> opening (may it? from where?) -> feed: a task with a stream of its own -> Unsubscribe, or its right ends
//! ```
//!
//! Nothing here waits for the consumer to read: the end of a right is acted on beside the control stream, and a follow ends with
//! whatever it was about to do.

mod feed;
mod opening;

use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{
    StreamExt as _,
    future::{BoxFuture, FutureExt as _},
    stream::FuturesUnordered,
};
use motience_auth::Standing;
use motience_limits::rate::Bucket;
use motience_proto::{
    model::{Fence, ProducerId, RangeSet},
    wire::{Followed, Frame, Subscribe, TokenAccepted, Welcome, features},
};
use motience_relay::{Durable, Follows, Rights};
use motience_session::{CloseReason, renew};
use quinn::Connection;
use tokio::task::JoinSet;

use self::opening::{Opened, Opening};
use super::{
    Shared,
    control::within,
    frames::{Control, Frames, write},
};

pub(super) async fn serve(
    connection: &Connection,
    control: Control,
    standing: &Arc<Standing>,
    offered: u64,
    shared: &Arc<Shared>,
) -> Result<(), CloseReason> {
    let Control { mut send, mut recv } = control;
    let backend = &shared.backend;
    let mut out = BytesMut::new();
    Frame::Welcome(Welcome {
        node: backend.node.clone(),
        fence: Fence(0),
        seen: RangeSet::new(),
        max_record: backend.relay.limits().record as u64,
        credit: 0,
        token_expires_in: standing.expires_in(),
        durability: backend.relay.log().durability(),
        features: offered & features::VIEW,
    })
    .encode(&mut out);
    let consumer = standing.grant().user.consumer();
    let rights = Arc::new(backend.relay.rights(consumer));
    let follows = Follows::default();
    let mut session = Session {
        connection,
        shared,
        standing,
        rights: &rights,
        follows: &follows,
        durable: backend.relay.durable(consumer),
        openings: FuturesUnordered::new(),
        feeds: JoinSet::new(),
        pace: Bucket::new(shared.config.control),
        out,
        drain_told: false,
    };
    tokio::select! {
        biased;
        // Beside the control stream, which may be full.
        never = rights.keep(&follows) => match never {},
        ending = session.run(&mut recv, &mut send) => ending,
    }
}

struct Session<'s> {
    connection: &'s Connection,
    shared: &'s Arc<Shared>,
    standing: &'s Arc<Standing>,
    rights: &'s Arc<Rights>,
    follows: &'s Follows,
    durable: Durable,
    /// Follows that have yet to begin.
    openings: FuturesUnordered<BoxFuture<'static, Result<Opened, CloseReason>>>,
    feeds: JoinSet<Result<(), CloseReason>>,
    /// How much the consumer may still ask for.
    pace: Bucket,
    /// Frames on their way to the consumer.
    out: BytesMut,
    drain_told: bool,
}

impl Session<'_> {
    async fn run(&mut self, recv: &mut Frames, send: &mut quinn::SendStream) -> Result<(), CloseReason> {
        let shared = self.shared;
        loop {
            for producer in self.follows.take_ended() {
                self.followed(producer, "unsubscribed");
            }
            if !self.out.is_empty() {
                within(shared.config.write, write(send, &mut self.out)).await?;
            }
            // What ends comes before what begins, so that as much has ended as was asked to.
            let busy = self.feeds.len() + self.openings.len() >= 2 * shared.config.max_follows;
            tokio::select! {
                biased;
                () = self.follows.ended() => {}
                Some(finished) = self.feeds.join_next() => match finished {
                    Ok(finished) => finished?,
                    Err(e) => return Err(CloseReason::internal(format!("a feed failed: {e}"))),
                },
                Some(opened) = self.openings.next() => self.begin(opened?),
                () = shared.draining.cancelled(), if !self.drain_told => {
                    Frame::Drain.encode(&mut self.out);
                    self.drain_told = true;
                }
                () = self.durable.due() => self.durable.flush().await,
                frame = recv.next(), if !busy => match frame? {
                    Some(Frame::Done) => {
                        self.durable.finish().await;
                        return Ok(());
                    }
                    Some(frame) => self.take(frame).await?,
                    None => return Err(CloseReason::gone("the consumer closed its control stream")),
                },
            }
            // However fast the consumer speaks.
            tokio::task::consume_budget().await;
        }
    }

    async fn take(&mut self, frame: Frame) -> Result<(), CloseReason> {
        // Confirmations cost nothing.
        if !matches!(frame, Frame::Confirm(_)) && self.pace.take(1).is_err() {
            metrics::counter!("motience_limited_total", "reason" => "control").increment(1);
            return Err(CloseReason::TooManyRequests);
        }
        match frame {
            Frame::Subscribe(subscribe) => self.subscribe(&subscribe),
            Frame::Unsubscribe(unsubscribe) => {
                self.follows.end(unsubscribe.producer);
                self.followed(unsubscribe.producer, "unsubscribed");
            }
            Frame::Confirm(confirm) => {
                // Of a follow that ended in between, or without a name, there is no cursor to move.
                if let Some(name) = self.follows.durable(confirm.producer) {
                    self.durable.confirm(&name, confirm.producer, confirm.cursor);
                }
            }
            Frame::TokenRefresh(refresh) => {
                let expires_in = renew(&self.shared.backend, self.standing, &refresh.token).await?;
                Frame::TokenAccepted(TokenAccepted { expires_in }).encode(&mut self.out);
            }
            Frame::Ping => Frame::Pong.encode(&mut self.out),
            Frame::Pong => {}
            other => return Err(CloseReason::unexpected(&other)),
        }
        Ok(())
    }

    fn subscribe(&mut self, subscribe: &Subscribe) {
        let producer = subscribe.producer;
        if self.follows.contains(producer) {
            return self.followed(producer, "");
        }
        if self.follows.len() >= self.shared.config.max_follows {
            return self.followed(producer, "too_many");
        }
        match Opening::read(subscribe) {
            Ok(opening) => {
                // Before anyone is asked whether it may be, so that word of its end cannot be missed.
                let stop = self.follows.enter(producer, opening.name.clone());
                self.openings.push(opening.run(Arc::clone(self.shared), Arc::clone(self.rights), stop).boxed());
            }
            Err(refusal) => self.followed(producer, refusal),
        }
    }

    /// A follow may begin, or not.
    fn begin(&mut self, opened: Opened) {
        let Opened { producer, stop, outcome } = opened;
        match outcome {
            // Whoever ended it has said so.
            _ if stop.is_cancelled() => {}
            Ok(feed) => {
                let feed = feed.run(self.connection.clone(), Arc::clone(self.standing), Arc::clone(self.rights), stop);
                self.feeds.spawn(feed);
                self.followed(producer, "");
            }
            Err(refusal) => {
                self.follows.end(producer);
                self.followed(producer, refusal);
            }
        }
    }

    fn followed(&mut self, producer: ProducerId, refusal: &str) {
        Frame::Followed(Followed { producer, refusal: refusal.to_owned() }).encode(&mut self.out);
    }
}
