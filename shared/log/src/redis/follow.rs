//! The connection that receives what is published. A reconcile task makes the channels that Redis sends equal to the desired set after
//! every change and every reconnect, so there is no queue of commands to lose or reorder.
//!
//! A channel that Redis refuses (its rules forbid it, say) is asked for again and again, and keeps no other from being heard. Who
//! follows it reads the log, whose end is compared each second.
//! A connection that is silent is asked for a PING every second: a dead one is noticed within [`ANSWER_LIMIT`].

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use motience_runtime::{backoff::Backoff, telemetry::Sampler};
use parking_lot::Mutex;
use redis::{AsyncConnectionConfig, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value, aio::MultiplexedConnection};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{ANSWER_LIMIT, CONNECT_LIMIT, SAY_EVERY, names::Names, place::Place, seal::Seal};
use crate::{Error, Signal, Sink};

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
    state: Mutex<State>,
    /// Told when channels are open.
    changed: Notify,
    /// When something came last, in milliseconds since `began`.
    heard: AtomicU64,
    began: Instant,
}

#[derive(Default)]
struct State {
    desired: HashSet<String>,
    /// Channels that Redis has confirmed or refused on the present connection.
    answered: HashSet<String>,
    /// Channels for which these two may differ: a change costs what it changes, however many channels there are.
    open: HashSet<String>,
    /// Told when their channel is answered.
    waiting: HashMap<String, Vec<oneshot::Sender<()>>>,
    /// Whether channels came from another server, on which messages may have been missed.
    taken_over: bool,
}

impl State {
    /// A new connection: nothing is answered.
    fn begin(&mut self) {
        self.answered.clear();
        self.open.clone_from(&self.desired);
    }

    /// Asks for these again, as far as they are desired.
    fn open_again(&mut self, channels: HashSet<String>) {
        for channel in channels {
            self.answered.remove(&channel);
            self.open.insert(channel);
        }
    }

    /// Channels to subscribe to, those to leave, and whether some of them came from another server.
    fn take_open(&mut self) -> (Vec<String>, Vec<String>, bool) {
        let (mut missing, mut superfluous) = (Vec::new(), Vec::new());
        for channel in std::mem::take(&mut self.open) {
            if self.desired.contains(&channel) {
                if !self.answered.contains(&channel) {
                    missing.push(channel);
                }
            // Before anyone can desire it again and take the old answer for a new one.
            } else if self.answered.remove(&channel) {
                superfluous.push(channel);
            }
        }
        (missing, superfluous, std::mem::take(&mut self.taken_over))
    }

    /// Redis has answered for this channel.
    fn answer(&mut self, channel: String) {
        for waiting in self.waiting.remove(&channel).into_iter().flatten() {
            let _ = waiting.send(());
        }
        // Where Redis took it back meanwhile, it is asked for again.
        if !(self.open.contains(&channel) && self.desired.contains(&channel)) {
            self.answered.insert(channel);
        }
    }
}

impl Shared {
    fn hears(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(now, Ordering::Relaxed);
    }

    /// Changes the state, and has the task act on it.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state.lock());
        self.changed.notify_one();
        changed
    }
}

impl Follower {
    /// `wrong` is told when the server sends a channel no more that it was asked for.
    pub(super) fn start(place: Place, names: &Names, seal: &Seal, sink: Sink, wrong: Arc<Notify>) -> Self {
        let shared = Shared { state: Mutex::default(), changed: Notify::new(), heard: AtomicU64::new(0), began: Instant::now() };
        let shared = Arc::new(shared);
        let stop = CancellationToken::new();
        let task = Task { place, shared: Arc::clone(&shared), names: names.clone(), seal: seal.clone(), sink, wrong };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            stopped.run_until_cancelled(task.run()).await;
        });
        Self { shared, task: Mutex::new(Some(task)), stop }
    }

    /// Returns when Redis sends this channel's messages, or has refused to; `false`: the channel is another server's by now.
    pub(super) async fn follow(&self, channel: &str) -> Result<bool, Error> {
        let answered = {
            let mut state = self.shared.state.lock();
            state.desired.insert(channel.to_owned());
            if state.answered.contains(channel) {
                return Ok(true);
            }
            let (sender, answered) = oneshot::channel();
            state.open.insert(channel.to_owned());
            let waiting = state.waiting.entry(channel.to_owned()).or_default();
            waiting.retain(|other| !other.is_closed());
            waiting.push(sender);
            answered
        };
        self.shared.changed.notify_one();
        match time::timeout(ANSWER_LIMIT, answered).await {
            Ok(answer) => Ok(answer.is_ok()),
            Err(_) => Err(Error::Unavailable("Redis did not confirm a subscription in time".to_owned())),
        }
    }

    /// Follows these channels and no others.
    pub(super) fn want(&self, channels: HashSet<String>) {
        self.shared.change(|state| {
            let before = std::mem::replace(&mut state.desired, channels);
            state.taken_over |= state.desired.iter().any(|channel| !before.contains(channel));
            let State { desired, open, waiting, .. } = state;
            open.extend(desired.symmetric_difference(&before).cloned());
            waiting.retain(|channel, _| desired.contains(channel));
        });
    }

    pub(super) fn unfollow(&self, channel: &str) {
        self.shared.change(|state| {
            state.desired.remove(channel);
            state.open.insert(channel.to_owned());
        });
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
    wrong: Arc<Notify>,
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
            self.shared.state.lock().begin();
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
            wrong: Arc::clone(&self.wrong),
            broken: broken.clone(),
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_LIMIT))
            .set_response_timeout(Some(ANSWER_LIMIT))
            .set_push_sender(move |push: PushInfo| receiver.receive(&push.kind, push.data));
        let (mut connection, at) = self.place.open(&config).await?;
        let mut refused = self.reconcile(&mut connection).await?;
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
                () = self.shared.changed.notified() => refused.extend(self.reconcile(&mut connection).await?),
                () = time::sleep(WATCH_EVERY) => redis::cmd("PING").exec_async(&mut connection).await?,
            }
            // Where Redis forbids the reports there is nothing to hear.
            if refused.iter().any(|channel| !self.names.is_live(channel)) {
                self.shared.hears();
            }
            if !refused.is_empty() && asked.elapsed() >= ASK_AGAIN {
                asked = Instant::now();
                let before = std::mem::take(&mut refused);
                self.shared.state.lock().open_again(before.clone());
                refused = self.reconcile(&mut connection).await?;
                if refused.len() < before.len() {
                    (self.sink)(Signal::Interrupted);
                }
            }
        }
    }

    /// Subscribes and unsubscribes until Redis sends the desired channels. Returns those that it refuses.
    async fn reconcile(&self, connection: &mut MultiplexedConnection) -> Result<HashSet<String>, RedisError> {
        let (missing, superfluous, taken_over) = self.shared.state.lock().take_open();
        let split = |channels| Vec::<String>::into_iter(channels).partition::<Vec<String>, _>(|channel| self.names.is_live(channel));
        let ((new, new_bus), (old, old_bus)) = (split(missing), split(superfluous));
        for (command, channels) in [("SUNSUBSCRIBE", old), ("UNSUBSCRIBE", old_bus)] {
            self.subscribe(connection, command, &channels).await?;
        }
        let mut refused = HashSet::new();
        for (command, channels) in [("SSUBSCRIBE", new), ("SUBSCRIBE", new_bus)] {
            self.subscribe(connection, command, &channels).await?;
            let mut state = self.shared.state.lock();
            for channel in channels {
                if !state.answered.contains(&channel) {
                    refused.insert(channel.clone());
                    state.answer(channel);
                }
            }
        }
        if taken_over {
            (self.sink)(Signal::Interrupted);
        }
        Ok(refused)
    }

    /// Sends this command for each of these by itself: they may be of several slots, and a refusal has to do with one of them. The
    /// [`Receiver`] notes what Redis confirms; an answer alone does not tell its channel, since a message that nobody asked for may take its
    /// place.
    async fn subscribe(&self, connection: &mut MultiplexedConnection, command: &str, channels: &[String]) -> Result<(), RedisError> {
        for some in channels.chunks(CHANNELS_AT_ONCE) {
            let mut pipeline = redis::pipe();
            for channel in some {
                pipeline.cmd(command).arg(channel);
            }
            let answers = connection.send_packed_commands(&pipeline, 0, some.len()).await?;
            let errors = answers.into_iter().filter_map(|answer| if let Value::ServerError(e) = answer { Some(e) } else { None });
            let unconfirmed: Vec<&String> = {
                let state = self.shared.state.lock();
                some.iter().filter(|channel| !state.answered.contains(*channel)).collect()
            };
            for (channel, e) in unconfirmed.into_iter().zip(errors) {
                let e = RedisError::from(e);
                if matches!(e.kind(), ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::ClusterDown)) {
                    self.wrong.notify_one();
                } else {
                    metrics::counter!("motience_redis_refusals_total", "reason" => "channel").increment(1);
                    warn!(channel, error = %self.place.unavailable(&e), "cannot subscribe to a channel; its log is read instead");
                }
            }
        }
        Ok(())
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
    /// See [`Follower::start`].
    wrong: Arc<Notify>,
    broken: CancellationToken,
}

impl Receiver {
    fn receive(&self, kind: &PushKind, data: Vec<Value>) -> Result<(), Error> {
        match kind {
            PushKind::Disconnection => self.broken.cancel(),
            // Unasked, where the slot has gone to another server.
            PushKind::SUnsubscribe => {
                if let Some(Value::BulkString(channel)) = data.first()
                    && let Ok(channel) = std::str::from_utf8(channel)
                    && self.shared.state.lock().desired.contains(channel)
                {
                    self.shared.change(|state| state.open_again([channel.to_owned()].into()));
                    self.wrong.notify_one();
                }
            }
            PushKind::Subscribe | PushKind::SSubscribe => {
                if let Some(Value::BulkString(channel)) = data.first()
                    && let Ok(channel) = std::str::from_utf8(channel)
                {
                    self.shared.state.lock().answer(channel.to_owned());
                }
            }
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
