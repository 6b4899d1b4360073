//! The consumer's task: connects, follows, delivers, renews the token.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use motience_proto::model::{Cursor as Place, ProducerId};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    Delivery, INTENT, NO_EPOCH,
    cursor::{Cursor, Follow},
};
use crate::{
    client::{Connector, Event, Session},
    login::Credentials,
    policy::{Failure, Next, Policy, Tried},
    renewal::Renewal,
};

/// How long after `Drain` the last entries may come.
const DRAIN: Duration = Duration::from_secs(1);

/// Why a follow with a selection ends at a server that knows none.
const NO_VIEWS: &str = "no_views";

#[derive(Debug)]
pub(super) enum Command {
    Subscribe(ProducerId, Box<Follow>),
    Unsubscribe(ProducerId),
    Confirm(ProducerId, Place),
}

pub(super) struct Actor {
    policy: Policy,
    connector: Connector,
    credentials: Arc<Credentials>,
    deliver: mpsc::Sender<Delivery>,
    commands: mpsc::Receiver<Command>,
    cancel: CancellationToken,
    cursors: HashMap<ProducerId, Cursor>,
    pending: VecDeque<Delivery>,
    tried: Tried,
}

impl Actor {
    pub(super) fn new(
        policy: Policy,
        connector: Connector,
        credentials: Credentials,
        deliver: mpsc::Sender<Delivery>,
        commands: mpsc::Receiver<Command>,
        cancel: CancellationToken,
    ) -> Self {
        let tried = Tried { can_login: credentials.can_renew(), ..Tried::default() };
        let credentials = Arc::new(credentials);
        Self { policy, connector, credentials, deliver, commands, cancel, cursors: HashMap::new(), pending: VecDeque::new(), tried }
    }

    /// Runs until it is shut down (`None`) or refused for good.
    pub(super) async fn run(mut self) -> Option<Failure> {
        let cancel = self.cancel.clone();
        loop {
            let failure = tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                connected = self.connect() => match connected {
                    Ok(session) => {
                        let since = Instant::now();
                        let failure = self.stay(session).await?;
                        if since.elapsed() >= self.policy.stable_after {
                            self.tried.attempts = 0;
                        }
                        failure
                    }
                    Err(failure) => failure,
                },
            };
            let next = self.policy.next(&failure, self.tried, fastrand::f64());
            self.tried.attempts = self.tried.attempts.saturating_add(1);
            let wait = match next {
                Next::Stop => return Some(failure),
                Next::Login(wait) => {
                    self.credentials.forget().await;
                    wait
                }
                Next::Retry(wait) => wait,
            };
            tracing::warn!(%failure, ?wait, attempts = self.tried.attempts, "not connected");
            tokio::select! {
                biased;
                () = cancel.cancelled() => return None,
                () = time::sleep(wait) => {}
            }
        }
    }

    async fn connect(&mut self) -> Result<Session, Failure> {
        let (token, fresh) = self.credentials.obtain().await?;
        self.tried.fresh_login = fresh;
        let session = self.connector.connect(&token, INTENT, NO_EPOCH).await?;
        self.tried.fresh_login = false;
        self.credentials.accepted();
        for producer in self.cursors.keys().copied().collect::<Vec<_>>() {
            self.follow(&session, producer).await?;
        }
        Ok(session)
    }

    /// Asks for a follow from where its cursor is.
    async fn follow(&mut self, session: &Session, producer: ProducerId) -> Result<(), crate::client::Error> {
        let Some(cursor) = self.cursors.get(&producer) else { return Ok(()) };
        let Follow { durable, selection, order, .. } = &cursor.follow;
        if !session.knows(selection, *order) {
            self.cursors.remove(&producer);
            self.pending.push_back(Delivery::Ended { producer, refusal: NO_VIEWS.to_owned() });
            return Ok(());
        }
        session.subscribe_with(producer, cursor.resume(), durable, selection, *order).await
    }

    async fn stay(&mut self, mut session: Session) -> Option<Failure> {
        let mut renewal = Renewal::new(self.credentials.clone(), session.welcome().token_expires_in);
        let mut drain: Option<Instant> = None;
        let deliver = self.deliver.clone();
        loop {
            // Every arm is cancel-safe. Events are taken only when the last one's deliveries are.
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => {
                    session.finish().await;
                    return None;
                }
                permit = deliver.reserve(), if !self.pending.is_empty() => {
                    let Ok(permit) = permit else {
                        session.finish().await;
                        return None;
                    };
                    if let Some(delivery) = self.pending.pop_front() {
                        permit.send(delivery);
                    }
                }
                event = session.next(), if self.pending.is_empty() => match event {
                    Ok(Event::TokenAccepted(life)) => renewal.accepted(life),
                    Ok(Event::Drain) => drain = Some(Instant::now() + DRAIN),
                    Ok(event) => self.handle(event),
                    Err(error) => return Some(error.into()),
                },
                Some(command) = self.commands.recv() => {
                    if let Err(error) = self.obey(&session, command).await {
                        return Some(error.into());
                    }
                }
                renewed = renewal.next() => match renewed {
                    Ok(token) => {
                        if let Err(error) = session.renew(&token).await {
                            return Some(error.into());
                        }
                    }
                    Err(error) => return Some(error.into()),
                },
                () = time::sleep_until(drain.unwrap_or_else(Instant::now)), if drain.is_some() => {
                    session.finish().await;
                    return Some(Failure::Drained);
                }
            }
        }
    }

    async fn obey(&mut self, session: &Session, command: Command) -> Result<(), crate::client::Error> {
        match command {
            Command::Subscribe(producer, follow) => {
                self.cursors.insert(producer, Cursor::new(producer, *follow));
                self.follow(session, producer).await
            }
            Command::Confirm(producer, cursor) => session.confirm(producer, cursor).await,
            Command::Unsubscribe(producer) => {
                self.cursors.remove(&producer);
                session.unsubscribe(producer).await
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let out = &mut self.pending;
        match event {
            Event::Followed { producer, refusal } if refusal.is_empty() => out.push_back(Delivery::Following { producer }),
            Event::Followed { producer, refusal } => {
                // `None`: the caller ended it, and knows.
                if self.cursors.remove(&producer).is_some() {
                    out.push_back(Delivery::Ended { producer, refusal });
                }
            }
            Event::Cursor(said) => {
                if let Some(cursor) = self.cursors.get_mut(&said.producer) {
                    cursor.begin_after(said.cursor, out);
                }
            }
            Event::Entries { producer, entries } => {
                if let Some(cursor) = self.cursors.get_mut(&producer) {
                    for entry in entries {
                        cursor.entry(entry.offset, entry.record_id, entry.message, out);
                    }
                }
            }
            Event::Gap(gap) => {
                if let Some(cursor) = self.cursors.get_mut(&gap.producer) {
                    cursor.gap((gap.from, gap.to), gap.cause, out);
                }
            }
            Event::Acked(_) | Event::Refused(_) | Event::Credit(_) | Event::Drain | Event::TokenAccepted(_) | Event::Subscriber(_) => {}
        }
    }
}
