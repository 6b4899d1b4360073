//! What must hold at every step of thinning, over drawn arrivals; and what each case looks like.

use std::{collections::HashSet, time::Duration};

use motience_proto::model::{LogEpoch, ProducerEpoch, RecordId, Seq};
use proptest::prelude::*;
use serde_json::Value;

use super::*;

const PRODUCER: ProducerId = ProducerId(1);
const EVERY: Duration = Duration::from_secs(10);
const WIDE: Limits = Limits { devices: usize::MAX, bytes: usize::MAX };

/// A reading of device `device` at this second of its clock.
fn record(device: u64, second: i64, offset: u64) -> Record {
    let message = format!(r#"{{"producer_id":"1","device_id":"d{device}","timestamp":{},"data":{{"t":{second},"u":1}}}}"#, second * 1000);
    Record {
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

fn thinned(limits: Limits) -> Thinned {
    Thinned::new(View::parse(&[], Some("/data/t"), Some("10s")).unwrap(), limits)
}

fn second(record: &Record) -> i64 {
    serde_json::from_slice::<Value>(&record.message).unwrap()["data"]["t"].as_i64().unwrap()
}

/// Offset and cursor of each.
fn places(out: &[Record]) -> Vec<(u64, u64)> {
    out.iter().map(|r| (r.offset.0, r.cursor.offset.0)).collect()
}

#[test]
fn the_last_of_each_window_comes_out_when_the_next_one_begins() {
    let (mut thinned, mut out, now) = (thinned(WIDE), Vec::new(), Instant::now());
    for (offset, second) in [1, 4, 9, 10, 12, 31].into_iter().enumerate() {
        thinned.push(&record(1, second, offset as u64 + 1), now, &mut out);
    }
    assert_eq!(places(&out), [(3, 3), (5, 5)]);
    assert_eq!(out.iter().map(second).collect::<Vec<_>>(), [9, 12]);
    assert!(!std::str::from_utf8(&out[0].message).unwrap().contains("\"u\""), "only the wanted fields");
    assert_eq!(thinned.cursor(PRODUCER), Some(at(1, 5)), "the sixth is held back");
    assert_eq!(thinned.bounded(PRODUCER, at(1, 6)), at(1, 5));
    assert_eq!(thinned.bounded(PRODUCER, at(1, 2)), at(1, 2));
    assert_eq!(thinned.due(), Some(now + EVERY));
    thinned.expire(now + EVERY, &mut out);
    assert_eq!(places(&out[2..]), [(6, 6)]);
    assert_eq!(thinned.due(), None);
}

#[test]
fn a_device_that_is_held_back_stands_in_every_cursors_way() {
    let (mut thinned, mut out, now) = (thinned(WIDE), Vec::new(), Instant::now());
    thinned.push(&record(1, 5, 1), now, &mut out);
    thinned.push(&record(2, 5, 2), now, &mut out);
    thinned.push(&record(2, 15, 3), now, &mut out);
    assert_eq!(places(&out), [(2, 0)]);
    thinned.push(&record(1, 6, 4), now, &mut out);
    thinned.push(&record(2, 25, 5), now, &mut out);
    assert_eq!(places(&out), [(2, 0), (3, 3)]);
}

#[test]
fn late_and_backward_clocks_lose_no_window() {
    let (mut thinned, mut out, now) = (thinned(WIDE), Vec::new(), Instant::now());
    for (offset, second) in [12, 9, 14, 13, 21].into_iter().enumerate() {
        thinned.push(&record(1, second, offset as u64 + 1), now, &mut out);
    }
    assert_eq!(out.iter().map(second).collect::<Vec<_>>(), [14], "the ninth second came too late, the thirteenth is not the last");
    // The clock was set back by an hour: a replay of what follows is thinned like any other.
    for (offset, second) in [-3570, -3569, -3555].into_iter().enumerate() {
        thinned.push(&record(1, second + 7200, offset as u64 + 6), now, &mut out);
        thinned.push(&record(1, second + 3600, offset as u64 + 20), now, &mut out);
    }
    thinned.flush(PRODUCER, &mut out);
    assert!(out.iter().any(|r| second(r) == 45) && out.iter().any(|r| second(r) == 31));
}

#[test]
fn what_is_not_wanted_moves_the_cursor() {
    let view = View::parse(&["/data/t>100"], None, None).unwrap();
    let (mut thinned, mut out, now) = (Thinned::new(view, WIDE), Vec::new(), Instant::now());
    thinned.start(PRODUCER, at(1, 0));
    for offset in 1..=50 {
        thinned.push(&record(1, offset as i64, offset), now, &mut out);
    }
    assert!(out.is_empty() && thinned.due().is_none());
    assert_eq!(thinned.cursor(PRODUCER), Some(at(1, 50)));
    assert_eq!(thinned.cursor(ProducerId(2)), None);
}

#[test]
fn notices_come_after_what_was_held_back() {
    let (mut thinned, mut out, now) = (thinned(WIDE), Vec::new(), Instant::now());
    thinned.push(&record(1, 5, 1), now, &mut out);
    thinned.deliver(
        &Delivery::Gap { producer: PRODUCER, from: Offset(2), to: Offset(9), cause: crate::GapCause::Retention },
        now,
        &mut out,
    );
    assert_eq!(places(&out), [(1, 1)]);
    assert_eq!(thinned.cursor(PRODUCER), Some(at(1, 9)));
    thinned.push(&record(1, 6, 10), now, &mut out);
    thinned.deliver(&Delivery::Reset { producer: PRODUCER, cursor: at(2, 4) }, now, &mut out);
    assert_eq!(places(&out[1..]), [(10, 10)]);
    assert_eq!((thinned.cursor(PRODUCER), thinned.due()), (Some(at(2, 4)), None));
    thinned.push(&record(1, 7, 5), now, &mut out);
    thinned.retain(|producer| producer != PRODUCER);
    assert_eq!((thinned.cursor(PRODUCER), thinned.due()), (None, None));
}

/// What goes in and when.
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
    thinned: Thinned,
    now: Instant,
    came: Vec<Record>,
    left: Vec<Record>,
}

impl Run {
    fn new(limits: Limits) -> Self {
        Self { thinned: thinned(limits), now: Instant::now(), came: Vec::new(), left: Vec::new() }
    }

    fn arrive(&mut self, arrival: &Arrival) {
        let until = self.now + arrival.after;
        while let Some(due) = self.thinned.due().filter(|&due| due <= until) {
            self.now = due;
            self.step(|thinned, out| thinned.expire(due, out));
            assert!(self.thinned.due().is_none_or(|next| next > due), "what was due is gone");
        }
        self.now = until;
        let record = record(arrival.device, arrival.second, self.came.len() as u64 + 1);
        self.came.push(record.clone());
        self.step(|thinned, out| thinned.push(&record, until, out));
    }

    fn step(&mut self, step: impl FnOnce(&mut Thinned, &mut Vec<Record>)) {
        let mut out = Vec::new();
        step(&mut self.thinned, &mut out);
        let held: HashSet<Offset> = self.thinned.producers.values().flat_map(|p| p.places.iter().copied()).collect();
        let first = held.iter().min();
        let safe = self.thinned.cursor(PRODUCER).unwrap();
        for record in out {
            assert!(first.is_none_or(|&first| record.cursor.offset < first), "{} lies beyond {first:?}", record.cursor);
            let before = self.left.last().map_or(Offset(0), |r| r.cursor.offset);
            assert!(record.cursor.offset >= before && record.cursor.offset <= safe.offset, "cursors go forward");
            assert!(self.left.iter().all(|left| left.offset != record.offset), "each once");
            self.left.push(record);
        }
        let devices: usize = self.thinned.producers.values().map(|p| p.devices.len()).sum();
        let bytes: usize = self.thinned.producers.values().flat_map(|p| &p.devices).map(|(device, h)| cost(&h.record, device)).sum();
        assert_eq!((devices, held.len(), self.thinned.bytes), (self.thinned.ages.len(), devices, bytes));
        assert!(devices <= self.thinned.limits.devices && bytes <= self.thinned.limits.bytes);
    }

    fn finish(&mut self) {
        self.step(|thinned, out| thinned.flush(PRODUCER, out));
        assert_eq!((self.thinned.bytes, self.thinned.due()), (0, None));
        assert_eq!(self.thinned.cursor(PRODUCER).unwrap().offset.0, self.came.len() as u64);
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
    let mut thinned = thinned(Limits { devices: usize::MAX, bytes: 128 << 10 });
    let now = Instant::now();
    let mut out = Vec::new();
    for device in 0..1000 {
        thinned.push(&record(device, 1, device + 1), now, &mut out);
    }
    let held = thinned.ages.len();
    assert!(held * HELD <= 128 << 10 && held > 100, "{held} are held");
    assert_eq!(out.len() + held, 1000, "the oldest went early");
    thinned.forget(PRODUCER);
    assert_eq!(thinned.bytes, 0, "all that was counted is given back");
}
