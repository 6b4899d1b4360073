//! The agent against a small motience/1 server, in this process and as the program.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod agent;
#[path = "../../../tests/support/mod.rs"]
#[expect(dead_code, reason = "the client's tests use the rest")]
mod support;
