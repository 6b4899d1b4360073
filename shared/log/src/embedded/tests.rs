//! Logs in files that get damaged, clocks that jump, senders without end: what is asked of memory, of the file, and of readers.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use motience_proto::model::{DeviceId, ProducerEpoch, ProducerId, Seq};
use motience_runtime::clock::Manual;
use rusqlite::Connection;
use tempfile::TempDir;
use time::macros::datetime;

use super::*;
use crate::{AppendRecord, SessionName};

mod backup;
mod full_disk;
mod import;
mod segments;

/// Longest wait for what a test waits for.
const LIMIT: Duration = Duration::from_secs(30);
const A: LogKey = LogKey::numbered(ProducerId(1));
const B: LogKey = LogKey::numbered(ProducerId(2));
/// Records of each log, one in a batch.
const RECORDS: u64 = 200;

/// A folder for a log, and a clock.
struct Home {
    dir: TempDir,
    clock: Clock,
    hand: Manual,
}

impl Home {
    fn new() -> Self {
        let (clock, hand) = Clock::manual(datetime!(2026-01-01 00:00 UTC));
        Self { dir: tempfile::tempdir().unwrap(), clock, hand }
    }

    /// A log of two producers, written and closed.
    async fn written() -> Self {
        let home = Self::new();
        let log = home.open();
        for key in [A, B] {
            fill(&log, key, 1..=RECORDS).await;
        }
        close(log).await;
        home
    }

    fn open(&self) -> Log {
        self.open_with(Retention { bytes: 64 << 20, ..Retention::default() })
    }

    fn open_with(&self, keep: Retention) -> Log {
        Log::in_file(self.dir.path(), keep, self.clock.clone(), Arc::new(|_| {})).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("log.db")
    }

    /// A log whose segments are full after a few records.
    fn open_small(&self, keep: Retention) -> Log {
        Log::in_segments(self.dir.path(), keep, self.clock.clone(), Arc::new(|_| {}), 8 << 10).unwrap()
    }

    /// The segments, in their order.
    fn segments(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.dir.path().join("log.segments")).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "segment")).collect();
        files.sort();
        files
    }

    fn segment_bytes(&self) -> u64 {
        self.segments().iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Where this text is: in which segment, and at which byte.
    fn place_of(&self, text: &str) -> (PathBuf, usize) {
        let find = |path: PathBuf| {
            let at = fs::read(&path).unwrap().windows(text.len()).position(|window| window == text.as_bytes())?;
            Some((path, at))
        };
        self.segments().into_iter().find_map(find).unwrap()
    }

    /// The files as a crash would leave them.
    fn crashed(&self) -> Self {
        let crashed = Self { dir: tempfile::tempdir().unwrap(), clock: self.clock.clone(), hand: self.hand.clone() };
        // A crash is of one moment: nothing is written while the files are copied one by one.
        let hold = fs::File::open(self.dir.path().join("log.hold")).unwrap();
        hold.lock().unwrap();
        copy(self.dir.path(), crashed.dir.path());
        crashed
    }

    fn sql(&self, sql: &str) -> usize {
        Connection::open(self.file()).unwrap().execute(sql, []).unwrap()
    }

    fn count(&self, table: &str) -> u64 {
        let connection = Connection::open(self.file()).unwrap();
        connection.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap() as u64
    }

    /// The page at which a table or an index begins.
    fn root(&self, name: &str) -> usize {
        let connection = Connection::open(self.file()).unwrap();
        let ask = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
        connection.query_row(ask, [name], |row| row.get::<_, i64>(0)).unwrap() as usize
    }

    /// Makes a page of the file unreadable.
    fn ruin(&self, page: usize) {
        let mut bytes = fs::read(self.file()).unwrap();
        bytes[(page - 1) * 4096..][..32].fill(0xa5);
        fs::write(self.file(), bytes).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

fn flip(path: &Path, at: usize, bits: u8) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= bits;
    fs::write(path, bytes).unwrap();
}

/// Returns once the database knows all that the segments have.
async fn checked_in(log: &Log) {
    log.0.disk.as_ref().unwrap().forget(log.now()).await;
}

async fn close(log: Log) {
    log.close().await;
}

pub(super) fn message(key: LogKey, n: u64) -> String {
    format!("{{\"log\":{},\"n\":{n},\"text\":\"{}\"}}", key.producer, "x".repeat(250))
}

fn device(name: &str, owner: u64) -> Sender {
    Sender { name: SessionName::device(&DeviceId::new(name).unwrap()), producer_epoch: ProducerEpoch(7), owner }
}

/// A batch of an opened sender: its dedup window knows the records.
fn batch(sender: &Sender, opened: &SessionState, records: Vec<AppendRecord>) -> AppendBatch {
    let mut seen = opened.seen.clone();
    records.iter().for_each(|record| {
        seen.insert(record.seq.0);
    });
    AppendBatch {
        name: sender.name.clone(),
        log_epoch: opened.log_epoch,
        fence: opened.fence,
        producer_epoch: sender.producer_epoch,
        seen,
        records,
    }
}

fn record(key: LogKey, n: u64) -> AppendRecord {
    AppendRecord { seq: Seq(n), id: None, message: Bytes::from(message(key, n)) }
}

/// Appends one record to the log of an opened sender.
async fn send(log: &Log, key: LogKey, sender: &Sender, opened: &SessionState, n: u64) {
    let record = AppendRecord { id: Some(format!("{}-{n}", sender.name).into()), ..record(key, n) };
    for outcome in log.append(key, &[batch(sender, opened, vec![record])]).await.unwrap() {
        outcome.unwrap();
    }
}

/// Appends records of one device, each in a batch of its own.
async fn fill(log: &Log, key: LogKey, numbers: impl IntoIterator<Item = u64>) {
    let sender = device("d", 1);
    let mut opened = log.open(key, &sender, None).await.unwrap();
    for n in numbers {
        send(log, key, &sender, &opened, n).await;
        opened.seen.insert(n);
    }
}

/// All that a reader gets from the beginning: records, and the offsets that it is told are damaged. Between them they are all there are.
async fn read_all(log: &Log, key: LogKey) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut records, mut damaged) = (BTreeSet::new(), BTreeSet::new());
    let bounds = log.bounds(key).await.unwrap();
    let mut at = Offset(bounds.first.0 - 1);
    while at < bounds.last {
        let read = log.read(key, at, 10_000).await.unwrap();
        assert!(read.damaged.is_some() || !read.batches.is_empty(), "a reader at {at} of {} gets nothing", bounds.last);
        if let Some((from, to)) = read.damaged {
            assert_eq!(from, at.next());
            damaged.extend(from.0..=to.0);
            at = to;
        }
        for batch in &read.batches {
            assert_eq!(batch.first, at.next());
            for (offset, record_id, found) in batch.after(at) {
                assert_eq!(found, message(key, record_id.seq.0).as_bytes());
                records.insert(offset.0);
            }
            at = batch.last();
        }
    }
    assert_eq!(records.union(&damaged).copied().collect::<Vec<_>>(), (bounds.first.0..=bounds.last.0).collect::<Vec<_>>());
    (records, damaged)
}

async fn wait_for(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !is().await {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Both logs are read as far as they can be, and written; `most` are the damaged ones of log A and of log B. A repair changes nothing of
/// that, and leaves a sound file.
async fn goes_on(home: &Home, most: [usize; 2]) -> [usize; 2] {
    let mut lost = Vec::new();
    let log = home.open();
    for (key, most) in [A, B].into_iter().zip(most) {
        let (records, damaged) = read_all(&log, key).await;
        assert!(damaged.len() <= most, "{key:?}: {damaged:?}");
        assert!(records.len() >= RECORDS as usize - most);
        fill(&log, key, [RECORDS + 1]).await;
        let (records, again) = read_all(&log, key).await;
        assert!(records.contains(&(RECORDS + 1)));
        assert_eq!(again, damaged, "{key:?}");
        assert!(damaged.is_empty() || log.damaged() > 0);
        lost.push(damaged);
    }
    close(log).await;
    repair(home.dir.path()).unwrap();
    let health = check(home.dir.path()).unwrap();
    assert!(health.is_good(), "{health:?}");
    let log = home.open();
    for (key, damaged) in [A, B].into_iter().zip(&lost) {
        assert_eq!(read_all(&log, key).await.1, *damaged);
    }
    close(log).await;
    [lost[0].len(), lost[1].len()]
}

#[tokio::test]
async fn a_sound_file_is_sound() {
    let home = Home::written().await;
    let health = check(home.dir.path()).unwrap();
    assert!(health.is_good(), "{health:?}");
    assert_eq!((health.logs, health.records), (2, 2 * RECORDS));
    assert_eq!(repair(home.dir.path()).unwrap().kept, None, "nothing is done");
    goes_on(&home, [0, 0]).await;
}

#[tokio::test]
async fn a_flipped_bit_costs_its_batch() {
    let sound = Home::written().await;
    let (_, message) = sound.place_of("{\"log\":1,\"n\":100,");
    // Mark, flags, length, checksum, sender, and the message.
    let header = message - 18;
    let places = (header..message + 3).chain([message + 200]);
    assert_eq!(fs::read(&sound.segments()[0]).unwrap()[header], 0xff);
    for place in places.step_by(3) {
        let home = sound.crashed();
        flip(&home.segments()[0], place, 1);
        let health = check(home.dir.path()).unwrap();
        assert!(!health.is_good(), "{place}");
        assert_eq!(
            (health.damaged.as_slice(), health.lost.as_slice()),
            ([(A, Offset(100), Offset(100))].as_slice(), [].as_slice()),
            "{place}"
        );
        assert_eq!(goes_on(&home, [1, 0]).await, [1, 0], "{place}");
    }
}

#[tokio::test]
async fn where_a_log_stands_may_be_damaged() {
    for change in ["last = 1000000", "last = 5", "lives = 'x'", "removed = 999", "sum = 1"] {
        let home = Home::written().await;
        assert_eq!(home.sql(&format!("UPDATE logs SET {change} WHERE producer = 1")), 1);
        assert_eq!(check(home.dir.path()).unwrap().forgetful, [A], "{change}");
        goes_on(&home, [0, 0]).await;
    }
}

#[tokio::test]
async fn a_devices_window_may_be_damaged() {
    let home = Home::written().await;
    assert_eq!(home.sql("UPDATE sessions SET seen = '1-999' WHERE producer = 1"), 1);
    assert_eq!(check(home.dir.path()).unwrap().forgetful, [A]);
    let log = home.open();
    assert!(log.open(A, &device("d", 2), None).await.unwrap().seen.is_empty(), "none is believed rather than a wrong one");
    assert!(!log.open(B, &device("d", 2), None).await.unwrap().seen.is_empty());
    close(log).await;
}

/// Pages of what is known of devices and of logs: the segments tell it again.
#[tokio::test]
async fn an_unreadable_page_costs_nothing() {
    for name in ["sessions", "ids", "ids_at", "logs", "facts"] {
        let home = Home::written().await;
        home.ruin(home.root(name));
        goes_on(&home, [0, 0]).await;
    }
}

/// Whatever page of the database it is, and whatever became of it: nobody waits for ever, nobody is told anything wrong.
#[tokio::test]
async fn any_page_may_be_ruined() {
    let sound = Home::written().await;
    let pages = fs::read(sound.file()).unwrap();
    let mut random = fastrand::Rng::with_seed(17);
    for page in 0..pages.len() / 4096 {
        for harm in 0..3 {
            let mut bytes = pages.clone();
            let ruined = &mut bytes[page * 4096..][..4096];
            match harm {
                0 => ruined.fill(0),
                1 => random.fill(&mut ruined[..16]),
                _ => ruined[random.usize(..4096)] ^= 1 << random.u8(..8),
            }
            let home = sound.crashed();
            fs::write(home.file(), bytes).unwrap();
            let Ok(log) = Log::in_file(home.dir.path(), Retention::default(), home.clock.clone(), Arc::new(|_| {})) else {
                assert_eq!(page, 0, "no other is needed to open the file");
                repair(home.dir.path()).unwrap();
                close(home.open()).await;
                continue;
            };
            goes_on_writing(&log).await;
            close(log).await;
        }
    }
}

/// Both logs can be read and written.
async fn goes_on_writing(log: &Log) {
    for key in [A, B] {
        read_all(log, key).await;
        let before = log.bounds(key).await.unwrap().last;
        fill(log, key, [1000]).await;
        assert_eq!(log.bounds(key).await.unwrap().last, before.next());
        let (records, _) = read_all(log, key).await;
        assert!(records.contains(&before.next().0));
    }
}

/// Whatever byte of the segments and of their indexes it is.
#[tokio::test]
async fn any_byte_may_be_flipped() {
    let sound = Home::new();
    let log = sound.open_small(Retention::default());
    for key in [A, B] {
        fill(&log, key, 1..=40).await;
    }
    close(log).await;
    let mut random = fastrand::Rng::with_seed(23);
    let files: Vec<PathBuf> = fs::read_dir(sound.dir.path().join("log.segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() > 4, "{files:?}");
    for _ in 0..150 {
        let home = sound.crashed();
        let file = home.dir.path().join("log.segments").join(files[random.usize(..files.len())].file_name().unwrap());
        let place = random.usize(..fs::read(&file).unwrap().len());
        flip(&file, place, 1 << random.u8(..8));
        let log = home.open_small(Retention::default());
        let mut lost = 0;
        for key in [A, B] {
            lost += read_all(&log, key).await.1.len();
        }
        assert!(lost <= 1, "{}: {place} costs {lost}", file.display());
        goes_on_writing(&log).await;
        close(log).await;
    }
}

#[tokio::test]
async fn a_page_ruined_while_the_log_is_open_does_not_end_writing() {
    let home = Home::written().await;
    let log = home.open();
    fill(&log, A, [RECORDS + 1]).await;
    checked_in(&log).await;
    for name in ["sessions", "logs"] {
        home.ruin(home.root(name));
    }
    for n in 2..=RECORDS {
        fill(&log, A, [RECORDS + n]).await;
        fill(&log, B, [RECORDS + n]).await;
        if n % 50 == 0 {
            checked_in(&log).await;
        }
    }
    for (key, all) in [(A, 2 * RECORDS), (B, 2 * RECORDS - 1)] {
        assert_eq!(read_all(&log, key).await.0.len() as u64, all);
    }
    close(log).await;
    let log = home.open();
    assert!(log.open(A, &device("d", 2), None).await.unwrap().seen.contains(2 * RECORDS));
    close(log).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_says_what_to_do() {
    type Harm = fn(&Path);
    let harms: [(Harm, u64); 3] = [
        (|file| fs::write(file, "This is no database, and never was one. ".repeat(400)).unwrap(), 2 * RECORDS),
        (|file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(3 * 4096).unwrap(), 2 * RECORDS),
        (
            |file| {
                let mut bytes = fs::read(file).unwrap();
                bytes[..100].fill(0);
                fs::write(file, bytes).unwrap();
            },
            2 * RECORDS,
        ),
    ];
    for (harm, least) in harms {
        let home = Home::written().await;
        harm(&home.file());
        let refused = Log::in_file(home.dir.path(), Retention::default(), home.clock.clone(), Arc::new(|_| {})).unwrap_err().to_string();
        assert!(refused.contains(home.file().to_str().unwrap()) && refused.contains("motience-server log repair"), "{refused}");
        assert!(check(home.dir.path()).is_err() || !check(home.dir.path()).unwrap().is_good());
        let repaired = repair(home.dir.path()).unwrap();
        assert!(repaired.kept.unwrap().exists());
        assert!(repaired.records >= least, "{}", repaired.records);
        let log = home.open();
        for key in [A, B] {
            let kept = log.bounds(key).await.unwrap().last;
            read_all(&log, key).await;
            fill(&log, key, [1000]).await;
            assert_eq!(log.bounds(key).await.unwrap().last, kept.next());
        }
        close(log).await;
        assert!(check(home.dir.path()).unwrap().is_good());
    }
}

#[tokio::test]
async fn a_segment_that_is_cut_costs_the_newest_records() {
    let home = Home::new();
    let log = home.open();
    fill(&log, A, 1..=50).await;
    let crashed = home.crashed();
    close(log).await;
    let segment = fs::OpenOptions::new().write(true).open(&crashed.segments()[0]).unwrap();
    segment.set_len(segment.metadata().unwrap().len() / 2).unwrap();
    let log = crashed.open();
    let kept = log.bounds(A).await.unwrap().last.0;
    assert!((1..50).contains(&kept), "{kept}");
    assert_eq!(read_all(&log, A).await.0.len() as u64, kept);
    fill(&log, A, kept + 1..=60).await;
    assert_eq!(read_all(&log, A).await.0.len(), 60);
    close(log).await;
    assert!(check(crashed.dir.path()).unwrap().is_good());
}

#[tokio::test]
async fn a_clock_that_is_far_ahead_removes_nothing_before_it_is_confirmed() {
    let home = Home::written().await;
    home.hand.advance(Duration::from_secs(25 * 3600));
    // However often it is started so.
    for _ in 0..2 {
        let log = home.open();
        wait_for("much waits to be removed", async || log.held() == 2).await;
        assert_eq!(log.bounds(A).await.unwrap().first, Offset(1));
        assert_eq!(read_all(&log, A).await.0.len() as u64, RECORDS);
        close(log).await;
    }
    let log = home.open();
    wait_for("much waits to be removed", async || log.held() == 2).await;
    // A record of the wrong time does not make it right.
    fill(&log, A, [RECORDS + 1]).await;
    confirm(home.dir.path(), home.clock.now()).unwrap();
    wait_for("it goes once the clock is confirmed", async || log.held() == 0).await;
    assert_eq!(log.bounds(A).await.unwrap().first, Offset(RECORDS + 1));
    assert_eq!(log.bounds(B).await.unwrap().first, Offset(RECORDS + 1));
    assert_eq!(log.removed_at(A).await.unwrap(), Some(datetime!(2026-01-01 00:00 UTC)));
    close(log).await;
}

#[tokio::test]
async fn a_log_that_nobody_asks_for_is_trimmed_all_the_same() {
    let home = Home::new();
    let log = home.open_small(Retention::default());
    for key in [A, B] {
        fill(&log, key, 1..=RECORDS).await;
    }
    close(log).await;
    assert!(home.segment_bytes() > 100_000);
    home.hand.advance(Duration::from_secs(25 * 3600));
    let log = home.open_small(Retention { at_once: 100, ..Retention::default() });
    wait_for("all is too old", async || home.segment_bytes() < 20_000).await;
    assert!(log.0.producers.lock().is_empty(), "and nothing of it stays in memory");
    assert_eq!(log.bounds(A).await.unwrap().first, Offset(RECORDS + 1));
    close(log).await;
}

#[tokio::test]
async fn room_that_a_crash_left_unmade_is_made_at_the_next_start() {
    let home = Home::new();
    let keep = Retention { bytes: 20_000, ..Retention::default() };
    let log = home.open_small(Retention::default());
    fill(&log, A, 1..=RECORDS).await;
    close(log).await;
    let log = home.open_small(keep);
    wait_for("it is trimmed", async || log.bounds(A).await.unwrap().first > Offset(1)).await;
    // Retention has removed these, and the process ends before the segments go.
    let crashed = home.crashed();
    close(log).await;
    let log = crashed.open_small(keep);
    let first = log.bounds(A).await.unwrap().first.0;
    wait_for("segments go", async || crashed.segment_bytes() < 45_000).await;
    let (records, damaged) = read_all(&log, A).await;
    assert_eq!((records.len() as u64, damaged.len()), (RECORDS + 1 - first, 0));
    close(log).await;
}

#[tokio::test]
async fn requests_leave_nothing_behind() {
    let (clock, _) = Clock::manual(datetime!(2026-01-01 00:00 UTC));
    let log = Log::in_memory(Retention::default(), clock, Arc::new(|_| {}));
    let held = log.open(A, &Sender { name: SessionName::ephemeral(), producer_epoch: ProducerEpoch(1), owner: 0 }, None).await.unwrap();
    for n in 1..=5000 {
        let sender = Sender { name: SessionName::ephemeral(), producer_epoch: ProducerEpoch(n), owner: n };
        let opened = log.open(A, &sender, None).await.unwrap();
        send(&log, A, &sender, &opened, 1).await;
    }
    // A request costs what the last one did, not what all of the last ten minutes did.
    let remembered = log.place(A).await.unwrap().lock().remembered();
    assert!(remembered.1 <= 3, "{remembered:?}");
    drop(held);
    close(log).await;
}

#[tokio::test]
async fn devices_are_remembered_within_bounds() {
    let keep = Retention { sessions: 10, ..Retention::default() };
    for is_wide in [false, true] {
        let home = Home::new();
        let keep = if is_wide { Retention { sessions: 1000, windows: 10 * 100, ..keep } } else { keep };
        let log = home.open_with(keep);
        let connected = device("connected", 1);
        let opened = log.open(A, &connected, None).await.unwrap();
        send(&log, A, &connected, &opened, 5).await;
        for n in 1..=50 {
            let sender = device(&format!("device-{n}"), n);
            let opened = log.open(A, &sender, None).await.unwrap();
            send(&log, A, &sender, &opened, 1).await;
        }
        let remembered = log.place(A).await.unwrap().lock().remembered();
        assert!(remembered.0 <= 11 && remembered.0 > 5, "{remembered:?}");
        // The file forgets with the next append.
        send(&log, A, &connected, &opened, 6).await;
        checked_in(&log).await;
        assert!(home.count("sessions") <= 11);
        let seen = async |name: &str| log.open(A, &device(name, 99), None).await;
        assert!(seen("connected").await.unwrap().seen.contains(6), "who is connected is never forgotten");
        assert!(seen("device-50").await.unwrap().seen.contains(1));
        assert!(seen("device-1").await.unwrap().seen.is_empty());
        drop(opened);
        close(log).await;
    }
}

#[tokio::test]
async fn devices_and_ids_are_forgotten_in_time_while_the_log_runs() {
    let home = Home::new();
    let log = home.open_with(Retention { at_once: 100, ..Retention::default() });
    fill(&log, A, [1]).await;
    let held = log.open(B, &device("d", 1), None).await.unwrap();
    send(&log, B, &device("d", 1), &held, 1).await;
    checked_in(&log).await;
    assert_eq!((home.count("sessions"), home.count("ids")), (2, 2));
    home.hand.advance(Duration::from_secs(25 * 3600));
    log.sweep(false).await;
    wait_for("ids go with the records", async || home.count("ids") == 0).await;
    assert_eq!(home.count("sessions"), 2);
    home.hand.advance(Duration::from_secs(30 * 24 * 3600));
    log.sweep(false).await;
    log.sweep(false).await;
    wait_for("devices after 30 days", async || home.count("sessions WHERE producer = 1") == 0).await;
    assert_eq!(log.place(A).await.unwrap().lock().remembered(), (0, 0));
    // One that is connected all the while goes on.
    send(&log, B, &device("d", 1), &held, 2).await;
    checked_in(&log).await;
    assert_eq!(home.count("sessions"), 1);
    close(log).await;
}
