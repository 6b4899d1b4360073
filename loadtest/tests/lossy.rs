//! The comparison over a lossy link runs, loses nothing that is promised to arrive, and writes what it says. Needs root;
//! without it, the refusal is checked to be an honest one. How fast anything is, is not asked here.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use motience_loadtest::link::{Link, Profile};

#[test]
fn every_system_delivers_and_the_report_is_written() {
    let program = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let server = program.with_file_name("motience-server");
    assert!(server.exists(), "the server is not built: run the tests over the whole workspace, or `cargo build --workspace` first");
    let out = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.args(["lossy", "--quick", "--rate", "100", "--loss", "5", "--seeds", "1", "--seconds", "2", "--server-program"]);
    let output = command.arg(server).arg("--out").arg(out.path()).stdin(Stdio::null()).output().unwrap();
    let (told, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}\n{complained}");
    if let Err(e) = Link::new(Profile::default(), 1) {
        assert!(e.is_denied() && !output.status.success() && complained.contains("loadtest: "), "{e}");
        println!("not checked: {e}");
        return;
    }
    assert!(output.status.success());
    for system in ["Motience independent", "Motience ordered", "Motience latest", "Motience WebSocket", "MQTT QoS 1", "WebSocket, Node.js"]
    {
        assert!(told.contains(system), "{system} is missing");
    }
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(out.path().join("lossy.json")).unwrap()).unwrap();
    assert!(json["rounds"].as_array().is_some_and(|rounds| rounds.len() == 6), "a round for each system");
    let page = std::fs::read_to_string(out.path().join("lossy.md")).unwrap();
    let charts: Vec<&str> = page.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    assert!(!charts.is_empty() && page.contains("MQTT QoS 1"), "{page}");
    for chart in charts {
        assert!(std::fs::read_to_string(out.path().join(chart)).unwrap().contains("MQTT QoS 1"), "{chart} shows no systems");
    }
}
