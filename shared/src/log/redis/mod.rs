//! The log in Redis: any number of nodes meet here.
//!
//! Each atomic step is one function call of `motience.lua`. A multiplexed connection pipelines the calls of all
//! producers; a second one receives what is published; a third waits for replicas, where that is asked for. Redis
//! persists as its operator configured it.

mod barrier;
mod follow;
mod link;
mod mend;
mod names;
mod reply;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use redis::Cmd;
use secrecy::SecretString;

use time::OffsetDateTime;

use self::{
    barrier::Barrier,
    follow::Follower,
    link::Link,
    names::{Channel, Names},
};
use super::{Error, Event, Head, Opened, Read, Retention, Section, Sender, Signal, Sink};
use crate::model::{LogEpoch, Offset, ProducerId};

/// Longest wait for one answer of Redis.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for a connection to Redis.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Entries asked for at once when the log is read.
const READ_COUNT: usize = 512;

/// The Redis log. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    names: Names,
    link: Link,
    follower: Follower,
    retention: Retention,
    barrier: Option<Barrier>,
}

impl Log {
    /// Connects, loads the functions, and has signals go to `sink`. What is appended counts as written once `replicas`
    /// replicas have it too.
    pub async fn connect(url: &SecretString, replicas: u32, retention: Retention, sink: Sink) -> Result<Self, Error> {
        let names = Names::default();
        let link = Link::new(url, &names)?;
        link.session().await?;
        let follower = Follower::start(url, &names, sink)?;
        let barrier = if replicas > 0 { Some(Barrier::start(url, &names, replicas)?) } else { None };
        Ok(Self(Arc::new(Inner { names, link, follower, retention, barrier })))
    }

    pub(super) async fn open(&self, producer: ProducerId, sender: &Sender, reopened: Option<LogEpoch>) -> Result<Opened, Error> {
        // The epoch must be that of the server which takes the call, so it is read with the connection.
        let session = self.0.link.session().await?;
        let mut call = function("open");
        call.arg(2)
            .arg(self.0.names.key(producer, "meta"))
            .arg(self.0.names.session(producer, &sender.name))
            .arg(session.epoch.0)
            .arg(sender.epoch.0);
        call.arg(sender.owner).arg(reopened.map(|life| life.to_string()).unwrap_or_default()).arg(millis(sender.name.memory()));
        let opened = reply::opened(self.0.link.query_on(&session, &call).await?)?;
        // What it has seen must be as durable as an acknowledgement.
        self.durable(session.epoch).await?;
        Ok(opened)
    }

    pub(super) async fn append(&self, producer: ProducerId, sections: &[Section]) -> Result<Vec<Result<(), Error>>, Error> {
        let session = self.0.link.session().await?;
        let mut call = function("append");
        call.arg(sections.len() + 4);
        for name in ["meta", "log", "marks", "ids"] {
            call.arg(self.0.names.key(producer, name));
        }
        for section in sections {
            call.arg(self.0.names.session(producer, &section.name));
        }
        call.arg(self.0.names.channel(Channel::Live(producer)))
            .arg(session.epoch.0)
            .arg(self.0.retention.bytes)
            .arg(millis(self.0.retention.age));
        for section in sections {
            call.arg(section.life.0)
                .arg(section.fence.0)
                .arg(section.epoch.0)
                .arg(format!("{:016x}", section.epoch.0))
                .arg(section.seen.to_string());
            call.arg(millis(section.name.memory())).arg(section.records.len());
            for record in &section.records {
                call.arg(record.seq.0).arg(record.id.as_deref().unwrap_or_default()).arg(&record.message[..]);
            }
        }
        let value = self.0.link.query_on(&session, &call).await?;
        let outcomes = reply::outcomes(value, sections.len())?;
        self.durable(session.epoch).await?;
        Ok(outcomes)
    }

    pub(super) async fn head(&self, producer: ProducerId) -> Result<Head, Error> {
        let session = self.0.link.session().await?;
        let mut call = function("head");
        call.arg(2).arg(self.0.names.key(producer, "meta")).arg(self.0.names.key(producer, "log")).arg(session.epoch.0);
        reply::head(self.0.link.query_on(&session, &call).await?)
    }

    pub(super) async fn read(&self, producer: ProducerId, after: Offset, bytes: usize) -> Result<Read, Error> {
        let session = self.0.link.session().await?;
        let mut call = function("read");
        let count = (bytes / 512).clamp(1, READ_COUNT);
        call.arg(2).arg(self.0.names.key(producer, "meta")).arg(self.0.names.key(producer, "log"));
        call.arg(session.epoch.0).arg(format!("{}-0", after.0 + 1)).arg(count);
        reply::read(self.0.link.query_on(&session, &call).await?, producer)
    }

    pub(super) async fn before(&self, producer: ProducerId, time: OffsetDateTime) -> Result<Offset, Error> {
        let mut call = redis::cmd("LRANGE");
        call.arg(self.0.names.key(producer, "marks")).arg(0).arg(-1);
        let (_, value) = self.0.link.query(&call).await?;
        let marked = reply::marked_before(value, time.unix_timestamp_nanos() / 1_000_000)?;
        Ok(match marked {
            Some(offset) => offset,
            None => Offset(self.head(producer).await?.first.0.saturating_sub(1)),
        })
    }

    async fn durable(&self, epoch: LogEpoch) -> Result<(), Error> {
        match &self.0.barrier {
            Some(barrier) => barrier.pass(epoch).await,
            None => Ok(()),
        }
    }

    pub(super) async fn follow(&self, producer: ProducerId) -> Result<(), Error> {
        self.0.follower.follow(self.0.names.channel(Channel::Live(producer))).await
    }

    pub(super) fn unfollow(&self, producer: ProducerId) {
        self.0.follower.unfollow(&self.0.names.channel(Channel::Live(producer)));
    }

    pub(super) async fn announce(&self, event: &Event) -> Result<(), Error> {
        let text = serde_json::to_string(event).map_err(|e| Error::Damaged(e.to_string()))?;
        let mut call = redis::cmd("PUBLISH");
        call.arg(self.0.names.channel(if event.is_report() { Channel::Reports } else { Channel::Bus })).arg(text);
        self.0.link.query(&call).await.map(drop)
    }

    pub(super) async fn ping(&self) -> Result<(), Error> {
        self.0.link.query(&redis::cmd("PING")).await.map(drop)
    }

    pub(super) fn durability(&self) -> String {
        self.0.barrier.as_ref().map_or_else(|| "redis".to_owned(), |barrier| format!("redis+{}", barrier.replicas()))
    }

    pub(super) async fn close(&self) {
        self.0.follower.close().await;
        if let Some(barrier) = &self.0.barrier {
            barrier.close().await;
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("redis::Log").finish_non_exhaustive()
    }
}

fn function(name: &str) -> Cmd {
    let mut call = redis::cmd("FCALL");
    call.arg(format!("motience_2_{name}"));
    call
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Turns a message received on a shard channel or the bus into a signal.
fn signal(names: &Names, channel: &[u8], payload: Bytes) -> Result<Signal, Error> {
    match names.channel_of(channel)? {
        Channel::Live(producer) => reply::published(producer, payload).map(|batch| Signal::Batch(Arc::new(batch))),
        Channel::Bus | Channel::Reports => serde_json::from_slice(&payload).map(Signal::Event).map_err(|e| Error::Damaged(e.to_string())),
    }
}
