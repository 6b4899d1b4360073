//! The producer's task: logs in, connects, waits, stops. [`super::connected`] has the time in between.

use motience_mutation::Mutation;
use motience_proto::{
    model::{RangeSet, Seq},
    wire::{CloseCode, Record},
};
use tokio::time::{self, Instant};

use super::{
    LinkState,
    connected::{Connected, End},
    context::Context,
};
use crate::{
    client::{self, Event, Lane, Session, Transport},
    outbox::{Outbox, difference},
    policy::{Failure, Next, Tried},
};

/// Most records, and bytes of them, in the first flight of a connection: it must not take more than a few packets.
const EARLY: u64 = 32;
const EARLY_BYTES: usize = 8 * 1024;

pub(super) struct Actor {
    context: Context,
    tried: Tried,
    /// The last connection ended in silence: the tunnel is tried at once beside QUIC.
    silent: bool,
    /// The last number that was sent before the present attempt to connect, and what its first flight carries.
    before: Seq,
    early: Vec<Seq>,
}

impl Actor {
    pub(super) fn new(context: Context) -> Self {
        let tried = Tried { can_login: context.credentials.can_renew(), ..Tried::default() };
        Self { context, tried, silent: false, before: Seq(0), early: Vec::new() }
    }

    pub(super) async fn run(mut self) {
        let cancel = self.context.cancel.clone();
        let mut first = true;
        loop {
            self.context.shared.set_link(LinkState::Connecting);
            let failure = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                connected = self.connect() => match connected {
                    Ok(session) => {
                        if !first {
                            self.context.shared.lock().counters.transport.reconnects += 1;
                        }
                        first = false;
                        match self.stay(session).await {
                            Some(failure) => failure,
                            None => break,
                        }
                    }
                    Err(failure) => failure,
                },
            };
            self.silent = matches!(failure, Failure::Silent);
            self.note(&failure);
            let next = self.context.config.policy.next(&failure, self.tried, fastrand::f64());
            self.tried.attempts = self.tried.attempts.saturating_add(1);
            let wait = match next {
                Next::Stop => {
                    tracing::error!(failure = %self.explain(&failure), "stopped for good");
                    self.context.shared.lock().stopped = Some(failure);
                    break;
                }
                Next::Login(wait) => {
                    self.context.credentials.forget().await;
                    wait
                }
                Next::Retry(wait) => wait,
            };
            tracing::warn!(failure = %self.explain(&failure), ?wait, attempts = self.tried.attempts, "not connected");
            self.context.shared.set_link(LinkState::Waiting);
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = time::sleep(wait) => {}
            }
        }
        self.context.shared.set_link(LinkState::Stopped);
        self.context.shared.room.notify_waiters();
    }

    async fn connect(&mut self) -> Result<Session, Failure> {
        // Whether this token comes straight from the password: if it is refused, another would be too.
        let (token, fresh) = self.context.credentials.obtain().await?;
        self.tried.fresh_login = fresh;
        let (epoch, early) = {
            let mut state = self.context.shared.lock();
            state.outbox.rewind();
            self.before = state.outbox.last_sent();
            (state.outbox.epoch(), early(&mut state.outbox, self.context.connector.first_flight()))
        };
        self.early = early.iter().map(|record| record.seq).collect();
        let session = self.context.connector.produce(&token, epoch, &early, self.silent).await?;
        self.tried.fresh_login = false;
        self.context.credentials.accepted();
        let welcome = session.welcome();
        let transport = session.transport();
        tracing::info!(node = welcome.node, durability = welcome.durability, fence = %welcome.fence, transport = transport.as_str(), "connected");
        Ok(session)
    }

    /// Runs a connection, and those that it changes to, until the last one ends. `None`: the producer is shut down.
    async fn stay(&mut self, mut session: Session) -> Option<Failure> {
        loop {
            let since = Instant::now();
            if let Some(failure) = self.leave_copies(&mut session).await {
                session.finish().await;
                return Some(failure);
            }
            self.begin(&session);
            let end = Connected::new(&self.context, session).run().await;
            // Its handle would keep the connection open.
            self.context.shared.lock().uplink = None;
            if since.elapsed() >= self.context.config.policy.stable_after {
                self.tried.attempts = 0;
            }
            if since.elapsed() >= self.context.config.policy.unrivalled_after() {
                self.tried.superseded = 0;
                self.context.shared.lock().counters.transport.rivalry = 0;
            }
            match end {
                End::Shut => return None,
                End::Failed(failure) => return Some(failure),
                End::Changed(other) => {
                    tracing::info!("QUIC works again: the tunnel is left");
                    let mut state = self.context.shared.lock();
                    state.counters.transport.returns += 1;
                    self.before = state.outbox.last_sent();
                    drop(state);
                    self.early.clear();
                    session = other;
                }
            }
        }
    }

    /// Where the log has numbers that this outbox never gave out, another one did: this one is an earlier copy of itself, or somebody
    /// has a copy of it. Their acknowledgements must not be taken for ours, so this one goes on under a new epoch.
    async fn leave_copies(&mut self, session: &mut Session) -> Option<Failure> {
        let seen = session.welcome().seen.clone();
        // A fault on purpose: a device that uses numbers twice must not find out by itself.
        if !self.context.shared.lock().outbox.is_copied(&seen, self.before) || Mutation::IgnoreTornTail.is_on() {
            return None;
        }
        if session.early() > 0 {
            self.ack_first_flight(session, &seen).await;
        }
        let mut state = self.context.shared.lock();
        let acked = state.outbox.renew(&seen).len() as u64;
        state.counters.outbox.acked += acked;
        state.counters.outbox.copies_found += 1;
        let (records, epoch) = (state.outbox.len(), state.outbox.epoch());
        drop(state);
        tracing::error!(
            numbers = %seen, given = %self.before, records, %epoch,
            "the log has records of this outbox that it never sent: it was put back in time (an image, a snapshot), or another device has \
             a copy of it. It goes on under a new name and sends everything it holds"
        );
        self.context.shared.wake();
        Some(Failure::Copied)
    }

    /// Records of the first flight went under the old epoch: those that nobody else has numbered alike are in the log soon.
    async fn ack_first_flight(&self, session: &mut Session, seen: &RangeSet) {
        let mut open: RangeSet = self.early.iter().map(|seq| seq.0).filter(|seq| !seen.contains(*seq)).collect();
        let deadline = Instant::now() + self.context.config.drain_timeout;
        while !open.is_empty()
            && let Ok(Ok(event)) = time::timeout_at(deadline, session.next()).await
        {
            if let Event::Acked(ranges) = event {
                let ours = difference(&ranges, seen);
                open = difference(&open, &ours);
                self.context.shared.acked(&ours);
            }
        }
    }

    /// Remembers a failure for the status, and tells of another device that takes over again and again.
    fn note(&mut self, failure: &Failure) {
        let superseded = matches!(failure, Failure::Connection(client::Error::Closed { code: CloseCode::Fenced, .. }));
        let mut state = self.context.shared.lock();
        state.counters.transport.last_error = Some(self.explain(failure));
        if superseded {
            self.tried.superseded = self.tried.superseded.saturating_add(1);
            state.counters.transport.superseded += 1;
            state.counters.transport.rivalry = self.tried.superseded;
        }
        drop(state);
        if superseded && self.tried.superseded > 1 {
            tracing::error!(
                device_id = %self.context.config.client.device_id, times = self.tried.superseded,
                "another device of this account connects under this name, again and again: give each a device_id and an outbox of its own"
            );
        }
    }

    /// The failure with the address it is about.
    fn explain(&self, failure: &Failure) -> String {
        match failure {
            // Each says where by itself.
            Failure::Login(_) | Failure::Connection(client::Error::Config(_) | client::Error::Resolve { .. }) => failure.to_string(),
            Failure::Connection(client::Error::Timeout) => {
                format!("{}: {failure}: is a Motience server there, and does UDP get through?", self.context.config.client.place())
            }
            failure => format!("{}: {failure}", self.context.config.client.place()),
        }
    }

    fn begin(&self, session: &Session) {
        {
            let mut state = self.context.shared.lock();
            // Records of the first flight are sent already.
            if session.early() == 0 {
                state.outbox.rewind();
            }
            state.outbox.open();
            state.counters.outbox.sent += session.early() as u64;
            let welcome = session.welcome();
            let seen = state.outbox.ack(&welcome.seen).len() as u64;
            state.counters.outbox.acked += seen;
            state.counters.transport.node = Some(welcome.node.clone());
            state.counters.transport.durability = Some(welcome.durability.clone());
            state.counters.transport.last_error = None;
            state.counters.transport.current = Some(session.transport());
            state.counters.transport.fallbacks += u64::from(session.transport() == Transport::Tunnel);
            (state.counters.transport.early_accepted, state.counters.transport.early_refused) = self.context.connector.early();
            state.uplink = session.uplink().cloned();
        }
        self.context.shared.wake();
        self.context.shared.set_link(LinkState::Connected);
    }
}

/// The first records to send, as far as they need no order.
fn early(outbox: &mut Outbox, credit: u64) -> Vec<Record> {
    let (mut records, mut bytes, credit) = (Vec::new(), 0, credit.min(EARLY));
    while outbox.in_flight() < credit
        && let Some(item) = outbox.peek(credit)
        && item.lane == Lane::Independent
    {
        bytes += item.json.len();
        if bytes > EARLY_BYTES {
            break;
        }
        records.push(Record { seq: item.seq, json: item.json.clone() });
        outbox.send(credit);
    }
    records
}
