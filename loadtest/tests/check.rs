//! The randomised crash test, as CI runs it: it passes over both backends with every kind of fault injected, and each
//! promise broken on purpose makes it fail.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

/// The server, and the gateway beside it, with the features that this test has: built with the whole workspace, as a run of
/// all tests builds it, so that little or nothing is left to be done.
fn server() -> &'static Path {
    static SERVER: OnceLock<PathBuf> = OnceLock::new();
    SERVER.get_or_init(|| {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--workspace", "--bins"]);
        if cfg!(feature = "mutation") {
            build.arg("--all-features");
        }
        let program = Path::new(env!("CARGO_BIN_EXE_loadtest"));
        if program.parent().is_some_and(|folder| folder.ends_with("release")) {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo can be run").success(), "the server cannot be built");
        program.with_file_name("motience-server")
    })
}

fn check(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.arg("check").arg("--server-program").arg(server()).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("the program under test is there");
    // For whoever has to find out why.
    println!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    output
}

#[track_caller]
fn holds(arguments: &[&str]) {
    let output = check(arguments);
    assert!(output.status.success(), "an invariant is broken");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("every invariant holds") && told.contains("faults injected"));
}

/// The check fails, and for no other reason than a broken invariant.
#[cfg(feature = "mutation")]
#[track_caller]
fn finds(mutation: &str, arguments: &[&str]) {
    let output = check(&[&["--seconds", "15", "--mutation", mutation], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{mutation} is not found");
    assert!(String::from_utf8_lossy(&output.stdout).contains("BROKEN "), "the check failed for another reason");
}

#[test]
fn every_promise_holds_on_the_embedded_backend() {
    holds(&["--seconds", "40"]);
}

#[test]
fn every_promise_holds_on_redis_and_postgresql() {
    holds(&["--seconds", "40", "--cluster"]);
}

/// Faults of servers with replicas, and those at the edges that let devices and consumers meet them.
const OF_REPLICAS: &str = "master-kill,master-pause,failover,pubsub-cut,node-kill,udp-loss,device-kill,consumer-kill";

#[test]
fn every_promise_holds_on_a_redis_cluster() {
    holds(&["--seconds", "15", "--flood", "0", "--cluster=redis-cluster", "--only", &format!("{OF_REPLICAS},slot-move,partition")]);
}

#[test]
fn every_promise_holds_behind_sentinels() {
    holds(&["--seconds", "15", "--flood", "0", "--cluster=sentinel", "--only", OF_REPLICAS]);
}

#[cfg(feature = "mutation")]
mod mutations {
    use super::finds;

    #[test]
    fn an_acknowledgement_before_the_append_is_found() {
        finds("ack-before-append", &[]);
        finds("ack-before-append", &["--cluster"]);
    }

    #[test]
    fn an_epoch_kept_beside_the_data_is_found() {
        finds("epoch-beside-data", &[]);
        finds("epoch-beside-data", &["--cluster"]);
    }

    #[test]
    fn a_dedup_window_that_is_skipped_is_found() {
        finds("skip-dedup-window", &[]);
        finds("skip-dedup-window", &["--cluster"]);
    }

    #[test]
    fn a_torn_outbox_taken_for_whole_is_found() {
        finds("ignore-torn-tail", &[]);
    }
}
