//! The high-level producer: an outbox that is kept connected.
//!
//! A record is put into the outbox, sent, and dropped only when the server has acknowledged or refused it. After a
//! break the producer connects again, learns from `Welcome` what is in the log already, and resends only the rest.
//! [`Producer`] is a handle; a private task owns the connection and ends with the handle or for good reason, another one
//! the outbox's file, where there is one.
//!
//! A record is *saved* when it is on disk, or acknowledged before; in an outbox in memory at once. [`Producer::send`] waits for that,
//! [`Producer::enqueue`] and [`Producer::try_send`] do not: after them, [`Producer::saved`] does.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use motience_proto::model::{ProducerEpoch, Seq};
use parking_lot::MutexGuard;
use tokio::{
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    client::{self, Connector, Lane},
    login::Credentials,
    outbox::{
        self, Full, Loaded, Outbox, Storage,
        disk::{OnDisk, Store},
    },
    policy::{Failure, Policy},
};

mod actor;
mod connected;
mod context;
mod health;
mod persister;
mod shared;
mod silence;
mod stats;

use actor::Actor;
use context::Context;
use persister::Persister;
use shared::{Shared, State};
pub use stats::{DiskStats, LinkState, LinkStats, OutboxStats, Stats, TransportStats};

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The connection.
    pub client: client::Config,
    /// The outbox: its place and its bounds.
    pub outbox: outbox::Config,
    /// Reconnecting.
    pub policy: Policy,
    /// How long records may be in flight without any acknowledgement before the connection counts as dead.
    pub ack_timeout: Duration,
    /// How long records in flight may take after the server said that it goes away.
    pub drain_timeout: Duration,
}

impl Config {
    /// The defaults around a connection's settings.
    pub fn new(client: client::Config) -> Self {
        Self {
            client,
            outbox: outbox::Config::default(),
            policy: Policy::default(),
            ack_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a record was not enqueued, or a wait had no good end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The settings cannot work.
    #[error(transparent)]
    Config(client::Error),
    /// The record is longer than the limit.
    #[error("the record has {size} bytes, over the limit of {limit}")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The outbox stayed full.
    #[error(transparent)]
    Full(#[from] Full),
    /// The outbox's file cannot be opened; or a record did not get onto the disk within the time limit. Such a record is
    /// given up, unless it was in flight to the server already.
    #[error(transparent)]
    Disk(#[from] outbox::Error),
    /// The wait took too long.
    #[error("not acknowledged within the time limit")]
    Timeout,
    /// The server refused for good; no more records are enqueued.
    #[error("stopped for good: {0}")]
    Stopped(Failure),
    /// [`Producer::shutdown`] was called.
    #[error("the producer is shut down")]
    ShutDown,
}

/// Outcome of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record is in the log.
    Acked,
    /// The server refused it; the code and the words.
    Refused {
        /// Stable name of the reason.
        code: String,
        /// The reason in words.
        message: String,
    },
    /// The record was dropped to make room.
    Dropped,
}

/// The handle. Dropping it closes the connection without waiting for anything.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    task: Option<JoinHandle<()>>,
    persister: Option<JoinHandle<()>>,
    connector: Connector,
    config: Config,
    cancel: CancellationToken,
    /// Ends the persister, which outlives the connection: its last acknowledgements are to be written.
    close: CancellationToken,
}

impl Producer {
    /// Starts; connects in the background. Must be called within a tokio runtime. Reads the outbox's file, where there is
    /// one, before it returns.
    pub fn start(config: Config, credentials: Credentials) -> Result<Self, Error> {
        let store = match &config.outbox.storage {
            Storage::Memory => None,
            Storage::Disk(path) => Some(Store::open(OnDisk(path.clone()))?),
        };
        Self::start_with(config, credentials, store)
    }

    fn start_with(config: Config, credentials: Credentials, store: Option<(Store, Loaded)>) -> Result<Self, Error> {
        let connector = Connector::new(config.client.clone()).map_err(Error::Config)?;
        let mut counters = Stats::default();
        let (outbox, store) = match store {
            None => (Outbox::new(config.outbox.clone()), None),
            Some((store, loaded)) => {
                counters.outbox.lost = loaded.lost;
                counters.disk.bytes = Some(store.size());
                (Outbox::restore(config.outbox.clone(), loaded), Some(store))
            }
        };
        let shared = Arc::new(Shared::new(outbox, counters));
        let (cancel, close) = (CancellationToken::new(), CancellationToken::new());
        let persister = store.map(|store| tokio::spawn(Persister::new(store, shared.clone(), close.clone()).run()));
        let actor = Actor::new(Context {
            config: config.clone(),
            connector: connector.clone(),
            credentials: Arc::new(credentials),
            shared: shared.clone(),
            cancel: cancel.clone(),
        });
        let task = Some(tokio::spawn(actor.run()));
        Ok(Self { shared, task, persister, connector, config, cancel, close })
    }

    /// Puts a record into the outbox; it is sent by itself ([`Lane::Independent`]).
    pub async fn send(&self, json: impl Into<Bytes>) -> Result<Seq, Error> {
        self.send_on(Lane::default(), json).await
    }

    /// Puts a record into the outbox, for a lane. Where the outbox is full, its policy decides. Returns when the record is
    /// saved: it survives a power cut then where the outbox is on disk.
    pub async fn send_on(&self, lane: Lane, json: impl Into<Bytes>) -> Result<Seq, Error> {
        let seq = self.enqueue(lane, json).await?;
        self.saved(seq).await?;
        Ok(seq)
    }

    /// Puts a record into the outbox without waiting for the disk. Where the outbox is full, its policy decides.
    pub async fn enqueue(&self, lane: Lane, json: impl Into<Bytes>) -> Result<Seq, Error> {
        let json = self.checked(json)?;
        let deadline = Instant::now() + self.config.outbox.block_timeout;
        let mut blocked = false;
        loop {
            let room = self.shared.room.notified();
            match self.push(lane, json.clone())? {
                Ok(seq) => return Ok(seq),
                Err(full) => {
                    if !std::mem::replace(&mut blocked, true) {
                        self.shared.lock().counters.outbox.blocked += 1;
                    }
                    time::timeout_at(deadline, room).await.map_err(|_| full)?;
                }
            }
        }
    }

    /// Waits until a record is on disk, or acknowledged. Where the disk fails for longer than the outbox's `block_timeout`, the
    /// record is given up, unless it is in flight to the server.
    pub async fn saved(&self, seq: Seq) -> Result<(), Error> {
        let deadline = Instant::now() + self.config.outbox.block_timeout;
        loop {
            let changed = self.shared.changed.notified();
            let failure = {
                let state = self.shared.lock();
                if state.outbox.is_saved(seq) {
                    return Ok(());
                }
                state.disk.clone()
            };
            if time::timeout_at(deadline, changed).await.is_err() {
                let mut state = self.shared.lock();
                if state.outbox.is_saved(seq) {
                    return Ok(());
                }
                state.abandon_unsaved(seq);
                drop(state);
                self.shared.wake();
                return Err(failure.map_or(Error::Timeout, Error::Disk));
            }
        }
    }

    /// Waits until every record up to this one is on disk, or acknowledged. In memory, only acknowledged records count.
    pub async fn saved_through(&self, seq: Seq) {
        self.shared.until(|state| state.outbox.is_saved_through(seq).then_some(())).await;
    }

    /// Whether every record up to this one is on disk, or acknowledged.
    pub fn is_saved_through(&self, seq: Seq) -> bool {
        self.shared.lock().outbox.is_saved_through(seq)
    }

    /// Puts a record into the outbox if that needs no waiting.
    pub fn try_send(&self, lane: Lane, json: impl Into<Bytes>) -> Result<Seq, Error> {
        let json = self.checked(json)?;
        Ok(self.push(lane, json)??)
    }

    /// Sends a reading that the next one makes worthless: at once, in a datagram, or never. Such a reading has no number, is
    /// in no outbox and is not acknowledged; [`LinkStats::latest_dropped`] counts those for which there was no connection.
    pub fn send_latest(&self, json: impl Into<Bytes>) -> Result<(), Error> {
        let json = self.checked(json)?;
        {
            let mut state = self.shared.lock();
            state.check()?;
            if state.shut {
                return Err(Error::ShutDown);
            }
            state.enqueue_latest(json);
        }
        self.shared.work.notify_one();
        Ok(())
    }

    /// Waits until the record is acknowledged, refused or dropped.
    pub async fn acked(&self, seq: Seq) -> Result<Outcome, Error> {
        self.shared
            .until(|state| if state.outbox.contains(seq) { state.check().err().map(Err) } else { Some(Ok(state.outcome(seq))) })
            .await
    }

    /// Waits until every record enqueued so far is acknowledged, refused or dropped.
    pub async fn flush(&self, limit: Duration) -> Result<(), Error> {
        let last = self.shared.lock().outbox.last();
        time::timeout(limit, self.acked_through(last)).await.unwrap_or(Err(Error::Timeout))
    }

    /// Waits until every record up to this one is acknowledged, refused or dropped.
    pub async fn acked_through(&self, seq: Seq) -> Result<(), Error> {
        self.shared.until(|state| if state.is_acked_through(seq) { Some(Ok(())) } else { state.check().err().map(Err) }).await
    }

    /// Whether every record up to this one is acknowledged, refused or dropped.
    pub fn is_acked_through(&self, seq: Seq) -> bool {
        self.shared.lock().is_acked_through(seq)
    }

    /// Waits until the connection is up.
    pub async fn connected(&self) -> Result<(), Error> {
        self.shared.until(|state| state.check().err().map(Err).or((state.link == LinkState::Connected).then_some(Ok(())))).await
    }

    /// Waits until the producer has stopped for good; why. Never ends where it is shut down.
    pub async fn stopped(&self) -> Failure {
        self.shared.until(|state| state.stopped.clone()).await
    }

    /// Takes no more records, waits up to `grace` until the outbox is empty, and closes. The last statistics tell
    /// what, if anything, is left in the outbox: on disk for the next start, or lost where it is in memory.
    pub async fn shutdown(mut self, grace: Duration) -> Stats {
        self.shared.lock().shut = true;
        // The statistics tell the records that are left past the grace; a stopped producer has nothing to wait for.
        let _ = self.flush(grace).await;
        self.cancel.cancel();
        if let Some(task) = self.task.take() {
            // An error would be a panic of the task, which tokio has reported.
            let _ = task.await;
        }
        self.close.cancel();
        if let Some(persister) = self.persister.take() {
            let _ = persister.await;
        }
        self.connector.idle().await;
        self.stats()
    }

    /// The producer epoch. Together with producer and sequence number it is the record id.
    pub fn epoch(&self) -> ProducerEpoch {
        self.shared.lock().outbox.epoch()
    }

    /// Counters and state, as of now.
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats()
    }

    /// The record, if it is no longer than the limit.
    fn checked(&self, json: impl Into<Bytes>) -> Result<Bytes, Error> {
        let (json, limit) = (json.into(), self.config.client.max_record);
        if json.len() > limit {
            return Err(Error::TooLarge { size: json.len(), limit });
        }
        Ok(json)
    }

    fn push(&self, lane: Lane, json: Bytes) -> Result<Result<Seq, Full>, Error> {
        let mut state: MutexGuard<'_, State> = self.shared.lock();
        state.check()?;
        if state.shut {
            return Err(Error::ShutDown);
        }
        match state.enqueue(lane, json) {
            Ok((seq, dropped)) => {
                drop(state);
                self.shared.work.notify_one();
                self.shared.save.notify_one();
                if dropped {
                    self.shared.changed.notify_waiters();
                }
                Ok(Ok(seq))
            }
            Err(full) => Ok(Err(full)),
        }
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.close.cancel();
    }
}

#[cfg(test)]
mod tests;
