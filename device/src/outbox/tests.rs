//! The outbox against a plain model of it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    epoch::{FAR, FURTHEST},
    *,
};

const CREDIT: u64 = 1000;

fn outbox(records: usize, bytes: usize, policy: Policy) -> Outbox {
    Outbox::new(Config { records, bytes, policy, ..Config::default() })
}

fn push(outbox: &mut Outbox) -> Result<(Seq, Vec<Seq>), Full> {
    outbox.push(Lane::Ordered, Bytes::from_static(b"{}"))
}

#[test]
fn numbers_start_at_one_without_holes() {
    let mut outbox = outbox(10, 10_000, Policy::Block);
    assert_ne!(outbox.epoch(), ProducerEpoch(0));
    for n in 1..=10 {
        assert_eq!(push(&mut outbox).unwrap().0, Seq(n));
    }
    assert_eq!(push(&mut outbox), Err(Full));
    outbox.ack(&[1].into_iter().collect());
    assert_eq!(push(&mut outbox).unwrap().0, Seq(11), "a refused push uses up no number");
}

#[test]
fn bytes_are_bounded_too() {
    let mut outbox = outbox(10, 2 * (OVERHEAD + 2), Policy::Block);
    push(&mut outbox).unwrap();
    push(&mut outbox).unwrap();
    assert_eq!(push(&mut outbox), Err(Full));
}

#[test]
fn what_is_under_way_is_dropped_last_and_uses_credit_until_settled() {
    let mut outbox = outbox(3, 10_000, Policy::DropOldest);
    for _ in 0..3 {
        push(&mut outbox).unwrap();
    }
    outbox.send(CREDIT);
    assert_eq!(push(&mut outbox).unwrap(), (Seq(4), vec![Seq(2)]));
    outbox.send(CREDIT);
    outbox.send(CREDIT);
    assert_eq!(outbox.in_flight(), 3);
    assert_eq!(push(&mut outbox).unwrap(), (Seq(5), vec![Seq(1)]));
    assert_eq!(outbox.in_flight(), 3);
    assert!(outbox.ack(&[1].into_iter().collect()).is_empty());
    assert_eq!(outbox.in_flight(), 2);
    outbox.rewind();
    assert_eq!((outbox.in_flight(), outbox.peek(CREDIT).map(|item| item.seq)), (0, Some(Seq(3))));
}

fn ranges(text: &str) -> RangeSet {
    text.parse().unwrap()
}

#[test]
fn what_was_given_out_is_known() {
    let mut outbox = outbox(2, 10_000, Policy::DropOldest);
    for _ in 0..5 {
        push(&mut outbox).unwrap();
    }
    assert_eq!(outbox.last_sent(), Seq(0), "enqueued is not given");
    assert_eq!(outbox.report_abandoned(), Some(ranges("1-3")));
    assert_eq!(outbox.last_sent(), Seq(3), "said not to come is given");
    outbox.send(CREDIT);
    assert_eq!(outbox.last_sent(), Seq(4));
    outbox.rewind();
    assert_eq!(outbox.last_sent(), Seq(4), "on an earlier connection");
}

#[test]
fn a_new_epoch_sends_all_that_nobody_else_can_have_sent() {
    let reservation = Reservation { epoch: ProducerEpoch(7), last: 3, reserved: 5, last_sent: None, abandoned: RangeSet::new() };
    let item = |seq| Item { seq: Seq(seq), lane: Lane::Ordered, enqueued_at: 0, json: Bytes::from_static(b"{}") };
    let mut outbox =
        Outbox::restore(Config::default(), Loaded { reservation, items: vec![item(1), item(3)], doubtful: false, lost: 0, fresh: false });
    assert_eq!(outbox.last_sent(), Seq(5), "perhaps, before the file was written last");
    let new: Vec<u64> = (0..3).map(|_| push(&mut outbox).unwrap().0.0).collect();
    let first = new[0];
    // Another lineage of the same file sent 1 to 9 under the same epoch; of 1 and 3 all copies have the same.
    assert_eq!(outbox.renew(&ranges("1-2,6-9")), [Seq(1)]);
    assert_ne!(outbox.epoch(), ProducerEpoch(7));
    assert_eq!(outbox.last_sent(), Seq(0));
    assert_eq!(outbox.abandoned(), &ranges("1-2"), "the new epoch has heard of none of them; a gap is not told");
    assert_eq!(outbox.len(), 4);
    outbox.open();
    assert_eq!(outbox.peek(CREDIT), None, "not before the file has the new epoch, twice");
    let epoch = outbox.epoch();
    for _ in 0..2 {
        let group = outbox.collect(false);
        assert!(group.reservation.epoch == epoch && outbox.peek(CREDIT).is_none());
        outbox.saved(&group.reservation);
    }
    let sent: Vec<u64> = std::iter::from_fn(|| outbox.send(CREDIT)).map(|item| item.seq.0).collect();
    assert_eq!(sent, [3, first, first + 1, first + 2]);
}

/// Whatever becomes of the copies of a file, and whatever the log still knows: none of them names a record as another does.
#[test]
fn copies_of_one_file_take_other_numbers() {
    let reservation = Reservation { epoch: ProducerEpoch(7), last: 3, reserved: 5, last_sent: Some(2), abandoned: RangeSet::new() };
    let item = Item { seq: Seq(3), lane: Lane::Ordered, enqueued_at: 0, json: Bytes::from_static(b"{}") };
    let mut used = BTreeSet::new();
    for _ in 0..20 {
        let loaded = Loaded { reservation: reservation.clone(), items: vec![item.clone()], doubtful: false, lost: 0, fresh: false };
        let mut copy = Outbox::restore(Config::default(), loaded);
        for _ in 0..50 {
            assert!(used.insert(push(&mut copy).unwrap().0));
        }
        let (last_sent, own) = (copy.last_sent(), copy.last());
        assert!(!copy.is_copied(&ranges("1-2"), last_sent), "what an earlier start gave out");
        assert!(copy.is_copied(&ranges("1-3"), last_sent), "a record that it has, and did not give out yet");
        assert!(!copy.is_copied(&ranges("1-3"), own), "nor another: it may be its own by now");
        for foreign in ["1-4", "1-3,5-9", &format!("1-2,{}", own.0 + 1)] {
            assert!(copy.is_copied(&ranges(foreign), own), "{foreign}");
        }
        let mine = format!("1-3,{}-{}", own.0 - 49, own.0);
        assert!(!copy.is_copied(&ranges(&mine), own) && copy.is_copied(&ranges(&mine), last_sent));
    }
}

#[test]
fn numbers_do_not_run_out() {
    let item = |seq| Item { seq: Seq(seq), lane: Lane::Ordered, enqueued_at: 0, json: Bytes::from_static(b"{}") };
    let start = |reservation: Reservation, items| {
        Outbox::restore(Config::default(), Loaded { reservation, items, doubtful: false, lost: 0, fresh: false })
    };
    let mut reservation = Reservation { epoch: ProducerEpoch(7), last: 1, reserved: 1, last_sent: Some(1), abandoned: RangeSet::new() };
    let mut starts = 0;
    while reservation.epoch == ProducerEpoch(7) {
        reservation = start(reservation, Vec::new()).collect(true).reservation;
        starts += 1;
    }
    assert!((8..=17).contains(&starts) && reservation.last == 0, "{starts} {reservation:?}");
    // Those of records that may be in the log are kept far longer, and given up in the end.
    let kept = Reservation { epoch: ProducerEpoch(7), last: FAR, reserved: FAR, last_sent: None, abandoned: RangeSet::new() };
    assert_eq!(start(kept, vec![item(FAR)]).epoch(), ProducerEpoch(7));
    let spent = Reservation { epoch: ProducerEpoch(7), last: FURTHEST, reserved: FURTHEST, last_sent: None, abandoned: RangeSet::new() };
    let mut outbox = start(spent, vec![item(5), item(FURTHEST)]);
    let group = outbox.collect(false);
    assert!(outbox.epoch() != ProducerEpoch(7) && group.gone == ranges(&format!("1-{FURTHEST}")), "{group:?}");
    assert_eq!((group.put.iter().map(|item| item.seq.0).collect::<Vec<_>>(), push(&mut outbox).unwrap().0), (vec![1, 2], Seq(3)));
}

/// A start without a connection gives nothing out, and its file says so, also where it ends in a cut.
#[test]
fn what_was_never_given_is_known() {
    let reservation = Reservation { epoch: ProducerEpoch(7), last: 5, reserved: 70, last_sent: Some(3), abandoned: RangeSet::new() };
    let item = |seq| Item { seq: Seq(seq), lane: Lane::Ordered, enqueued_at: 0, json: Bytes::from_static(b"{}") };
    let loaded =
        || Loaded { reservation: reservation.clone(), items: vec![item(2), item(4), item(5)], doubtful: false, lost: 0, fresh: false };
    let mut outbox = Outbox::restore(Config::default(), loaded());
    assert_eq!(outbox.last_sent(), Seq(3));
    assert_eq!(outbox.collect(false).reservation.last_sent, Some(3));
    assert_eq!(
        (outbox.send(CREDIT).map(|item| item.seq), outbox.peek(CREDIT)),
        (Some(Seq(2)), None),
        "what was given before may be given again"
    );
    let mut outbox = Outbox::restore(Config::default(), loaded());
    assert_eq!(outbox.renew(&ranges("1-5")), [Seq(2), Seq(4), Seq(5)], "every copy has the same 4 and 5, whoever sent them");
    // With a connection the file leaves it open, in both commits, before anything is given.
    let mut outbox = Outbox::restore(Config::default(), loaded());
    outbox.send(CREDIT);
    outbox.open();
    for _ in 0..2 {
        assert_eq!(outbox.peek(CREDIT), None);
        assert_eq!(outbox.report_abandoned(), None);
        assert_eq!(outbox.urgency(), Urgency::Now);
        let group = outbox.collect(false);
        assert_eq!(group.reservation.last_sent, None);
        outbox.saved(&group.reservation);
    }
    assert_eq!(outbox.send(CREDIT).map(|item| item.seq), Some(Seq(4)));
    let end = outbox.collect(true);
    assert_eq!((end.reservation.last_sent, outbox.peek(CREDIT)), (Some(4), None), "after the end nothing is given any more");
}

/// Numbers that a start leaves out are in the log once the server was told that they will not come: nobody else has sent them.
#[test]
fn what_was_told_not_to_come_is_no_copy() {
    let reservation = Reservation { epoch: ProducerEpoch(7), last: 5, reserved: 70, last_sent: Some(3), abandoned: RangeSet::new() };
    let item = |seq| Item { seq: Seq(seq), lane: Lane::Ordered, enqueued_at: 0, json: Bytes::from_static(b"{}") };
    let loaded = Loaded { reservation, items: vec![item(4), item(5)], doubtful: false, lost: 0, fresh: false };
    let mut outbox = Outbox::restore(Config::default(), loaded);
    outbox.open();
    for _ in 0..2 {
        let group = outbox.collect(false);
        outbox.saved(&group.reservation);
    }
    while outbox.send(CREDIT).is_some() {}
    let seen = ranges("1-70");
    assert!(outbox.is_copied(&seen, outbox.last_sent()), "before it was told");
    assert_eq!(outbox.report_abandoned(), Some(ranges("6-70")));
    // The connection broke before its acknowledgements came.
    outbox.rewind();
    assert!(!outbox.is_copied(&seen, outbox.last_sent()));
    assert!(outbox.is_copied(&ranges("1-71"), outbox.last_sent()), "another start, of a copy, reserved more");
}

#[test]
fn a_group_of_the_old_epoch_that_comes_late_counts_for_nothing() {
    let mut outbox = Outbox::restore(
        Config::default(),
        Loaded {
            reservation: Reservation { epoch: ProducerEpoch(7), last: 0, reserved: 0, last_sent: Some(0), abandoned: RangeSet::new() },
            items: Vec::new(),
            doubtful: false,
            lost: 0,
            fresh: false,
        },
    );
    let seq = push(&mut outbox).unwrap().0;
    let old = outbox.collect(false);
    outbox.renew(&ranges("1-5"));
    outbox.saved(&old.reservation);
    assert!(!outbox.is_saved(seq), "it is on disk under another name");
    let group = outbox.collect(false);
    assert_eq!(group.put.len(), 1);
    outbox.saved(&group.reservation);
    assert!(outbox.is_saved(seq));
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Give,
    Settle(u64, u64),
    Remove(u64),
    Rewind,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_usize..300).prop_map(Step::Push),
        4 => Just(Step::Give),
        2 => (1_u64..60, 0_u64..6).prop_map(|(start, length)| Step::Settle(start, start + length)),
        1 => (1_u64..60).prop_map(Step::Remove),
        1 => Just(Step::Rewind),
    ]
}

proptest! {
    #[test]
    fn it_keeps_what_is_not_settled_and_gives_each_once(
        steps in proptest::collection::vec(step(), 0..200), drops in any::<bool>()
    ) {
        let mut outbox = outbox(8, 1200, if drops { Policy::DropOldest } else { Policy::Block });
        let (mut here, mut sent) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                Step::Push(size) => match outbox.push(Lane::Independent, vec![b' '; size].into()) {
                    Ok((seq, dropped)) => {
                        prop_assert!(drops || dropped.is_empty());
                        for seq in dropped {
                            prop_assert!(here.remove(&seq.0));
                        }
                        prop_assert!(here.insert(seq.0));
                    }
                    Err(Full) => prop_assert!(!drops && !here.is_empty()),
                },
                Step::Give => {
                    let due = here.iter().copied().find(|seq| sent.last().is_none_or(|last| seq > last));
                    let item = outbox.send(CREDIT);
                    prop_assert_eq!(item.map(|item| item.seq.0), due);
                    sent.extend(due);
                }
                Step::Settle(start, end) => {
                    let mut ranges = RangeSet::new();
                    ranges.insert_range(start..=end);
                    for seq in outbox.ack(&ranges) {
                        prop_assert!((start..=end).contains(&seq.0) && here.remove(&seq.0));
                    }
                    prop_assert!(here.range(start..=end).next().is_none());
                }
                Step::Remove(seq) => prop_assert_eq!(outbox.remove(Seq(seq)), here.remove(&seq)),
                Step::Rewind => {
                    outbox.rewind();
                    sent.clear();
                }
            }
            prop_assert_eq!(outbox.len(), here.len());
            prop_assert!(outbox.len() <= 8 && (outbox.bytes() <= 1200 || outbox.len() == 1));
            prop_assert!(outbox.in_flight() >= sent.intersection(&here).count() as u64);
            prop_assert!(outbox.in_flight() <= sent.len() as u64);
        }
    }
}

fn live_first(backlog: usize) -> Outbox {
    let mut outbox = Outbox::new(Config { order: Order::LiveFirst, ..Config::default() });
    for _ in 0..backlog {
        push(&mut outbox).unwrap();
    }
    outbox.rewind();
    outbox
}

fn sent(outbox: &mut Outbox, count: usize, credit: u64) -> Vec<u64> {
    (0..count).filter_map(|_| outbox.send(credit)).map(|item| item.seq.0).collect()
}

#[test]
fn live_records_go_first_and_the_backlog_has_one_turn_in_four() {
    let mut outbox = live_first(10);
    assert_eq!(sent(&mut outbox, 2, CREDIT), [1, 2], "nothing is live yet");
    for _ in 0..8 {
        push(&mut outbox).unwrap();
    }
    assert_eq!(sent(&mut outbox, 9, CREDIT), [11, 12, 13, 3, 14, 15, 16, 4, 17]);
    assert_eq!(sent(&mut outbox, 99, CREDIT), [18, 5, 6, 7, 8, 9, 10]);
    assert_eq!(outbox.in_flight(), 18);
    outbox.ack(&"1-18".parse().unwrap());
    assert_eq!(outbox.in_flight(), 0);
}

#[test]
fn the_backlog_leaves_a_quarter_of_the_credit_to_what_is_live() {
    let mut outbox = live_first(100);
    assert_eq!(sent(&mut outbox, 99, 20).len(), 15);
    push(&mut outbox).unwrap();
    assert_eq!(sent(&mut outbox, 99, 20), [101]);
    outbox.ack(&"1-4".parse().unwrap());
    assert_eq!(sent(&mut outbox, 99, 20), [16, 17, 18, 19]);
    assert_eq!(live_first(1).send(1).map(|item| item.seq), Some(Seq(1)), "a credit of one is enough for a backlog");
}

#[test]
fn what_was_live_is_backlog_to_the_next_connection() {
    let mut outbox = live_first(2);
    push(&mut outbox).unwrap();
    assert_eq!(sent(&mut outbox, 9, CREDIT), [3, 1, 2]);
    outbox.rewind();
    assert_eq!(sent(&mut outbox, 9, CREDIT), [1, 2, 3]);
}

#[test]
fn what_is_dropped_is_told_until_it_is_acknowledged() {
    let mut outbox = outbox(2, 10_000, Policy::DropOldest);
    for _ in 0..5 {
        push(&mut outbox).unwrap();
    }
    assert_eq!(outbox.report_abandoned().unwrap().to_string(), "1-3");
    push(&mut outbox).unwrap();
    assert_eq!(outbox.report_abandoned(), None);
    outbox.rewind();
    assert_eq!(outbox.report_abandoned().unwrap().to_string(), "1-4");
    outbox.ack(&"1-4".parse().unwrap());
    assert!(outbox.report_abandoned().is_none() && outbox.abandoned().is_empty());
}
