//! The connection that receives: one task keeps what Redis is asked to send equal to what the node wants to hear.
//!
//! Wanting is a set; the task makes it so, again after each break. So there is no queue of orders to lose or reorder.
//! A connection that is silent is asked for a PING every second: a dead one is noticed within [`ANSWER_LIMIT`].

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, Value, aio::MultiplexedConnection};
use secrecy::SecretString;
use tokio::{sync::watch, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    ANSWER_LIMIT, CONNECT_LIMIT, link,
    names::{Channel, Names},
    seal::Seal,
};
use crate::log::{Error, Signal, Sink};

/// Longest pause between attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How often a silent connection is tried.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Channels asked for in one command.
const CHANNELS_AT_ONCE: usize = 256;

/// Handle of the task.
pub(super) struct Follower {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

struct Shared {
    wanted: Mutex<HashSet<String>>,
    /// Changes whenever `wanted` does.
    wish: watch::Sender<u64>,
    /// What Redis has confirmed on the present connection.
    confirmed: watch::Sender<HashSet<String>>,
}

impl Follower {
    pub(super) fn start(url: &SecretString, names: &Names, seal: &Seal, sink: Sink) -> Result<Self, Error> {
        let shared =
            Arc::new(Shared { wanted: Mutex::default(), wish: watch::Sender::new(0), confirmed: watch::Sender::new(HashSet::new()) });
        let stop = CancellationToken::new();
        let task = Task { client: link::client(url)?, shared: Arc::clone(&shared), names: names.clone(), seal: seal.clone(), sink };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(task.run()).await;
        });
        Ok(Self { shared, task: Mutex::new(Some(task)), stop })
    }

    /// Returns when Redis sends this channel's messages.
    pub(super) async fn follow(&self, channel: String) -> Result<(), Error> {
        let mut confirmed = self.shared.confirmed.subscribe();
        self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner).insert(channel.clone());
        self.shared.wish.send_modify(|n| *n += 1);
        match time::timeout(ANSWER_LIMIT, confirmed.wait_for(|channels| channels.contains(&channel))).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Error::Unavailable("Redis did not confirm a subscription in time".to_owned())),
        }
    }

    pub(super) fn unfollow(&self, channel: &str) {
        self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(channel);
        self.shared.wish.send_modify(|n| *n += 1);
    }

    pub(super) async fn close(&self) {
        self.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
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
    client: Client,
    shared: Arc<Shared>,
    names: Names,
    seal: Seal,
    sink: Sink,
}

impl Task {
    async fn run(self) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.listen(&mut pause).await {
                Ok(()) => warn!("the Redis subscription ended; connecting again"),
                Err(e) => warn!(error = %e, "the Redis subscription broke; connecting again"),
            }
            self.shared.confirmed.send_modify(HashSet::clear);
            time::sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Listens until the connection breaks.
    async fn listen(&self, pause: &mut Duration) -> Result<(), RedisError> {
        let broken = CancellationToken::new();
        let (sink, names, seal, noticed) = (Arc::clone(&self.sink), self.names.clone(), self.seal.clone(), broken.clone());
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT))
            .set_push_sender(move |push: PushInfo| receive(&push.kind, push.data, &names, &seal, &sink, &noticed));
        let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        let shared = [Channel::Bus, Channel::Reports].map(|channel| self.names.channel(channel));
        redis::cmd("SUBSCRIBE").arg(&shared).exec_async(&mut connection).await?;
        let mut wish = self.shared.wish.subscribe();
        self.reconcile(&mut connection).await?;
        info!("subscribed to Redis");
        *pause = Duration::from_millis(50);
        // Whatever was published while nobody listened has to be looked up.
        (self.sink)(Signal::Interrupted);
        loop {
            tokio::select! {
                biased;
                () = broken.cancelled() => return Ok(()),
                // Cannot fail: `shared` holds the sender.
                _ = wish.changed() => self.reconcile(&mut connection).await?,
                () = time::sleep(WATCH_EVERY) => redis::cmd("PING").exec_async(&mut connection).await?,
            }
        }
    }

    async fn reconcile(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let (wanted, missing, superfluous) = {
            let wanted = self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let confirmed = self.shared.confirmed.borrow().clone();
            let missing: Vec<String> = wanted.difference(&confirmed).cloned().collect();
            let superfluous: Vec<String> = confirmed.difference(&wanted).cloned().collect();
            // Before anyone can want one of them again and take the old confirmation for a new one.
            self.shared.confirmed.send_modify(|c| c.retain(|channel| wanted.contains(channel)));
            (wanted.clone(), missing, superfluous)
        };
        for (command, channels) in [("SSUBSCRIBE", missing), ("SUNSUBSCRIBE", superfluous)] {
            for some in channels.chunks(CHANNELS_AT_ONCE) {
                redis::cmd(command).arg(some).exec_async(connection).await?;
            }
        }
        self.shared.confirmed.send_replace(wanted);
        Ok(())
    }
}

/// Runs in the connection's own task, so it only hands on.
fn receive(kind: &PushKind, data: Vec<Value>, names: &Names, seal: &Seal, sink: &Sink, broken: &CancellationToken) -> Result<(), Error> {
    match kind {
        PushKind::Disconnection => broken.cancel(),
        PushKind::Message | PushKind::SMessage => {
            let mut parts = data.into_iter();
            let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (parts.next(), parts.next()) else {
                return Ok(());
            };
            match super::signal(names, seal, &channel, Bytes::from(payload)) {
                Ok(Some(signal)) => sink(signal),
                // Nothing of ours is lost by it: whoever sent it is no node, or one with another secret.
                Ok(None) => {
                    metrics::counter!("motience_redis_refused_messages_total").increment(1);
                    debug!("a message from Redis without our seal is left out");
                }
                // Unreadable is as good as lost; the log has it.
                Err(e) => {
                    warn!(error = %e, "an unreadable message from Redis");
                    sink(Signal::Interrupted);
                }
            }
        }
        _ => {}
    }
    Ok(())
}
