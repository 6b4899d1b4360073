//! A disk without room: played in a process of its own whose files may not grow beyond a limit, as a full disk would not let them.

use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const CHILD: &str = "MOTIENCE_FULL_DISK";

#[test]
fn a_full_disk_loses_nothing_and_writing_goes_on_once_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    // A signal that is ignored stays ignored in the process that is started: writes then fail instead.
    let script = format!("trap '' XFSZ; exec '{}' --exact embedded::tests::full_disk::child --nocapture", this.display());
    let output = Command::new("sh").args(["-c", &script]).env(CHILD, dir.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("all is well"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
}

fn limit(bytes: Option<u64>) {
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum: getrlimit(Resource::Fsize).maximum }).unwrap();
}

#[tokio::test]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let (clock, _) = Clock::manual(datetime!(2026-01-01 00:00 UTC));
    let open = || Log::in_file(Path::new(&dir), Retention::default(), clock.clone(), Arc::new(|_| {})).unwrap();
    let log = open();
    let sender = device("d", 1);
    let mut opened = log.open(A, &sender, None).await.unwrap();
    limit(Some(200_000));
    let (mut acknowledged, mut n) = (0, 0);
    let error = loop {
        n += 1;
        opened.seen.insert(n);
        let batch = batch(&sender, &opened, vec![record(A, n)]);
        match log.append(A, &[batch]).await {
            Ok(_) => acknowledged = n,
            Err(error) => break error,
        }
    };
    assert!(acknowledged > 300 && error.to_string().contains("not written in time"), "{acknowledged}: {error}");
    assert!(log.ping().await.is_err() && log.is_full(), "a node that cannot write is not ready");
    let (records, damaged) = read_all(&log, A).await;
    assert_eq!((records.len() as u64, damaged.len()), (n, 0), "readers have all of it");
    limit(None);
    wait_for("it is written once there is room", async || log.ping().await.is_ok() && !log.is_full()).await;
    fill(&log, B, 1..=10).await;
    close(log).await;
    let log = open();
    assert_eq!(read_all(&log, A).await.0.len() as u64, n);
    assert_eq!(log.open(A, &device("d", 2), None).await.unwrap().seen.to_string(), format!("1-{n}"));
    assert_eq!(read_all(&log, B).await.0.len(), 10);
    close(log).await;
    assert!(check(Path::new(&dir)).unwrap().is_good());
    println!("all is well");
}
