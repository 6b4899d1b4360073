//! The native consumer: followed producers' records, resumed across reconnects without doubles.
//!
//! [`Consumer`] is a handle; a private task owns the connection. The task holds no more than one event of the connection
//! that the caller has not taken yet, so a slow caller slows the server (QUIC flow control) instead of filling memory.

use bytes::Bytes;
use motience_proto::{
    model::{Cursor as Place, GapCause, Offset, Order, ProducerEpoch, ProducerId, RecordId, Selection},
    wire::{Intent, Start},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{self, Connector},
    login::Credentials,
    policy::{Failure, Policy},
};

mod actor;
mod cursor;

use actor::{Actor, Command};
use cursor::Follow;

/// Deliveries that wait for [`Consumer::next`].
const DELIVERIES: usize = 256;
/// Subscriptions that wait to be asked for.
const COMMANDS: usize = 64;

/// The epoch of a client that has no outbox.
const NO_EPOCH: ProducerEpoch = ProducerEpoch(0);
/// Reading mode of a consumer.
const INTENT: Intent = Intent::Consume;

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The connection.
    pub client: client::Config,
    /// Reconnecting.
    pub policy: Policy,
}

impl Config {
    /// The defaults around a connection's settings.
    pub fn new(client: client::Config) -> Self {
        Self { client, policy: Policy::default() }
    }
}

/// Event of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// A record.
    Record {
        /// The producer.
        producer: ProducerId,
        /// Its place in the log: what to resume after, and to confirm.
        cursor: Place,
        /// Record id, which stays the same across a reset.
        record_id: RecordId,
        /// `{"producer_id","device_id","timestamp","data"}`.
        message: Bytes,
    },
    /// A follow is in force.
    Following {
        /// The producer.
        producer: ProducerId,
    },
    /// A range was gone before it could be delivered.
    Gap {
        /// The producer.
        producer: ProducerId,
        /// First offset that is gone.
        from: Offset,
        /// Last offset that is gone.
        to: Offset,
        /// Why; `None` where the server does not say, or says what this version does not know.
        cause: Option<GapCause>,
    },
    /// The log began a new epoch. Delivery goes on after the last position that both epochs surely share; records that
    /// were delivered by this consumer do not come again.
    Reset {
        /// The producer.
        producer: ProducerId,
        /// The place in its new life.
        cursor: Place,
    },
    /// Everything up to here is dealt with, though not all of it was wanted: word of a follow with a selection, to confirm where
    /// it has a durable cursor.
    Passed {
        /// The producer.
        producer: ProducerId,
        /// Cursor after which a later follow may go on.
        cursor: Place,
    },
    /// A follow was refused, or has ended: `not_subscribed`, `unsubscribed`, `too_many`, `invalid_expression`; `no_views` where
    /// the server knows no selections or no device order.
    Ended {
        /// The producer.
        producer: ProducerId,
        /// Why.
        refusal: String,
    },
}

/// The consumer has stopped for good, or was told to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work.
    #[error(transparent)]
    Config(client::Error),
    /// The server refused for good.
    #[error("stopped for good: {0}")]
    Stopped(Failure),
    /// The task ended.
    #[error("the consumer is shut down")]
    ShutDown,
}

/// The handle. Dropping it closes the connection.
#[derive(Debug)]
pub struct Consumer {
    deliveries: mpsc::Receiver<Delivery>,
    commands: mpsc::Sender<Command>,
    stopped: Option<Failure>,
    task: Option<JoinHandle<Option<Failure>>>,
    connector: Connector,
    cancel: CancellationToken,
}

impl Consumer {
    /// Starts; connects in the background. Must be called within a tokio runtime.
    pub fn start(config: Config, credentials: Credentials) -> Result<Self, Error> {
        let connector = Connector::new(config.client).map_err(Error::Config)?;
        let (deliver, deliveries) = mpsc::channel(DELIVERIES);
        let (commands, command) = mpsc::channel(COMMANDS);
        let cancel = CancellationToken::new();
        let actor = Actor::new(config.policy, connector.clone(), credentials, deliver, command, cancel.clone());
        let task = Some(tokio::spawn(actor.run()));
        Ok(Self { deliveries, commands, stopped: None, task, connector, cancel })
    }

    /// Follows a producer from `start` on; [`Delivery::Following`] or [`Delivery::Ended`] answers. After a break the
    /// follow resumes behind the last record delivered.
    pub async fn subscribe(&self, producer: ProducerId, start: Start) -> Result<(), Error> {
        self.subscribe_durable(producer, start, "").await
    }

    /// Follows with a named cursor, which the server keeps: the follow goes on behind what was last confirmed, by
    /// whichever client of this account; from `start` where nothing was yet.
    pub async fn subscribe_durable(&self, producer: ProducerId, start: Start, name: &str) -> Result<(), Error> {
        self.subscribe_selection(producer, start, name, Selection::default()).await
    }

    /// Follows a selection of the records, without a named cursor where `name` is empty: the server sends only what is wanted.
    /// A record's cursor is then a place before which everything is dealt with, and [`Delivery::Passed`] moves it on.
    pub async fn subscribe_selection(&self, producer: ProducerId, start: Start, name: &str, selection: Selection) -> Result<(), Error> {
        let follow = Follow { start, durable: name.to_owned(), selection, order: Order::Log };
        self.command(Command::Subscribe(producer, Box::new(follow))).await
    }

    /// Follows a producer whose records come as each device numbered them, with a cursor and a selection as above.
    pub async fn subscribe_in_device_order(
        &self,
        producer: ProducerId,
        start: Start,
        name: &str,
        selection: Selection,
    ) -> Result<(), Error> {
        let follow = Follow { start, durable: name.to_owned(), selection, order: Order::Device };
        self.command(Command::Subscribe(producer, Box::new(follow))).await
    }

    /// Moves the durable cursor: everything up to `cursor` is dealt with. Lost with a broken connection; the next one
    /// tells it too.
    pub async fn confirm(&self, producer: ProducerId, cursor: Place) -> Result<(), Error> {
        self.command(Command::Confirm(producer, cursor)).await
    }

    /// Ends a follow.
    pub async fn unsubscribe(&self, producer: ProducerId) -> Result<(), Error> {
        self.command(Command::Unsubscribe(producer)).await
    }

    /// The next delivery. An error is final. Cancel-safe.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        if let Some(delivery) = self.deliveries.recv().await {
            return Ok(delivery);
        }
        if let Some(task) = self.task.as_mut() {
            self.stopped = task.await.ok().flatten();
            self.task = None;
        }
        Err(self.stopped.clone().map_or(Error::ShutDown, Error::Stopped))
    }

    async fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::ShutDown)
    }

    /// Closes the connection.
    pub async fn shutdown(mut self) {
        self.cancel.cancel();
        self.deliveries.close();
        if let Some(task) = self.task.take() {
            // An error would be a panic of the task, which tokio has reported.
            let _ = task.await;
        }
        self.connector.idle().await;
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
