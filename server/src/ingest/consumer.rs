//! A native consumer: one unidirectional stream for each producer it follows, so that none delays another.
//!
//! ```text
//! Subscribe -> follows (may it? from where?) -> delivery: a task with a pipeline and a stream of its own -> Unsubscribe, or its right ends
//! ```
//!
//! Nothing here waits for the consumer to read: the end of a right is acted on beside the control stream, and a delivery ends with
//! whatever it was about to do.

mod delivery;

use std::sync::Arc;

use bytes::BytesMut;
use motience_auth::Standing;
use motience_limits::rate::Bucket;
use motience_proto::{
    model::{CursorName, Fence, ProducerId, RangeSet, Selection, times},
    wire::{Followed, Frame, Start, Subscribe, Welcome, features},
};
use motience_relay::{
    StartPosition,
    pipeline::{
        Asked, Follow, FollowEvent, Follows, Options,
        selection::{self, Selector},
    },
};
use motience_session::{CloseReason, ration, refreshed};
use quinn::Connection;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::{
    Shared,
    control::within,
    frames::{Control, Frames, write},
};

/// Features that a consumer may use.
const FEATURES: u64 = features::SELECTION | features::ORDER;

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
        features: offered & FEATURES,
    })
    .encode(&mut out);
    let follows = backend.relay.follows(Arc::clone(standing), shared.config.max_follows);
    let rights = follows.keep();
    let mut session = Session {
        connection,
        shared,
        standing,
        follows,
        deliveries: JoinSet::new(),
        pace: Bucket::new(shared.config.control),
        out,
        drain_told: false,
    };
    tokio::select! {
        biased;
        // Beside the control stream, which may be full.
        never = rights => match never {},
        ending = session.run(&mut recv, &mut send) => ending,
    }
}

struct Session<'s> {
    connection: &'s Connection,
    shared: &'s Arc<Shared>,
    standing: &'s Arc<Standing>,
    follows: Follows<()>,
    deliveries: JoinSet<Result<(), CloseReason>>,
    /// Requests that the consumer may still make.
    pace: Bucket,
    /// Frames on their way to the consumer.
    out: BytesMut,
    drain_told: bool,
}

impl Session<'_> {
    async fn run(&mut self, recv: &mut Frames, send: &mut quinn::SendStream) -> Result<(), CloseReason> {
        let shared = self.shared;
        loop {
            if !self.out.is_empty() {
                within(shared.config.write, write(send, &mut self.out)).await?;
            }
            // Ends come before beginnings, so that every follow that was to end has ended first.
            let busy = self.deliveries.len() + self.follows.opening() >= 2 * shared.config.max_follows;
            tokio::select! {
                biased;
                Some(finished) = self.deliveries.join_next() => match finished {
                    Ok(finished) => finished?,
                    Err(e) => return Err(CloseReason::internal(format!("a delivery failed: {e}"))),
                },
                event = self.follows.next() => self.follow(event?),
                () = shared.draining.cancelled(), if !self.drain_told => {
                    Frame::Drain.encode(&mut self.out);
                    self.drain_told = true;
                }
                frame = recv.next(), if !busy => match frame? {
                    Some(Frame::Done) => {
                        self.follows.finish().await;
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
        if !matches!(frame, Frame::Confirm(_)) {
            ration(&mut self.pace, 1)?;
        }
        match frame {
            Frame::Subscribe(subscribe) => self.subscribe(&subscribe),
            Frame::Unsubscribe(unsubscribe) => {
                self.follows.end(unsubscribe.producer);
                self.followed(unsubscribe.producer, "unsubscribed");
            }
            // A follow without a name has no cursor to move.
            Frame::Confirm(confirm) => drop(self.follows.confirm(confirm.producer, confirm.cursor)),
            Frame::TokenRefresh(refresh) => refreshed(&self.shared.backend, self.standing, &refresh).await?.encode(&mut self.out),
            Frame::Ping => Frame::Pong.encode(&mut self.out),
            Frame::Pong => {}
            other => return Err(CloseReason::unexpected(&other)),
        }
        Ok(())
    }

    fn subscribe(&mut self, subscribe: &Subscribe) {
        let producer = subscribe.producer;
        let answer = match options(subscribe) {
            Err(code) => code,
            Ok(options) => match self.follows.ask(Follow { producer, start: start(subscribe.start), options, egress: () }) {
                Ok(Asked::Later) => return,
                Ok(Asked::Already) => "",
                Err(refusal) => refusal.code(),
            },
        };
        self.followed(producer, answer);
    }

    fn follow(&mut self, event: FollowEvent<()>) {
        match event {
            FollowEvent::Begun { producer, pipeline, stop, egress: () } => {
                self.deliveries.spawn(delivery::run(producer, *pipeline, stop, self.connection.clone(), self.shared.config.write));
                self.followed(producer, "");
            }
            FollowEvent::Refused(producer, refusal) => self.followed(producer, refusal.code()),
            FollowEvent::Ended(producer) => self.followed(producer, "unsubscribed"),
        }
    }

    fn followed(&mut self, producer: ProducerId, refusal: &str) {
        Frame::Followed(Followed { producer, refusal: refusal.to_owned() }).encode(&mut self.out);
    }
}

fn start(start: Start) -> StartPosition {
    match start {
        Start::Live => StartPosition::Live,
        Start::Earliest => StartPosition::Earliest,
        Start::After(cursor) => StartPosition::After(cursor),
        Start::Time(ms) => StartPosition::Time(times::from_millis(ms).unwrap_or(OffsetDateTime::UNIX_EPOCH)),
    }
}

/// The options of a follow, or the code of its refusal. The client made the text of a selection, so what is wrong with its expressions
/// is told over HTTP, where people try them.
fn options(subscribe: &Subscribe) -> Result<Options, &'static str> {
    let selection = if subscribe.selection.is_empty() {
        Selection::default()
    } else {
        serde_json::from_str(&subscribe.selection).map_err(|_| selection::Error::CODE)?
    };
    let selector = Selector::of(&selection).map_err(|_| selection::Error::CODE)?;
    let cursor = match subscribe.cursor_name.as_str() {
        "" => None,
        name => Some(CursorName::new(name).map_err(|_| "invalid_cursor_name")?),
    };
    Ok(Options { order: subscribe.order, selector, cursor })
}
