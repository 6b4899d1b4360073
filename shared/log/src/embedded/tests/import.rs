//! A file from before there were segments.

use super::*;
use crate::embedded::disk::old;

/// A log of A with 30 records, of which retention has removed 5, and of B with 20; one batch of B is damaged.
fn written() -> Home {
    let home = Home::new();
    old::write(home.dir.path(), &[(A, 30, 5), (B, 20, 0)]);
    assert_eq!(home.sql("UPDATE batches SET sum = sum + 1 WHERE producer = 2 AND last = 7"), 1);
    home
}

async fn is_whole(home: &Home) {
    let log = home.open();
    assert_eq!(read_all(&log, A).await, ((6..=30).collect(), BTreeSet::new()));
    assert_eq!(read_all(&log, B).await, ((1..=20).filter(|n| *n != 7).collect(), BTreeSet::from([7])));
    assert_eq!(log.open(A, &device("d", 9), None).await.unwrap().seen.to_string(), "1-30");
    assert_eq!(log.bounds(A).await.unwrap().epochs.iter().next(), Some((LogEpoch(99), Offset(0))), "cursors of before are known");
    close(log).await;
    assert!(!home.dir.path().join("log.import").exists());
    let connection = Connection::open(home.file()).unwrap();
    let left: i64 = connection.query_row("SELECT COUNT(*) FROM sqlite_schema WHERE name LIKE 'batches%'", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn an_old_file_is_read_in_once() {
    let home = written();
    is_whole(&home).await;
    let log = home.open();
    fill(&log, A, [31]).await;
    assert_eq!(log.bounds(A).await.unwrap().last, Offset(31));
    close(log).await;
    let log = home.open();
    assert_eq!(read_all(&log, A).await.0, (6..=31).collect());
    close(log).await;
    assert_eq!(check(home.dir.path()).unwrap().lost, [(B, Offset(7), Offset(7))]);
}

#[tokio::test]
async fn a_crash_within_the_import_repeats_it() {
    // Before the segments appeared.
    let home = written();
    fs::create_dir(home.dir.path().join("log.import")).unwrap();
    fs::write(home.dir.path().join("log.import/0000000001-0000000001-0.segment"), "half of it").unwrap();
    is_whole(&home).await;
    // After that, and before the database let go of the batches.
    let (home, done) = (written(), written());
    is_whole(&done).await;
    copy(&done.dir.path().join("log.segments"), &{
        let to = home.dir.path().join("log.segments");
        fs::create_dir(&to).unwrap();
        to
    });
    fs::write(home.dir.path().join("log.segments/imported"), "").unwrap();
    is_whole(&home).await;
}

/// A backup of an old file, put back beside segments that came after it.
#[tokio::test]
async fn segments_beside_an_older_file_are_put_aside() {
    let home = written();
    let old = fs::read(home.file()).unwrap();
    is_whole(&home).await;
    let log = home.open();
    fill(&log, A, [31]).await;
    close(log).await;
    for beside in ["log.db-wal", "log.db-shm"] {
        let _ = fs::remove_file(home.dir.path().join(beside));
    }
    fs::write(home.file(), old).unwrap();
    is_whole(&home).await;
    let kept = fs::read_dir(home.dir.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("log.replaced-"));
    assert_eq!(kept.count(), 1);
}
