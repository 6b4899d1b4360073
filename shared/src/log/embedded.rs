//! The log in this process's memory: nothing to install, one node, gone when the process ends.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use time::OffsetDateTime;

use super::{Batch, Error, Event, Head, Opened, Read, Retention, Section, SessionName, Signal, Sink};
use crate::{
    clock::Clock,
    model::{Epoch, Fence, LogEpoch, Offset, ProducerId, RangeSet},
};

/// The in-process log. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    epoch: LogEpoch,
    retention: Retention,
    clock: Clock,
    sink: Sink,
    /// The map is locked to find a producer, the producer to use it: producers do not wait for each other.
    producers: Mutex<HashMap<ProducerId, Arc<Mutex<Producer>>>>,
}

#[derive(Default)]
struct Producer {
    last: Offset,
    batches: VecDeque<(OffsetDateTime, Arc<Batch>)>,
    bytes: usize,
    sessions: HashMap<SessionName, Session>,
}

struct Session {
    fence: Fence,
    epoch: Epoch,
    seen: RangeSet,
    used: OffsetDateTime,
}

impl Log {
    /// An empty log whose signals go to `sink`.
    pub fn new(retention: Retention, clock: Clock, sink: Sink) -> Self {
        let epoch = LogEpoch(fastrand::u64(1..1 << 53));
        Self(Arc::new(Inner { epoch, retention, clock, sink, producers: Mutex::default() }))
    }

    pub(super) async fn open(&self, producer: ProducerId, name: &SessionName, epoch: Epoch, held: Option<Fence>) -> Result<Opened, Error> {
        let now = self.0.clock.now();
        self.with(producer, |p| {
            // Connections begin rarely enough to look for senders long gone each time.
            p.sessions.retain(|name, session| now - session.used < name.memory());
            let session =
                p.sessions.entry(name.clone()).or_insert_with(|| Session { fence: Fence(0), epoch, seen: RangeSet::new(), used: now });
            if held.is_some_and(|held| held != session.fence) {
                return Err(Error::Fenced);
            }
            if session.epoch != epoch {
                session.epoch = epoch;
                session.seen = RangeSet::new();
            }
            session.fence.0 += 1;
            session.used = now;
            Ok(Opened { fence: session.fence, seen: session.seen.clone() })
        })
    }

    pub(super) async fn append(&self, producer: ProducerId, sections: &[Section]) -> Result<Vec<Result<Offset, Error>>, Error> {
        let now = self.0.clock.now();
        Ok(self.with(producer, |p| sections.iter().map(|section| self.append_section(producer, p, section, now)).collect()))
    }

    fn append_section(&self, producer: ProducerId, p: &mut Producer, section: &Section, now: OffsetDateTime) -> Result<Offset, Error> {
        let session = p.sessions.get_mut(&section.name).filter(|s| s.fence == section.fence).ok_or(Error::Fenced)?;
        session.seen.clone_from(&section.seen);
        session.used = now;
        let first = p.last.next();
        if section.messages.is_empty() {
            return Ok(first);
        }
        let batch = Arc::new(Batch::new(producer, self.0.epoch, first, section.messages.clone()));
        p.last = batch.last();
        p.bytes += batch.bytes();
        p.batches.push_back((now, Arc::clone(&batch)));
        while let Some((written, oldest)) = p.batches.front() {
            let held = p.batches.len() > 1 && p.bytes > self.0.retention.bytes || now - *written > self.0.retention.age;
            if !held {
                break;
            }
            p.bytes -= oldest.bytes();
            p.batches.pop_front();
        }
        // Under the producer's lock, so that signals keep the order of the log.
        (self.0.sink)(Signal::Batch(batch));
        Ok(first)
    }

    pub(super) async fn head(&self, producer: ProducerId) -> Result<Head, Error> {
        Ok(Head { epoch: self.0.epoch, last: self.with(producer, |p| p.last) })
    }

    pub(super) async fn read(&self, producer: ProducerId, after: Offset, bytes: usize) -> Result<Read, Error> {
        Ok(self.with(producer, |p| {
            let start = p.batches.partition_point(|(_, batch)| batch.last() <= after);
            let mut taken = 0;
            let batches = p
                .batches
                .range(start..)
                .take_while(|(_, batch)| {
                    let more = taken < bytes;
                    taken += batch.bytes();
                    more
                })
                .map(|(_, batch)| Arc::clone(batch))
                .collect();
            Read { batches }
        }))
    }

    /// Every append is signalled, so there is nothing to arrange.
    pub(super) async fn follow(&self, _producer: ProducerId) -> Result<(), Error> {
        Ok(())
    }

    pub(super) fn unfollow(&self, _producer: ProducerId) {}

    pub(super) async fn announce(&self, event: &Event) -> Result<(), Error> {
        (self.0.sink)(Signal::Event(event.clone()));
        Ok(())
    }

    pub(super) async fn ping(&self) -> Result<(), Error> {
        Ok(())
    }

    fn with<T>(&self, producer: ProducerId, work: impl FnOnce(&mut Producer) -> T) -> T {
        let producer = Arc::clone(self.0.producers.lock().unwrap_or_else(PoisonError::into_inner).entry(producer).or_default());
        let mut producer = producer.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut producer)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("embedded::Log").field("epoch", &self.0.epoch).finish_non_exhaustive()
    }
}
