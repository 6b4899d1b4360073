//! The producer while it is connected: sends within the credit, handles acknowledgements, renews the token.

use std::{future::pending, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use motience_proto::wire::{CloseCode, Health, Intent, Record, Refused};
use tokio::time::{self, Instant};

use super::{
    LinkState,
    context::Context,
    health::{self, Reporter},
    shared::Shared,
    silence::{Silence, Verdict},
};
use crate::{
    client::{Error, Event, Lane, Session, Transport},
    policy::Failure,
    renewal::Renewal,
};

/// Records sent on the connection before it is listened to again.
const TURN: usize = 256;
/// How often the connection is looked at while records are in flight.
const POLL: Duration = Duration::from_millis(100);
/// How long the `Welcome` of a connection that took the tunnel's place may take, once the tunnel is closed for it.
const TAKE_OVER: Duration = Duration::from_secs(5);
/// Wait before QUIC is tried from a tunnel, doubled each time up to the second.
const PROBE_AFTER: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];

/// How a connection ended.
pub(super) enum End {
    /// The producer is shut down.
    Shut,
    Failed(Failure),
    /// Another one, over QUIC, took the tunnel's place.
    Changed(Session),
}

pub(super) struct Connected<'a> {
    context: &'a Context,
    shared: Arc<Shared>,
    session: Session,
    credit: u64,
    max_record: usize,
    renewal: Renewal,
    /// The time of the last sign that records are acknowledged.
    progress: Instant,
    /// Until when the server, which goes away, may acknowledge the records in flight.
    drain: Option<Instant>,
    silence: Silence,
    /// An attempt to get from the tunnel to QUIC, and the wait before the next.
    probe: Pin<Box<dyn Future<Output = Option<Session>> + Send + 'a>>,
    probe_after: Duration,
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
    pub(super) fn new(context: &'a Context, session: Session) -> Self {
        let welcome = session.welcome();
        let (credit, life) = (welcome.credit, welcome.token_expires_in);
        let max_record = usize::try_from(welcome.max_record).unwrap_or(usize::MAX);
        let renewal = Renewal::new(context.credentials.clone(), life);
        let (now, shared) = (Instant::now(), context.shared.clone());
        let silence = Silence::new(context.connector.config().fallback.is_some());
        let [probe_after, _] = PROBE_AFTER;
        let probe: Pin<Box<dyn Future<Output = _> + Send>> = match session.transport() {
            Transport::Tunnel => Box::pin(probe(context, probe_after)),
            _ => Box::pin(pending()),
        };
        Self { context, shared, session, credit, max_record, renewal, progress: now, drain: None, silence, probe, probe_after }
    }

    /// Until the connection ends.
    pub(super) async fn run(mut self) -> End {
        let mut polls = time::interval(POLL);
        polls.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut healths = time::interval_at(Instant::now() + health::FIRST, health::EVERY);
        healths.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut reporter = Reporter::new(self.context.connector.config().quic.keep_alive);
        loop {
            let (pause, in_flight) = match self.advance().await {
                Ok(state) => state,
                Err(error) => return End::Failed(error.into()),
            };
            if self.drain.is_some() && in_flight == 0 {
                self.session.finish().await;
                return End::Failed(Failure::Drained);
            }
            let watched = self.session.transport() == Transport::Quic;
            self.silence.in_flight(Instant::now(), watched && in_flight > 0);
            let patience = self.drain.unwrap_or(self.progress + self.context.config.ack_timeout);
            let more = more(&pause, &self.session, self.shared.clone());
            // Every arm is cancel-safe: what is not taken now is there the next time.
            tokio::select! {
                biased;
                () = self.context.cancel.cancelled() => {
                    self.session.finish().await;
                    return End::Shut;
                }
                event = self.session.next() => match event {
                    Ok(event) => self.handle(event),
                    Err(error) => return self.taken_over(error).await,
                },
                renewed = self.renewal.next() => match renewed {
                    Ok(token) => {
                        if let Err(error) = self.session.renew(&token).await {
                            return End::Failed(error.into());
                        }
                    }
                    Err(error) => return End::Failed(error.into()),
                },
                () = time::sleep_until(patience), if in_flight > 0 => {
                    let draining = self.drain.is_some();
                    self.session.finish().await;
                    return End::Failed(if draining { Failure::Drained } else { Failure::Unacknowledged });
                }
                _ = polls.tick(), if watched && in_flight > 0 => {
                    if self.is_silent() {
                        return End::Failed(Failure::Silent);
                    }
                }
                _ = healths.tick() => {
                    let health = self.health();
                    if reporter.is_due(health, Instant::now()) {
                        self.session.report_health(health);
                    }
                }
                other = &mut self.probe => match other {
                    Some(other) => return End::Changed(other),
                    None => {
                        self.probe_after = (self.probe_after * 2).min(PROBE_AFTER[1]);
                        self.probe = Box::pin(probe(self.context, self.probe_after));
                    }
                },
                () = more => {}
            }
        }
    }

    /// Sends as much as may be sent now. Returns why no more is sent, and how many records are in flight.
    async fn advance(&mut self) -> Result<(Pause, u64), Error> {
        self.send_latest();
        if self.shared.lock().outbox.in_flight() == 0 {
            // Patience begins with what is sent now, not with the idle time before it.
            self.progress = Instant::now();
        }
        let pause = self.send();
        let abandoned = self.shared.lock().outbox.report_abandoned();
        if let Some(abandoned) = abandoned {
            self.session.skip(abandoned).await?;
        }
        Ok((pause, self.shared.lock().outbox.in_flight()))
    }

    /// The tunnel may end because the connection that is to take its place took over: then that one is waited for.
    async fn taken_over(self, error: Error) -> End {
        if self.session.transport() == Transport::Tunnel
            && matches!(error, Error::Closed { code: CloseCode::Fenced, .. })
            && let Ok(Some(other)) = time::timeout(TAKE_OVER, self.probe).await
        {
            return End::Changed(other);
        }
        End::Failed(error.into())
    }

    /// Whether the connection is to be given up because nothing is heard.
    fn is_silent(&mut self) -> bool {
        let Some(stats) = self.session.connection().map(quinn::Connection::stats) else { return false };
        match self.silence.poll(Instant::now(), stats.udp_rx.datagrams, stats.path.rtt) {
            Verdict::Fine => false,
            Verdict::Rebind => {
                tracing::info!("no packets from the server: switching to a new local port");
                self.shared.lock().counters.transport.rebinds += 1;
                if let Err(error) = self.context.connector.rebind() {
                    tracing::warn!(%error, "there is no other port");
                }
                false
            }
            Verdict::GiveUp => true,
        }
    }

    fn health(&self) -> Health {
        let backlog = self.shared.lock().outbox.len() as u64;
        Health { backlog, loss_ppm: self.session.loss().map(|share| (share * 1e6) as u64) }
    }

    /// Sends what is worth sending only now.
    fn send_latest(&self) {
        let mut state = self.shared.lock();
        while let Some(json) = state.latest.pop_front() {
            if self.session.send_latest(json) {
                state.counters.link.latest_sent += 1;
            } else {
                state.counters.link.latest_dropped += 1;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Acked(ranges) => {
                self.progress = Instant::now();
                self.session.acked(&ranges);
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
                self.drain = Some(Instant::now() + self.context.config.drain_timeout);
                self.shared.set_link(LinkState::Draining);
            }
            Event::TokenAccepted(life) => {
                tracing::debug!(life, "token renewed");
                self.renewal.accepted(life);
            }
            Event::Drain | Event::Subscriber(_) | Event::Followed { .. } | Event::Gap(_) | Event::Cursor { .. } | Event::Entries { .. } => {
            }
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
                if state.outbox.in_flight() >= self.credit {
                    break Pause::Idle;
                }
                if turn == TURN {
                    break Pause::Turn;
                }
                let Some(item) = state.outbox.peek(self.credit) else { break Pause::Idle };
                if item.json.len() > self.max_record {
                    // Sending it would end the connection; and again after every reconnect.
                    too_large.push((item.seq, item.json.len()));
                    state.outbox.send(self.credit);
                    continue;
                }
                // A reference count, not a copy.
                let record = Record { seq: item.seq, json: Bytes::clone(&item.json) };
                let lane = item.lane;
                if self.session.try_send(lane, record).is_err() {
                    break Pause::Lane(lane);
                }
                state.outbox.send(self.credit);
                state.counters.outbox.sent += 1;
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

/// Tries QUIC after a wait.
async fn probe(context: &Context, wait: Duration) -> Option<Session> {
    time::sleep(wait).await;
    let token = context.credentials.token().await.ok()?;
    let epoch = context.shared.lock().outbox.epoch();
    match context.connector.connect(&token, Intent::Produce, epoch).await {
        Ok(session) => Some(session),
        Err(error) => {
            tracing::debug!(%error, "QUIC does not work yet");
            None
        }
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
