//! The pure stages of a pipeline: reorder, then filter, projection and sampling. Time is an argument.

use std::time::Instant;

use motience_proto::model::{Cursor, Order, ProducerId};

use crate::Notice;

use super::{DeliveredRecord, Limits, Options, reorder::ReorderBuffer, sampler::Sampler};

/// The stages that a consumer asked for.
#[derive(Debug, Default)]
pub struct Stages {
    reorder: Option<ReorderBuffer>,
    sampler: Option<Sampler>,
    /// Room between the two, used again.
    ordered: Vec<DeliveredRecord>,
}

impl Stages {
    /// Empty stages.
    pub fn new(options: &Options, limits: Limits) -> Self {
        Self {
            reorder: (options.order == Order::Device).then(|| ReorderBuffer::new(limits.reorder)),
            sampler: (!options.selector.is_everything()).then(|| Sampler::new(options.selector.clone(), limits.sampler)),
            ordered: Vec::new(),
        }
    }

    /// Whether records pass as they are.
    pub fn is_empty(&self) -> bool {
        self.reorder.is_none() && self.sampler.is_none()
    }

    /// Takes in the next record of a log; `out` receives what leaves by this.
    pub fn push(&mut self, record: DeliveredRecord, now: Instant, out: &mut Vec<DeliveredRecord>) {
        match &mut self.reorder {
            Some(reorder) => reorder.push(record, now, &mut self.ordered),
            None => self.ordered.push(record),
        }
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
        self.sample(now, out);
        if let Some(sampler) = &mut self.sampler {
            sampler.expire(now, out);
        }
    }

    /// When [`Stages::expire`] has something to do; `None` while nothing is held.
    pub fn due(&self) -> Option<Instant> {
        let due = [self.reorder.as_ref().and_then(ReorderBuffer::due), self.sampler.as_ref().and_then(Sampler::due)];
        due.into_iter().flatten().min()
    }

    /// Sets the cursor after which a producer's records come.
    pub fn start(&mut self, producer: ProducerId, cursor: Cursor) {
        self.forget(producer);
        if let Some(sampler) = &mut self.sampler {
            sampler.start(producer, cursor);
        }
    }

    /// Drops all that is held of a producer.
    pub fn forget(&mut self, producer: ProducerId) {
        self.reorder.iter_mut().for_each(|reorder| reorder.forget(producer));
        self.sampler.iter_mut().for_each(|sampler| sampler.forget(producer));
    }

    /// Drops all that is held of producers that are not kept.
    pub fn retain(&mut self, keep: impl Fn(ProducerId) -> bool) {
        self.reorder.iter_mut().for_each(|reorder| reorder.retain(&keep));
        self.sampler.iter_mut().for_each(|sampler| sampler.retain(&keep));
    }

    /// The last cursor before anything that is held of a producer; `None` while nothing of it is.
    pub fn low_watermark(&self, producer: ProducerId) -> Option<Cursor> {
        let held = [
            self.reorder.as_ref().and_then(|reorder| reorder.low_watermark(producer)),
            self.sampler.as_ref().and_then(|sampler| sampler.low_watermark(producer)),
        ];
        held.into_iter().flatten().min_by_key(|cursor| cursor.offset)
    }

    /// The cursor of a producer whose unwanted records leave no other trace; `None` where every record leaves.
    pub fn cursor(&self, producer: ProducerId) -> Option<Cursor> {
        self.sampler.as_ref()?.cursor(producer)
    }

    fn sample(&mut self, now: Instant, out: &mut Vec<DeliveredRecord>) {
        match &mut self.sampler {
            Some(sampler) => self.ordered.drain(..).for_each(|record| sampler.push(&record, now, out)),
            None => out.append(&mut self.ordered),
        }
    }
}
