//! A device on the move loses nothing and doubles nothing: another address, a NAT that forgets, UDP swallowed, a minute
//! without any link, a path whose large packets vanish. Needs root; without it, the refusal is checked to be an honest one.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    path::Path,
    process::{Command, Stdio},
};

use motience_loadtest::link::{Link, Profile};

fn handover(arguments: &[&str]) {
    let program = Path::new(env!("CARGO_BIN_EXE_loadtest"));
    let server = program.with_file_name("motience-server");
    assert!(server.exists(), "the server is not built: run the tests over the whole workspace, or `cargo build --workspace` first");
    let mut command = Command::new(program);
    command.arg("handover").arg("--server-program").arg(server).args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap();
    let (told, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // For whoever has to find out why.
    println!("{told}\n{complained}");
    if link_is_allowed() {
        assert!(output.status.success());
        assert!(told.contains(" 0 lost, 0 doubled"));
    } else {
        assert!(!output.status.success() && complained.contains("loadtest: "));
    }
}

/// Whether this machine lets us make one.
fn link_is_allowed() -> bool {
    let denied = Link::new(Profile::default(), 1).err();
    if let Some(e) = &denied {
        assert!(e.is_denied(), "{e}");
        println!("not checked: {e}");
    }
    denied.is_none()
}

#[test]
fn another_address() {
    handover(&["--only", "address"]);
}

#[test]
fn a_nat_that_forgets() {
    handover(&["--only", "nat"]);
}

#[test]
fn udp_is_swallowed_and_works_again() {
    handover(&["--only", "udp"]);
}

#[test]
fn udp_never_works() {
    handover(&["--only", "udp-first"]);
}

#[test]
fn a_minute_without_a_link() {
    handover(&["--only", "outage", "--outage", "60"]);
}

#[test]
fn large_packets_vanish() {
    handover(&["--only", "mtu"]);
}

#[test]
fn nothing_to_send_costs_a_packet_for_each_keep_alive() {
    handover(&["--only", "idle"]);
}
