//! The producer while it is connected: sends within the credit, settles what the server answers, renews the token.

use std::sync::Arc;

use bytes::Bytes;
use motience_shared::wire::{Record, Refused};
use tokio::time::{self, Instant};

use super::{LinkState, actor::Actor, shared::Shared};
use crate::{
    client::{Event, Lane, Session},
    policy::Failure,
    renewal::Renewal,
};

/// Records given to the connection before it is listened to again.
const TURN: usize = 256;

pub(super) struct Connected<'a> {
    actor: &'a Actor,
    shared: Arc<Shared>,
    session: Session,
    credit: u64,
    max_record: usize,
    renewal: Renewal,
    /// The time of the last sign that records are acknowledged.
    progress: Instant,
    /// Until when the server, which goes away, is given to settle what is under way.
    drain: Option<Instant>,
}

/// Why nothing more is sent just now.
enum Pause {
    /// Everything is sent, or the credit is used up: only an event or new work can change that.
    Idle,
    /// The lane has no room.
    Lane(Lane),
    /// The turn is over; there may be more.
    Turn,
}

impl<'a> Connected<'a> {
    pub(super) fn new(actor: &'a Actor, session: Session) -> Self {
        let welcome = session.welcome();
        let (credit, life) = (welcome.credit, welcome.token_expires_in);
        let max_record = usize::try_from(welcome.max_record).unwrap_or(usize::MAX);
        let renewal = Renewal::new(actor.credentials.clone(), life);
        Self { actor, shared: actor.shared.clone(), session, credit, max_record, renewal, progress: Instant::now(), drain: None }
    }

    /// Until the connection ends. `None`: the producer is shut down.
    pub(super) async fn run(mut self) -> Option<Failure> {
        loop {
            let pause = self.send();
            let skipped = self.shared.lock().outbox.tell();
            if let Some(skipped) = skipped
                && let Err(error) = self.session.skip(skipped).await
            {
                return Some(error.into());
            }
            let under_way = self.shared.lock().outbox.under_way();
            if self.drain.is_some() && under_way == 0 {
                self.session.finish().await;
                return Some(Failure::Drained);
            }
            if under_way == 0 {
                self.progress = Instant::now();
            }
            let patience = self.drain.unwrap_or(self.progress + self.actor.config.ack_timeout);
            let more = more(&pause, &self.session, self.shared.clone());
            // Every arm is cancel-safe: what is not taken now is there the next time.
            tokio::select! {
                biased;
                () = self.actor.cancel.cancelled() => {
                    self.session.finish().await;
                    return None;
                }
                event = self.session.next() => match event {
                    Ok(event) => self.handle(event),
                    Err(error) => return Some(error.into()),
                },
                renewed = self.renewal.next() => match renewed {
                    Ok(token) => {
                        if let Err(error) = self.session.renew(&token).await {
                            return Some(error.into());
                        }
                    }
                    Err(error) => return Some(error.into()),
                },
                () = time::sleep_until(patience), if under_way > 0 => {
                    let draining = self.drain.is_some();
                    self.session.finish().await;
                    return Some(if draining { Failure::Drained } else { Failure::Unacknowledged });
                }
                () = more => {}
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Acked(ranges) => {
                self.progress = Instant::now();
                self.shared.acked(&ranges);
            }
            Event::Refused(refused) => {
                self.progress = Instant::now();
                tracing::warn!(seq = %refused.seq, code = refused.code, message = refused.message, "the server refused a record");
                self.shared.refused(refused);
            }
            Event::Credit(records) => self.credit = records,
            Event::Drain if self.drain.is_none() => {
                tracing::info!("the server is going away");
                self.drain = Some(Instant::now() + self.actor.config.drain_timeout);
                self.shared.set_link(LinkState::Draining);
            }
            Event::TokenAccepted(life) => {
                tracing::debug!(life, "token renewed");
                self.renewal.accepted(life);
            }
            Event::Drain | Event::Followed { .. } | Event::Gap(_) | Event::Feed { .. } | Event::Entries { .. } => {}
        }
    }

    /// Gives records to the connection, as far as credit and lanes let it.
    fn send(&mut self) -> Pause {
        if self.drain.is_some() {
            return Pause::Idle;
        }
        let mut too_large = Vec::new();
        let pause = {
            let mut state = self.shared.lock();
            let mut turn = 0;
            loop {
                if state.outbox.under_way() >= self.credit {
                    break Pause::Idle;
                }
                if turn == TURN {
                    break Pause::Turn;
                }
                let Some(item) = state.outbox.peek(self.credit) else { break Pause::Idle };
                if item.json.len() > self.max_record {
                    // Sending it would end the connection; and again after every reconnect.
                    too_large.push((item.seq, item.json.len()));
                    state.outbox.give(self.credit);
                    continue;
                }
                // A reference count, not a copy.
                let record = Record { seq: item.seq, json: Bytes::clone(&item.json) };
                let lane = item.lane;
                if self.session.try_send(lane, record).is_err() {
                    break Pause::Lane(lane);
                }
                state.outbox.give(self.credit);
                state.counters.sent += 1;
                turn += 1;
            }
        };
        for (seq, size) in too_large {
            let message = format!("{size} bytes, over the server's limit of {}", self.max_record);
            tracing::warn!(%seq, message, "a record cannot be sent");
            self.shared.refused_here(Refused { seq, code: "too_large".into(), message });
        }
        pause
    }
}

/// Waits until sending may go on.
fn more(pause: &Pause, session: &Session, shared: Arc<Shared>) -> impl Future<Output = ()> + use<> {
    let room = if let Pause::Lane(lane) = pause { Some(session.room(*lane)) } else { None };
    let idle = matches!(pause, Pause::Idle);
    async move {
        match room {
            Some(room) => room.await,
            None if idle => shared.work.notified().await,
            // Lets the other arms, and on a single thread the other tasks, have their turn.
            None => tokio::task::yield_now().await,
        }
    }
}
