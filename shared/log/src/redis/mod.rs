//! The log in Redis: any number of nodes meet here.
//!
//! Each atomic step is one function call of `motience.lua`. A multiplexed connection pipelines the calls of all
//! producers; a second one receives what is published; a third waits for replicas, where that is asked for. In a Redis Cluster each
//! master has these three (`shards`). Redis persists as its operator configured it.

mod barrier;
mod chunk;
mod cluster;
mod config;
mod erase;
mod follow;
mod functions;
mod home;
mod layout;
mod leases;
mod link;
mod moved;
mod names;
mod place;
mod reply;
mod reports;
mod rewrite_aof;
mod seal;
mod sentinel;
mod server;
mod shards;
mod slots;
mod watch;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Value};
use secrecy::SecretString;

use motience_proto::model::{LogEpoch, LogKey, Offset, RangeSet, UserId};
use motience_runtime::{
    clock::{self, Clock},
    telemetry::Sampler,
};
use time::OffsetDateTime;
use tokio::task::{JoinHandle, JoinSet};
use tracing::warn;

pub use self::config::{Config, Settings};
use self::{
    barrier::Passed,
    functions::call,
    leases::{LEASE, Leases, Owned},
    link::Session,
    names::{Channel, Names},
    seal::Seal,
    shards::{Answered, Shard, Shards},
};
use crate::{
    AppendBatch, AppendRecord, Bounds, Bus, Engine, Error, Fetch, Outline, Records, Retention, Retentions, Sender, SessionState, Sessions,
    Signal, Sink, Topic, sessions::DEVICE_MEMORY,
};

/// Longest wait for one answer of Redis.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a connection to Redis.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How often messages of one kind are logged.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Sessions of an erased log that are removed in one call.
const ERASED_AT_ONCE: isize = 500;
/// How often an erasure of records begins again when another node, or a trim, has come between.
const ERASE_ROUNDS: usize = 3;
/// The one member of the sorted set whose score is the highest number of an account.
const HIGHEST: &str = "highest";

/// Whether Redis answers, and is one that a node takes; changes nothing in it.
pub async fn probe(config: &Config) -> Result<(), Error> {
    shards::probe(config).await
}

/// The Redis log. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    names: Names,
    seal: Seal,
    shards: Arc<Shards>,
    /// Replicas that must have a record before it counts as written.
    replicas: u32,
    retentions: Retentions,
    /// See [`Config::budget`].
    budget: Option<usize>,
    watch: Mutex<Option<JoinHandle<()>>>,
    /// Since when the records that are to go could not be removed.
    stalled: Mutex<Option<Instant>>,
    leases: Arc<Leases>,
    noted: reports::Noted,
    /// Renews the leases.
    lease_task: Mutex<Option<JoinHandle<()>>>,
    /// Limits repeated warnings: steps of an append that failed, sessions that had to go.
    said: Sampler,
    clock: Clock,
}

impl Log {
    /// Connects for the installation with this id, loads the functions, and has signals go to `sink`. Records count as
    /// written once `replicas` replicas have them too. Nodes that share `secret` believe each other. `clock` says when records
    /// come.
    pub async fn connect(
        config: &Config,
        installation: &str,
        secret: &SecretString,
        replicas: u32,
        retention: Retention,
        clock: Clock,
        sink: Sink,
    ) -> Result<Self, Error> {
        let (names, seal) = (Names::new(installation), Seal::new(secret));
        let shards = Shards::connect(config, &names, &seal, replicas, sink).await?;
        // No installation of the first release was in a cluster.
        if !shards.is_cluster() {
            match moved::take_over(&shards, &names).await {
                // An operator may have forbidden what it takes.
                Err(e @ Error::Damaged(_)) => warn!(error = %e, "logs of the first release, if there are any, cannot be taken over"),
                done => done?,
            }
        }
        let inner = Inner {
            names,
            seal,
            shards,
            replicas,
            retentions: Retentions::new(retention),
            budget: config.budget,
            watch: Mutex::default(),
            stalled: Mutex::default(),
            leases: Arc::default(),
            noted: reports::Noted::default(),
            lease_task: Mutex::default(),
            said: Sampler::new(SAY_EVERY),
            clock,
        };
        let log = Self(Arc::new(inner));
        let lease_task = tokio::spawn(leases::run(Arc::downgrade(&log.0), Arc::clone(&log.0.leases)));
        *log.0.lease_task.lock() = Some(lease_task);
        Ok(log)
    }

    /// Has the server looked after: what is wrong with it is said, and room is made where it has too little.
    #[must_use]
    pub fn watched(self) -> Self {
        let task = tokio::spawn(watch::run(Arc::downgrade(&self.0)));
        *self.0.watch.lock() = Some(task);
        self
    }

    /// A slice of the bucket of this name, into which `rate` parts come a second: of the parts wanted those that are granted, and the sum of
    /// all that was ever granted.
    pub(super) async fn lease_slice(&self, bucket: &str, want: u64, rate: u64) -> Result<(u64, u64), Error> {
        let mut call = functions::lease();
        let key = self.0.names.shared(&format!("quota:{bucket}"));
        call.arg(1).arg(&key).arg(want).arg(rate);
        self.0.shards.ask(&key, &call).await
    }

    /// See [`crate::Log::note_reports`].
    pub(super) async fn note_reports(&self, key: LogKey, reports: &[(String, Vec<u8>)]) -> Result<(), Error> {
        reports::note(&self.0, key, reports).await
    }

    /// See [`crate::Log::reports`].
    pub(super) async fn reports(&self, key: LogKey) -> Result<HashMap<String, Bytes>, Error> {
        reports::read(&self.0, key).await
    }

    /// See [`crate::Log::reported`].
    pub(super) async fn reported(&self) -> Result<Vec<LogKey>, Error> {
        reports::reported(&self.0).await
    }

    /// See [`crate::Log::note_node`].
    pub(super) async fn note_node(&self, node: &str, report: &[u8], keep: Duration) -> Result<(), Error> {
        reports::note_node(&self.0, node, report, keep).await
    }

    /// See [`crate::Log::node_report`].
    pub(super) async fn node_report(&self, node: &str) -> Result<Option<Bytes>, Error> {
        reports::of_node(&self.0, node).await
    }

    /// Returns once what this session has written is as durable as was asked for.
    async fn durable(&self, shard: &Shard, session: &Session) -> Result<(), Error> {
        match &shard.barrier {
            Some(barrier) => match barrier.pass(session.log_epoch).await? {
                Passed::Yes => Ok(()),
                Passed::OtherEpoch => {
                    // Either may be the one that knows an epoch of the past: a server that was a replica for a moment ends no connections.
                    shard.link.leave(session);
                    Err(Error::Unavailable("Redis was restarted in between".to_owned()))
                }
            },
            None => Ok(()),
        }
    }

    pub(super) fn retentions(&self) -> &Retentions {
        &self.0.retentions
    }

    /// See [`crate::Log::server_of`].
    pub(super) fn server_of(&self, key: LogKey) -> usize {
        self.0.shards.number(&self.0.names.home(key))
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.shards.is_full()
    }

    pub(super) fn silent_for(&self) -> Duration {
        self.0.shards.silent_for()
    }

    pub(super) fn stalled_for(&self) -> Option<Duration> {
        self.0.stalled.lock().map(|since| since.elapsed())
    }
}

impl Records for Log {
    async fn append(&self, key: LogKey, batches: &[AppendBatch]) -> Result<Vec<Result<(), Error>>, Error> {
        let channel = self.0.names.channel(Channel::Live(key));
        let now = self.0.clock.now();
        let mut parts = Vec::with_capacity(batches.len());
        for batch in batches {
            let mut part = Part { seen: batch.seen.to_string(), chunks: Vec::new() };
            for records in chunk::split(&batch.records) {
                let chunk = chunk::encode(records, now);
                let seal = self.0.seal.chunk(&channel, batch.log_epoch, batch.producer_epoch, &chunk);
                part.chunks.push((records, seal, chunk));
                // Compressing a long batch takes a while.
                tokio::task::consume_budget().await;
            }
            parts.push(part);
        }
        let answered = self.0.query(key, |session| self.0.appending(key, &channel, batches, &parts, session)).await?;
        answered.shard.link.has_room();
        let reply::Appended { outcomes, notes, evicted } = reply::appended(answered.value, batches.len())?;
        self.0.note_evicted(key, evicted);
        if !notes.is_empty() {
            metrics::counter!("motience_redis_steps_failed_total").increment(notes.len() as u64);
            if self.0.said.pass("steps").is_some() {
                warn!(producer = %key.producer, ?notes, "appended, but not all that goes with it could be done");
            }
        }
        self.durable(&answered.shard, &answered.session).await?;
        Ok(outcomes)
    }

    async fn read(&self, key: LogKey, after: Offset, bytes: usize) -> Result<Fetch, Error> {
        let home = self.0.names.home(key);
        let answered = self.0.shards.read(&home, |session| {
            let mut call = call("read");
            call.arg(2).arg(self.0.names.key(key, "meta")).arg(self.0.names.key(key, "log"));
            // A chunk is named by its last record, so the first one with such an id has the wanted record.
            call.arg(session.log_epoch.0).arg(format!("{}-0", after.0 + 1)).arg(bytes.max(1));
            call
        });
        reply::read(answered.await?.value, key)
    }

    async fn bounds(&self, key: LogKey) -> Result<Bounds, Error> {
        let ask = |name| {
            self.0.query(key, move |session| {
                let mut call = call(name);
                call.arg(2).arg(self.0.names.key(key, "meta")).arg(self.0.names.key(key, "log")).arg(session.log_epoch.0);
                call
            })
        };
        let (bounds, begun) = reply::bounds(ask("head").await?.value)?;
        // The present epoch is begun if nobody has written in it yet, so that readers stand in it and need no reset later. Where that
        // is refused (Redis is full, say), they read all the same.
        if begun || ask("begin").await.is_err() {
            return Ok(bounds);
        }
        Ok(reply::bounds(ask("head").await?.value)?.0)
    }

    async fn outline(&self, key: LogKey) -> Result<Outline, Error> {
        let (mut sums, mut marks, mut left) = (redis::cmd("HMGET"), redis::cmd("LRANGE"), redis::cmd("PTTL"));
        sums.arg(self.0.names.key(key, "meta")).arg("total").arg("gone");
        marks.arg(self.0.names.key(key, "marks")).arg(0).arg(-1);
        left.arg(self.0.names.key(key, "log"));
        let (bounds, (total, gone), marks, left) = tokio::try_join!(
            self.bounds(key),
            self.0.ask::<(Option<u64>, Option<u64>)>(key, &sums),
            self.0.ask(key, &marks),
            self.0.ask::<i64>(key, &left)
        )?;
        let (now, keep) = (self.0.clock.now(), self.0.retentions.of(key.producer));
        let segments = reply::segments(marks)?;
        // An append may have come between the answers.
        let total = total.unwrap_or(0).max(segments.last().map_or(0, |segment| segment.total));
        // Where an earlier release has removed records, no more is known than what the first segment does not hold.
        let unknown = if bounds.first > Offset(1) { segments.first().map_or(total, |segment| segment.total) } else { 0 };
        let gone = if bounds.first > bounds.last { total } else { gone.unwrap_or(unknown) };
        // The whole log expires one age after its last record.
        let left = u64::try_from(left).map_or(keep.age, Duration::from_millis);
        Ok(Outline { bounds, segments, total, gone, end: now + left - keep.age, now, keep })
    }

    async fn offset_for_time(&self, key: LogKey, time: OffsetDateTime) -> Result<Offset, Error> {
        let mut call = redis::cmd("LRANGE");
        call.arg(self.0.names.key(key, "marks")).arg(0).arg(-1);
        let value = self.0.ask(key, &call).await?;
        let before = reply::segments(value)?.into_iter().take_while(|segment| clock::millis(segment.at) < clock::millis(time)).last();
        Ok(match before {
            Some(segment) => segment.last,
            None => Offset(self.bounds(key).await?.first.0.saturating_sub(1)),
        })
    }

    async fn removed_at(&self, key: LogKey) -> Result<Option<OffsetDateTime>, Error> {
        let mut call = redis::cmd("HGET");
        call.arg(self.0.names.key(key, "meta")).arg("gone_at");
        reply::time(self.0.ask(key, &call).await?)
    }

    async fn trim(&self, key: LogKey) -> Result<(), Error> {
        let log = self.0.names.key(key, "log");
        self.0.ask::<u64>(key, &watch::trimming(&self.0, &log, watch::ALL)).await.map(drop)
    }

    async fn erase(&self, key: LogKey) -> Result<(), Error> {
        // Sessions first, as their names are in the rosters.
        for roster in ["devices", "passing"] {
            loop {
                let mut names = redis::cmd("ZRANGE");
                names.arg(self.0.names.key(key, roster)).arg(0).arg(ERASED_AT_ONCE - 1);
                let names: Vec<String> = self.0.ask(key, &names).await?;
                if names.is_empty() {
                    break;
                }
                let (mut sessions, mut members) = (redis::cmd("UNLINK"), redis::cmd("ZREM"));
                members.arg(self.0.names.key(key, roster));
                for name in &names {
                    sessions.arg(self.0.names.key(key, &format!("s:{name}")));
                    members.arg(name);
                }
                self.0.ask::<Value>(key, &sessions).await?;
                self.0.ask::<Value>(key, &members).await?;
            }
        }
        let mut all = redis::cmd("UNLINK");
        for part in ["log", "marks", "ids", "devices", "passing", "meta", "fresh", "staged"] {
            all.arg(self.0.names.key(key, part));
        }
        all.arg(reports::hashes(&self.0, key).as_slice());
        let gone: u64 = self.0.ask(key, &all).await?;
        if gone > 0 {
            erase::rewrite_files(&self.0).await;
        }
        Ok(())
    }

    async fn erase_records(&self, key: LogKey, offsets: &RangeSet) -> Result<(), Error> {
        for _ in 0..ERASE_ROUNDS {
            if erase::erase_records(&self.0, key, offsets).await? {
                return Ok(());
            }
        }
        Err(Error::Unavailable("records are being erased by another node, or the log was lost meanwhile".to_owned()))
    }

    fn oldest(&self, key: LogKey) -> OffsetDateTime {
        self.0.clock.now() - self.0.retentions.of(key.producer).age
    }

    async fn watch(&self, key: LogKey) -> Result<(), Error> {
        self.0.shards.follow(self.0.names.channel(Channel::Live(key))).await
    }

    fn unwatch(&self, key: LogKey) {
        self.0.shards.unfollow(&self.0.names.channel(Channel::Live(key)));
    }
}

impl Sessions for Log {
    async fn open(&self, key: LogKey, sender: &Sender, reopened: Option<LogEpoch>) -> Result<SessionState, Error> {
        let answered = self.0.query(key, |session| {
            let mut call = call("open");
            call.arg(5);
            for name in ["meta", "log", "devices", "passing"] {
                call.arg(self.0.names.key(key, name));
            }
            call.arg(self.0.names.session(key, &sender.name)).arg(session.log_epoch.0);
            self.0.bounds(&mut call);
            call.arg(sender.producer_epoch.0).arg(sender.owner);
            call.arg(reopened.map(|log_epoch| log_epoch.to_string()).unwrap_or_default()).arg(millis(sender.name.memory()));
            call
        });
        let answered = answered.await?;
        let (opened, evicted) = reply::opened(answered.value)?;
        let held = self.0.leases.hold(key, sender);
        self.0.note_evicted(key, evicted);
        // The dedup window must be as durable as an acknowledgement.
        self.durable(&answered.shard, &answered.session).await?;
        Ok(SessionState { held, ..opened })
    }
}

impl Bus for Log {
    async fn broadcast(&self, topic: Topic, message: Bytes) -> Result<(), Error> {
        let channel = self.0.names.channel(Channel::Bus(topic));
        let mut call = redis::cmd("PUBLISH");
        call.arg(&channel).arg(self.0.seal.message(&channel, &message));
        self.0.shards.ask::<Value>(&channel, &call).await.map(drop)
    }
}

impl Engine for Log {
    async fn ping(&self) -> Result<(), Error> {
        let mut asked = JoinSet::new();
        for shard in self.0.shards.all() {
            asked.spawn(async move {
                // Refused wherever an append would be.
                let answer = shard.link.ask::<Value>(call("probe").arg(0)).await;
                if answer.is_ok() {
                    shard.link.has_room();
                }
                answer.map(drop)
            });
        }
        let answers = asked.join_all().await;
        let away = answers.iter().filter(|answer| answer.is_err()).count();
        metrics::gauge!("motience_redis_shards_away").set(away as f64);
        if away > 0 && answers.len() > 1 && self.0.said.pass("shards").is_some() {
            for e in answers.iter().filter_map(|answer| answer.as_ref().err()) {
                warn!(error = %e, "a server of the log does not take records");
            }
        }
        // Producers of the other servers go on.
        match answers.into_iter().reduce(Result::or) {
            Some(answer) => answer,
            None => Err(Error::Unavailable("no server of the cluster is known".to_owned())),
        }
    }

    fn durability(&self) -> String {
        if self.0.replicas == 0 { "redis".to_owned() } else { format!("redis+{}", self.0.replicas) }
    }

    async fn highest_account(&self) -> Result<UserId, Error> {
        let key = self.0.names.shared("accounts");
        let mut call = redis::cmd("ZSCORE");
        call.arg(&key).arg(HIGHEST);
        let highest: Option<f64> = self.0.shards.ask(&key, &call).await?;
        // Numbers of accounts are integers of 31 bits.
        Ok(UserId(highest.unwrap_or(0.0) as i64))
    }

    async fn note_account(&self, user: UserId) -> Result<(), Error> {
        let key = self.0.names.shared("accounts");
        let mut call = redis::cmd("ZADD");
        // The higher score stays, whoever comes last.
        call.arg(&key).arg("GT").arg(user.0).arg(HIGHEST);
        let answered = self.0.shards.query(&key, |_| call.clone()).await?;
        self.durable(&answered.shard, &answered.session).await
    }

    async fn take_once(&self, name: &str, ttl: Duration) -> Result<bool, Error> {
        let key = self.0.names.shared(&format!("once:{name}"));
        let mut call = redis::cmd("SET");
        call.arg(&key).arg(1).arg("NX").arg("PX").arg(millis(ttl));
        let taken: Option<String> = self.0.shards.ask(&key, &call).await?;
        Ok(taken.is_some())
    }

    async fn close(&self) {
        let watch = self.0.watch.lock().take();
        let lease_task = self.0.lease_task.lock().take();
        for task in [watch, lease_task].into_iter().flatten() {
            task.abort();
        }
        leases::finish(&self.0).await;
        self.0.shards.close().await;
    }
}

/// A batch as it goes into a call.
struct Part<'a> {
    seen: String,
    /// Records of each chunk, the seal, and the chunk.
    chunks: Vec<(&'a [AppendRecord], String, Vec<u8>)>,
}

impl Inner {
    /// Asks the server that has this log.
    async fn query(&self, key: LogKey, call: impl Fn(&Session) -> Cmd) -> Result<Answered, Error> {
        self.shards.query(&self.names.home(key), call).await
    }

    /// Asks the server that has this log for something of a known type.
    async fn ask<T: FromRedisValue>(&self, key: LogKey, call: &Cmd) -> Result<T, Error> {
        self.shards.ask(&self.names.home(key), call).await
    }

    /// The call that appends.
    fn appending(&self, key: LogKey, channel: &str, batches: &[AppendBatch], parts: &[Part<'_>], session: &Session) -> Cmd {
        let mut call = call("append");
        call.arg(batches.len() + 6);
        for name in ["meta", "log", "marks", "ids", "devices", "passing"] {
            call.arg(self.names.key(key, name));
        }
        for batch in batches {
            call.arg(self.names.session(key, &batch.name));
        }
        let keep = self.retentions.of(key.producer);
        call.arg(channel).arg(session.log_epoch.0).arg(keep.bytes).arg(millis(keep.age));
        self.bounds(&mut call);
        for (batch, part) in batches.iter().zip(parts) {
            call.arg(batch.log_epoch.0)
                .arg(batch.fence.0)
                .arg(batch.producer_epoch.0)
                .arg(format!("{:016x}", batch.producer_epoch.0))
                .arg(&part.seen)
                .arg(millis(batch.name.memory()))
                .arg(part.chunks.len());
            for (records, seal, chunk) in &part.chunks {
                let bytes: usize = records.iter().map(|record| record.message.len()).sum();
                call.arg(records.len()).arg(bytes).arg(seal).arg(&chunk[..]);
                let ids = chunk::ids(records);
                call.arg(ids.clone().count());
                ids.for_each(|(place, id)| {
                    call.arg(place).arg(id);
                });
            }
        }
        call
    }

    /// Adds what bounds the sessions to a call.
    fn bounds(&self, call: &mut redis::Cmd) {
        let keep = self.retentions.platform();
        call.arg(keep.sessions).arg(keep.windows).arg(millis(LEASE));
    }

    /// Says of these sessions that their connections last, or have ended.
    async fn keep(&self, key: LogKey, sessions: &[Owned], last: bool) -> Result<(), Error> {
        let answered = self.query(key, |session| {
            let mut call = call("keep");
            call.arg(sessions.len() + 4);
            for name in ["meta", "log", "devices", "passing"] {
                call.arg(self.names.key(key, name));
            }
            for (name, _) in sessions {
                call.arg(self.names.session(key, name));
            }
            call.arg(session.log_epoch.0);
            self.bounds(&mut call);
            call.arg(millis(DEVICE_MEMORY)).arg(u8::from(last));
            for (name, owner) in sessions {
                call.arg(*owner).arg(millis(name.memory()));
            }
            call
        });
        let evicted = reply::evicted(answered.await?.value)?;
        self.note_evicted(key, evicted);
        Ok(())
    }

    fn note_evicted(&self, key: LogKey, evicted: reply::Evicted) {
        for (reason, number) in evicted.by_reason() {
            metrics::counter!("motience_log_sessions_forgotten_total", "reason" => reason).increment(number);
            if reason != "age" && self.said.pass("forgotten").is_some() {
                warn!(
                    producer = %key.producer, reason,
                    "a producer's devices are more than the log remembers: those that were away the longest are forgotten \
                     (LOG_MAX_SESSIONS, LOG_MAX_DEDUP_BYTES)"
                );
            }
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("redis::Log").finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Turns a message received on a shard channel or the bus into a signal. `None`: it is not from one of our nodes.
fn signal(names: &Names, seal: &Seal, channel: &[u8], payload: Bytes) -> Result<Option<Signal>, Error> {
    let name = String::from_utf8_lossy(channel);
    match names.channel_of(channel)? {
        Channel::Live(key) => Ok(reply::published(key, &name, seal, payload)?.map(|batch| Signal::Batch(Arc::new(batch)))),
        Channel::Bus(_) => Ok(seal.opened(&name, &payload).map(Signal::Message)),
    }
}
