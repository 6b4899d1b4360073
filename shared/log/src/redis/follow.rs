//! The connection that receives what is published. A reconcile task makes the channels that Redis sends equal to the desired set after
//! every change and every reconnect, so there is no queue of commands to lose or reorder.
//!
//! A channel that Redis refuses (its rules forbid it, say) is asked for again and again, and keeps no other from being heard. Who
//! follows it reads the log, whose end is compared each second.
//! A connection that is silent is asked for a PING every second: a dead one is noticed within [`ANSWER_LIMIT`].

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use motience_runtime::{backoff::Backoff, telemetry::Sampler};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    ANSWER_LIMIT, CONNECT_LIMIT,
    names::{Channel, Names},
    place::Place,
    seal::Seal,
    watch::SAY_EVERY,
};
use crate::{Error, Signal, Sink, Topic};

/// First pause between attempts to connect, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often a silent connection is tried.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Channels asked for in one command.
const CHANNELS_AT_ONCE: usize = 256;
/// How often refused channels are asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// Handle of the task.
pub(super) struct Follower {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

struct Shared {
    desired: Mutex<HashSet<String>>,
    /// Counts the changes of `desired`.
    changed: watch::Sender<u64>,
    /// Channels that Redis has confirmed or refused on the present connection.
    confirmed: watch::Sender<HashSet<String>>,
    /// When something came last, in milliseconds since `began`.
    heard: AtomicU64,
    began: Instant,
}

impl Shared {
    fn hears(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }
}

impl Follower {
    pub(super) fn start(place: Place, names: &Names, seal: &Seal, sink: Sink) -> Self {
        let (changed, confirmed) = (watch::Sender::new(0), watch::Sender::new(HashSet::new()));
        let shared = Shared { desired: Mutex::default(), changed, confirmed, heard: AtomicU64::new(0), began: Instant::now() };
        let shared = Arc::new(shared);
        let stop = CancellationToken::new();
        let task = Task { place, shared: Arc::clone(&shared), names: names.clone(), seal: seal.clone(), sink };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(task.run()).await;
        });
        Self { shared, task: Mutex::new(Some(task)), stop }
    }

    /// Returns when Redis sends this channel's messages, or has refused to.
    pub(super) async fn follow(&self, channel: String) -> Result<(), Error> {
        let mut confirmed = self.shared.confirmed.subscribe();
        self.shared.desired.lock().insert(channel.clone());
        self.shared.changed.send_modify(|n| *n += 1);
        match time::timeout(ANSWER_LIMIT, confirmed.wait_for(|channels| channels.contains(&channel))).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::Unavailable("Redis did not confirm a subscription in time".to_owned())),
        }
    }

    pub(super) fn unfollow(&self, channel: &str) {
        self.shared.desired.lock().remove(channel);
        self.shared.changed.send_modify(|n| *n += 1);
    }

    /// How long nothing has come.
    pub(super) fn silent_for(&self) -> Duration {
        self.shared.began.elapsed().saturating_sub(Duration::from_millis(self.shared.heard.load(Ordering::Relaxed)))
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Task {
    place: Place,
    shared: Arc<Shared>,
    names: Names,
    seal: Seal,
    sink: Sink,
}

impl Task {
    async fn run(self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        loop {
            match self.listen(&mut backoff).await {
                Ok(()) => warn!("the Redis subscription ended; connecting again"),
                Err(e) => warn!(error = %self.place.unavailable(&e), "the Redis subscription broke; connecting again"),
            }
            metrics::gauge!("motience_redis_subscribed").set(0.0);
            self.shared.confirmed.send_modify(HashSet::clear);
            time::sleep(backoff.pause()).await;
        }
    }

    /// Listens until the connection breaks.
    async fn listen(&self, backoff: &mut Backoff) -> Result<(), RedisError> {
        let broken = CancellationToken::new();
        let receiver = Receiver {
            names: self.names.clone(),
            seal: self.seal.clone(),
            unsealed: Sampler::new(SAY_EVERY),
            sink: Arc::clone(&self.sink),
            shared: Arc::clone(&self.shared),
            broken: broken.clone(),
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT))
            .set_push_sender(move |push: PushInfo| receiver.receive(&push.kind, push.data));
        let (mut connection, at) = self.place.open(&config).await?;
        let bus = [Topic::Events, Topic::Reports].map(|topic| self.names.channel(Channel::Bus(topic)));
        let mut changed = self.shared.changed.subscribe();
        let mut refused = self.subscribe(&mut connection, "SUBSCRIBE", &bus).await?;
        refused.extend(self.reconcile(&mut connection).await?);
        info!("subscribed to Redis");
        metrics::counter!("motience_redis_connections_total", "use" => "push").increment(1);
        metrics::gauge!("motience_redis_subscribed").set(1.0);
        self.shared.hears();
        *backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        // Whatever was published while nobody listened has to be looked up.
        (self.sink)(Signal::Interrupted);
        let mut asked = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = broken.cancelled() => return Ok(()),
                () = self.place.left(at.as_ref()) => return Ok(()),
                // Cannot fail: `shared` holds the sender.
                _ = changed.changed() => refused.extend(self.reconcile(&mut connection).await?),
                () = time::sleep(WATCH_EVERY) => redis::cmd("PING").exec_async(&mut connection).await?,
            }
            // Where Redis forbids the reports there is nothing to hear.
            if bus.iter().any(|channel| refused.contains(channel)) {
                self.shared.hears();
            }
            if !refused.is_empty() && asked.elapsed() >= ASK_AGAIN {
                asked = Instant::now();
                let before = std::mem::take(&mut refused);
                let missing: Vec<String> = bus.iter().filter(|channel| before.contains(*channel)).cloned().collect();
                refused = self.subscribe(&mut connection, "SUBSCRIBE", &missing).await?;
                self.shared.confirmed.send_modify(|confirmed| confirmed.retain(|channel| !before.contains(channel)));
                refused.extend(self.reconcile(&mut connection).await?);
                if refused.len() < before.len() {
                    (self.sink)(Signal::Interrupted);
                }
            }
        }
    }

    /// Subscribes and unsubscribes until Redis sends the desired channels. Returns those that it refuses.
    async fn reconcile(&self, connection: &mut MultiplexedConnection) -> Result<HashSet<String>, RedisError> {
        let (desired, missing, superfluous) = {
            let desired = self.shared.desired.lock();
            let confirmed = self.shared.confirmed.borrow().clone();
            let missing: Vec<String> = desired.difference(&confirmed).cloned().collect();
            let superfluous: Vec<String> = confirmed.difference(&desired).cloned().collect();
            // Before anyone can desire one of them again and take the old confirmation for a new one.
            self.shared.confirmed.send_modify(|c| c.retain(|channel| desired.contains(channel)));
            (desired.clone(), missing, superfluous)
        };
        let refused = self.subscribe(connection, "SSUBSCRIBE", &missing).await?;
        self.subscribe(connection, "SUNSUBSCRIBE", &superfluous).await?;
        self.shared.confirmed.send_replace(desired);
        Ok(refused)
    }

    /// Asks for all of these, and one by one where Redis refuses them together: that has to do with one of them, not with the
    /// connection. Returns the refused ones.
    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        command: &str,
        channels: &[String],
    ) -> Result<HashSet<String>, RedisError> {
        let mut refused = HashSet::new();
        for some in channels.chunks(CHANNELS_AT_ONCE) {
            if is_taken(redis::cmd(command).arg(some).exec_async(connection).await)?.is_none() {
                continue;
            }
            for one in some {
                if let Some(e) = is_taken(redis::cmd(command).arg(one).exec_async(connection).await)? {
                    metrics::counter!("motience_redis_refusals_total", "reason" => "channel").increment(1);
                    warn!(channel = one, error = %self.place.unavailable(&e), "cannot subscribe to a channel; its log is read instead");
                    refused.insert(one.clone());
                }
            }
        }
        Ok(refused)
    }
}

/// Tells a refusal, which is the channel's, from an error of the connection.
fn is_taken(result: Result<(), RedisError>) -> Result<Option<RedisError>, RedisError> {
    match result {
        Ok(()) => Ok(None),
        Err(e) if e.is_io_error() || e.is_timeout() || e.is_connection_dropped() || e.code().is_none() => Err(e),
        Err(e) => Ok(Some(e)),
    }
}

/// Takes what Redis sends. Runs in the connection's own task, so it only hands on.
struct Receiver {
    names: Names,
    seal: Seal,
    /// When messages without our seal were last spoken of.
    unsealed: Sampler,
    sink: Sink,
    shared: Arc<Shared>,
    broken: CancellationToken,
}

impl Receiver {
    fn receive(&self, kind: &PushKind, data: Vec<Value>) -> Result<(), Error> {
        match kind {
            PushKind::Disconnection => self.broken.cancel(),
            PushKind::Message | PushKind::SMessage => {
                let mut parts = data.into_iter();
                if let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (parts.next(), parts.next()) {
                    self.take(&channel, Bytes::from(payload));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take(&self, channel: &[u8], payload: Bytes) {
        self.shared.hears();
        match super::signal(&self.names, &self.seal, channel, payload) {
            Ok(Some(signal)) => (self.sink)(signal),
            // Nothing of ours is lost by it: whoever sent it is no node, or one with another secret.
            Ok(None) => {
                metrics::counter!("motience_redis_refused_messages_total").increment(1);
                if self.unsealed.pass("unsealed").is_some() {
                    warn!(
                        "ignoring messages from Redis without a valid seal: they come from a stranger, or from a node of an earlier version or with another JWT_SECRET"
                    );
                }
            }
            // Unreadable is as good as lost; the log has it.
            Err(e) => {
                warn!(error = %e, "an unreadable message from Redis");
                (self.sink)(Signal::Interrupted);
            }
        }
    }
}
