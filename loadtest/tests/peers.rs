//! Motience beside other brokers: that each is started, sent to and read to the last record. How fast they are is not asked here.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

#[test]
fn every_system_delivers_what_it_is_sent() {
    let program = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let server = program.with_file_name("motience-server");
    assert!(server.exists(), "the server is not built: run the tests over the whole workspace, or `cargo build --workspace` first");
    let folder = tempfile::tempdir().unwrap();
    let [json, page] = ["peers.json", "peers.html"].map(|name| folder.path().join(name));
    let mut command = Command::new(program);
    command.args(["peers", "--rounds", "1", "--seconds", "0.5", "--workloads", "c,l", "--server-program"]);
    command.arg(server).arg("--json").arg(&json).arg("--html").arg(&page);
    let output = command.stdin(Stdio::null()).output().expect("the program under test is there");
    let (told, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}\n{complained}");
    assert!(output.status.success(), "a record was lost, or a system could not be started");
    let results: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let measured = results["measured"].as_array().unwrap();
    // Each of the eight systems with both workloads, but for the stream of Redis, which has no fan-out.
    assert_eq!(measured.len(), 15);
    for run in measured {
        assert!(run["rate"].as_f64().unwrap() > 0.0 && run["lost"] == 0 && run["doubled"] == 0, "{run}");
        assert_eq!(run["latency"].is_array(), run["workload"] == "l", "{run}");
    }
    assert!(std::fs::read_to_string(page).unwrap().contains("JetStream"));
    assert!(told.contains("NATS core"));
}
