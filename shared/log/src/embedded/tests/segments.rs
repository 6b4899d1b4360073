//! Segments that fill up, are torn, are removed and put together, beside a plain model of what a log must have.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Appends records of a device in one batch.
async fn flood(log: &Log, key: LogKey, sender: &Sender, opened: &mut SessionState, numbers: std::ops::RangeInclusive<u64>) {
    opened.seen.insert_range(numbers.clone());
    let batch = batch(sender, opened, numbers.map(|n| record(key, n)).collect());
    for outcome in log.append(key, &[batch]).await.unwrap() {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_write_that_is_torn_at_any_byte_is_cut_off_whole() {
    let home = Home::new();
    let log = home.open();
    fill(&log, A, 1..=3).await;
    fill(&log, B, 1..=2).await;
    let before = home.segment_bytes();
    fill(&log, A, [4]).await;
    let crashed = home.crashed();
    let all = crashed.segment_bytes();
    close(log).await;
    assert!(all > before + 300);
    for end in (before..all).rev().step_by(7).chain([before, before + 1, all - 1]) {
        let torn = crashed.crashed();
        fs::OpenOptions::new().write(true).open(&torn.segments()[0]).unwrap().set_len(end).unwrap();
        let log = torn.open();
        assert_eq!((log.bounds(A).await.unwrap().last, log.bounds(B).await.unwrap().last), (Offset(3), Offset(2)), "{end} of {all} bytes");
        assert_eq!(torn.segment_bytes(), before);
        assert_eq!(log.open(A, &device("d", 2), None).await.unwrap().seen.to_string(), "1-3");
        fill(&log, A, [4]).await;
        assert_eq!(read_all(&log, A).await.0.len(), 4);
        close(log).await;
        assert!(check(torn.dir.path()).unwrap().is_good());
    }
}

/// A busy producer fills segment after segment. A slow one has a few records in each, and keeps every one of them.
#[tokio::test]
async fn a_slow_producer_keeps_its_records_and_no_room_is_wasted() {
    let home = Home::new();
    let keep = Retention { bytes: 150_000, ..Retention::default() };
    let open = || Log::in_segments(home.dir.path(), keep, home.clock.clone(), Arc::new(|_| {}), 100_000).unwrap();
    let mut log = open();
    let (busy, slow) = (device("busy", 1), device("slow", 2));
    for round in 0..3 {
        let mut opened = [log.open(A, &busy, None).await.unwrap(), log.open(B, &slow, None).await.unwrap()];
        for n in round * 100..(round + 1) * 100 {
            flood(&log, A, &busy, &mut opened[0], n * 40 + 1..=n * 40 + 40).await;
            flood(&log, B, &slow, &mut opened[1], n + 1..=n + 1).await;
            if n % 25 == 0 {
                checked_in(&log).await;
                assert_eq!(read_all(&log, B).await.0.len() as u64, n + 1, "while segments go and are put together");
            }
        }
        checked_in(&log).await;
        wait_for("room is made", async || {
            checked_in(&log).await;
            home.segment_bytes() < 700_000
        })
        .await;
        let (records, damaged) = read_all(&log, B).await;
        assert_eq!((records.len() as u64, damaged.len()), ((round + 1) * 100, 0));
        let (records, damaged) = read_all(&log, A).await;
        assert!(records.len() * 280 >= 150_000 && records.len() * 280 < 220_000 && damaged.is_empty(), "{}", records.len());
        close(log).await;
        assert!(check(home.dir.path()).unwrap().is_good());
        log = open();
    }
    assert!(log.open(B, &device("slow", 3), None).await.unwrap().seen.contains(300));
    close(log).await;
}

/// A segment whose file cannot be removed, here because a folder has its name, is told of until it can.
#[tokio::test]
async fn a_segment_that_cannot_be_removed_is_told_of_until_it_can() {
    let home = Home::new();
    let log = home.open_small(Retention { bytes: 40_000, ..Retention::default() });
    fill(&log, A, 1..=60).await;
    checked_in(&log).await;
    assert_eq!(log.stalled_for(), None);
    let oldest = home.segments().remove(0);
    let (aside, inside) = (home.dir.path().join("aside"), oldest.join("inside"));
    fs::rename(&oldest, &aside).unwrap();
    fs::create_dir(&oldest).unwrap();
    fs::write(&inside, b"").unwrap();
    let sender = device("d", 2);
    let mut opened = log.open(A, &sender, None).await.unwrap();
    for n in (61..=1061).step_by(10) {
        flood(&log, A, &sender, &mut opened, n..=n + 9).await;
    }
    wait_for("it is told", async || {
        checked_in(&log).await;
        log.stalled_for().is_some()
    })
    .await;
    fs::remove_file(&inside).unwrap();
    fs::remove_dir(&oldest).unwrap();
    wait_for("it is over", async || log.stalled_for().is_none()).await;
    close(log).await;
}

/// Damage in what would be put together: it stays where it is, is told as damage, and everything around it is kept.
#[tokio::test]
async fn damage_is_not_copied_away() {
    let home = Home::new();
    let keep = Retention { bytes: 150_000, ..Retention::default() };
    let open = || Log::in_segments(home.dir.path(), keep, home.clock.clone(), Arc::new(|_| {}), 100_000).unwrap();
    let (busy, slow) = (device("busy", 1), device("slow", 2));
    let log = open();
    fill(&log, B, 1..=50).await;
    close(log).await;
    let (segment, at) = home.place_of("{\"log\":2,\"n\":20,");
    flip(&segment, at + 5, 1);
    let log = open();
    let mut opened = [log.open(A, &busy, None).await.unwrap(), log.open(B, &slow, None).await.unwrap()];
    for n in 0..100 {
        flood(&log, A, &busy, &mut opened[0], n * 40 + 1..=n * 40 + 40).await;
        flood(&log, B, &slow, &mut opened[1], n + 1..=n + 1).await;
    }
    wait_for("room is made", async || {
        checked_in(&log).await;
        home.segment_bytes() < 700_000
    })
    .await;
    let (records, damaged) = read_all(&log, B).await;
    assert_eq!((records.len(), damaged.into_iter().collect::<Vec<_>>()), (149, vec![20]));
    close(log).await;
    assert_eq!(check(home.dir.path()).unwrap().damaged, [(B, Offset(20), Offset(20))]);
}

#[tokio::test]
async fn records_are_found_by_their_time() {
    let home = Home::new();
    let log = home.open_small(Retention::default());
    for n in 1..=60 {
        fill(&log, A, [n]).await;
        home.hand.advance(Duration::from_secs(60));
    }
    checked_in(&log).await;
    let at = async |log: &Log, minute| {
        log.offset_for_time(A, datetime!(2026-01-01 00:00 UTC) + Duration::from_secs(60 * minute)).await.unwrap().0
    };
    for minute in [0, 1, 25, 59, 60, 99] {
        assert_eq!(at(&log, minute).await, minute.min(60));
    }
    close(log).await;
    let log = home.open_small(Retention::default());
    for minute in [0, 1, 25, 59, 60, 99] {
        assert_eq!(at(&log, minute).await, minute.min(60));
    }
    close(log).await;
}

/// An index file that is gone, or of another segment, is made again.
#[tokio::test]
async fn indexes_are_made_again_from_their_segments() {
    let home = Home::new();
    let log = home.open_small(Retention::default());
    fill(&log, A, 1..=100).await;
    checked_in(&log).await;
    close(log).await;
    let indexes: Vec<PathBuf> = home.segments().iter().map(|path| path.with_extension("index")).filter(|path| path.exists()).collect();
    assert!(indexes.len() >= 3);
    fs::remove_file(&indexes[0]).unwrap();
    fs::copy(&indexes[1], &indexes[2]).unwrap();
    let log = home.open_small(Retention::default());
    assert_eq!(read_all(&log, A).await, ((1..=100).collect(), BTreeSet::new()));
    wait_for("it is there again", async || {
        checked_in(&log).await;
        indexes[0].exists()
    })
    .await;
    close(log).await;
}

/// Without its database the log knows all that the segments tell.
#[tokio::test]
async fn a_database_that_is_gone_is_made_again() {
    let home = Home::written().await;
    for file in ["log.db", "log.db-wal", "log.db-shm"] {
        let _ = fs::remove_file(home.dir.path().join(file));
    }
    goes_on(&home, [0, 0]).await;
    let log = home.open();
    assert_eq!(log.open(A, &device("d", 2), None).await.unwrap().seen.to_string(), format!("1-{}", RECORDS + 1));
    close(log).await;
}

/// The segments of yesterday beside the database of today: nothing that is gone counts as seen.
#[tokio::test]
async fn segments_that_are_older_than_the_database_take_windows_with_them() {
    let home = Home::new();
    let log = home.open();
    fill(&log, A, 1..=5).await;
    fill(&log, B, 1..=5).await;
    close(log).await;
    let old = home.crashed();
    let log = home.open();
    fill(&log, A, 6..=9).await;
    close(log).await;
    fs::copy(&old.segments()[0], &home.segments()[0]).unwrap();
    let log = home.open();
    for key in [A, B] {
        assert_eq!(log.bounds(key).await.unwrap().last, Offset(5));
        assert_eq!(log.open(key, &device("d", 2), None).await.unwrap().seen.to_string(), "1-5");
    }
    // Their client ids are free again too.
    fill(&log, A, 6..=9).await;
    assert_eq!(log.bounds(A).await.unwrap().last, Offset(9));
    close(log).await;
}

/// A step in the life of a log.
#[derive(Clone, Debug)]
enum Step {
    Append {
        log: usize,
        device: usize,
        records: u64,
    },
    CheckIn,
    Restart,
    Crash,
    /// A crash, and the end of the last segment is gone.
    Cut(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_usize, 0..2_usize, 1..12_u64).prop_map(|(log, device, records)| Step::Append { log, device, records }),
        2 => Just(Step::CheckIn),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
        1 => (1..4000_u64).prop_map(Step::Cut),
    ]
}

/// A log as it must be: for each record the device and its number.
#[derive(Default)]
struct Model {
    records: Vec<(usize, u64)>,
    given: [u64; 2],
}

async fn compare(log: &Log, models: &[Model; 2]) {
    for (key, model) in [A, B].into_iter().zip(models) {
        let bounds = log.bounds(key).await.unwrap();
        assert!(bounds.last.0 <= model.records.len() as u64);
        let (records, damaged) = read_all(log, key).await;
        assert!(damaged.is_empty(), "{damaged:?}");
        let read = log.read(key, Offset(bounds.first.0 - 1), usize::MAX).await.unwrap();
        let found: BTreeMap<u64, u64> =
            read.batches.iter().flat_map(|batch| batch.after(Offset(0)).map(|(offset, id, _)| (offset.0, id.seq.0))).collect();
        for offset in &records {
            assert_eq!(found.get(offset), Some(&model.records[*offset as usize - 1].1), "{key:?} {offset}");
        }
    }
}

/// Every record that a device is told to be in the log is there, unless retention has removed it, and nothing else.
async fn windows(log: &Log, models: &[Model; 2], owner: u64) {
    for (key, model) in [A, B].into_iter().zip(models) {
        let first = log.bounds(key).await.unwrap().first.0;
        for device in 0..2 {
            let seen = log.open(key, &super::device(&device.to_string(), owner), None).await.unwrap().seen;
            let of = |from: u64| {
                model.records.iter().skip(from as usize - 1).filter(|(by, _)| *by == device).map(|(_, n)| *n).collect::<BTreeSet<_>>()
            };
            let seen: BTreeSet<u64> = seen.iter().flatten().collect();
            assert!(seen.is_subset(&of(1)), "{key:?} {device}: {seen:?} of {:?}", of(1));
            assert!(of(first).is_subset(&seen), "{key:?} {device}: {seen:?} of {:?}", of(first));
        }
    }
}

async fn play(steps: Vec<Step>) {
    let keep = Retention { bytes: 20_000, ..Retention::default() };
    let (mut home, mut models, mut owner) = (Home::new(), [Model::default(), Model::default()], 1);
    let mut log = home.open_small(keep);
    for step in steps {
        match step {
            Step::Append { log: which, device, records } => {
                let (key, model) = ([A, B][which], &mut models[which]);
                owner += 1;
                let sender = super::device(&device.to_string(), owner);
                let mut opened = log.open(key, &sender, None).await.unwrap();
                let from = model.given[device] + 1;
                flood(&log, key, &sender, &mut opened, from..=from + records - 1).await;
                model.given[device] += records;
                model.records.extend((from..from + records).map(|n| (device, n)));
            }
            Step::CheckIn => checked_in(&log).await,
            Step::Restart => {
                close(log).await;
                log = home.open_small(keep);
            }
            Step::Crash | Step::Cut(_) => {
                let crashed = home.crashed();
                close(log).await;
                if let Step::Cut(bytes) = step {
                    let last = fs::OpenOptions::new().write(true).open(crashed.segments().last().unwrap()).unwrap();
                    last.set_len(last.metadata().unwrap().len().saturating_sub(bytes).max(8)).unwrap();
                }
                home = crashed;
                log = home.open_small(keep);
                for (key, model) in [A, B].into_iter().zip(&mut models) {
                    let last = log.bounds(key).await.unwrap().last.0 as usize;
                    assert!(last == model.records.len() || matches!(step, Step::Cut(_)), "a crash takes nothing");
                    model.records.truncate(last);
                }
            }
        }
        compare(&log, &models).await;
        owner += 1;
        windows(&log, &models, owner).await;
    }
    close(log).await;
    assert!(check(home.dir.path()).unwrap().is_good());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_log_is_what_was_written_to_it(steps in proptest::collection::vec(step(), 1..24)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(play(steps));
    }
}

/// How long a log of many records takes to open: `LOG_RECORDS=20000000 cargo test --release -p motience-log -- --ignored --nocapture large`.
#[tokio::test]
#[ignore = "a measurement"]
async fn a_large_log_opens_quickly() {
    let records: u64 = std::env::var("LOG_RECORDS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let home = Home::new();
    close(home.open()).await;
    crate::embedded::disk::old::fill(&home.dir.path().join("log.segments"), records, 50).unwrap();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        let log = home.open_with(Retention { bytes: usize::MAX, ..Retention::default() });
        let opened = begun.elapsed();
        let last = log.bounds(LogKey::numbered(ProducerId(7))).await.unwrap().last;
        println!("{records} records, {} MiB: open {opened:?}, with one log {:?}", home.segment_bytes() >> 20, begun.elapsed());
        assert_eq!(last, Offset(records / 50));
        close(log).await;
    }
}

/// The messages are in no file any more, and a process that begins on the folder, after a crash too, tells what one before it told.
#[tokio::test]
async fn erased_records_are_in_no_file() {
    let home = Home::new();
    let open = || Log::in_segments(home.dir.path(), Retention::default(), home.clock.clone(), Arc::new(|_| {}), 4_000).unwrap();
    let log = open();
    let (sender, other) = (device("d", 1), device("e", 2));
    let mut opened = [log.open(A, &sender, None).await.unwrap(), log.open(B, &other, None).await.unwrap()];
    for n in 0..10 {
        flood(&log, A, &sender, &mut opened[0], n * 4 + 1..=n * 4 + 4).await;
        flood(&log, B, &other, &mut opened[1], n * 4 + 1..=n * 4 + 4).await;
    }
    let secret = log.read(A, Offset(4), 1).await.unwrap().batches[0].entries()[1].message.clone();
    let kept = log.read(A, Offset(0), 1).await.unwrap().batches[0].entries()[0].message.clone();
    let files_with = |message: &[u8]| {
        let has = |path: &std::path::PathBuf| fs::read(path).unwrap().windows(message.len()).any(|window| window == message);
        home.segments().iter().filter(|path| has(path)).count()
    };
    assert_eq!((files_with(&secret), files_with(&kept)), (1, 1));
    let erased = "6,9-12,39-40".parse().unwrap();
    log.erase_records(A, &erased).await.unwrap();
    assert_eq!((files_with(&secret), files_with(&kept)), (0, 1));
    // Behind them goes on what is written.
    flood(&log, A, &sender, &mut opened[0], 41..=44).await;
    let crashed = home.crashed();
    close(log).await;
    for (home, count) in [(&home, 44), (&crashed, 44)] {
        let log = Log::in_segments(home.dir.path(), Retention::default(), home.clock.clone(), Arc::new(|_| {}), 4_000).unwrap();
        let entries =
            log.read(A, Offset(0), 1 << 20).await.unwrap().batches.iter().flat_map(|batch| batch.entries().to_vec()).collect::<Vec<_>>();
        assert_eq!(entries.len(), count);
        let blank: Vec<usize> = entries.iter().enumerate().filter(|(_, entry)| entry.is_erased()).map(|(at, _)| at + 1).collect();
        assert_eq!(blank, [6, 9, 10, 11, 12, 39, 40]);
        assert_eq!(read_all(&log, B).await.0.len(), 40);
        assert_eq!(log.open(A, &device("d", 3), None).await.unwrap().seen.to_string(), "1-44");
        close(log).await;
        assert!(check(home.dir.path()).unwrap().is_good());
    }
}
