//! Where each log's batches are: per log its runs, one for each segment that has something of it.
//!
//! A run of the segment that is being written has its slots here. Any other has them in the segment's own index file ([`filed`]), and here only
//! where; the last ones read are kept at hand.

pub(super) mod filed;

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use motience_proto::model::{LogId, LogKey, Offset, ProducerId};
use parking_lot::Mutex;

use self::filed::Block;
use super::{
    frame::Slot,
    segment::{Position, Segment},
};

/// Slots of filed runs that are kept at hand.
const AT_HAND: usize = 500_000;

/// Index of all segments.
#[derive(Debug, Default)]
pub(super) struct Index {
    inner: Mutex<Inner>,
    /// Blocks read last, the newest first.
    blocks: Mutex<VecDeque<AtHand>>,
}

/// Slots of a log in a segment.
type AtHand = (Arc<Segment>, LogId, Arc<[Slot]>);

/// Runs of a segment, and whose they are.
pub(super) type Runs = Vec<(LogKey, Run)>;

#[derive(Debug, Default)]
struct Inner {
    /// In their order; the last one is being written.
    segments: Vec<Arc<Segment>>,
    logs: HashMap<LogId, LogRuns>,
}

#[derive(Debug, Default)]
struct LogRuns {
    producer: ProducerId,
    /// By their last offsets.
    runs: VecDeque<Run>,
    removed: Offset,
    gone_at: Option<i64>,
}

/// Batches of one log in one segment.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    pub(super) first: Offset,
    pub(super) last: Offset,
    /// Bytes of the frames.
    pub(super) bytes: u64,
    /// When the newest was written.
    pub(super) newest: i64,
    pub(super) slots: Slots,
}

#[derive(Clone, Debug)]
pub(super) enum Slots {
    Here(Vec<Slot>),
    Filed(Block),
}

/// A segment and what of it retention has not removed.
#[derive(Clone, Debug)]
pub(super) struct Use {
    pub(super) segment: Arc<Segment>,
    pub(super) live: u64,
}

impl Run {
    pub(super) fn new(segment: &Arc<Segment>, slot: Slot) -> Self {
        let mut run = Self {
            segment: Arc::clone(segment),
            first: slot.first,
            last: slot.last(),
            bytes: 0,
            newest: slot.at,
            slots: Slots::Here(Vec::new()),
        };
        run.add(slot);
        run
    }

    pub(super) fn add(&mut self, slot: Slot) {
        self.last = slot.last();
        self.bytes += u64::from(slot.length);
        self.newest = self.newest.max(slot.at);
        if let Slots::Here(slots) = &mut self.slots {
            slots.push(slot);
        }
    }

    /// About how many of its bytes lie behind `removed`.
    fn live(&self, removed: Offset) -> u64 {
        let (all, gone) = (self.last.0 - self.first.0 + 1, (removed.0 + 1).saturating_sub(self.first.0));
        if gone >= all { 0 } else { (u128::from(self.bytes) * u128::from(all - gone) / u128::from(all)).max(1) as u64 }
    }
}

impl Index {
    /// Adds a segment, as the one that is being written.
    pub(super) fn begin(&self, segment: &Arc<Segment>) {
        self.inner.lock().segments.push(Arc::clone(segment));
    }

    /// Adds a batch to a segment. One whose offsets the log has already is left out.
    pub(super) fn add(&self, segment: &Arc<Segment>, slots: impl IntoIterator<Item = (LogKey, Slot)>) {
        let mut inner = self.inner.lock();
        for (key, slot) in slots {
            let log = inner.log(key);
            match log.runs.back_mut() {
                Some(run) if slot.first <= run.last => {}
                Some(run) if Arc::ptr_eq(&run.segment, segment) => run.add(slot),
                _ => log.runs.push_back(Run::new(segment, slot)),
            }
        }
    }

    /// Adds a run that its segment's index file has.
    pub(super) fn add_run(&self, key: LogKey, run: Run) {
        let mut inner = self.inner.lock();
        let log = inner.log(key);
        if log.runs.back().is_none_or(|before| before.last < run.last) {
            log.runs.push_back(run);
        }
    }

    /// Takes note of what retention has removed of a log.
    pub(super) fn trim(&self, key: LogKey, removed: Offset, gone_at: Option<i64>) {
        let mut inner = self.inner.lock();
        let log = inner.log(key);
        if removed >= log.removed {
            (log.removed, log.gone_at) = (removed, gone_at.or(log.gone_at));
        }
        while log.runs.front().is_some_and(|run| run.last <= log.removed) {
            log.runs.pop_front();
        }
    }

    /// The last offset that retention has removed of a log, as [`Index::trim`] was told.
    pub(super) fn removed(&self, log: LogId) -> (Offset, Option<i64>) {
        self.inner.lock().logs.get(&log).map_or((Offset(0), None), |log| (log.removed, log.gone_at))
    }

    /// Last offset of a log that a segment has, 0 where none has any.
    pub(super) fn last(&self, log: LogId) -> Offset {
        self.inner.lock().logs.get(&log).and_then(|log| log.runs.back()).map_or(Offset(0), |run| run.last)
    }

    /// All runs of a log.
    pub(super) fn runs(&self, log: LogId) -> Vec<Run> {
        self.inner.lock().logs.get(&log).map_or_else(Vec::new, |log| log.runs.iter().cloned().collect())
    }

    /// The run with the first offset after `after`; of slots that are here, those after it, up to about `bytes` of messages.
    pub(super) fn run_after(&self, log: LogId, after: Offset, bytes: usize) -> Option<Run> {
        let inner = self.inner.lock();
        let runs = &inner.logs.get(&log)?.runs;
        let run = runs.get(runs.partition_point(|run| run.last <= after))?;
        let Slots::Here(slots) = &run.slots else { return Some(run.clone()) };
        let (first, last, newest) = (run.first, run.last, run.newest);
        let slots = Slots::Here(some_after(slots, after, bytes).to_vec());
        Some(Run { segment: Arc::clone(&run.segment), first, last, bytes: run.bytes, newest, slots })
    }

    /// Slots of a run.
    pub(super) fn slots(&self, log: LogId, run: &Run) -> io::Result<Arc<[Slot]>> {
        let block = match &run.slots {
            Slots::Here(slots) => return Ok(slots.as_slice().into()),
            Slots::Filed(block) => block,
        };
        let is_it = |at_hand: &AtHand| Arc::ptr_eq(&at_hand.0, &run.segment) && at_hand.1 == log;
        let found = {
            let mut blocks = self.blocks.lock();
            let found = blocks.iter().position(is_it).and_then(|at| blocks.remove(at));
            found.map(|found| {
                let slots = Arc::clone(&found.2);
                blocks.push_front(found);
                slots
            })
        };
        if let Some(slots) = found {
            return Ok(slots);
        }
        let slots: Arc<[Slot]> = filed::read(&run.segment, log, block)?.into();
        let mut blocks = self.blocks.lock();
        blocks.push_front((Arc::clone(&run.segment), log, Arc::clone(&slots)));
        let mut all = 0;
        blocks.retain(|(_, _, slots)| {
            all += slots.len();
            all <= AT_HAND || all == slots.len()
        });
        Ok(slots)
    }

    /// Segments that are written no more and whose slots are still here.
    pub(super) fn unfiled(&self) -> Vec<Arc<Segment>> {
        let inner = self.inner.lock();
        let Some((active, sealed)) = inner.segments.split_last() else { return Vec::new() };
        let here = inner.logs.values().flat_map(|log| &log.runs).filter(|run| matches!(run.slots, Slots::Here(_)));
        let mut here: Vec<*const Segment> = here.map(|run| Arc::as_ptr(&run.segment)).filter(|at| *at != Arc::as_ptr(active)).collect();
        here.sort_unstable();
        sealed.iter().filter(|segment| here.binary_search(&Arc::as_ptr(segment)).is_ok()).cloned().collect()
    }

    /// Runs of a segment.
    pub(super) fn of_segment(&self, segment: &Arc<Segment>) -> Runs {
        let inner = self.inner.lock();
        let of = |(id, log): (&LogId, &LogRuns)| {
            let key = LogKey { producer: log.producer, log: *id };
            let runs: Vec<_> = log.runs.iter().filter(|run| Arc::ptr_eq(&run.segment, segment)).map(|run| (key, run.clone())).collect();
            runs
        };
        inner.logs.iter().flat_map(of).collect()
    }

    /// The slots of these runs are in their segment's index file from now on.
    pub(super) fn file(&self, segment: &Arc<Segment>, blocks: Vec<(LogId, Block)>) {
        for (id, block) in blocks {
            let mut inner = self.inner.lock();
            let Some(log) = inner.logs.get_mut(&id) else { continue };
            for run in log.runs.iter_mut().filter(|run| Arc::ptr_eq(&run.segment, segment)) {
                run.slots = Slots::Filed(block);
            }
        }
    }

    /// The segments before `before`, and how much of each is in use.
    pub(super) fn uses(&self, before: Position) -> Vec<Use> {
        let inner = self.inner.lock();
        let mut live: HashMap<*const Segment, u64> = HashMap::new();
        for log in inner.logs.values() {
            for run in &log.runs {
                *live.entry(Arc::as_ptr(&run.segment)).or_default() += run.live(log.removed);
            }
        }
        let Some((_, sealed)) = inner.segments.split_last() else { return Vec::new() };
        let before = sealed.iter().filter(|segment| segment.name.last < before.segment);
        before.map(|segment| Use { segment: Arc::clone(segment), live: live.get(&Arc::as_ptr(segment)).copied().unwrap_or(0) }).collect()
    }

    /// Puts a segment with these runs in the place of others, which are next to each other; or none, where nothing of them is in use.
    pub(super) fn replace(&self, old: &[Arc<Segment>], new: Option<Arc<Segment>>, runs: Runs) {
        let mut inner = self.inner.lock();
        let is_old = |segment: &Arc<Segment>| old.iter().any(|old| Arc::ptr_eq(old, segment));
        let at = inner.segments.iter().position(is_old).unwrap_or(0);
        inner.segments.retain(|segment| !is_old(segment));
        if let Some(new) = new {
            inner.segments.insert(at, new);
        }
        let old_names: Vec<*const Segment> = old.iter().map(Arc::as_ptr).collect();
        for log in inner.logs.values_mut() {
            if log.runs.iter().any(|run| old_names.contains(&Arc::as_ptr(&run.segment))) {
                log.runs.retain(|run| !old_names.contains(&Arc::as_ptr(&run.segment)));
            }
        }
        for (key, run) in runs {
            let log = inner.log(key);
            if run.last > log.removed {
                let at = log.runs.partition_point(|other| other.last < run.last);
                log.runs.insert(at, run);
            }
        }
        drop(inner);
        self.blocks.lock().retain(|(segment, ..)| !is_old(segment));
    }

    /// All segments, the last of which is being written.
    pub(super) fn segments(&self) -> Vec<Arc<Segment>> {
        self.inner.lock().segments.clone()
    }
}

impl Inner {
    fn log(&mut self, key: LogKey) -> &mut LogRuns {
        self.logs.entry(key.log).or_insert_with(|| LogRuns { producer: key.producer, ..LogRuns::default() })
    }
}

/// The slots after `after`, up to about `bytes` of messages.
pub(super) fn some_after(slots: &[Slot], after: Offset, bytes: usize) -> &[Slot] {
    let slots = &slots[slots.partition_point(|slot| slot.last() <= after)..];
    let mut taken = 0;
    let count = slots.iter().take_while(|slot| {
        let is_wanted = taken < bytes;
        taken += slot.bytes as usize;
        is_wanted
    });
    &slots[..count.count()]
}
