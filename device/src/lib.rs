//! The native Motience client. The agent that is built on it is the crate `motience-agent`.
//!
//! - [`login`]: tokens for a username and password.
//! - [`client`]: one motience/1 connection over QUIC.
//! - [`link`]: what is known of the way to the server, and what is done about its losses.
//! - [`outbox`]: records until they are acknowledged.
//! - [`producer`]: the outbox kept connected; what most programs want.
//! - [`consumer`]: followed producers' records, resumed across reconnects.

pub mod backoff;
pub mod client;
pub mod clock;
pub mod consumer;
pub mod link;
pub mod login;
pub mod outbox;
pub mod policy;
pub mod private_file;
pub mod producer;
mod renewal;

pub use consumer::Consumer;
pub use login::Credentials;

pub use producer::Producer;
