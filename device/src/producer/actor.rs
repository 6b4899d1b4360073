//! The producer's task: logs in, connects, waits, stops. What happens while connected is in [`super::connected`].

use std::sync::Arc;

use motience_shared::wire::Intent;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{Config, LinkState, connected::Connected, shared::Shared};
use crate::{
    client::{Connector, Session},
    login::Credentials,
    policy::{Failure, Next, Tried},
};

pub(super) struct Actor {
    pub(super) config: Config,
    pub(super) connector: Connector,
    pub(super) credentials: Arc<Credentials>,
    pub(super) shared: Arc<Shared>,
    pub(super) cancel: CancellationToken,
    tried: Tried,
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
        Self { config, connector, credentials: Arc::new(credentials), shared, cancel, tried }
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
        let epoch = self.shared.lock().outbox.epoch();
        let session = self.connector.connect(&token, Intent::Produce, epoch).await?;
        self.tried.fresh_login = false;
        let welcome = session.welcome();
        tracing::info!(node = welcome.node, durability = welcome.durability, fence = %welcome.fence, "connected");
        Ok(session)
    }

    /// Runs a connection until it ends. `None`: the producer is shut down.
    async fn stay(&mut self, session: Session) -> Option<Failure> {
        let since = Instant::now();
        {
            let mut state = self.shared.lock();
            state.outbox.rewind();
            let seen = state.outbox.settle(&session.welcome().seen).len() as u64;
            state.counters.acked += seen;
            state.counters.node = Some(session.welcome().node.clone());
            state.counters.durability = Some(session.welcome().durability.clone());
            state.counters.last_error = None;
            state.connection = Some(session.connection().clone());
        }
        self.shared.wake();
        self.shared.set_link(LinkState::Connected);
        let failure = Connected::new(self, session).run().await;
        // Its handle would keep the connection open.
        self.shared.lock().connection = None;
        if since.elapsed() >= self.config.policy.stable_after {
            self.tried.attempts = 0;
        }
        failure
    }
}
