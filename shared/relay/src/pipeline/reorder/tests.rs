//! Invariants that hold at every step, over drawn arrivals; and an example of each case.

use motience_proto::model::{LogEpoch, Seq};
use proptest::prelude::*;

use super::*;

const PRODUCER: ProducerId = ProducerId(1);
const WAIT: Duration = Duration::from_secs(2);
const WIDE: Limits = Limits { wait: WAIT, records: usize::MAX, bytes: usize::MAX };

fn record(epoch: u64, seq: u64, offset: u64) -> DeliveredRecord {
    DeliveredRecord {
        producer: PRODUCER,
        cursor: Cursor { log_epoch: LogEpoch(1), offset: Offset(offset) },
        offset: Offset(offset),
        record_id: RecordId { producer_epoch: ProducerEpoch(epoch), seq: Seq(seq) },
        received: None,
        message: Bytes::from_static(b"0123456789"),
    }
}

/// Input and its times: the records of a producer epoch, each a few positions off, some of them missing.
#[derive(Clone, Debug)]
struct Arrival {
    record_id: RecordId,
    after: Duration,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0..3u64, 0..40u64, 0..12u64, any::<bool>(), 0..1500u64);
    proptest::collection::vec(one, 1..120).prop_map(|drawn| {
        let mut next = [1u64, 1, 57];
        let mut arrivals: Vec<(u64, Arrival)> = Vec::new();
        for (i, (epoch, late, far, missing, after)) in drawn.into_iter().enumerate() {
            let seq = next[epoch as usize];
            next[epoch as usize] += if missing && late < 5 { 2 } else { 1 };
            let place = i as u64 + if late < 10 { far } else { 0 };
            let name = RecordId { producer_epoch: ProducerEpoch(epoch), seq: Seq(seq) };
            arrivals.push((place, Arrival { record_id: name, after: Duration::from_millis(after / 10) }));
        }
        arrivals.sort_by_key(|(place, _)| *place);
        arrivals.into_iter().map(|(_, arrival)| arrival).collect()
    })
}

/// Runs arrivals through, and checks at each step what must hold at every moment.
struct Run {
    reorder: ReorderBuffer,
    now: Instant,
    came: Vec<(DeliveredRecord, Instant)>,
    left: Vec<DeliveredRecord>,
}

impl Run {
    fn new(limits: Limits) -> Self {
        Self { reorder: ReorderBuffer::new(limits), now: Instant::now(), came: Vec::new(), left: Vec::new() }
    }

    fn arrive(&mut self, arrival: &Arrival) {
        let at = self.now + arrival.after;
        while let Some(due) = self.reorder.due().filter(|&due| due <= at) {
            self.now = due;
            self.step(|reorder, out| reorder.expire(due, out));
            assert!(self.reorder.due().is_none_or(|next| next > due), "what was due is gone");
        }
        self.now = at;
        let record = record(arrival.record_id.producer_epoch.0, arrival.record_id.seq.0, self.came.len() as u64 + 1);
        self.came.push((record.clone(), at));
        self.step(|reorder, out| reorder.push(record, at, out));
    }

    fn step(&mut self, step: impl FnOnce(&mut ReorderBuffer, &mut Vec<DeliveredRecord>)) {
        let mut out = Vec::new();
        step(&mut self.reorder, &mut out);
        for record in out {
            let cursor = record.cursor;
            self.left.push(record);
            let held = self.came.iter().map(|(r, _)| r).filter(|r| !self.left.iter().any(|l| l.record_id == r.record_id));
            let first = held.map(|r| r.offset).min();
            assert!(first.is_none_or(|first| cursor.offset < first), "{cursor} lies beyond {first:?}");
            let before = self.left.iter().rev().nth(1).map_or(Offset(0), |r| r.cursor.offset);
            assert!(cursor.offset >= before, "cursors go forward");
        }
        let limits = self.reorder.limits;
        assert!(self.reorder.records <= limits.records && self.reorder.bytes <= limits.bytes);
    }

    /// Everything has come out once.
    fn finish(&mut self) {
        self.step(|reorder, out| reorder.flush(PRODUCER, out));
        let mut left: Vec<Offset> = self.left.iter().map(|r| r.offset).collect();
        left.sort();
        assert_eq!(left, (1..=self.came.len() as u64).map(Offset).collect::<Vec<_>>());
        assert_eq!((self.reorder.records, self.reorder.bytes, self.reorder.due()), (0, 0, None));
        assert_eq!(self.left.last().unwrap().cursor.offset, Offset(self.came.len() as u64), "at the end the cursor is the last place");
    }

    fn arrived(&self, record_id: RecordId) -> Instant {
        self.came.iter().find(|(r, _)| r.record_id == record_id).unwrap().1
    }
}

proptest! {
    #[test]
    fn numbers_rise_unless_one_came_later_than_the_wait(arrivals in arrivals()) {
        let mut run = Run::new(WIDE);
        arrivals.iter().for_each(|arrival| run.arrive(arrival));
        for (i, late) in run.left.iter().enumerate() {
            let overtaken = run.left[..i].iter().any(|r| r.record_id.producer_epoch == late.record_id.producer_epoch && r.record_id.seq > late.record_id.seq);
            let came = run.arrived(late.record_id);
            let waited = |higher: &(DeliveredRecord, Instant)| {
                higher.0.record_id.producer_epoch == late.record_id.producer_epoch && higher.0.record_id.seq > late.record_id.seq && higher.1 + WAIT <= came
            };
            prop_assert!(!overtaken || run.came.iter().any(waited), "{} was not waited for", late.record_id);
        }
        run.finish();
    }

    #[test]
    fn a_bound_lets_records_go_and_loses_none(arrivals in arrivals(), records in 0..8usize, bytes in 0..100usize) {
        let mut run = Run::new(Limits { wait: WAIT, records, bytes });
        arrivals.iter().for_each(|arrival| run.arrive(arrival));
        run.finish();
    }
}

fn names(out: &[DeliveredRecord]) -> Vec<(u64, u64)> {
    out.iter().map(|r| (r.record_id.seq.0, r.cursor.offset.0)).collect()
}

#[test]
fn an_epoch_met_at_its_beginning_waits_for_nothing_but_holes() {
    let (mut reorder, mut out, now) = (ReorderBuffer::new(WIDE), Vec::new(), Instant::now());
    for (offset, seq) in [1, 2, 4, 5].into_iter().enumerate() {
        reorder.push(record(7, seq, offset as u64 + 1), now, &mut out);
    }
    assert_eq!(names(&out), [(1, 1), (2, 2)]);
    let at = |offset| Cursor { log_epoch: LogEpoch(1), offset: Offset(offset) };
    assert_eq!(reorder.low_watermark(PRODUCER), Some(at(2)), "no cursor passes what is held");
    reorder.push(record(7, 3, 5), now, &mut out);
    assert_eq!(names(&out[2..]), [(3, 2), (4, 3), (5, 5)]);
    assert_eq!(reorder.due(), None);
}

#[test]
fn a_hole_that_stays_costs_one_wait() {
    let (mut reorder, mut out, now) = (ReorderBuffer::new(WIDE), Vec::new(), Instant::now());
    for (offset, seq) in [1, 3, 4].into_iter().enumerate() {
        reorder.push(record(7, seq, offset as u64 + 1), now, &mut out);
    }
    assert_eq!(reorder.due(), Some(now + WAIT));
    reorder.expire(now + WAIT, &mut out);
    reorder.push(record(7, 5, 4), now + WAIT, &mut out);
    reorder.push(record(7, 2, 5), now + WAIT, &mut out);
    assert_eq!(names(&out), [(1, 1), (3, 2), (4, 3), (5, 4), (2, 5)]);
}

#[test]
fn another_life_of_the_log_follows_what_was_held_back() {
    let (mut reorder, mut out, now) = (ReorderBuffer::new(WIDE), Vec::new(), Instant::now());
    reorder.push(record(7, 1, 1), now, &mut out);
    reorder.push(record(7, 3, 2), now, &mut out);
    let again =
        |seq, offset| DeliveredRecord { cursor: Cursor { log_epoch: LogEpoch(2), offset: Offset(offset) }, ..record(7, seq, offset) };
    reorder.push(again(1, 1), now, &mut out);
    reorder.push(again(2, 2), now, &mut out);
    reorder.push(again(3, 3), now, &mut out);
    assert_eq!(names(&out), [(1, 1), (3, 2), (1, 1), (2, 2), (3, 3)]);
    assert_eq!(out[4].cursor.log_epoch, LogEpoch(2));
}

#[test]
fn what_is_followed_no_longer_is_dropped() {
    let (mut reorder, mut out) = (ReorderBuffer::new(WIDE), Vec::new());
    reorder.push(record(7, 9, 1), Instant::now(), &mut out);
    reorder.retain(|producer| producer != PRODUCER);
    reorder.flush(PRODUCER, &mut out);
    assert_eq!((out.len(), reorder.records, reorder.bytes), (0, 0, 0));
}

#[test]
fn epochs_that_are_over_are_not_remembered_for_ever() {
    let (mut reorder, mut out, now) = (ReorderBuffer::new(WIDE), Vec::new(), Instant::now());
    for n in 1..=3 * MAX_EPOCHS as u64 {
        reorder.push(record(n, 1, n), now, &mut out);
    }
    assert_eq!(out.len(), 3 * MAX_EPOCHS);
    assert_eq!(reorder.producers[&PRODUCER].epochs.len(), MAX_EPOCHS);
}
