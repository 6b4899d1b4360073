//! A node under every attack at once stays small, and its honest devices and consumers lose nothing: as CI runs it, for half a
//! minute. How late records arrive is told, and not asked here.

use std::{
    path::Path,
    process::{Command, Stdio},
};

#[test]
fn a_node_under_attack_stays_small_and_loses_nothing() {
    let program = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let server = program.with_file_name("motience-server");
    assert!(server.exists(), "the server is not built: run the tests over the whole workspace, or `cargo build --workspace` first");
    let mut command = Command::new(program);
    // A tenth of the rate that a release build bears easily: this one is not optimised.
    command.args(["hostile", "--seconds", "30", "--rate", "100", "--server-program"]);
    let output = command.arg(server).stdin(Stdio::null()).output().expect("the program under test is there");
    let (told, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{told}\n{complained}");
    assert!(output.status.success(), "the node grew, or an honest client lost something");
    assert!(told.contains("the node stands") && told.contains("nothing lost, nothing doubled"));
}
