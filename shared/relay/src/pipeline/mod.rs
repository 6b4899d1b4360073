//! The delivery pipeline, from which every egress reads:
//!
//! ```text
//! rights -> subscriber -> reorder -> scope -> filter -> projection -> sampling -> an encoder of the egress
//! ```
//!
//! In: deliveries of one subscriber.
//! Out: records and notices that the reader may see and asked for.
//! Next: `gateway-ws/src/consumer.rs`, and every other egress.
//!
//! [`Pipeline`] joins the rights of a reader, its [`super::Subscriber`] and the stages that it asked for. An egress waits for
//! [`Pipeline::next`], takes what is ready and encodes it. A connection with a stream for each producer has a pipeline for each
//! ([`Follows`]), so that none delays another; any other connection has one for all of its producers.
//!
//! Nothing is handed over between the notice of a change of the reader's rights and the check of them, nor after the end of its token.

mod active;
mod allowance;
mod authorized;
mod follows;
mod item;
pub mod json;
pub(super) mod named_cursors;
pub mod position;
pub mod reorder;
mod request;
mod rights;
pub mod sampler;
pub mod scope;
pub mod selection;
mod stages;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Instant,
};

use futures_util::future::{BoxFuture, Fuse, FutureExt as _, pending};
use motience_auth::{DeviceStates, Standing};
use motience_limits::quota::{Exceeded, OUT, Quota, Unit};
use motience_log::Batch;
use motience_proto::model::{Cursor, Offset, ProducerId, Role, Status};
use motience_runtime::clock::until;
use motience_settings::env::settings;
use parking_lot::Mutex;
use tokio::time::sleep;

pub use authorized::{Reader, Start};
pub use follows::{Asked, Begun, Follow, FollowEvent, FollowRefusal, Follows};
pub use item::{DeliveredRecord, Item};
pub use request::{InvalidRequest, Options, Request};
pub use stages::Stages;

use self::authorized::{Authorized, Step};
use super::{Delivery, Error, Notice, Relay, StartPosition, usage::Tally};

settings! {
    /// Room of the stages of one pipeline.
    #[derive(Clone, Copy, Debug)]
    pub struct Limits {}
    with {
        /// The reorder buffer.
        reorder: reorder::Limits,
        /// The sampler.
        sampler: sampler::Limits,
    }
}

/// Events of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There may be something to take.
    Ready,
    /// The reader follows other producers than before, or under other scopes.
    Changed,
    /// The reader's token, or its only follow, has ended.
    Ended,
}

/// The records that a reader may read, in the form that it asked for.
pub struct Pipeline {
    authorized: Authorized,
    standing: Arc<Standing>,
    /// Records taken that the standing has not counted yet.
    taken: u64,
    /// Counts the records of a consumer, where usage is counted.
    tally: Option<Tally>,
    /// The rates at which the reader may have records, beyond which the pipeline stands; and whether it does.
    quota: Arc<Quota>,
    paced: bool,
    /// Devices whose records the reader does not get, where it is a consumer.
    withheld: Option<DeviceStates>,
    /// Resolves with the end of the token; never for a follow, whose connection waits for that itself.
    over: Fuse<BoxFuture<'static, ()>>,
    stages: Stages,
    /// The batch that is given out, and the index of its next entry.
    batch: Option<(Arc<Batch>, usize)>,
    /// Output of the stages, bounded by the records that one arrival or one deadline releases.
    ready: VecDeque<Item>,
    /// Room that is used again.
    released: Vec<DeliveredRecord>,
    /// When the last delivery came.
    now: Instant,
    cursors: BTreeMap<ProducerId, Cursor>,
    begun: Vec<(ProducerId, Cursor)>,
    /// For whoever confirms in the name of this follow: the last cursor before anything that is held.
    low_watermark: Arc<Mutex<Option<Cursor>>>,
}

impl Pipeline {
    /// A pipeline for all that a reader may read, from `start` on, for as long as its token is good.
    pub(super) async fn open(
        relay: Relay,
        reader: Reader,
        start: &Start,
        options: Options,
        standing: Arc<Standing>,
    ) -> Result<Self, Error> {
        let stages = Stages::new(&options, relay.0.limits.pipeline, relay.0.clock.clone());
        let authorized = Authorized::open(relay, reader, start, options.cursor, &standing).await?;
        let token = Arc::clone(&standing);
        let over = async move { token.over().await };
        Ok(Self { over: over.boxed().fuse(), ..Self::new(authorized, stages, standing) })
    }

    fn new(authorized: Authorized, stages: Stages, standing: Arc<Standing>) -> Self {
        let grant = standing.grant();
        let meter = authorized.usage().filter(|_| grant.role == Role::Consumer);
        let mut pipeline = Self {
            tally: meter.map(|meter| Tally::new(meter, grant.user.consumer())),
            quota: authorized.quota(grant.user),
            paced: true,
            withheld: (grant.role == Role::Consumer).then(|| authorized.devices()),
            authorized,
            standing,
            taken: 0,
            over: pending().boxed().fuse(),
            stages,
            batch: None,
            ready: VecDeque::new(),
            released: Vec::new(),
            now: Instant::now(),
            cursors: BTreeMap::new(),
            begun: Vec::new(),
            low_watermark: Arc::default(),
        };
        pipeline.keep_followed();
        pipeline
    }

    /// The next thing that happens; [`Event::Ready`] at once while there is something to take. While the database cannot say what
    /// the reader may read, this waits. Cancel-safe.
    pub async fn next(&mut self) -> Event {
        self.standing.count(std::mem::take(&mut self.taken));
        if let Some(tally) = &mut self.tally {
            tally.flush();
        }
        loop {
            let settled = tokio::select! {
                biased;
                settled = self.authorized.settle() => settled,
                // A database that is away holds up every answer but this one.
                () = &mut self.over => return Event::Ended,
            };
            if let Some(step) = settled {
                return self.changed(&step);
            }
            if self.standing.is_over() {
                return Event::Ended;
            }
            if !self.ready.is_empty() || self.batch.is_some() {
                let Err(exceeded) = self.pace() else { return Event::Ready };
                tokio::select! {
                    biased;
                    () = &mut self.over => return Event::Ended,
                    () = self.authorized.attend() => {}
                    () = sleep(exceeded.pause()) => {}
                }
                continue;
            }
            let due = self.stages.due();
            tokio::select! {
                biased;
                () = &mut self.over => return Event::Ended,
                () = until(due) => self.expire(),
                step = self.authorized.next() => match step {
                    Step::Delivery(delivery) => self.accept(delivery),
                    other => return self.changed(&other),
                },
            }
        }
    }

    /// The next record or notice that can be had without waiting; nothing once there is word that the reader's rights may have
    /// changed, nor while the rate of its plan is used up. After it has returned nothing, [`Pipeline::next`] tells how to go on.
    pub fn take(&mut self) -> Option<Item> {
        loop {
            if self.authorized.is_stale() || self.pace().is_err() {
                return None;
            }
            if let Some(item) = self.ready.pop_front() {
                self.note(&item);
                // Here and not before: to the stages a record that is withheld is one like any other, and no hole that they wait for.
                if matches!(&item, Item::Record(record) if self.withholds(record)) {
                    continue;
                }
                if let Item::Record(record) = &item {
                    self.count(record);
                }
                return Some(item);
            }
            match self.next_of_batch() {
                Some(record) if self.stages.lets_pass(record.producer) => {
                    // The cursor goes on past one that is withheld, as past any record that is not wanted.
                    self.cursors.insert(record.producer, record.cursor);
                    if self.withholds(&record) {
                        continue;
                    }
                    self.count(&record);
                    return Some(Item::Record(record));
                }
                Some(record) => {
                    let producer = record.producer;
                    self.stages.push(record, self.now, &mut self.released);
                    self.release(Some(producer));
                }
                None if self.standing.is_over() => return None,
                None => {
                    let delivery = self.authorized.try_next()?;
                    self.accept(delivery);
                }
            }
        }
    }

    /// Goes on from other positions. Producers that the reader has no right to are left out, and returned.
    pub async fn resume(&mut self, positions: &HashMap<ProducerId, StartPosition>) -> Result<Vec<ProducerId>, Error> {
        let refused = self.authorized.resume(positions).await?;
        for producer in positions.keys() {
            if let Some(cursor) = self.authorized.cursor(*producer) {
                // Held and ready records of the producer are read again, unless the consumer has gone past them.
                self.drop_ready(|other| other != *producer);
                self.stages.start(*producer, cursor);
                self.cursors.insert(*producer, cursor);
            }
        }
        Ok(refused)
    }

    /// Moves the reader's named cursor, never past a record that is held; `false` where it has none. A producer that is not followed
    /// has no cursor to be moved.
    pub fn confirm(&mut self, producer: ProducerId, cursor: Cursor) -> bool {
        self.authorized.confirm(producer, bounded(cursor, self.stages.low_watermark(producer)))
    }

    /// Writes what was confirmed, when the connection ends.
    pub async fn finish(&mut self) {
        self.authorized.finish().await;
    }

    /// Where the consumer stands in each log that it follows once it has dealt with all that was taken.
    pub fn cursors(&self) -> &BTreeMap<ProducerId, Cursor> {
        &self.cursors
    }

    /// Cursors that went past records that the selection leaves out, and where they are now. Nothing while there is more to take.
    pub fn moved(&mut self) -> Vec<(ProducerId, Cursor)> {
        if !self.ready.is_empty() || self.batch.is_some() {
            return Vec::new();
        }
        let mut moved = Vec::new();
        for (&producer, cursor) in &mut self.cursors {
            if let Some(now) = self.stages.cursor(producer).filter(|now| now != cursor) {
                *cursor = now;
                moved.push((producer, now));
            }
        }
        moved
    }

    /// Producers that the reader follows since this was asked last, and where it begins with each.
    pub fn take_begun(&mut self) -> Vec<(ProducerId, Cursor)> {
        std::mem::take(&mut self.begun)
    }

    /// Producers that the reader named and has no subscription to, in order.
    pub fn lacks(&self) -> Vec<ProducerId> {
        self.authorized.lacks()
    }

    /// Whether the order of its records is the log's, and all of them come: then a record's offset says where the consumer stands.
    pub fn is_plain(&self) -> bool {
        self.stages.is_empty()
    }

    /// States of subscriptions that somebody else has changed since this was asked last: an end, or a grant that is another (`active`).
    pub fn take_news(&mut self) -> Vec<(ProducerId, Status)> {
        self.authorized.take_news()
    }

    /// Producers that the reader has a right to, but whose grant has no room for this connection, in order.
    pub fn crowded(&self) -> Vec<ProducerId> {
        self.authorized.crowded()
    }

    fn changed(&mut self, step: &Step) -> Event {
        self.keep_followed();
        for producer in self.authorized.take_rescoped() {
            // Whatever went through the old scope, and was not handed over, is read again from where the consumer stands.
            if let Some(&cursor) = self.cursors.get(&producer) {
                self.drop_ready(|other| other != producer);
                self.authorized.rewind(producer, cursor);
                self.stages.scope(producer, self.authorized.scope(producer));
                self.stages.start(producer, cursor);
            }
        }
        if matches!(step, Step::Ended) { Event::Ended } else { Event::Changed }
    }

    /// Makes what it knows of producers equal to whom it follows. Nothing that is held or ready of a producer is delivered once the
    /// right to it is over.
    fn keep_followed(&mut self) {
        for producer in self.authorized.followed() {
            if !self.cursors.contains_key(&producer)
                && let Some(cursor) = self.authorized.cursor(producer)
            {
                self.stages.scope(producer, self.authorized.scope(producer));
                self.stages.start(producer, cursor);
                self.cursors.insert(producer, cursor);
                self.begun.push((producer, cursor));
            }
        }
        let authorized = &self.authorized;
        let follows = |producer| authorized.cursor(producer).is_some();
        self.stages.retain(follows);
        self.cursors.retain(|&producer, _| follows(producer));
        self.begun.retain(|&(producer, _)| follows(producer));
        self.ready.retain(|item| follows(item.producer()));
        self.batch.take_if(|(batch, _)| !follows(batch.producer));
    }

    fn drop_ready(&mut self, keep: impl Fn(ProducerId) -> bool) {
        self.ready.retain(|item| keep(item.producer()));
        self.batch.take_if(|(batch, _)| !keep(batch.producer));
    }

    fn accept(&mut self, delivery: Delivery) {
        self.now = Instant::now();
        let notice = match delivery {
            Delivery::Batch { batch, after } => {
                let index = (after.0 + 1).saturating_sub(batch.first.0) as usize;
                self.batch = Some((batch, index));
                return;
            }
            Delivery::Notice(notice) => notice,
        };
        self.stages.notice(&notice, self.now, &mut self.released);
        self.release(Some(notice.producer()));
        self.ready.push_back(Item::Notice(notice));
    }

    fn next_of_batch(&mut self) -> Option<DeliveredRecord> {
        let (batch, index) = self.batch.as_mut()?;
        let Some(entry) = batch.entries().get(*index) else {
            self.batch = None;
            return None;
        };
        let offset = Offset(batch.first.0 + *index as u64);
        *index += 1;
        let cursor = Cursor { log_epoch: batch.log_epoch, offset };
        let (producer, received, message) = (batch.producer, batch.received, entry.message.clone());
        Some(DeliveredRecord { producer, cursor, offset, record_id: entry.record_id, received, message })
    }

    /// Gives records out whatever the rate of the plan is. Whoever asks for it takes them out of the quota itself, and drops those beyond it.
    pub fn unpaced(&mut self) -> Arc<Quota> {
        self.paced = false;
        Arc::clone(&self.quota)
    }

    /// Whether another record may be given out now.
    fn pace(&self) -> Result<(), Exceeded> {
        if self.paced { self.quota.look(&OUT.map(|unit| (unit, 1))) } else { Ok(()) }
    }

    fn count(&mut self, record: &DeliveredRecord) {
        self.taken += 1;
        if self.paced {
            self.quota.charge(&given_out(record));
        }
        if let Some(tally) = &mut self.tally {
            tally.count(record.producer, record.cursor.log_epoch, record.offset.0, record.message.len() as u64);
        }
    }

    /// Whether a record is of a device in quarantine, which its producer and operators see and consumers do not.
    fn withholds(&self, record: &DeliveredRecord) -> bool {
        self.withheld.as_ref().is_some_and(|devices| devices.withholds(record.producer, &record.message))
    }

    fn expire(&mut self) {
        self.stages.expire(Instant::now(), &mut self.released);
        self.release(None);
    }

    /// Makes ready what left the stages. `producer`: whose records went in, if of one only.
    fn release(&mut self, producer: Option<ProducerId>) {
        // A follow's pipeline has one producer, and only its watermark is asked for.
        if let Some(producer) = producer.or_else(|| self.cursors.keys().next().copied()) {
            *self.low_watermark.lock() = self.stages.low_watermark(producer);
        }
        self.ready.extend(self.released.drain(..).map(Item::Record));
    }

    fn note(&mut self, item: &Item) {
        match item {
            Item::Record(record) => {
                self.cursors.insert(record.producer, record.cursor);
            }
            Item::Notice(Notice::Reset { producer, cursor }) => {
                self.cursors.insert(*producer, *cursor);
            }
            Item::Notice(Notice::Gap { producer, to, .. }) => {
                if let Some(cursor) = self.cursors.get_mut(producer) {
                    cursor.offset = *to;
                }
            }
        }
    }
}

/// The cost of a record that is given out.
pub fn given_out(record: &DeliveredRecord) -> [(Unit, u64); 2] {
    [(Unit::RecordsOut, 1), (Unit::BytesOut, record.message.len() as u64)]
}

/// `cursor`, or the watermark before it: a record that is held is not dealt with, whatever the consumer says of records after it.
fn bounded(cursor: Cursor, low_watermark: Option<Cursor>) -> Cursor {
    match low_watermark {
        Some(mark) if mark.log_epoch == cursor.log_epoch && mark.offset < cursor.offset => mark,
        _ => cursor,
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline").field("authorized", &self.authorized).finish_non_exhaustive()
    }
}
