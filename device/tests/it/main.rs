//! The client against a small motience/1 server of our own, over real QUIC sockets.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod consumer;
mod outbox;
mod producer;
mod session;
mod silence;
#[path = "../support/mod.rs"]
mod support;
mod token;
