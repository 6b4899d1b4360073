//! Records given out to consumers, as runs of offsets, until the node writes them down ([`motience_store::Store::count_given_out`]).
//!
//! A pipeline gathers its own run and hands it over when it waits for more. A run ends where an offset does not follow the last one.

use std::{collections::HashMap, mem, sync::Arc};

use motience_proto::model::{ConsumerId, LogEpoch, ProducerId};
use motience_runtime::clock::Clock;
use motience_store::GivenOut;
use parking_lot::Mutex;

/// Runs that wait for one consumer and producer. Beyond them the last one grows over the holes.
const MAX_RUNS: usize = 64;

/// The runs of one node.
#[derive(Debug)]
pub struct UsageMeter {
    clock: Clock,
    runs: Mutex<Runs>,
}

/// Runs by whom they went to, and whose they are.
pub type Runs = HashMap<(ConsumerId, ProducerId), Vec<GivenOut>>;

impl UsageMeter {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, runs: Mutex::default() }
    }

    /// Takes everything out.
    pub fn take(&self) -> Runs {
        mem::take(&mut self.runs.lock())
    }

    /// Puts a run in, also one that could not be written down.
    pub fn put(&self, run: GivenOut) {
        let mut all = self.runs.lock();
        let runs = all.entry((run.consumer, run.producer)).or_default();
        let full = runs.len() >= MAX_RUNS;
        match runs.last_mut() {
            Some(last)
                if last.log_epoch == run.log_epoch
                    && (full || (follows(last, *run.offsets.start()) && last.at / 3600 == run.at / 3600)) =>
            {
                let (start, end) = (*last.offsets.start().min(run.offsets.start()), *last.offsets.end().max(run.offsets.end()));
                last.offsets = start..=end;
                last.records += run.records;
                last.bytes += run.bytes;
            }
            _ => runs.push(run),
        }
    }
}

fn follows(run: &GivenOut, offset: u64) -> bool {
    run.offsets.end() + 1 == offset
}

/// The run of one pipeline.
#[derive(Debug)]
pub(super) struct Tally {
    meter: Arc<UsageMeter>,
    consumer: ConsumerId,
    run: Option<GivenOut>,
}

impl Tally {
    pub(super) fn new(meter: Arc<UsageMeter>, consumer: ConsumerId) -> Self {
        Self { meter, consumer, run: None }
    }

    /// Counts a record.
    pub(super) fn count(&mut self, producer: ProducerId, log_epoch: LogEpoch, offset: u64, bytes: u64) {
        match &mut self.run {
            Some(run) if run.producer == producer && run.log_epoch == log_epoch && follows(run, offset) => {
                run.offsets = *run.offsets.start()..=offset;
                run.records += 1;
                run.bytes += bytes;
            }
            _ => {
                self.flush();
                self.run = Some(GivenOut {
                    consumer: self.consumer,
                    producer,
                    log_epoch,
                    offsets: offset..=offset,
                    at: self.meter.clock.now().unix_timestamp(),
                    records: 1,
                    bytes,
                });
            }
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(run) = self.run.take() {
            self.meter.put(run);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.flush();
    }
}
