//! The pure stages of a pipeline: reorder, scope, then filter, projection and sampling. Time is an argument.

use std::{sync::Arc, time::Instant};

use motience_proto::model::{Cursor, Order, ProducerId};
use motience_runtime::clock::Clock;

use crate::Notice;

use super::{
    DeliveredRecord, Limits, Options,
    reorder::ReorderBuffer,
    sampler::Sampler,
    scope::{Scope, Scopes},
};

/// The stages that a consumer asked for, and the scopes that it was given.
#[derive(Debug, Default)]
pub struct Stages {
    reorder: Option<ReorderBuffer>,
    scopes: Scopes,
    sampler: Option<Sampler>,
    /// Room between them, used again.
    ordered: Vec<DeliveredRecord>,
    scoped: Vec<DeliveredRecord>,
}

impl Stages {
    /// Empty stages.
    pub fn new(options: &Options, limits: Limits, clock: Clock) -> Self {
        Self {
            reorder: (options.order == Order::Device).then(|| ReorderBuffer::new(limits.reorder)),
            scopes: Scopes::new(clock, limits.sampler),
            sampler: (!options.selector.is_everything()).then(|| Sampler::new(options.selector.clone(), limits.sampler)),
            ordered: Vec::new(),
            scoped: Vec::new(),
        }
    }

    /// Whether records pass as they are.
    pub fn is_empty(&self) -> bool {
        self.reorder.is_none() && self.sampler.is_none() && self.scopes.is_empty()
    }

    /// Whether records of a producer pass as they are.
    pub fn lets_pass(&self, producer: ProducerId) -> bool {
        self.reorder.is_none() && self.sampler.is_none() && !self.scopes.has(producer)
    }

    /// Sets the scope of a producer. Call [`Stages::start`] after it.
    pub fn scope(&mut self, producer: ProducerId, scope: Option<Arc<Scope>>) {
        self.scopes.set(producer, scope);
    }

    /// Takes in the next record of a log; `out` receives what leaves by this.
    pub fn push(&mut self, record: DeliveredRecord, now: Instant, out: &mut Vec<DeliveredRecord>) {
        match &mut self.reorder {
            Some(reorder) => reorder.push(record, now, &mut self.ordered),
            None => self.ordered.push(record),
        }
        self.limit(now);
        self.sample(now, out);
    }

    /// Releases what must not come after a notice of its producer.
    pub fn notice(&mut self, notice: &Notice, now: Instant, out: &mut Vec<DeliveredRecord>) {
        let producer = notice.producer();
        if let Some(reorder) = &mut self.reorder {
            match notice {
                Notice::Gap { .. } => reorder.flush(producer, &mut self.ordered),
                Notice::Reset { .. } => reorder.restart(producer, &mut self.ordered),
            }
        }
        self.limit(now);
        self.scopes.notice(notice, &mut self.scoped);
        self.sample(now, out);
        if let Some(sampler) = &mut self.sampler {
            match *notice {
                Notice::Gap { to, .. } => sampler.gap(producer, to, out),
                Notice::Reset { cursor, .. } => sampler.reset(producer, cursor, out),
            }
        }
    }

    /// Releases what was held for long enough.
    pub fn expire(&mut self, now: Instant, out: &mut Vec<DeliveredRecord>) {
        if let Some(reorder) = &mut self.reorder {
            reorder.expire(now, &mut self.ordered);
        }
        self.limit(now);
        self.scopes.expire(now, &mut self.scoped);
        self.sample(now, out);
        if let Some(sampler) = &mut self.sampler {
            sampler.expire(now, out);
        }
    }

    /// When [`Stages::expire`] has something to do; `None` while nothing is held.
    pub fn due(&self) -> Option<Instant> {
        let due = [self.reorder.as_ref().and_then(ReorderBuffer::due), self.scopes.due(), self.sampler.as_ref().and_then(Sampler::due)];
        due.into_iter().flatten().min()
    }

    /// Sets the cursor after which a producer's records come.
    pub fn start(&mut self, producer: ProducerId, cursor: Cursor) {
        self.reorder.iter_mut().for_each(|reorder| reorder.forget(producer));
        self.scopes.start(producer, cursor);
        if let Some(sampler) = &mut self.sampler {
            sampler.forget(producer);
            sampler.start(producer, cursor);
        }
    }

    /// Drops all that is held of producers that are not kept.
    pub fn retain(&mut self, keep: impl Fn(ProducerId) -> bool) {
        self.reorder.iter_mut().for_each(|reorder| reorder.retain(&keep));
        self.scopes.retain(&keep);
        self.sampler.iter_mut().for_each(|sampler| sampler.retain(&keep));
    }

    /// The last cursor before anything that is held of a producer; `None` while nothing of it is.
    pub fn low_watermark(&self, producer: ProducerId) -> Option<Cursor> {
        let held = [
            self.reorder.as_ref().and_then(|reorder| reorder.low_watermark(producer)),
            self.scopes.low_watermark(producer),
            self.sampler.as_ref().and_then(|sampler| sampler.low_watermark(producer)),
        ];
        held.into_iter().flatten().min_by_key(|cursor| cursor.offset)
    }

    /// The cursor of a producer whose unwanted records leave no other trace; `None` where every record leaves.
    pub fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        let sampled = self.sampler.as_ref().and_then(|sampler| sampler.cursor(producer));
        // The sampler has not heard of records that the scope left out: past them only while it holds nothing itself.
        match (self.scopes.cursor(producer), &self.sampler) {
            (Some(scoped), Some(sampler)) if sampler.low_watermark(producer).is_some() => sampled.or(Some(scoped)),
            (Some(scoped), _) => Some(scoped),
            (None, _) => sampled,
        }
    }

    fn limit(&mut self, now: Instant) {
        if self.scopes.is_empty() {
            self.scoped.append(&mut self.ordered);
        } else {
            self.ordered.drain(..).for_each(|record| self.scopes.push(record, now, &mut self.scoped));
        }
    }

    fn sample(&mut self, now: Instant, out: &mut Vec<DeliveredRecord>) {
        match &mut self.sampler {
            Some(sampler) => self.scoped.drain(..).for_each(|record| sampler.push(&record, now, out)),
            None => out.append(&mut self.scoped),
        }
    }
}
