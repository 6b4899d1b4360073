//! A native consumer over QUIC: its control stream in frames, and a unidirectional stream for each producer it follows, so that none
//! delays another.

mod delivery;

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use futures_util::future::BoxFuture;
use motience_auth::Standing;
use motience_proto::{
    model::{Fence, ProducerId, RangeSet, Selection, times},
    wire::{Followed, Frame, Start, Subscribe, TokenAccepted, Welcome, features},
};
use motience_relay::{
    StartPosition,
    pipeline::{Begun, Follow, Options, Request as Wishes, selection},
};
use motience_runtime::lifecycle::Leave;
use motience_session::{Answer, CloseReason, ConsumerTransport, Host, Refusal, Request, consume};
use quinn::Connection;
use time::OffsetDateTime;

use super::{
    Shared,
    control::within,
    frames::{Control, write},
};

/// Features that a consumer may use.
const FEATURES: u64 = features::SELECTION | features::ORDER | features::CAUSES;

pub(super) async fn serve(
    connection: &Connection,
    control: Control,
    standing: &Arc<Standing>,
    offered: u64,
    (shared, leave): (&Shared, &Leave),
) -> Result<(), CloseReason> {
    let (backend, config) = (&shared.backend, &shared.config);
    let features = offered & FEATURES;
    let form = Form { write: config.write, causes: features & features::CAUSES != 0 };
    let mut consumer = Consumer { connection, control, form };
    consumer
        .write(&Frame::Welcome(Welcome {
            node: backend.node.clone(),
            fence: Fence(0),
            seen: RangeSet::new(),
            max_record: backend.relay.limits().record as u64,
            credit: 0,
            token_expires_in: standing.expires_in(),
            durability: backend.relay.log().durability(),
            features,
        }))
        .await?;
    let host = Host { backend, limits: config.session, draining: leave.asked() };
    consume(&mut consumer, standing, host).await
}

struct Consumer<'s> {
    connection: &'s Connection,
    control: Control,
    form: Form,
}

/// How a consumer is written to.
#[derive(Clone, Copy)]
struct Form {
    /// Time for it to take a write.
    write: Duration,
    /// Whether it reads the causes of gaps.
    causes: bool,
}

impl Consumer<'_> {
    async fn write(&mut self, frame: &Frame) -> Result<(), CloseReason> {
        let mut out = BytesMut::new();
        frame.encode(&mut out);
        within(self.form.write, write(&mut self.control.send, &mut out)).await
    }
}

impl ConsumerTransport for Consumer<'_> {
    type Form = ();

    async fn recv(&mut self) -> Result<Request<()>, CloseReason> {
        let frame = self.control.recv.next().await?;
        Ok(match frame.ok_or_else(|| CloseReason::gone("the consumer closed its control stream"))? {
            Frame::Subscribe(subscribe) => Request::Subscribe(subscribe.producer, follow(subscribe)),
            Frame::Unsubscribe(unsubscribe) => Request::Unsubscribe(unsubscribe.producer),
            Frame::Confirm(confirm) => Request::Confirm(vec![(confirm.producer, confirm.cursor)]),
            Frame::TokenRefresh(refresh) => Request::Renew(refresh.token),
            Frame::Ping => Request::Ping(None),
            Frame::Pong => Request::Pong,
            Frame::Done => Request::Done,
            other => return Err(CloseReason::unexpected(&other)),
        })
    }

    async fn send(&mut self, answer: Answer) -> Result<(), CloseReason> {
        let frame = match answer {
            Answer::Following(producer) => followed(producer, ""),
            Answer::Refused(producer, refusal) => followed(producer, refusal.code),
            Answer::Ended(producer, why) => followed(producer, why),
            Answer::Renewed(expires_in) => Frame::TokenAccepted(TokenAccepted { expires_in }),
            Answer::Pong(_) => Frame::Pong,
            Answer::Drain => Frame::Drain,
            // A follow without a name has no cursor to move, and motience/1 has no word for that.
            Answer::Error(..) => return Ok(()),
        };
        self.write(&frame).await
    }

    fn deliver(&self, follow: Begun<()>) -> BoxFuture<'static, Result<(), CloseReason>> {
        Box::pin(delivery::run(follow, self.connection.clone(), self.form))
    }
}

fn followed(producer: ProducerId, refusal: &str) -> Frame {
    Frame::Followed(Followed { producer, refusal: refusal.to_owned() })
}

/// The follow that a frame asks for. The client made the text of a selection, so the place of a mistake in it is told over HTTP only,
/// where people try expressions.
fn follow(subscribe: Subscribe) -> Result<Follow<()>, Refusal> {
    let selection = match subscribe.selection.as_str() {
        "" => Selection::default(),
        text => serde_json::from_str(text).map_err(|e| Refusal::new(selection::Error::CODE, &e))?,
    };
    let durable = Some(subscribe.cursor_name).filter(|name| !name.is_empty());
    let options = Options { order: subscribe.order, ..Wishes { selection, order: None, durable }.read()? };
    Ok(Follow { producer: subscribe.producer, start: start(subscribe.start), options, egress: () })
}

fn start(start: Start) -> StartPosition {
    match start {
        Start::Live => StartPosition::Live,
        Start::Earliest => StartPosition::Earliest,
        Start::After(cursor) => StartPosition::After(cursor),
        Start::Time(ms) => StartPosition::Time(times::from_millis(ms).unwrap_or(OffsetDateTime::UNIX_EPOCH)),
    }
}
