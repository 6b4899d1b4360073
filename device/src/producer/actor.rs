//! The producer's task: logs in, connects, waits, stops. What happens while connected is in [`super::connected`].

use std::sync::Arc;

use motience_shared::wire::Record;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Config, LinkState,
    connected::{Connected, End},
    shared::Shared,
};
use crate::{
    client::{Connector, Lane, Session, Way},
    login::Credentials,
    outbox::Outbox,
    policy::{Failure, Next, Tried},
};

/// Most records, and bytes of them, in the first flight of a connection: it must not take more than a few packets.
const EARLY: u64 = 32;
const EARLY_BYTES: usize = 8 * 1024;

pub(super) struct Actor {
    pub(super) config: Config,
    pub(super) connector: Connector,
    pub(super) credentials: Arc<Credentials>,
    pub(super) shared: Arc<Shared>,
    pub(super) cancel: CancellationToken,
    tried: Tried,
    /// The last connection ended in silence: the tunnel is tried at once beside QUIC.
    silent: bool,
}

impl Actor {
    pub(super) fn new(
        config: Config,
        connector: Connector,
        credentials: Credentials,
        shared: Arc<Shared>,
        cancel: CancellationToken,
    ) -> Self {
        let tried = Tried { can_login: credentials.can_renew(), ..Tried::default() };
        Self { config, connector, credentials: Arc::new(credentials), shared, cancel, tried, silent: false }
    }

    pub(super) async fn run(mut self) {
        let cancel = self.cancel.clone();
        let mut first = true;
        loop {
            self.shared.set_link(LinkState::Connecting);
            let failure = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                connected = self.connect() => match connected {
                    Ok(session) => {
                        if !first {
                            self.shared.lock().counters.reconnects += 1;
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
            self.shared.lock().counters.last_error = Some(failure.to_string());
            let next = self.config.policy.next(&failure, self.tried, fastrand::f64());
            self.tried.attempts = self.tried.attempts.saturating_add(1);
            let wait = match next {
                Next::Stop => {
                    tracing::error!(%failure, "stopped for good");
                    self.shared.lock().stopped = Some(failure);
                    break;
                }
                Next::Login(wait) => {
                    self.credentials.forget().await;
                    wait
                }
                Next::Retry(wait) => wait,
            };
            tracing::warn!(%failure, ?wait, attempts = self.tried.attempts, "not connected");
            self.shared.set_link(LinkState::Waiting);
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = time::sleep(wait) => {}
            }
        }
        self.shared.set_link(LinkState::Stopped);
        self.shared.room.notify_waiters();
    }

    async fn connect(&mut self) -> Result<Session, Failure> {
        // Whether this token comes straight from the password: if it is refused, another would be too.
        self.tried.fresh_login = !self.credentials.has_token().await;
        let token = self.credentials.token().await?;
        let (epoch, early) = {
            let mut state = self.shared.lock();
            state.outbox.rewind();
            (state.outbox.epoch(), early(&mut state.outbox, self.connector.first_flight()))
        };
        let session = self.connector.produce(&token, epoch, &early, self.silent).await?;
        self.tried.fresh_login = false;
        let welcome = session.welcome();
        let way = session.way();
        tracing::info!(node = welcome.node, durability = welcome.durability, fence = %welcome.fence, %way, "connected");
        Ok(session)
    }

    /// Runs a connection, and those that it changes to, until the last one ends. `None`: the producer is shut down.
    async fn stay(&mut self, mut session: Session) -> Option<Failure> {
        loop {
            let since = Instant::now();
            self.begin(&session);
            let end = Connected::new(self, session).run().await;
            // Its handle would keep the connection open.
            self.shared.lock().uplink = None;
            if since.elapsed() >= self.config.policy.stable_after {
                self.tried.attempts = 0;
            }
            match end {
                End::Shut => return None,
                End::Failed(failure) => return Some(failure),
                End::Changed(other) => {
                    tracing::info!("QUIC works again: the tunnel is left");
                    self.shared.lock().counters.returns += 1;
                    session = other;
                }
            }
        }
    }

    fn begin(&self, session: &Session) {
        {
            let mut state = self.shared.lock();
            // What went in the first flight has been given already.
            if session.early() == 0 {
                state.outbox.rewind();
            }
            state.counters.sent += session.early() as u64;
            let welcome = session.welcome();
            let seen = state.outbox.settle(&welcome.seen).len() as u64;
            state.counters.acked += seen;
            state.counters.node = Some(welcome.node.clone());
            state.counters.durability = Some(welcome.durability.clone());
            state.counters.last_error = None;
            state.counters.way = Some(session.way());
            state.counters.fallbacks += u64::from(session.way() == Way::WebSocket);
            (state.counters.early_accepted, state.counters.early_refused) = self.connector.early();
            state.uplink = session.uplink().cloned();
        }
        self.shared.wake();
        self.shared.set_link(LinkState::Connected);
    }
}

/// The first records to send, as far as they need no order.
fn early(outbox: &mut Outbox, credit: u64) -> Vec<Record> {
    let (mut records, mut bytes, credit) = (Vec::new(), 0, credit.min(EARLY));
    while outbox.under_way() < credit
        && let Some(item) = outbox.peek(credit)
        && item.lane == Lane::Independent
    {
        bytes += item.json.len();
        if bytes > EARLY_BYTES {
            break;
        }
        records.push(Record { seq: item.seq, json: item.json.clone() });
        outbox.give(credit);
    }
    records
}
