//! Joins producers and consumers to the log: every ingress ends in a [`Publisher`], every egress reads from a
//! [`pipeline::Pipeline`], which begins at a [`Subscriber`].
//!
//! ```text
//! Publisher -> appender (group commit) -> Log -> hub (ring, encoded once) -> Subscriber (cursor) -> pipeline -> socket
//! ```
//!
//! Consumers pull. Nothing is queued for a consumer: it is a cursor for each producer it follows and a flag that wakes
//! it. A consumer slower than the ring reads the log until it has caught up.

mod active_sessions;
mod appender;
mod hub;
mod parts;
pub mod pipeline;
mod publisher;
mod ring;
mod session;
mod subscriber;
mod subscription_cache;

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use hub::{Hub, StartPosition};
pub use publisher::{Group, Publisher, Refusal};
pub use session::{Committed, Ticket};
pub use subscriber::{Delivery, GapCause, Notice, Subscriber};
pub use subscription_cache::{SubscriptionCache, Watch};

use motience_auth::Standing;
use motience_cluster::{Most, Reports};
use motience_log::{self as log, Log};
use motience_proto::{
    model::{ConsumerId, LogKey, ProducerEpoch, ProducerId, record},
    wire::MAX_RANGES,
};
use motience_runtime::clock::Clock;
use motience_settings::env::{self, Env};
use motience_store::{self as store, LogIds, Store};
use pipeline::{Follows, Options, Pipeline, Reader, Start, named_cursors::NamedCursors};

/// The relay's limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest record, in bytes. `MAX_RECORD_BYTES`, 64 KiB.
    pub record: usize,
    /// Bytes of newest entries kept ready for each followed producer. `RING_BYTES`, 1 MiB.
    pub ring: usize,
    /// Bytes that a reader takes of one producer in one turn, from memory or from the log; longer batches are cut. `READ_BYTES`,
    /// 64 KiB.
    pub read: usize,
    /// Bytes written to the log in one step. `MAX_BATCH_BYTES`, 1 MiB.
    pub batch: usize,
    /// Groups of records that wait for the log, for each producer; a sender beyond that waits. `APPEND_QUEUE`, 64.
    pub queue: usize,
    /// Bytes of the records in them. `APPEND_QUEUE_BYTES`, 8 MiB.
    pub queue_bytes: usize,
    /// How long a write to the log is tried again before its senders learn that the log is away. `APPEND_LIMIT`, 10 s.
    pub append: Duration,
    /// Separate ranges in a sender's dedup window: holes close as records arrive out of order, and a sender that leaves more open is not
    /// following the protocol. `LOG_MAX_DEDUP_RANGES`, 512.
    pub ranges: usize,
    /// How many devices are remembered.
    pub devices: Most,
    /// How far ahead of ours a device's clock may be before that counts as a fault of it. CLOCK_AHEAD_LIMIT, 1 h.
    pub ahead: Duration,
    /// Room of the stages of each delivery pipeline.
    pub pipeline: pipeline::Limits,
    /// Whether the records of a native device must be of the device that it is. STRICT_NATIVE_DEVICE, true.
    pub strict_native: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            record: record::MAX_RECORD,
            ring: 1 << 20,
            read: 64 << 10,
            batch: 1 << 20,
            queue: 64,
            queue_bytes: 8 << 20,
            append: Duration::from_secs(10),
            ranges: 512,
            devices: Most { all: 100_000, each: 10_000 },
            ahead: Duration::from_secs(3600),
            pipeline: pipeline::Limits::default(),
            strict_native: true,
        }
    }
}

impl Limits {
    /// Reads the variables named on the fields.
    pub fn from_env(env: &Env) -> Result<Self, env::Error> {
        let default = Self::default();
        let limits = Self {
            record: env.bytes("MAX_RECORD_BYTES", default.record)?,
            ring: env.bytes("RING_BYTES", default.ring)?,
            read: env.bytes("READ_BYTES", default.read)?,
            batch: env.bytes("MAX_BATCH_BYTES", default.batch)?,
            queue: env.parse("APPEND_QUEUE", default.queue)?,
            queue_bytes: env.bytes("APPEND_QUEUE_BYTES", default.queue_bytes)?,
            append: env.duration("APPEND_LIMIT", default.append)?,
            ranges: env.parse("LOG_MAX_DEDUP_RANGES", default.ranges)?,
            devices: Most {
                all: env.parse("DEVICES_MAX", default.devices.all)?,
                each: env.parse("DEVICES_MAX_PER_PRODUCER", default.devices.each)?,
            },
            ahead: env.duration("CLOCK_AHEAD_LIMIT", default.ahead)?,
            pipeline: pipeline::Limits::from_env(env)?,
            strict_native: env.flag("STRICT_NATIVE_DEVICE", default.strict_native)?,
        };
        if limits.record == 0 || limits.record > 16 << 20 {
            return Err(env::Error::invalid("MAX_RECORD_BYTES", "must lie between 1 and 16MiB"));
        }
        if !(4096..=16 << 20).contains(&limits.read) {
            return Err(env::Error::invalid("READ_BYTES", "must lie between 4KiB and 16MiB"));
        }
        if limits.queue == 0 {
            return Err(env::Error::invalid("APPEND_QUEUE", "must be at least 1"));
        }
        if !(1..=MAX_RANGES).contains(&(limits.ranges as u64)) {
            return Err(env::Error::invalid("LOG_MAX_DEDUP_RANGES", "must lie between 1 and 4096, which a device reads in one frame"));
        }
        if !(1 << 10..=1 << 30).contains(&limits.queue_bytes) {
            return Err(env::Error::invalid("APPEND_QUEUE_BYTES", "must lie between 1KiB and 1GiB"));
        }
        Ok(limits)
    }
}

/// Why the relay did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The log did not.
    #[error(transparent)]
    Log(#[from] log::Error),
    /// The node is shutting down.
    #[error("the node is going away")]
    Closed,
    /// The database could not be asked.
    #[error("the database is unreachable")]
    Store(#[from] Arc<store::Error>),
}

/// The relay of one node. Cheap to clone.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) log: Log,
    pub(crate) hub: Arc<Hub>,
    pub(crate) subscription_cache: Arc<SubscriptionCache>,
    pub(crate) reports: Reports,
    pub(crate) store: Store,
    pub(crate) logs: LogIds,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) appenders: appender::Appenders,
    sessions: active_sessions::ActiveSessions,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

impl Relay {
    /// Joins the parts. The log's signals must already go to `hub`, `subscription_cache` and `reports`.
    pub fn new(
        log: Log,
        (store, logs): (Store, LogIds),
        hub: Arc<Hub>,
        subscription_cache: Arc<SubscriptionCache>,
        reports: Reports,
        clock: Clock,
        limits: Limits,
    ) -> Self {
        let relay = Self(Arc::new(Inner {
            log,
            hub,
            subscription_cache,
            reports,
            store,
            logs,
            clock,
            limits,
            appenders: appender::Appenders::default(),
            sessions: active_sessions::ActiveSessions::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }));
        relay.0.reports.start(relay.0.log.clone(), &relay.0.tasks, relay.0.stop.clone());
        hub::start_checks(&relay);
        relay
    }

    /// A device's connection: raises its fence and learns what the log has seen of its epoch.
    pub async fn publisher(&self, key: LogKey, name: log::SessionName, producer_epoch: ProducerEpoch) -> Result<Publisher, Error> {
        Publisher::open(self, key, name, producer_epoch).await
    }

    /// A sender without an outbox: one WebSocket connection, one HTTP request.
    pub async fn ephemeral_publisher(&self, key: LogKey) -> Result<Publisher, Error> {
        Publisher::open(self, key, log::SessionName::ephemeral(), ProducerEpoch(fastrand::u64(..))).await
    }

    /// The log that a producer has now. Those who write are told by their tokens which one it is.
    pub async fn log_of(&self, producer: ProducerId) -> Result<LogKey, Error> {
        Ok(self.0.logs.of(producer).await?)
    }

    /// A subscriber that follows the producers it is given.
    pub fn subscriber(&self) -> Subscriber {
        Subscriber::new(self.clone())
    }

    /// The delivery pipeline of all that a reader may read, for as long as its token is good.
    pub async fn pipeline(&self, reader: Reader, start: &Start, options: Options, standing: Arc<Standing>) -> Result<Pipeline, Error> {
        Pipeline::open(self.clone(), reader, start, options, standing).await
    }

    /// The follows of a consumer's connection that has a stream for each, at most `most` at once.
    pub fn follows<T: Send + 'static>(&self, standing: Arc<Standing>, most: usize) -> Follows<T> {
        Follows::new(self.clone(), standing, most)
    }

    /// The cursors that are kept for a consumer.
    pub(crate) fn named_cursors(&self, consumer: ConsumerId) -> NamedCursors {
        NamedCursors::new(self.clone(), consumer)
    }

    fn watch_subscriptions(&self, consumer: ConsumerId) -> Watch {
        self.0.subscription_cache.watch(consumer)
    }

    /// How many consumers are subscribed to `producer`.
    pub async fn subscriber_count(&self, producer: ProducerId) -> Result<u64, Error> {
        self.0.subscription_cache.subscriber_count(&self.0.store, producer).await
    }

    /// The log itself.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// Writes out what waits, ends all tasks, then the log's own.
    pub async fn close(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        self.0.log.close().await;
    }
}

impl Error {
    fn store(error: store::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("log", &self.0.log).finish_non_exhaustive()
    }
}
