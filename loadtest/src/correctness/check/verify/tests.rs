//! Synthetic histories: a clean one passes, and each single defect is refused under the right name.

use motience_proto::model::{Cursor, LogEpoch, Offset, ProducerEpoch, RecordId, Seq};

use super::*;
use crate::common::egress::Egress;
use crate::correctness::check::history::{Event, Hash, Line, Phase};

const P: i64 = 5;
const SECOND: u64 = 1_000_000;

fn id(number: u64) -> Id {
    Id { device: 0, incarnation: 1, number }
}

fn name(number: u64) -> RecordId {
    RecordId { producer_epoch: ProducerEpoch(77), seq: Seq(number) }
}

fn at(log_epoch: u64, offset: u64) -> Cursor {
    Cursor { log_epoch: LogEpoch(log_epoch), offset: Offset(offset) }
}

fn hash(number: u64) -> Hash {
    Hash(1000 + number)
}

fn line(t: u64, event: Event) -> Line {
    Line { t, event }
}

fn received(t: u64, cursor: Cursor, number: u64) -> Line {
    line(t, Event::Received { producer: P, cursor, name: name(number), id: id(number), hash: hash(number) })
}

fn resumed(t: u64, cursor: Option<Cursor>) -> Line {
    line(t, Event::Resumed { producer: P, cursor })
}

fn fault(name: &str, from: u64, to: u64, what: &str) -> [Line; 2] {
    [(from, Phase::Begin), (to, Phase::End)].map(|(t, phase)| line(t, Event::Fault { fault: name.into(), phase, what: what.into() }))
}

/// Ten records, taken at 10 s, 11 s, and so on, acknowledged half a second later and received shortly after that by two consumers.
fn clean() -> History {
    let harness = vec![
        line(1, Event::Device { device: 0, producer: P, drops: false }),
        line(1, Event::Consumer { consumer: 0, kind: Kind::Native, producers: vec![P] }),
        line(1, Event::Consumer { consumer: 1, kind: Kind::Json(Egress::Wss2), producers: vec![P] }),
        line(2, Event::Subscribed { consumer: 0, producer: P }),
        line(2, Event::Subscribed { consumer: 1, producer: P }),
    ];
    let mut history = History { harness, ..History::default() };
    let device = history.devices.entry(0).or_default();
    device.push(line(3, Event::Started { incarnation: 1 }));
    for n in 1..=10 {
        let t = (9 + n) * SECOND;
        device.push(line(t, Event::Offered { id: id(n), hash: hash(n) }));
        device.push(line(t + 1, Event::Taken { id: id(n), name: name(n) }));
        device.push(line(t + SECOND / 2, Event::Acked { id: id(n) }));
    }
    device.push(line(30 * SECOND, Event::Done { incarnation: 1 }));
    for consumer in 0..2 {
        let lines = history.consumers.entry(consumer).or_default();
        lines.push(resumed(4, None));
        lines.extend((1..=10).map(|n| received((9 + n) * SECOND + SECOND * 6 / 10, at(1, n), n)));
    }
    history.store = Some((1..=10).map(|n| Row { producer: P, id: Ok(id(n)) }).collect());
    history
}

fn of(history: &mut History, consumer: u32) -> &mut Vec<Line> {
    history.consumers.get_mut(&consumer).unwrap()
}

/// The invariants that the checker calls broken, each once.
fn found(history: &History) -> Vec<Invariant> {
    let mut found: Vec<_> = verify(history).violations.into_iter().map(|violation| violation.invariant).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[track_caller]
fn refused(change: impl FnOnce(&mut History), invariant: Invariant) {
    let mut history = clean();
    change(&mut history);
    let violations = verify(&history).violations;
    assert!(violations.iter().any(|violation| violation.invariant == invariant), "{invariant:?} is not among {violations:?}");
}

#[track_caller]
fn passes(change: impl FnOnce(&mut History)) -> Counts {
    let mut history = clean();
    change(&mut history);
    let verdict = verify(&history);
    assert_eq!(verdict.violations, [], "this is no defect");
    verdict.counts
}

#[test]
fn a_clean_history_passes_and_is_counted() {
    let counts = passes(|_| {});
    assert_eq!((counts.offered, counts.taken, counts.acked, counts.stored, counts.epochs), (10, 10, 10, 10, 1));
    assert_eq!(counts.received[&Kind::Native], [10, 0, 0]);
}

#[test]
fn a_record_that_never_arrives_is_a_loss() {
    for consumer in 0..2 {
        refused(|h| drop(of(h, consumer).pop()), Invariant::Loss);
    }
    // Nor does it help that nobody received it, or that it was not acknowledged.
    refused(
        |h| {
            of(h, 0).pop();
            of(h, 1).pop();
            h.store.as_mut().unwrap().pop();
            h.devices.get_mut(&0).unwrap().retain(|l| l.event != Event::Acked { id: id(10) });
        },
        Invariant::Loss,
    );
    let mut history = clean();
    of(&mut history, 0).pop();
    assert_eq!(found(&history), [Invariant::Loss]);
}

#[test]
fn what_was_acknowledged_stays_in_the_log() {
    // A crash sent consumers back behind the last record, which comes again: it was not acknowledged before.
    let back = |h: &mut History| {
        for consumer in 0..2 {
            of(h, consumer).push(line(25 * SECOND, Event::Reset { producer: P, cursor: at(2, 9) }));
        }
    };
    passes(|h| {
        back(h);
        of(h, 1).push(received(26 * SECOND, at(2, 10), 10));
    });
    // Everyone has received it, and yet it is lost.
    refused(back, Invariant::Loss);
}

#[test]
fn a_hole_a_step_back_and_a_second_time_are_refused() {
    refused(|h| drop(of(h, 1).remove(5)), Invariant::Order);
    refused(|h| of(h, 0).swap(5, 6), Invariant::Order);
    refused(|h| of(h, 1).push(received(25 * SECOND, at(1, 11), 4)), Invariant::Uniqueness);
    refused(|h| of(h, 1).push(received(25 * SECOND, at(1, 10), 10)), Invariant::Order);
    // Another epoch without word of it.
    refused(|h| of(h, 1)[10] = received(25 * SECOND, at(2, 10), 10), Invariant::Order);
}

#[test]
fn one_place_holds_one_record() {
    refused(
        |h| {
            of(h, 0)[9] = received(20 * SECOND, at(1, 9), 10);
            of(h, 0)[10] = received(20 * SECOND, at(1, 10), 9);
        },
        Invariant::Uniqueness,
    );
}

#[test]
fn what_was_never_sent_or_was_changed_is_refused() {
    refused(|h| of(h, 0).push(received(25 * SECOND, at(1, 11), 99)), Invariant::Integrity);
    let changed = |h: &mut History, new: Event| of(h, 0)[10].event = new;
    let (cursor, producer) = (at(1, 10), P);
    let event = Event::Received { producer, cursor, name: name(10), id: id(10), hash: Hash(1) };
    refused(|h| changed(h, event), Invariant::Integrity);
    let event = Event::Received { producer, cursor, name: name(11), id: id(10), hash: hash(10) };
    refused(|h| changed(h, event), Invariant::Integrity);
    // Offered, and not taken although its device lives.
    let untake = |h: &mut History| h.devices.get_mut(&0).unwrap().retain(|l| !matches!(l.event, Event::Taken { id: i, .. } if i == id(10)));
    refused(untake, Invariant::Integrity);
    passes(|h| {
        untake(h);
        h.devices.get_mut(&0).unwrap().push(line(40 * SECOND, Event::Started { incarnation: 2 }));
    });
    // An incarnation before it was killed before it said that it began.
    passes(|h| {
        untake(h);
        let device = h.devices.get_mut(&0).unwrap();
        device.retain(|line| !matches!(line.event, Event::Started { .. }));
        device.push(line(40 * SECOND, Event::Started { incarnation: 2 }));
    });
    // An outbox that gives a name twice.
    refused(
        |h| {
            for line in h.devices.get_mut(&0).unwrap() {
                if let Event::Taken { name: taken, .. } = &mut line.event {
                    taken.seq = Seq(taken.seq.0.min(9));
                }
            }
        },
        Invariant::Integrity,
    );
}

#[test]
fn nothing_is_received_after_a_subscription_ended() {
    let ended = |h: &mut History, t: u64| {
        h.harness.push(line(t - 1, Event::Unsubscribing { consumer: 1, producer: P }));
        h.harness.push(line(t, Event::Unsubscribed { consumer: 1, producer: P }));
    };
    refused(|h| ended(h, 14 * SECOND), Invariant::Leak);
    passes(|h| ended(h, 18 * SECOND));
    // The time does not run while Redis is away.
    passes(|h| {
        ended(h, 14 * SECOND);
        h.harness.extend(fault("redis-pause", 16 * SECOND, 17 * SECOND, ""));
    });
    // A record taken outside the authorised interval is not owed.
    passes(|h| {
        ended(h, 15 * SECOND);
        of(h, 1).truncate(6);
    });
    refused(
        |h| {
            ended(h, 18 * SECOND);
            of(h, 1).truncate(6);
        },
        Invariant::Loss,
    );
}

#[test]
fn a_device_that_forgets_is_refused() {
    let becomes = |h: &mut History, event: Event| {
        let lines = h.devices.get_mut(&0).unwrap();
        lines.retain(|l| l.event != Event::Acked { id: id(10) });
        lines.insert(lines.len() - 1, line(25 * SECOND, event));
    };
    refused(|h| becomes(h, Event::Dropped { id: id(10) }), Invariant::Retention);
    refused(|h| becomes(h, Event::Lost { id: id(10) }), Invariant::Retention);
    refused(|h| becomes(h, Event::Refused { id: id(10), code: "x".into() }), Invariant::Retention);
    refused(|h| becomes(h, Event::Note { what: String::new() }), Invariant::Retention);
    passes(|h| {
        becomes(h, Event::Lost { id: id(10) });
        h.harness.extend(fault("device-tear", 22 * SECOND, 24 * SECOND, "0"));
        h.store.as_mut().unwrap().pop();
        for consumer in 0..2 {
            of(h, consumer).pop();
        }
    });
    // Another device's file.
    refused(
        |h| {
            becomes(h, Event::Lost { id: id(10) });
            h.harness.extend(fault("device-tear", 22 * SECOND, 24 * SECOND, "1"));
        },
        Invariant::Retention,
    );
}

#[test]
fn data_history_holds_each_record_once() {
    refused(|h| drop(h.store.as_mut().unwrap().pop()), Invariant::History);
    refused(|h| h.store.as_mut().unwrap().push(Row { producer: P, id: Ok(id(3)) }), Invariant::History);
    refused(|h| h.store.as_mut().unwrap().push(Row { producer: P, id: Ok(id(30)) }), Invariant::History);
    refused(|h| h.store.as_mut().unwrap().push(Row { producer: P, id: Err("?".into()) }), Invariant::History);
    refused(|h| h.store.as_mut().unwrap()[2].producer = 6, Invariant::History);
}

/// The last two records were destroyed when the log was rolled back to 8: consumer 1 had read neither, consumer 0 both.
fn rolled_back(h: &mut History) {
    h.harness.extend(fault("aof-cut", 20 * SECOND, 22 * SECOND, ""));
    let reset = || line(23 * SECOND, Event::Reset { producer: P, cursor: at(2, 8) });
    of(h, 0).push(reset());
    of(h, 1).truncate(9);
    of(h, 1).push(reset());
}

#[test]
fn what_was_destroyed_while_a_consumer_read_everything_again_is_excused() {
    let sent_back = |h: &mut History, to: u64| {
        h.harness.extend(fault("aof-cut", 20 * SECOND, 22 * SECOND, ""));
        for consumer in 0..2 {
            // The records were still there at the second reset, and would have come again.
            of(h, consumer).push(line(18 * SECOND, Event::Reset { producer: P, cursor: at(2, 8) }));
            of(h, consumer).push(line(19 * SECOND, Event::Reset { producer: P, cursor: at(3, to) }));
            of(h, consumer).push(line(23 * SECOND, Event::Reset { producer: P, cursor: at(4, 8) }));
        }
    };
    passes(|h| sent_back(h, 0));
    passes(|h| sent_back(h, 8));
    // A consumer that goes on behind them could not have read them: they were gone before the rollback.
    refused(|h| sent_back(h, 12), Invariant::Loss);
}

#[test]
fn what_a_rollback_destroyed_is_excused_where_nobody_could_read_it() {
    assert_eq!(passes(rolled_back).destroyed, 2);
    passes(|h| {
        rolled_back(h);
        h.store.as_mut().unwrap().truncate(8);
    });
    // Sent again in the new epoch: owed to everyone, and a double for those who had it.
    passes(|h| {
        rolled_back(h);
        of(h, 1).push(received(24 * SECOND, at(2, 9), 9));
        of(h, 1).push(received(24 * SECOND, at(2, 10), 10));
    });
    refused(
        |h| {
            rolled_back(h);
            of(h, 0).push(received(24 * SECOND, at(2, 9), 9));
        },
        Invariant::Loss,
    );
    // Below what both epochs share nothing was destroyed.
    refused(
        |h| {
            rolled_back(h);
            of(h, 1).remove(8);
        },
        Invariant::Loss,
    );
    // The consumer had read past the record.
    refused(
        |h| {
            rolled_back(h);
            of(h, 1).insert(9, received(19 * SECOND, at(1, 10), 10));
        },
        Invariant::Loss,
    );
    // The rollback came before it was taken.
    refused(
        |h| {
            rolled_back(h);
            for line in h.harness.iter_mut().filter(|line| matches!(line.event, Event::Fault { .. })) {
                line.t -= 19 * SECOND;
            }
        },
        Invariant::Loss,
    );
}

/// Redis restarted just before the rollback, and the new epoch was heard of at `heard`: both epochs had all ten records.
fn rolled_back_after_a_restart(h: &mut History, heard: u64) {
    rolled_back(h);
    for consumer in 0..2 {
        of(h, consumer).pop();
    }
    of(h, 0).push(line(heard, Event::Reset { producer: P, cursor: at(2, 10) }));
    for consumer in 0..2 {
        of(h, consumer).push(line(23 * SECOND, Event::Reset { producer: P, cursor: at(3, 8) }));
    }
}

#[test]
fn an_epoch_that_was_heard_of_during_a_rollback_may_have_begun_before_it() {
    assert_eq!(passes(|h| rolled_back_after_a_restart(h, 20 * SECOND + 1000)).destroyed, 2);
    // One that began after the rollback had the records, so the rollback did not destroy them.
    refused(|h| rolled_back_after_a_restart(h, 22 * SECOND + 1000), Invariant::Loss);
}

#[test]
fn a_rollback_excuses_nothing_that_was_missing_before_it() {
    // Acknowledged and never in the log, though a rollback came long after.
    refused(
        |h| {
            for consumer in 0..2 {
                of(h, consumer).truncate(5);
                of(h, consumer).extend((6..=10).map(|n| received((9 + n) * SECOND + SECOND * 6 / 10, at(1, n - 1), n)));
            }
            h.harness.extend(fault("redis-wipe", 30 * SECOND, 31 * SECOND, ""));
        },
        Invariant::Loss,
    );
    // Received, and gone from the log before it was rolled back.
    refused(
        |h| {
            of(h, 1).push(line(25 * SECOND, Event::Reset { producer: P, cursor: at(2, 9) }));
            h.harness.extend(fault("redis-wipe", 40 * SECOND, 41 * SECOND, ""));
        },
        Invariant::Loss,
    );
}

#[test]
fn offsets_that_are_given_out_again_are_refused() {
    // The log lost its tail, kept its name, and gave the places to other records.
    refused(
        |h| {
            h.harness.extend(fault("aof-cut", 17 * SECOND, 18 * SECOND, ""));
            of(h, 1).truncate(8);
            of(h, 1).push(received(20 * SECOND, at(1, 8), 9));
            of(h, 1).push(received(20 * SECOND, at(1, 9), 10));
        },
        Invariant::Uniqueness,
    );
}

#[test]
fn doubles_after_a_reset_are_removed_or_known() {
    // The native client removes what it has; the hole it leaves is known to hold that.
    let again = |h: &mut History| {
        rolled_back(h);
        of(h, 1).push(received(24 * SECOND, at(2, 9), 9));
        of(h, 1).push(received(24 * SECOND, at(2, 10), 10));
        let device = h.devices.get_mut(&0).unwrap();
        device.insert(1, line(24 * SECOND, Event::Offered { id: id(11), hash: hash(11) }));
        device.insert(2, line(24 * SECOND, Event::Taken { id: id(11), name: name(11) }));
        device.insert(3, line(24 * SECOND, Event::Acked { id: id(11) }));
        for consumer in 0..2 {
            of(h, consumer).push(received(25 * SECOND, at(2, 11), 11));
        }
        h.store.as_mut().unwrap().push(Row { producer: P, id: Ok(id(11)) });
    };
    passes(again);
    // A hole that holds something it never had is one.
    refused(
        |h| {
            again(h);
            of(h, 0).remove(10);
        },
        Invariant::Order,
    );
    // Below the shared place a record was not sent again.
    refused(
        |h| {
            rolled_back(h);
            of(h, 1).push(received(24 * SECOND, at(2, 9), 8));
        },
        Invariant::Uniqueness,
    );
}

#[test]
fn a_consumer_killed_before_it_wrote_its_cursor_receives_one_record_again() {
    passes(|h| {
        of(h, 1).insert(6, resumed(15 * SECOND, Some(at(1, 4))));
        of(h, 1).insert(7, received(15 * SECOND, at(1, 5), 5));
    });
    // In another place it is a double.
    refused(
        |h| {
            of(h, 1).push(resumed(25 * SECOND, Some(at(1, 10))));
            of(h, 1).push(received(25 * SECOND, at(1, 11), 10));
        },
        Invariant::Uniqueness,
    );
}

#[test]
fn a_gap_needs_a_cause() {
    let gap = |h: &mut History| of(h, 1)[5] = line(14 * SECOND, Event::Gap { producer: P, from: 5, to: 5 });
    refused(gap, Invariant::Loss);
}
