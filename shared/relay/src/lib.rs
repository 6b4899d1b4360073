//! Joins producers and consumers to the log: every ingress ends in a [`Publisher`], every egress reads from a
//! [`pipeline::Pipeline`], which begins at a [`Subscriber`].
//!
//! ```text
//! Publisher -> queue -> appender (group commit) -> Log -> hub (ring, encoded once) -> Subscriber (cursor) -> pipeline -> socket
//! ```
//!
//! Consumers pull. Nothing is queued for a consumer: it is a cursor for each producer it follows and a flag that wakes
//! it. A consumer slower than the ring reads the log until it has caught up.

mod active_sessions;
mod appender;
mod checks;
mod hub;
mod parts;
pub mod pipeline;
mod publisher;
mod queue;
mod ring;
mod session;
mod shared_reads;
mod subscriber;
mod subscriber_watch;
mod subscription_cache;
mod traces;
mod usage;

use std::{sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use hub::{Hub, StartPosition};
pub use publisher::{Group, Publisher, Refusal};
pub use session::{Committed, Ticket};
pub use subscriber::{Delivery, Notice, Subscriber};
pub use subscriber_watch::SubscriberWatch;
pub use subscription_cache::{SubscriptionCache, Watch};
pub use usage::{Runs, UsageMeter};

use motience_auth::{DeviceStates, Standing};
use motience_cluster::{Most, Reports};
use motience_limits::{permits::Permits, quota::Exceeded};
use motience_log::{self as log, Log};
use motience_proto::model::{ConsumerId, LogKey, ProducerEpoch, ProducerId};
use motience_runtime::{clock::Clock, histogram, telemetry::Histogram};
use motience_settings::env::settings;
use motience_store::{self as store, LogIds, Store};
use pipeline::{Follows, Options, Pipeline, Reader, Start, named_cursors::NamedCursors};

settings! {
    /// The relay's limits.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {
        /// Largest record.
        MAX_RECORD_BYTES = "64KiB" => record: usize as Size, "1"..="16MiB";
        /// Newest records kept ready for each producer that someone on the node follows.
        RING_BYTES = "1MiB" => ring: usize as Size;
        /// Most that one reader takes of one producer at a time, from memory or from the log. Longer batches are cut.
        READ_BYTES = "64KiB" => read: usize as Size, "4KiB"..="16MiB";
        /// Most that is written to the log at once for one producer.
        MAX_BATCH_BYTES = "1MiB" => batch: usize as Size;
        /// Submissions that may wait for the writer of one producer. A sender beyond that waits.
        APPEND_QUEUE = "64" => queue: usize, > 0;
        /// Bytes of the records in them.
        APPEND_QUEUE_BYTES = "8MiB" => queue_bytes: usize as Size, "1KiB"..="1GiB";
        /// How long a write to the log is tried again before its senders are told that the log is unreachable.
        APPEND_LIMIT = "10s" => append: Duration;
        /// Separate ranges of numbers that the dedup window of one sender may have: holes close as records arrive out of order, and a sender
        /// that leaves more open does not follow the protocol. A device reads up to 4096 in one frame.
        LOG_MAX_DEDUP_RANGES = "512" => ranges: usize, "1"..="4096";
        /// Whether records are counted for `GET /usage`, by hour, as they come in and go out. Every log is read once more for it.
        COUNT_USAGE = "false" => count_usage: bool;
        /// How far ahead of the node's clock a device's may be before `GET /devices` shows it as wrong.
        CLOCK_AHEAD_LIMIT = "1h" => ahead: Duration;
        /// Whether a device on QUIC or in the tunnel may send records of its own device_id only (`wrong_device`).
        STRICT_NATIVE_DEVICE = "true" => strict_native: bool;
    }
    with {
        /// How many devices are remembered.
        devices: Most,
        /// Room of the stages of each delivery pipeline.
        pipeline: pipeline::Limits,
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
    /// A rate of the sender's plan is used up: what was to be submitted is not.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
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
    pub(crate) devices: DeviceStates,
    pub(crate) permits: Permits,
    pub(crate) queues: queue::Queues,
    /// Times of appends.
    pub(crate) appends: Arc<Histogram>,
    sessions: active_sessions::ActiveSessions,
    /// Records given out, where they are counted.
    pub(crate) usage: Option<Arc<UsageMeter>>,
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
        (limits, permits, devices): (Limits, Permits, DeviceStates),
    ) -> Self {
        let kind = log.durability();
        let kind = if kind.contains('+') { "replicas" } else { &kind };
        let relay = Self(Arc::new(Inner {
            usage: limits.count_usage.then(|| Arc::new(UsageMeter::new(clock.clone()))),
            appends: histogram!("motience_append_seconds", "durability" => kind),
            log,
            hub,
            subscription_cache,
            reports,
            store,
            logs,
            clock,
            limits,
            devices,
            permits,
            queues: queue::Queues::default(),
            sessions: active_sessions::ActiveSessions::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }));
        relay.0.reports.start(relay.0.log.clone(), &relay.0.tasks, relay.0.stop.clone());
        checks::start(&relay);
        let (cache, clock, stop) = (Arc::clone(&relay.0.subscription_cache), relay.0.clock.clone(), relay.0.stop.clone());
        relay
            .0
            .tasks
            .spawn(async move { stop.run_until_cancelled(async { tokio::join!(cache.keep_time(&clock), cache.keep_fresh()) }).await });
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

    /// The subscriptions to a producer, as they change from now on.
    pub fn subscriber_watch(&self, producer: ProducerId) -> SubscriberWatch {
        SubscriberWatch::new(self.clone(), producer)
    }

    /// How many consumers are subscribed to `producer`.
    pub async fn subscriber_count(&self, producer: ProducerId) -> Result<u64, Error> {
        self.0.subscription_cache.subscriber_count(&self.0.store, producer, self.0.clock.now()).await
    }

    /// Groups that wait for the log's writers of this node, and about how many bytes of records they hold.
    pub fn waiting(&self) -> (usize, usize) {
        self.0.queues.waiting()
    }

    /// The log itself.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// Records given out that are not written down yet, where they are counted.
    pub fn usage(&self) -> Option<&UsageMeter> {
        self.0.usage.as_deref()
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
