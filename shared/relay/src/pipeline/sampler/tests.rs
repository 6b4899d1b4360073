//! Invariants that hold at every step of sampling, over drawn arrivals; and an example of each case.

use std::{collections::HashSet, time::Duration};

use motience_proto::model::{LogEpoch, ProducerEpoch, RecordId, Seq};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const PRODUCER: ProducerId = ProducerId(1);
const EVERY: Duration = Duration::from_secs(10);
const WIDE: Limits = Limits { devices: usize::MAX, bytes: usize::MAX };

/// A reading of device `device` at this second of its clock.
fn record(device: u64, second: i64, offset: u64) -> DeliveredRecord {
    let message = format!(r#"{{"producer_id":"1","device_id":"d{device}","timestamp":{},"data":{{"t":{second},"u":1}}}}"#, second * 1000);
    DeliveredRecord {
        producer: PRODUCER,
        cursor: at(1, offset),
        offset: Offset(offset),
        record_id: RecordId { producer_epoch: ProducerEpoch(device), seq: Seq(offset) },
        received: None,
        message: message.into(),
    }
}

fn at(epoch: u64, offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(epoch), offset: Offset(offset) }
}

fn sampler(limits: Limits) -> Sampler {
    Sampler::new(Selector::parse(&[], Some("/data/t"), Some("10s")).unwrap(), limits)
}

fn second(record: &DeliveredRecord) -> i64 {
    serde_json::from_slice::<Value>(&record.message).unwrap()["data"]["t"].as_i64().unwrap()
}

/// Offset and cursor of each.
fn places(out: &[DeliveredRecord]) -> Vec<(u64, u64)> {
    out.iter().map(|r| (r.offset.0, r.cursor.offset.0)).collect()
}

#[test]
fn the_last_of_each_window_comes_out_when_the_next_one_begins() {
    let (mut sampler, mut out, now) = (sampler(WIDE), Vec::new(), Instant::now());
    for (offset, second) in [1, 4, 9, 10, 12, 31].into_iter().enumerate() {
        sampler.push(&record(1, second, offset as u64 + 1), now, &mut out);
    }
    assert_eq!(places(&out), [(3, 3), (5, 5)]);
    assert_eq!(out.iter().map(second).collect::<Vec<_>>(), [9, 12]);
    assert!(!std::str::from_utf8(&out[0].message).unwrap().contains("\"u\""), "only the wanted fields");
    assert_eq!(sampler.cursor(PRODUCER), Some(at(1, 5)), "the sixth is held back");
    assert_eq!(sampler.low_watermark(PRODUCER), Some(at(1, 5)));
    assert_eq!(sampler.due(), Some(now + EVERY));
    sampler.expire(now + EVERY, &mut out);
    assert_eq!(places(&out[2..]), [(6, 6)]);
    assert_eq!(sampler.due(), None);
}

#[test]
fn a_device_that_is_held_back_stands_in_every_cursors_way() {
    let (mut sampler, mut out, now) = (sampler(WIDE), Vec::new(), Instant::now());
    sampler.push(&record(1, 5, 1), now, &mut out);
    sampler.push(&record(2, 5, 2), now, &mut out);
    sampler.push(&record(2, 15, 3), now, &mut out);
    assert_eq!(places(&out), [(2, 0)]);
    sampler.push(&record(1, 6, 4), now, &mut out);
    sampler.push(&record(2, 25, 5), now, &mut out);
    assert_eq!(places(&out), [(2, 0), (3, 3)]);
}

#[test]
fn late_and_backward_clocks_lose_no_window() {
    let (mut sampler, mut out, now) = (sampler(WIDE), Vec::new(), Instant::now());
    for (offset, second) in [12, 9, 14, 13, 21].into_iter().enumerate() {
        sampler.push(&record(1, second, offset as u64 + 1), now, &mut out);
    }
    assert_eq!(out.iter().map(second).collect::<Vec<_>>(), [14], "the ninth second came too late, the thirteenth is not the last");
    // The clock was set back by an hour: a replay of what follows is sampler like any other.
    for (offset, second) in [-3570, -3569, -3555].into_iter().enumerate() {
        sampler.push(&record(1, second + 7200, offset as u64 + 6), now, &mut out);
        sampler.push(&record(1, second + 3600, offset as u64 + 20), now, &mut out);
    }
    sampler.flush(PRODUCER, &mut out);
    assert!(out.iter().any(|r| second(r) == 45) && out.iter().any(|r| second(r) == 31));
}

#[test]
fn what_is_not_wanted_moves_the_cursor() {
    let view = Selector::parse(&["/data/t>100"], None, None).unwrap();
    let (mut sampler, mut out, now) = (Sampler::new(view, WIDE), Vec::new(), Instant::now());
    sampler.start(PRODUCER, at(1, 0));
    for offset in 1..=50 {
        sampler.push(&record(1, offset as i64, offset), now, &mut out);
    }
    assert!(out.is_empty() && sampler.due().is_none());
    assert_eq!(sampler.cursor(PRODUCER), Some(at(1, 50)));
    assert_eq!(sampler.cursor(ProducerId(2)), None);
}

#[test]
fn notices_come_after_what_was_held_back() {
    let (mut sampler, mut out, now) = (sampler(WIDE), Vec::new(), Instant::now());
    sampler.push(&record(1, 5, 1), now, &mut out);
    sampler.gap(PRODUCER, Offset(9), &mut out);
    assert_eq!(places(&out), [(1, 1)]);
    assert_eq!(sampler.cursor(PRODUCER), Some(at(1, 9)));
    sampler.push(&record(1, 6, 10), now, &mut out);
    sampler.reset(PRODUCER, at(2, 4), &mut out);
    assert_eq!(places(&out[1..]), [(10, 10)]);
    assert_eq!((sampler.cursor(PRODUCER), sampler.due()), (Some(at(2, 4)), None));
    sampler.push(&record(1, 7, 5), now, &mut out);
    sampler.retain(|producer| producer != PRODUCER);
    assert_eq!((sampler.cursor(PRODUCER), sampler.due()), (None, None));
}

/// Input and its times.
#[derive(Clone, Debug)]
struct Arrival {
    device: u64,
    second: i64,
    after: Duration,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (0..4_u64, -12..12_i64, 0..300_u64, 0..40_u8);
    proptest::collection::vec(one, 1..150).prop_map(|drawn| {
        let mut clocks = [0_i64; 4];
        let arrival = |(device, step, after, jump): (u64, i64, u64, u8)| {
            let clock = &mut clocks[device as usize];
            *clock += if jump == 0 { -500 } else { step.max(-3) };
            Arrival { device, second: *clock, after: Duration::from_millis(after * 10) }
        };
        drawn.into_iter().map(arrival).collect()
    })
}

/// Runs arrivals through, and checks what must hold at every moment.
struct Run {
    sampler: Sampler,
    now: Instant,
    came: Vec<DeliveredRecord>,
    left: Vec<DeliveredRecord>,
}

impl Run {
    fn new(limits: Limits) -> Self {
        Self { sampler: sampler(limits), now: Instant::now(), came: Vec::new(), left: Vec::new() }
    }

    fn arrive(&mut self, arrival: &Arrival) {
        let until = self.now + arrival.after;
        while let Some(due) = self.sampler.due().filter(|&due| due <= until) {
            self.now = due;
            self.step(|sampler, out| sampler.expire(due, out));
            assert!(self.sampler.due().is_none_or(|next| next > due), "what was due is gone");
        }
        self.now = until;
        let record = record(arrival.device, arrival.second, self.came.len() as u64 + 1);
        self.came.push(record.clone());
        self.step(|sampler, out| sampler.push(&record, until, out));
    }

    fn step(&mut self, step: impl FnOnce(&mut Sampler, &mut Vec<DeliveredRecord>)) {
        let mut out = Vec::new();
        step(&mut self.sampler, &mut out);
        let held: HashSet<Offset> = self.sampler.producers.values().flat_map(|p| p.offsets.iter().copied()).collect();
        let first = held.iter().min();
        let safe = self.sampler.cursor(PRODUCER).unwrap();
        for record in out {
            assert!(first.is_none_or(|&first| record.cursor.offset < first), "{} lies beyond {first:?}", record.cursor);
            let before = self.left.last().map_or(Offset(0), |r| r.cursor.offset);
            assert!(record.cursor.offset >= before && record.cursor.offset <= safe.offset, "cursors go forward");
            assert!(self.left.iter().all(|left| left.offset != record.offset), "each once");
            self.left.push(record);
        }
        let devices: usize = self.sampler.producers.values().map(|p| p.devices.len()).sum();
        let bytes: usize = self.sampler.producers.values().flat_map(|p| &p.devices).map(|(device, h)| cost(&h.record, device)).sum();
        assert_eq!((devices, held.len(), self.sampler.bytes), (self.sampler.ages.len(), devices, bytes));
        assert!(devices <= self.sampler.limits.devices && bytes <= self.sampler.limits.bytes);
    }

    fn finish(&mut self) {
        self.step(|sampler, out| sampler.flush(PRODUCER, out));
        assert_eq!((self.sampler.bytes, self.sampler.due()), (0, None));
        assert_eq!(self.sampler.cursor(PRODUCER).unwrap().offset.0, self.came.len() as u64);
    }
}

proptest! {
    #[test]
    fn whatever_comes_cursors_are_safe_and_memory_is_bounded(arrivals in arrivals(), devices in 0..4_usize, bytes in 0..3000_usize) {
        for limits in [WIDE, Limits { devices, bytes }] {
            let mut run = Run::new(limits);
            arrivals.iter().for_each(|arrival| run.arrive(arrival));
            run.finish();
        }
    }

    #[test]
    fn clocks_that_go_forward_show_exactly_the_last_of_each_window(steps in proptest::collection::vec((0..3_u64, 0..12_i64), 1..120)) {
        let mut run = Run::new(WIDE);
        let mut clocks = [0_i64; 3];
        let mut last: HashMap<(u64, i64), u64> = HashMap::new();
        for (n, (device, step)) in steps.into_iter().enumerate() {
            let clock = &mut clocks[device as usize];
            *clock += step;
            last.insert((device, clock.div_euclid(10)), n as u64 + 1);
            run.arrive(&Arrival { device, second: *clock, after: Duration::ZERO });
        }
        run.finish();
        let mut left: Vec<u64> = run.left.iter().map(|r| r.offset.0).collect();
        left.sort_unstable();
        let mut expected: Vec<u64> = last.into_values().collect();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
    }
}

#[test]
fn the_limit_counts_everything_that_is_held() {
    // The messages alone, of some 90 bytes each, would leave room for all of them.
    let mut sampler = sampler(Limits { devices: usize::MAX, bytes: 128 << 10 });
    let now = Instant::now();
    let mut out = Vec::new();
    for device in 0..1000 {
        sampler.push(&record(device, 1, device + 1), now, &mut out);
    }
    let held = sampler.ages.len();
    assert!(held * HELD <= 128 << 10 && held > 100, "{held} are held");
    assert_eq!(out.len() + held, 1000, "the oldest went early");
    sampler.forget(PRODUCER);
    assert_eq!(sampler.bytes, 0, "all that was counted is given back");
}
