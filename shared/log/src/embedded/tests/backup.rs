//! Copies of a log that is being written, and logs of other versions.

use super::*;

/// A folder with a copy of this log.
fn copied(home: &Home) -> Home {
    let copied = Home { dir: tempfile::tempdir().unwrap(), clock: home.clock.clone(), hand: home.hand.clone() };
    super::super::copy(home.dir.path(), copied.dir.path()).unwrap();
    assert!(check(copied.dir.path()).unwrap().is_good());
    copied
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_all_that_was_acknowledged_before_it_was_begun() {
    let home = Home::new();
    let log = home.open_small(Retention { bytes: 40_000, ..Retention::default() });
    fill(&log, A, 1..=30).await;
    // Segments are filled, removed and put together meanwhile.
    let writing = tokio::spawn({
        let log = log.clone();
        async move {
            for n in 1.. {
                fill(&log, B, [n]).await;
                tokio::task::yield_now().await;
            }
        }
    });
    let mut last = Offset(0);
    for round in 1..=20 {
        wait_for("more is written", async || log.bounds(B).await.unwrap().last.0 >= 20 * round).await;
        let acknowledged = [log.bounds(A).await.unwrap().last, log.bounds(B).await.unwrap().last];
        let copy = tokio::task::block_in_place(|| copied(&home));
        let restored = copy.open_with(Retention { bytes: 40_000, ..Retention::default() });
        let bounds = [restored.bounds(A).await.unwrap(), restored.bounds(B).await.unwrap()];
        // Memory knows of a record before it is in the file, but of no more than one here.
        assert!(bounds[0].last == acknowledged[0] && bounds[1].last.next() >= acknowledged[1], "{bounds:?} {acknowledged:?}");
        assert!(bounds[1].last >= last);
        last = bounds[1].last;
        assert_ne!(bounds[1].epochs.present(), log.bounds(B).await.unwrap().epochs.present());
        let (records, damaged) = read_all(&restored, B).await;
        assert!(damaged.is_empty() && records.contains(&last.0));
        // The dedup window goes with the records.
        let window = restored.open(B, &device("d", 1000), None).await.unwrap().seen;
        assert!(window.contains(last.0) && !window.contains(last.0 + 1), "{window}");
        close(restored).await;
    }
    writing.abort();
    let _ = writing.await;
    close(log).await;
    assert!(!home.dir.path().join("log.backup").exists());
    // Nobody has to run.
    let copy = copied(&home);
    let stopped = copy.open();
    assert!(stopped.bounds(B).await.unwrap().last >= last);
    close(stopped).await;
}

#[tokio::test]
async fn a_newer_log_is_refused_in_words_and_left_alone() {
    let home = Home::written().await;
    home.sql("UPDATE facts SET value = 3 WHERE name = 'format'");
    // One of the two may be a flipped bit.
    close(home.open()).await;
    home.sql("UPDATE facts SET value = 3 WHERE name = 'format'");
    Connection::open(home.file()).unwrap().pragma_update(None, "user_version", 3).unwrap();
    let open = || Log::in_file(home.dir.path(), Retention::default(), home.clock.clone(), Arc::new(|_| {})).map(drop);
    let dir = home.dir.path();
    let refusals = [open().unwrap_err(), check(dir).unwrap_err(), repair(dir).unwrap_err(), confirm(dir, home.clock.now()).unwrap_err()];
    for refused in refusals {
        let refused = refused.to_string();
        let parts = [home.file().to_str().unwrap().to_owned(), "newer motience-server".into(), "version 3".into(), "up to 2".into()];
        assert!(parts.iter().all(|part| refused.contains(part)), "{refused}");
    }
    home.sql("UPDATE facts SET value = 2 WHERE name = 'format'");
    let log = home.open();
    assert_eq!(read_all(&log, A).await.0.len() as u64, RECORDS);
    close(log).await;
}
